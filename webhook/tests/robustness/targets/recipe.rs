//! Reviews made of bytes: a manifest, edits of it, and what is live.

use std::sync::LazyLock;

use leader_webhook::inject::{Facts, ImageAnswer, ImageFacts};
use serde_json::{Value, json};

use super::{bytes::Bytes, judge, manifests};

/// Manifests to begin with: of every kind, and with every field that injection reads or writes.
static PLAIN: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let corpus = [
        include_str!("../../../../tests/corpus/bare-pod.yaml"),
        include_str!("../../../../tests/corpus/daemonset-on-the-host-network.yaml"),
        include_str!("../../../../tests/corpus/deprecated-service-account.yaml"),
        include_str!("../../../../tests/corpus/empty-fields.yaml"),
        include_str!("../../../../tests/corpus/entry-point-of-the-image.yaml"),
        include_str!("../../../../tests/corpus/every-option.yaml"),
        include_str!("../../../../tests/corpus/hooks-by-exec-and-http.yaml"),
        include_str!("../../../../tests/corpus/id-in-both-places.yaml"),
        include_str!("../../../../tests/corpus/namespaces-of-the-host.yaml"),
        include_str!("../../../../tests/corpus/native-sidecars.yaml"),
        include_str!("../../../../tests/corpus/probes-over-grpc.yaml"),
        include_str!("../../../../tests/corpus/probes-over-http.yaml"),
        include_str!("../../../../tests/corpus/restricted-pod-security.yaml"),
        include_str!("../../../../tests/corpus/statefulset-with-claims.yaml"),
        include_str!("../../../../tests/corpus/template-of-a-cron-job.yaml"),
        include_str!("../../../../tests/corpus/template-of-a-deployment.yaml"),
        include_str!("../../../../tests/corpus/template-of-a-replica-set.yaml"),
    ];
    let corpus = corpus.into_iter().map(|text| {
        // A file may have other documents after the workload.
        let first = text.split("\n---\n").find(|part| part.contains("leader.io/id")).unwrap_or(text);
        serde_saphyr::from_str::<Value>(first).expect("a manifest of the corpus is YAML")
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "billing", "namespace": "shop", "annotations": {"leader.io/leader-only": "billing"}},
        "spec": {"selector": {"app": "billing"}, "ports": [{"port": 80, "targetPort": "http"}], "type": "ClusterIP"},
    });
    [manifests::SMALL.clone(), manifests::MEDIAN.clone()].into_iter().chain(corpus).chain([service]).collect()
});
/// The same as they are stored; null where they are not.
static INJECTED: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let stored = |plain: &Value| judge::stored(plain, None, &Facts::default()).unwrap_or_default();
    PLAIN.iter().map(stored).collect()
});

/// Fields that mean something to injection, and some that do not.
const KEYS: [&str; 47] = [
    "metadata",
    "annotations",
    "labels",
    "spec",
    "template",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "volumes",
    "env",
    "volumeMounts",
    "command",
    "args",
    "name",
    "image",
    "value",
    "valueFrom",
    "resources",
    "serviceAccountName",
    "serviceAccount",
    "hostNetwork",
    "hostPID",
    "shareProcessNamespace",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "preStop",
    "postStart",
    "stopSignal",
    "exec",
    "httpGet",
    "tcpSocket",
    "grpc",
    "port",
    "ports",
    "restartPolicy",
    "terminationGracePeriodSeconds",
    "kind",
    "apiVersion",
    "os",
    "deletionTimestamp",
    "ownerReferences",
    "selector",
    "clusterIP",
    "type",
    "fieldOfTheFuture",
];
const ANNOTATIONS: [&str; 17] = [
    "leader.io/id",
    "leader.io/container",
    "leader.io/command",
    "leader.io/lease-duration",
    "leader.io/stop-grace",
    "leader.io/service-account",
    "leader.io/mode",
    "leader.io/port",
    "leader.io/status-file",
    "leader.io/prefer",
    "leader.io/unhealthy-step-down",
    "leader.io/injected",
    "leader.io/leader-only",
    "leader.io/selector",
    "leader.io/ID",
    "kubectl.kubernetes.io/default-container",
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
];
const TEXTS: [&str; 37] = [
    "",
    "billing",
    "other",
    "app",
    "leader-agent",
    "leader-io-agent",
    "leader-io-token",
    "leader-billing",
    "default",
    "/leader",
    "/leader/agent",
    "LEADER_RECORD",
    "LEADER_STATE_DIR",
    "keep",
    "dedicated",
    "ready",
    "observe",
    "run",
    "leader-io-status",
    "/tmp/leader_status",
    "zone=a",
    "30s",
    "5s",
    "1h",
    "[\"/app\"]",
    "[]",
    "{}",
    "{\"app\":\"billing\"}",
    "None",
    "ExternalName",
    "Service",
    "Pod",
    "Deployment",
    "StatefulSet",
    "apps/v1",
    "v1",
    "$(HOME) $$(X)",
];

/// A manifest of the list.
pub(crate) fn plain(bytes: &mut Bytes<'_>) -> Value {
    bytes.choose(&PLAIN).clone()
}

/// All that a review is made of.
pub(crate) struct Recipe {
    object: Value,
    old: Option<Value>,
    envelope: Vec<u8>,
    pub facts: Facts,
}

impl Recipe {
    pub(crate) fn read(bytes: &mut Bytes<'_>) -> Self {
        let facts = facts(bytes);
        let envelope =
            if bytes.one_in(16) { vec![bytes.next(), bytes.next(), bytes.next(), bytes.next()] } else { Vec::new() };
        let base = bytes.below(PLAIN.len());
        let old = match bytes.below(4) {
            0 => None,
            1 => Some(PLAIN[base].clone()),
            _ => Some(INJECTED[base].clone()),
        };
        let mut object = if bytes.one_in(2) { INJECTED[base].clone() } else { PLAIN[base].clone() };
        let mut old = old.filter(Value::is_object);
        if let Some(old) = old.as_mut().filter(|_| bytes.one_in(4)) {
            edit_once(old, bytes);
        }
        edit(&mut object, bytes);
        Self { object, old, envelope, facts }
    }

    pub(crate) fn review(&self) -> Value {
        let mut review = manifests::review(&self.object, self.old.as_ref());
        if !self.envelope.is_empty() {
            edit_once(&mut review, &mut Bytes::new(&self.envelope));
        }
        review
    }
}

fn facts(bytes: &mut Bytes<'_>) -> Facts {
    let shape = bytes.next();
    let words = |first: bool, second: bool| -> Vec<String> {
        [(first, "/entry"), (second, "$(X)")]
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, word)| word.to_owned())
            .collect()
    };
    let image = match shape % 8 {
        0 | 1 => None,
        2 => Some(ImageAnswer::NotAsked),
        3 => Some(ImageAnswer::Failed("the registry answered 503".to_owned())),
        bits => Some(ImageAnswer::Found(ImageFacts {
            digest: "sha256:00ff".to_owned(),
            entrypoint: words(bits & 1 == 0, bits & 2 == 0),
            cmd: words(bits & 2 == 0, bits & 1 == 1),
            stop_signal: (bits & 1 == 1).then(|| "SIGRTMIN+3".to_owned()),
        })),
    };
    Facts {
        default_account_in_use: shape & 8 != 0,
        lacks_agent_pull_secret: shape & 64 != 0,
        account_pull_secrets: if shape & 128 == 0 { Vec::new() } else { vec!["registry".to_owned()] },
        image,
        sibling_record: (shape & 16 != 0).then(|| INJECTED[0].to_string()),
        other_workloads: if shape & 32 == 0 { Vec::new() } else { vec!["Deployment/other".to_owned()] },
        reaching_services: if shape & 32 == 0 { Vec::new() } else { vec!["web".to_owned()] },
    }
}

/// Edits an object as long as there are bytes, but not for ever.
pub(crate) fn edit(object: &mut Value, bytes: &mut Bytes<'_>) {
    const MOST: usize = 12;
    for _ in 0..MOST {
        if bytes.is_empty() {
            return;
        }
        edit_once(object, bytes);
    }
}

/// One edit, somewhere.
fn edit_once(object: &mut Value, bytes: &mut Bytes<'_>) {
    // Where injection reads, or anywhere.
    const PLACES: [&str; 8] = [
        "",
        "/metadata",
        "/spec/template",
        "/spec/template/metadata",
        "/spec/template/spec",
        "/spec",
        "/spec/template/spec/containers/0",
        "/spec/containers/0",
    ];
    let place = *bytes.choose(&PLACES);
    let Some(place) = object.pointer_mut(place) else { return };
    let node = descend(place, bytes);
    match node {
        Value::Object(map) if !map.is_empty() || bytes.one_in(2) => match bytes.below(4) {
            0 => {
                let key = map.keys().nth(bytes.below(map.len().max(1))).cloned().unwrap_or_default();
                map.shift_remove(&key);
            }
            1 => {
                let key = *bytes.choose(&KEYS);
                map.insert(key.to_owned(), value(bytes));
            }
            2 => {
                let key = *bytes.choose(&ANNOTATIONS);
                let value = if bytes.one_in(8) { value(bytes) } else { (*bytes.choose(&TEXTS)).into() };
                map.insert(key.to_owned(), value);
            }
            _ => {
                let key = map.keys().nth(bytes.below(map.len().max(1))).cloned().unwrap_or_default();
                map.insert(key, value(bytes));
            }
        },
        Value::Array(list) if !list.is_empty() || bytes.one_in(2) => {
            let at = bytes.below(list.len() + 1);
            match bytes.below(4) {
                0 if at < list.len() => drop(list.remove(at)),
                1 if at < list.len() => list.insert(at, list[at].clone()),
                2 if at < list.len() => list.swap(at, 0),
                _ => list.insert(at, value(bytes)),
            }
        }
        other => *other = value(bytes),
    }
}

/// A value below `node`, or itself.
fn descend<'a>(mut node: &'a mut Value, bytes: &mut Bytes<'_>) -> &'a mut Value {
    loop {
        let step = bytes.next();
        let length = match node {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        if step.is_multiple_of(3) || length == 0 {
            return node;
        }
        let at = usize::from(step / 3) % length;
        node = match node {
            Value::Object(map) => map.values_mut().nth(at).expect("it is below the length"),
            Value::Array(list) => &mut list[at],
            _ => unreachable!("it has a length"),
        };
    }
}

/// Something to put into an object: an empty one, a text, or a part of another manifest, plain or injected.
fn value(bytes: &mut Bytes<'_>) -> Value {
    const PARTS: [&str; 16] = [
        "/metadata",
        "/metadata/annotations",
        "/spec/template",
        "/spec/template/metadata",
        "/spec/template/metadata/annotations",
        "/spec/template/spec",
        "/spec/template/spec/containers",
        "/spec/template/spec/containers/0",
        "/spec/template/spec/containers/0/command",
        "/spec/template/spec/containers/0/env",
        "/spec/template/spec/containers/0/env/0",
        "/spec/template/spec/containers/0/livenessProbe",
        "/spec/template/spec/containers/0/lifecycle",
        "/spec/template/spec/initContainers",
        "/spec/template/spec/initContainers/0",
        "/spec/template/spec/volumes/0",
    ];
    match bytes.below(12) {
        0 => Value::Null,
        1 => json!({}),
        2 => json!([]),
        3 => json!(bytes.one_in(2)),
        4 => json!(i32::from(bytes.next()) * 513 - 1000),
        5 => json!(f64::from(bytes.next()) / 3.0),
        6 => bytes.text().into(),
        7 => json!([*bytes.choose(&TEXTS), *bytes.choose(&TEXTS)]),
        8 => json!({*bytes.choose(&KEYS): *bytes.choose(&TEXTS)}),
        9 => (*bytes.choose(&TEXTS)).into(),
        kind => {
            let from = if kind == 10 { &*PLAIN } else { &*INJECTED };
            let from = bytes.choose(from);
            let place = *bytes.choose(&PARTS);
            from.pointer(place).cloned().unwrap_or_default()
        }
    }
}
