//! Leases of leaders that have ended, on an API server in memory: when they are freed, and that they are not otherwise.

use std::sync::Arc;
use std::time::Duration;

use leader_agent::lease::record::Record;
use leader_webhook::{
    controller::{
        self, Context, Key,
        fail_over::{Outcome, free, proof::Unproven},
    },
    events::Recorder,
};
use serde_json::{Value, json};

use crate::fake_api::FakeApi;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";
const POD: &str = "/api/v1/namespaces/shop/pods/billing-1";

fn lease(renewed: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "billing", "namespace": "shop", "uid": "u1", "labels": { "leader.io/id": "billing" },
            "annotations": { "team": "billing" } },
        "spec": { "holderIdentity": "billing-1_p1_app", "leaseDurationSeconds": 15, "leaseTransitions": 3,
            "acquireTime": "2026-11-21T12:00:00.000000Z", "renewTime": renewed, "strategy": "OldestEmulationVersion" },
    })
}

/// Its last renewal before the container ended, and one by the container after that.
const BEFORE: &str = "2026-11-21T12:00:08.000000Z";
const AFTER: &str = "2026-11-21T12:00:11.500000Z";

fn running() -> Value {
    json!({ "running": { "startedAt": "2026-11-21T11:00:00Z" } })
}

fn ended(id: &str) -> Value {
    json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "containerID": id,
        "startedAt": "2026-11-21T11:00:00Z", "finishedAt": "2026-11-21T12:00:10Z" } })
}

fn pod(state: &Value) -> Value {
    let record = json!({ "version": 1, "id": "billing", "container": "app", "serviceAccount": "keep" }).to_string();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "billing-1", "namespace": "shop", "uid": "p1", "labels": { "leader.io/id": "billing" },
            "annotations": { "leader.io/injected": record } },
        "spec": { "containers": [{ "name": "app", "command": ["/leader/agent", "run", "--", "/app"] }] },
        "status": { "phase": "Running", "containerStatuses": [{ "name": "app", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "lastState": {}, "state": state }] },
    })
}

fn api(state: &Value) -> FakeApi {
    let api = FakeApi::default();
    api.put(LEASE, lease(BEFORE));
    api.put(POD, pod(state));
    api
}

fn context(api: &FakeApi) -> Context {
    Context::new(api.client(), Recorder::silent(), Arc::default(), None)
}

async fn tried(api: &FakeApi) -> Outcome {
    free(&context(api), &Key::parse("shop", "billing").unwrap()).await.unwrap()
}

/// What an agent makes of the Lease as it is now.
fn record(api: &FakeApi) -> Record {
    Record::parse(api.get(LEASE).unwrap()).unwrap()
}

#[tokio::test]
async fn the_lease_of_a_leader_that_has_ended_is_free_and_keeps_what_is_not_ours() {
    let api = api(&ended("containerd://1"));
    assert!(matches!(tried(&api).await, Outcome::Freed(_)));
    let record = record(&api);
    assert!(record.is_free());
    assert_eq!((record.transitions, record.annotation("team")), (3, Some("billing")));
    let stored = api.get(LEASE).unwrap();
    assert_eq!(stored["spec"]["strategy"], "OldestEmulationVersion");
    assert_eq!((&stored["spec"]["holderIdentity"], &stored["spec"]["leaseDurationSeconds"]), (&json!(""), &json!(1)));
    // Once only.
    assert_eq!(tried(&api).await, Outcome::Unproven(Unproven::NoHolder));
    assert_eq!(api.writes(), [format!("PATCH {LEASE}")]);
}

#[tokio::test]
async fn a_pod_that_is_gone_or_another_proves_nothing() {
    let api = api(&ended("containerd://1"));
    api.remove(POD);
    assert_eq!(tried(&api).await, Outcome::Unproven(Unproven::Gone("billing-1".to_owned())));
    // A StatefulSet's next pod of this name, whose container has ended.
    let mut next = pod(&ended("containerd://2"));
    next["metadata"]["uid"] = json!("p2");
    api.put(POD, next);
    assert!(matches!(tried(&api).await, Outcome::Unproven(Unproven::AnotherPod { .. })));
    assert_eq!(api.writes(), [""; 0]);
}

/// The pod's status lags behind: its next container has begun to lead by the time it is read.
#[tokio::test]
async fn the_next_container_is_not_robbed_of_what_it_took_up() {
    // Before the Lease was read: the record is younger than the end.
    let api = api(&ended("containerd://1"));
    api.put(LEASE, lease(AFTER));
    assert!(matches!(tried(&api).await, Outcome::Unproven(Unproven::Later { .. })));
    assert_eq!(api.writes(), [""; 0]);
    // After it was read, and before the pod was: the write fails, and the next look sees it.
    for read in [LEASE, POD] {
        let api = self::api(&ended("containerd://1"));
        api.put_after_read(read, LEASE, lease(AFTER));
        assert!(matches!(tried(&api).await, Outcome::Unproven(Unproven::Later { .. })), "{read}");
        assert_eq!(api.writes(), [""; 0]);
        assert_eq!(record(&api).holder.as_deref(), Some("billing-1_p1_app"));
    }
}

/// Another object of the same name: it is not the one whose holder has ended.
#[tokio::test]
async fn a_lease_that_was_made_anew_meanwhile_is_not_written() {
    let api = api(&ended("containerd://1"));
    let mut anew = lease(AFTER);
    anew["metadata"]["uid"] = json!("u2");
    api.put_after_read(POD, LEASE, anew);
    assert!(matches!(tried(&api).await, Outcome::Unproven(Unproven::Later { .. })));
    assert_eq!(api.writes(), [""; 0]);
}

/// Edits of what is nobody's leadership cost another look.
#[tokio::test]
async fn an_edit_meanwhile_costs_another_look() {
    let api = api(&ended("containerd://1"));
    let mut edited = lease(BEFORE);
    edited["metadata"]["annotations"]["team"] = json!("payments");
    api.put_after_read(POD, LEASE, edited);
    assert!(matches!(tried(&api).await, Outcome::Freed(_)));
    assert_eq!((record(&api).is_free(), record(&api).annotation("team")), (true, Some("payments")));
}

#[tokio::test]
async fn a_lease_of_another_program_is_left_alone() {
    let api = api(&ended("containerd://1"));
    let mut foreign = lease(BEFORE);
    foreign["metadata"]["labels"] = Value::Null;
    api.put(LEASE, foreign);
    assert_eq!(tried(&api).await, Outcome::Unproven(Unproven::NoHolder));
    assert_eq!(api.writes(), [""; 0]);
}

/// The controller at work: it notices by its watches, asks once for each end, and costs nothing while nobody ends.
#[tokio::test]
async fn the_controller_notices_an_end_and_asks_once() {
    let api = FakeApi::default();
    api.tell_changes();
    api.put(LEASE, lease(AFTER));
    api.put(POD, pod(&running()));
    let working = tokio::spawn(controller::work(context(&api)));
    let asked = |times: usize| {
        let api = api.clone();
        async move {
            for _ in 0..6000 {
                if api.asked(POD) == times {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("the pod was read {} times and not {times}", api.asked(POD));
        }
    };
    // Proved by nothing yet: the record is younger. One look is enough to see it.
    api.put(POD, pod(&ended("containerd://1")));
    asked(1).await;
    let mut renewed = lease(AFTER);
    for second in 12..20 {
        renewed["spec"]["renewTime"] = json!(format!("2026-11-21T12:00:{second}.000000Z"));
        renewed["metadata"]["annotations"]["tick"] = json!(second.to_string());
        api.put(LEASE, renewed.clone());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    asked(1).await;
    assert!(!record(&api).is_free());
    // The next container has ended, too, and that says when.
    let mut last = ended("containerd://2");
    last["terminated"]["finishedAt"] = json!("2026-11-21T12:00:30Z");
    api.put(POD, pod(&last));
    for _ in 0..6000 {
        if record(&api).is_free() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(record(&api).is_free(), "{:?}", api.get(LEASE));
    working.abort();
}
