//! The manifests that injection is measured on, and the reviews around them.

use std::sync::LazyLock;

use serde_json::{Value, json};

/// A Deployment with nothing but what the API demands.
pub(crate) static SMALL: LazyLock<Value> = LazyLock::new(|| parsed(include_str!("small.json")));
/// A Deployment as a cluster holds it: defaults, probes, hooks, a sidecar, what one field manager owns; about 6 kB.
pub(crate) static MEDIAN: LazyLock<Value> = LazyLock::new(|| parsed(include_str!("median.json")));
/// The median one with as many containers as make it 200 kB.
pub(crate) static LARGE: LazyLock<Value> = LazyLock::new(|| {
    const SIZE: usize = 200_000;
    let mut object = MEDIAN.clone();
    let app = object["spec"]["template"]["spec"]["containers"][0].clone();
    let size = app.to_string().len() + 1;
    let more = SIZE.saturating_sub(object.to_string().len()).div_ceil(size);
    let Some(containers) = object["spec"]["template"]["spec"]["containers"].as_array_mut() else {
        unreachable!("the median manifest has containers")
    };
    containers.extend((0..more).map(|number| {
        let mut container = app.clone();
        container["name"] = format!("app-{number}").into();
        container
    }));
    object
});

/// The review in which `object` is created, or updated when `old` is given, as the API server sends it.
pub(crate) fn review(object: &Value, old: Option<&Value>) -> Value {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
    let kind = json!({"group": group, "version": version, "kind": object["kind"]});
    let resource = json!({"group": group, "version": version, "resource": resource});
    let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": kind,
            "resource": resource,
            "requestKind": kind,
            "requestResource": resource,
            "name": object["metadata"]["name"],
            "namespace": object["metadata"]["namespace"],
            "operation": operation,
            "userInfo": {"username": "alice", "groups": ["developers", "system:authenticated"]},
            "object": object,
            "oldObject": old,
            "dryRun": false,
            "options": {"kind": format!("{}Options", if old.is_some() { "Update" } else { "Create" }), "apiVersion": "meta.k8s.io/v1",
                "fieldManager": "kubectl-client-side-apply", "fieldValidation": "Strict"},
        },
    })
}

fn parsed(text: &str) -> Value {
    // They are part of the source.
    serde_json::from_str(text).unwrap_or_else(|error| panic!("the manifest is not JSON: {error}"))
}
