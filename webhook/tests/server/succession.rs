//! What a leader's pod costs to be deleted, on an API server in memory.

use std::sync::Arc;
use std::time::Duration;

use leader_webhook::{
    controller::{self, Context},
    events::Recorder,
};
use serde_json::{Value, json};

use crate::fake_api::FakeApi;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn path(pod: &str) -> String {
    format!("/api/v1/namespaces/shop/pods/{pod}")
}

fn pod(name: &str, owner: &str, cost: Option<&str>) -> Value {
    let record = json!({ "version": 1, "id": "billing", "container": "app", "serviceAccount": "keep" }).to_string();
    let mut annotations = json!({ "leader.io/injected": record });
    if let Some(cost) = cost {
        annotations[COST] = json!(cost);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "labels": { "leader.io/id": "billing" },
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": owner, "name": "billing-5d", "uid": "r1", "controller": true }],
        },
        "spec": { "containers": [] },
    })
}

fn lease(holder: &str) -> Value {
    json!({
        "metadata": { "name": "billing", "namespace": "shop", "uid": "u1", "labels": { "leader.io/id": "billing" } },
        "spec": { "holderIdentity": format!("{holder}_uid-of-{holder}_app"), "leaseDurationSeconds": 15, "leaseTransitions": 3 },
    })
}

fn cost(api: &FakeApi, pod: &str) -> Value {
    api.get(&path(pod)).unwrap()["metadata"]["annotations"][COST].clone()
}

async fn until(api: &FakeApi, costs: &[(&str, Value)]) {
    let found = || costs.iter().map(|(pod, _)| cost(api, pod)).collect::<Vec<_>>();
    let wanted: Vec<Value> = costs.iter().map(|(_, cost)| cost.clone()).collect();
    for _ in 0..6000 {
        if found() == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{costs:?} was waited for, and it is {:?}", found());
}

#[tokio::test]
async fn it_follows_leadership_and_keeps_what_a_person_has_said() {
    let api = FakeApi::default();
    api.tell_changes();
    for (name, owner, cost) in [
        ("one", "ReplicaSet", None),
        ("two", "ReplicaSet", None),
        ("dear", "ReplicaSet", Some("7")),
        ("zero", "StatefulSet", None),
    ] {
        api.put(&path(name), pod(name, owner, cost));
    }
    api.put(LEASE, lease("one"));
    let context = Context::new(api.client(), Recorder::silent(), Arc::default(), None);
    let working = tokio::spawn(controller::work(context));
    let ours = || json!("1000000000");
    until(&api, &[("one", ours()), ("two", Value::Null)]).await;
    api.put(LEASE, lease("two"));
    until(&api, &[("one", Value::Null), ("two", ours())]).await;
    // A pod of a person's own cost, and one of another kind: the former leader's is taken back all the same.
    for leader in ["dear", "zero"] {
        api.put(LEASE, lease(leader));
        until(&api, &[("one", Value::Null), ("two", Value::Null), ("dear", json!("7")), ("zero", Value::Null)]).await;
        api.put(LEASE, lease("two"));
        until(&api, &[("two", ours()), ("dear", json!("7"))]).await;
    }
    // What it has done it does not do again.
    let writes = api.writes().len();
    let mut renewed = lease("two");
    renewed["metadata"]["annotations"] = json!({ "tick": "1" });
    api.put(LEASE, renewed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ours = api.writes().split_off(writes).into_iter().filter(|write| write.contains("/pods/"));
    assert_eq!(ours.count(), 0);
    working.abort();
}
