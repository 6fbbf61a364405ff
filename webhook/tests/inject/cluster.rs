//! What the API server does to a workload or a pod around a review: it fills in defaults and drops what is empty.

use serde_json::{Map, Value, json};

/// The object as the API server would hand it to a webhook, or store it.
pub(crate) fn defaulted(object: &Value) -> Value {
    let mut object = without_nulls(object);
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let spec = fields(&mut object["spec"]);
    default(spec, "revisionHistoryLimit", json!(10));
    let rolling = |details: Value| json!({"type": "RollingUpdate", "rollingUpdate": details});
    match kind.as_str() {
        "StatefulSet" => {
            default(spec, "podManagementPolicy", json!("OrderedReady"));
            default(spec, "updateStrategy", rolling(json!({"partition": 0})));
        }
        "DaemonSet" => default(spec, "updateStrategy", rolling(json!({"maxSurge": 0, "maxUnavailable": 1}))),
        _ => {
            default(spec, "progressDeadlineSeconds", json!(600));
            default(spec, "strategy", rolling(json!({"maxSurge": "25%", "maxUnavailable": "25%"})));
        }
    }
    let template = fields(&mut object["spec"]["template"]);
    let metadata = template.entry("metadata").or_insert(json!({}));
    drop_empty(fields(metadata), &["annotations", "labels"]);
    pod_spec(fields(&mut template["spec"]));
    object
}

/// The pod as the API server would hand it to a webhook: with defaults, an account, and what the plugin for accounts mounts into
/// each container (k8s.io/kubernetes plugin/pkg/admission/serviceaccount), before the first call and before another one.
pub(crate) fn defaulted_pod(pod: &Value) -> Value {
    const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut pod = without_nulls(pod);
    drop_empty(fields(&mut pod["metadata"]), &["annotations", "labels"]);
    let spec = fields(&mut pod["spec"]);
    drop_empty(spec, &["serviceAccountName", "serviceAccount"]);
    if !spec.contains_key("serviceAccount") {
        default(spec, "serviceAccountName", json!("default"));
    }
    pod_spec(spec);
    if spec.get("automountServiceAccountToken") == Some(&json!(false)) {
        return pod;
    }
    let volumes = spec.entry("volumes").or_insert(json!([])).as_array_mut().unwrap();
    if !volumes.iter().any(|volume| volume["name"] == "kube-api-access-x7k2p") {
        let source = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}});
        let projected = json!({"defaultMode": 0o644, "sources": [source]});
        volumes.push(json!({"name": "kube-api-access-x7k2p", "projected": projected}));
    }
    for key in ["initContainers", "containers"] {
        for container in list(spec, key) {
            let mounts = fields(container).entry("volumeMounts").or_insert(json!([])).as_array_mut().unwrap();
            if !mounts.iter().any(|mount| mount["mountPath"] == TOKEN) {
                mounts.push(json!({"name": "kube-api-access-x7k2p", "mountPath": TOKEN, "readOnly": true}));
            }
        }
    }
    pod
}

fn pod_spec(spec: &mut Map<String, Value>) {
    drop_empty(spec, &["initContainers", "volumes", "serviceAccountName", "serviceAccount"]);
    // The conversion through the internal type lets the new field win and fills its deprecated twin in.
    if let Some(account) = spec.get("serviceAccountName").or(spec.get("serviceAccount")).cloned() {
        spec.insert("serviceAccountName".to_owned(), account.clone());
        spec.insert("serviceAccount".to_owned(), account);
    }
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    for volume in list(spec, "volumes") {
        let volume = fields(volume);
        if volume.len() == 1 {
            volume.insert("emptyDir".to_owned(), json!({}));
        }
        if let Some(projected) = volume.get_mut("projected") {
            default(fields(projected), "defaultMode", json!(0o644));
            for source in list(fields(projected), "sources") {
                if let Some(Value::Object(token)) = source.get_mut("serviceAccountToken") {
                    default(token, "expirationSeconds", json!(3600));
                }
            }
        }
    }
    for key in ["initContainers", "containers"] {
        for container in list(spec, key) {
            container_defaults(fields(container));
        }
    }
}

fn container_defaults(container: &mut Map<String, Value>) {
    drop_empty(container, &["command", "args", "env", "volumeMounts"]);
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "imagePullPolicy", json!("IfNotPresent"));
    let resources = container.entry("resources").or_insert(json!({}));
    drop_empty(fields(resources), &["limits", "requests"]);
    if let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() {
        for (name, quantity) in limits {
            let requests = fields(resources).entry("requests").or_insert(json!({}));
            default(fields(requests), &name, quantity);
        }
    }
    for variable in list(container, "env") {
        if let Some(Value::Object(field)) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", json!("v1"));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            let defaults =
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)];
            probe.retain(|_, value| *value != 0);
            for (field, seconds) in defaults {
                default(probe, field, seconds.into());
            }
            handler_defaults(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(Value::Object(hook)) = container.get_mut("lifecycle").and_then(|all| all.get_mut(hook)) {
            handler_defaults(hook);
        }
    }
    for port in list(container, "ports") {
        default(fields(port), "protocol", json!("TCP"));
    }
}

fn handler_defaults(holder: &mut Map<String, Value>) {
    if let Some(Value::Object(request)) = holder.get_mut("httpGet") {
        drop_empty(request, &["host", "httpHeaders", "path", "scheme"]);
        default(request, "path", "/".into());
        default(request, "scheme", "HTTP".into());
        // It is not omitted when it is zero.
        default(request, "port", 0.into());
        for header in list(request, "httpHeaders") {
            default(fields(header), "value", "".into());
        }
    }
    if let Some(Value::Object(socket)) = holder.get_mut("tcpSocket") {
        drop_empty(socket, &["host"]);
    }
    if let Some(Value::Object(grpc)) = holder.get_mut("grpc") {
        default(grpc, "service", "".into());
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

fn fields(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().unwrap()
}

fn list<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut [Value] {
    parent.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn default(parent: &mut Map<String, Value>, key: &str, value: Value) {
    parent.entry(key).or_insert(value);
}

fn drop_empty(parent: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        let empty = |value: &Value| {
            matches!(value, Value::Null) || *value == json!([]) || *value == json!({}) || *value == json!("")
        };
        if parent.get(*key).is_some_and(empty) {
            parent.shift_remove(*key);
        }
    }
}
