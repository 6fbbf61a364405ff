//! Arbitrary pod templates: realistic ones and nasty ones, all of which injection accepts.

use proptest::{collection::vec, option::of, prelude::*};
use serde_json::{Map, Value, json};

/// A field that is absent, null, empty or has a value.
fn field(empty: Value, some: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    // Boxed, because a template's strategy would not fit on the stack of a test thread.
    prop_oneof![2 => Just(None), 1 => Just(Some(Value::Null)), 1 => Just(Some(empty)), 4 => some.prop_map(Some)].boxed()
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,8}",
        Just("/bin/sh".to_owned()),
        Just("-c".to_owned()),
        Just("run".to_owned()),
        Just("--".to_owned()),
        Just("$(POD_IP) $$(X) $HOME".to_owned()),
        Just("echo \"é\\n\" '\u{1F980}' {}".to_owned()),
        Just(String::new()),
    ]
}

fn words(length: std::ops::Range<usize>) -> impl Strategy<Value = Value> {
    vec(word(), length).prop_map(Value::from)
}

fn texts_by_key() -> impl Strategy<Value = Value> {
    let key =
        prop_oneof!["[a-z]{1,6}", Just("sidecar.istio.io/inject".to_owned()), Just("example.com/leader".to_owned())];
    proptest::collection::btree_map(key, word(), 1..4).prop_map(|map| json!(map))
}

fn annotations() -> impl Strategy<Value = Value> {
    let list = prop_oneof![
        Just("scratch".to_owned()),
        Just(String::new()),
        Just(" a , b".to_owned()),
        Just("leader-io-agent".to_owned()),
        Just("a,leader-io-agent,b".to_owned()),
    ];
    (texts_by_key(), of(list)).prop_map(|(mut all, list)| {
        if let Some(list) = list {
            all["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] = list.into();
        }
        all
    })
}

fn volumes() -> impl Strategy<Value = Value> {
    let volume = ("[a-z]{1,5}", 0..4).prop_map(|(name, kind)| match kind {
        0 => json!({"name": name, "emptyDir": {}}),
        1 => json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}),
        2 => json!({"configMap": {"name": "settings", "optional": true}, "name": name}),
        _ => json!({"name": name, "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
    });
    vec(volume, 1..4).prop_map(Value::from)
}

fn environment() -> impl Strategy<Value = Value> {
    let variable = ("[A-Z]{1,6}", word(), 0..3).prop_map(|(name, value, kind)| match kind {
        0 => json!({"name": name, "value": value}),
        1 => json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}),
        _ => json!({"name": "LEADER_ELECTION", "value": "true"}),
    });
    vec(variable, 1..5).prop_map(Value::from)
}

fn mounts() -> impl Strategy<Value = Value> {
    let path = prop_oneof![Just("/data"), Just("/leaderboard"), Just("/var/run/secrets/tokens"), Just("/etc/app")];
    let mount = ("[a-z]{1,5}", path, any::<bool>())
        .prop_map(|(name, path, read_only)| json!({"mountPath": path, "name": name, "readOnly": read_only}));
    vec(mount, 1..3).prop_map(Value::from)
}

fn resources() -> impl Strategy<Value = Value> {
    let quantities = || {
        (of("[1-9]00m"), of("[1-9]00Mi"), of("[1-9]Gi"), of(Just(1))).prop_map(|(cpu, memory, storage, gpu)| {
            let mut all = Map::new();
            for (name, value) in [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)] {
                all.extend(value.map(|value| (name.to_owned(), Value::from(value))));
            }
            all.extend(gpu.map(|gpu| ("nvidia.com/gpu".to_owned(), Value::from(gpu))));
            Value::Object(all)
        })
    };
    (field(json!({}), quantities()), field(json!({}), quantities()))
        .prop_map(|(requests, limits)| object([("requests", requests), ("limits", limits)]))
}

fn security_context() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"allowPrivilegeEscalation": false})),
        Just(json!({"runAsUser": 0, "capabilities": {"drop": ["KILL"]}})),
        Just(json!({"readOnlyRootFilesystem": true, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}})),
    ]
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    Value::Object(fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

prop_compose! {
    /// An app container; the wrapped one has no handlers. Whether it has a command is `own`.
    fn container(name: String, wrapped: bool, own: bool)(
        command in field(json!([]), words(1..4)),
        own_command in words(1..4),
        args in field(json!([]), words(1..4)),
        env in field(json!([]), environment()),
        mounts in field(json!([]), mounts()),
        resources in field(json!({}), resources()),
        context in field(json!({}), security_context()),
        probe in of(Just(json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 3}))),
        reversed in any::<bool>(),
        unknown in of(texts_by_key()),
    ) -> Value {
        let container = object([
            ("args", args),
            ("command", if own { Some(own_command) } else { command }),
            ("env", env),
            ("image", Some("registry.example/app@sha256:00ff".into())),
            ("livenessProbe", if wrapped { None } else { probe }),
            ("name", Some(name.clone().into())),
            ("resources", resources),
            ("securityContext", context),
            ("volumeMounts", mounts),
            ("fieldOfTheFuture", unknown),
        ]);
        if reversed { reverse(&container) } else { container }
    }
}

/// The same object with its keys in the other order.
fn reverse(value: &Value) -> Value {
    Value::Object(value.as_object().unwrap().iter().rev().map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn account() -> impl Strategy<Value = (Option<Value>, Option<Value>)> {
    let name = || {
        prop_oneof![
            Just(None),
            Just(Some(Value::Null)),
            Just(Some(json!(""))),
            Just(Some(json!("controller"))),
            Just(Some(json!("other"))),
            Just(Some(json!("default"))),
            Just(Some(json!("leader-billing"))),
        ]
    };
    (name(), name())
}

prop_compose! {
    /// A pod template as a file may have it: any field may be absent, null or empty.
    fn pod_template_with(own: bool)(
        annotations in field(json!({}), annotations()),
        labels in field(json!({}), texts_by_key()),
        metadata in 0..8,
        inits in field(json!([]), vec(container("setup".to_owned(), false, false), 1..3).prop_map(Value::from)),
        volumes in field(json!([]), volumes()),
        (account, twin) in account(),
        app in container("app".to_owned(), true, own).boxed(),
        others in vec(container("proxy".to_owned(), false, false).boxed(), 0..2),
        shared in prop_oneof![4 => Just(None), 1 => Just(Some(json!(false)))],
        unknown in of(texts_by_key()),
        reversed in any::<bool>(),
    ) -> Value {
        let metadata = match metadata {
            0 => None,
            1 => Some(Value::Null),
            2 => Some(json!({})),
            _ => Some(object([("creationTimestamp", None), ("labels", labels), ("annotations", annotations)])),
        };
        let mut containers = vec![app];
        containers.extend(others);
        let spec = object([
            ("serviceAccount", twin),
            ("containers", Some(containers.into())),
            ("initContainers", inits),
            ("serviceAccountName", account),
            ("shareProcessNamespace", shared),
            ("volumes", volumes),
            ("fieldOfTheFuture", unknown),
        ]);
        let template = object([("metadata", metadata), ("spec", Some(if reversed { reverse(&spec) } else { spec }))]);
        if reversed { reverse(&template) } else { template }
    }
}

/// A pod template whose app container says what to run.
pub(crate) fn pod_template() -> impl Strategy<Value = Value> {
    pod_template_with(true)
}

/// A pod template that may leave it to the image.
pub(crate) fn any_pod_template() -> impl Strategy<Value = Value> {
    any::<bool>().prop_flat_map(|own| pod_template_with(own).boxed())
}

/// The kinds that are injected themselves.
pub(crate) const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// Of which kind the workload is, and whose service account is asked for.
pub(crate) fn ask() -> impl Strategy<Value = (&'static str, Option<&'static str>)> {
    (prop::sample::select(KINDS.to_vec()), account_option())
}

/// Whose service account is asked for.
pub(crate) fn account_option() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some("dedicated")), Just(Some("keep"))]
}
