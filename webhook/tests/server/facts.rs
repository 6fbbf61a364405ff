//! What is looked up for a review.

use leader_webhook::facts;
use serde_json::{Value, json};

use crate::{
    fake_api::FakeApi,
    running::{Running, create, deployment, patched},
};

/// Puts a workload there that carries the id in its annotations.
fn put_workload(api: &FakeApi, kind: &str, name: &str, metadata: &Value) {
    let mut metadata = metadata.clone();
    metadata["name"] = json!(name);
    let path = format!("/apis/apps/v1/namespaces/shop/{}s/{name}", kind.to_lowercase());
    api.put(&path, json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": metadata }));
}

#[tokio::test]
async fn other_workloads_under_the_id_are_found_in_every_kind() {
    let api = FakeApi::default();
    let annotated = |id: &str| json!({ "annotations": { "leader.io/id": id } });
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        put_workload(&api, kind, "reports", &annotated("billing"));
        put_workload(&api, kind, "other", &annotated("other"));
        put_workload(&api, kind, "plain", &json!({}));
    }
    let found = facts::other_workloads(&api.client(), "shop", "billing", &deployment()).await;
    assert_eq!(found, ["Deployment/reports", "StatefulSet/reports", "DaemonSet/reports"]);

    // The workload itself is none, but one of another kind and the same name is; neither is what is going away.
    put_workload(&api, "Deployment", "billing", &annotated("billing"));
    put_workload(&api, "StatefulSet", "billing", &annotated("billing"));
    let mut ending = annotated("billing");
    ending["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        put_workload(&api, kind, "reports", &ending);
    }
    let found = facts::other_workloads(&api.client(), "shop", "billing", &deployment()).await;
    assert_eq!(found, ["StatefulSet/billing"]);
}

#[tokio::test]
async fn an_id_on_a_template_is_looked_up_and_a_pods_is_not() {
    let api = FakeApi::default();
    put_workload(&api, "StatefulSet", "reports", &json!({ "annotations": { "leader.io/id": "billing" } }));
    let mut object = deployment();
    let annotations = object["metadata"].as_object_mut().unwrap().remove("annotations").unwrap();
    object["spec"]["template"]["metadata"]["annotations"] = annotations.clone();
    let found = facts::look_up(&api.client(), "shop", &object).await.unwrap();
    assert_eq!(found.other_workloads, ["StatefulSet/reports"]);
    let pod = json!({ "kind": "Pod", "metadata": { "annotations": annotations } });
    let found = facts::look_up(&api.client(), "shop", &pod).await.unwrap();
    assert_eq!(found.other_workloads, Vec::<String>::new());
}

#[tokio::test]
async fn a_record_comes_from_a_pod_of_the_same_owner() {
    let api = FakeApi::default();
    let owned_by = |uid: &str| json!([{ "kind": "ReplicaSet", "name": "billing-1", "uid": uid, "controller": true }]);
    let pod =
        json!({ "kind": "Pod", "metadata": { "generateName": "billing-1-", "ownerReferences": owned_by("mine") } });
    let record = async || facts::sibling_record(&api.client(), "shop", &pod, "billing").await.unwrap();
    assert_eq!(record().await, None);

    let put = |name: &str, owner: &str, id: &str, created: &str, record: Option<&str>| {
        let mut metadata = json!({ "name": name, "labels": { "leader.io/id": id }, "creationTimestamp": created,
            "ownerReferences": owned_by(owner) });
        if let Some(record) = record {
            metadata["annotations"] = json!({ "leader.io/injected": record });
        }
        api.put(&format!("/api/v1/namespaces/shop/pods/{name}"), json!({ "kind": "Pod", "metadata": metadata }));
    };
    put("a", "theirs", "billing", "2026-11-21T00:00:03Z", Some("of another owner"));
    put("b", "mine", "reports", "2026-11-21T00:00:03Z", Some("of another id"));
    put("c", "mine", "billing", "2026-11-21T00:00:03Z", None);
    assert_eq!(record().await, None);
    put("d", "mine", "billing", "2026-11-21T00:00:02Z", Some("young"));
    put("e", "mine", "billing", "2026-11-21T00:00:01Z", Some("old"));
    assert_eq!(record().await.as_deref(), Some("young"));

    let lone = json!({ "kind": "Pod", "metadata": { "name": "billing" } });
    assert_eq!(facts::sibling_record(&api.client(), "shop", &lone, "billing").await.unwrap(), None);
}

#[tokio::test]
async fn what_only_a_warning_needs_refuses_nobody() {
    let running = Running::start().await;
    running.api.forbid("/apis/apps/v1/namespaces/shop/statefulsets");
    patched(&deployment(), &running.review(&create(&deployment())).await);
}
