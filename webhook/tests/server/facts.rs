//! What is looked up for a review.

use leader_webhook::facts;
use serde_json::{Value, json};

use crate::{
    fake_api::FakeApi,
    running::{Running, create, deployment, patched, review_of},
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
    let found = facts::look_up(&api.client(), "shop", &object, None).await.unwrap();
    assert_eq!(found.other_workloads, ["StatefulSet/reports"]);
    let pod = json!({ "kind": "Pod", "metadata": { "annotations": annotations } });
    let found = facts::look_up(&api.client(), "shop", &pod, None).await.unwrap();
    assert_eq!(found.other_workloads, Vec::<String>::new());
}

#[tokio::test]
async fn services_that_reach_standbys_are_found() {
    let api = FakeApi::default();
    let put = |name: &str, annotations: Value, selector: Value| {
        let metadata = json!({ "name": name, "namespace": "shop", "annotations": annotations });
        let spec = json!({ "selector": selector, "ports": [{ "port": 80 }] });
        api.put(&format!("/api/v1/namespaces/shop/services/{name}"), json!({ "metadata": metadata, "spec": spec }));
    };
    put("web", Value::Null, json!({ "app": "billing" }));
    put("steered", json!({ "leader.io/leader-only": "billing" }), Value::Null);
    put("other", Value::Null, json!({ "app": "other" }));
    let found = facts::look_up(&api.client(), "shop", &deployment(), None).await.unwrap();
    assert_eq!(found.reaching_services, ["web"]);
}

/// A rollout of a thousand workloads would list them all a thousand times.
#[tokio::test]
async fn a_workload_that_was_injected_before_is_not_compared_with_all_others_again() {
    let running = Running::start().await;
    // What a workload that is made may adopt is another question.
    let is_of_workloads = |path: &String| path.contains("/apis/apps/") && !path.ends_with("/replicasets");
    let listed = || running.api.lists().into_iter().filter(is_of_workloads).count();
    let created = running.review(&create(&deployment())).await;
    let mut live = patched(&deployment(), &created);
    assert_eq!(listed(), 3, "{:?}", running.api.lists());
    live["metadata"]["uid"] = json!("u1");
    let mut restarted = live.clone();
    restarted["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!("now");
    let answer = running.review(&review_of("UPDATE", &restarted, &live)).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    assert_eq!(listed(), 3, "{:?}", running.api.lists());
    // Nor is it asked again what the account `default` gives: whose account it is was decided then.
    let bindings = |path: &&String| path.ends_with("rolebindings");
    assert_eq!(running.api.lists().iter().filter(bindings).count(), 2, "{:?}", running.api.lists());

    // What is created under a record, as by `kubectl get -o yaml | kubectl create`, is a second one; so is another id.
    for change in ["/metadata/uid", "/metadata/annotations/leader.io~1id"] {
        let mut object = live.clone();
        *object.pointer_mut(change).unwrap() = json!(if change == "/metadata/uid" { None } else { Some("other") });
        let before = listed();
        facts::look_up(&running.api.client(), "shop", &object, None).await.unwrap();
        assert_eq!(listed(), before + 3, "{change}");
    }
}

#[tokio::test]
async fn a_rollout_of_what_takes_part_already_needs_nobody_else() {
    let running = Running::start().await;
    let mut live = patched(&deployment(), &running.review(&create(&deployment())).await);
    live["metadata"]["uid"] = json!("u1");
    let mut restarted = live.clone();
    restarted["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!("now");
    running.api.fall_silent();
    let answer = running.review(&review_of("UPDATE", &restarted, &live)).await;
    assert_eq!(answer["allowed"], true, "{answer}");

    // Another account has to be bound first.
    restarted["metadata"]["annotations"]["leader.io/service-account"] = json!("keep");
    let answer = running.review(&review_of("UPDATE", &restarted, &live)).await;
    assert_eq!(answer["allowed"], false, "{answer}");
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
