//! Turning on: what stands on the Lease before a review is answered, and what takes it off again.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use leader_agent::names;
use leader_webhook::{
    controller::{Context, Requeue, turning_on, view::Change},
    events::Recorder,
    metrics::Metrics,
    turning_on::{ResumeError, TurningOn, resume},
};
use serde_json::{Value, json};

use crate::running::{Running, create, deployment, patched, review_of};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const SET: &str = "/apis/apps/v1/namespaces/shop/replicasets/billing-5d";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/billing";

/// The Deployment before anybody thought of an election.
fn plain() -> Value {
    let mut plain = deployment();
    plain["metadata"]["annotations"] = json!({});
    plain
}

/// A pod that runs the app without the agent.
fn plain_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "labels": { "app": "billing" } },
        "spec": { "nodeName": "one", "containers": [{ "name": "app", "command": ["/billing"] }] },
        "status": { "phase": "Running", "containerStatuses": [container(&json!({ "running": {} }))] },
    })
}

fn container(state: &Value) -> Value {
    json!({ "name": "app", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0 })
}

/// The same pod after the kubelet has reported its end.
fn ended(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let state = json!({ "terminated": { "exitCode": 143, "reason": "Error", "containerID": "containerd://1",
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z" } });
    let said = json!({ "type": "ContainersReady", "status": "False", "reason": "PodFailed" });
    pod["status"] = json!({ "phase": "Failed", "conditions": [said] });
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let of = |spec: &Value| {
        let mut status = container(&state);
        status["name"] = spec["name"].clone();
        status
    };
    pod["status"]["containerStatuses"] = containers.map(of).collect();
    pod
}

/// A pod of a workload that is elected, with the labels of its template.
fn elected_pod(name: &str, stored: &Value) -> Value {
    let template = &stored["spec"]["template"];
    let mut pod = plain_pod(name);
    pod["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
    let node = pod["spec"]["nodeName"].clone();
    pod["spec"] = template["spec"].clone();
    pod["spec"]["nodeName"] = node;
    pod
}

/// A ReplicaSet of the Deployment before anybody thought of an election.
fn plain_set(replicas: i64, deployment: Option<&str>) -> Value {
    let owner = |name: &str| json!([{ "apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": "d1", "controller": true }]);
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "billing-5d", "namespace": "shop", "uid": "s1", "generation": 2, "labels": { "app": "billing" },
            "ownerReferences": deployment.map_or(json!([]), owner) },
        "spec": { "replicas": replicas, "template": plain()["spec"]["template"] },
        "status": { "observedGeneration": 2, "replicas": 0 },
    })
}

fn put_pod(running: &Running, pod: Value) {
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    running.api.put(&format!("{PODS}/{name}"), pod);
}

fn said(running: &Running) -> Option<TurningOn> {
    let lease = running.api.get(LEASE)?;
    lease["metadata"]["annotations"][names::TURNING_ON].as_str().map(TurningOn::parse)
}

/// Names of the pods that are waited for.
fn waited(running: &Running) -> Vec<String> {
    let said = said(running).expect("nobody is waited for");
    said.workloads.into_values().flat_map(|entry| entry.pods.into_values()).collect()
}

fn warnings(response: &Value) -> String {
    response["warnings"].to_string()
}

#[tokio::test]
async fn annotating_a_workload_that_runs_is_on_the_lease_before_it_is_answered() {
    let running = Running::start().await;
    for name in ["billing-1", "billing-2"] {
        put_pod(&running, plain_pod(name));
    }
    let mut other = plain_pod("reports-1");
    other["metadata"]["labels"] = json!({ "app": "reports" });
    put_pod(&running, other);
    let response = running.review(&review_of("UPDATE", &deployment(), &plain())).await;
    patched(&deployment(), &response);
    assert_eq!(waited(&running), ["billing-1", "billing-2"]);
    assert!(
        warnings(&response).contains("nobody begins to lead `billing` until 2 pods of before have ended"),
        "{response}"
    );
}

#[tokio::test]
async fn a_lease_that_is_there_is_changed_in_nothing_else() {
    let running = Running::start().await;
    patched(&deployment(), &running.review(&create(&deployment())).await);
    let mut held = running.api.get(LEASE).unwrap();
    held["spec"] = json!({ "holderIdentity": "billing-9_u_app", "leaseTransitions": 3, "unheardOf": true });
    held["metadata"]["annotations"] = json!({ "team": "billing" });
    running.api.put(LEASE, held.clone());
    patched(&deployment(), &running.review(&review_of("UPDATE", &deployment(), &plain())).await);
    let now = running.api.get(LEASE).unwrap();
    assert_eq!((&now["spec"], &now["metadata"]["annotations"]["team"]), (&held["spec"], &json!("billing")));
    // Nobody runs at the moment, but somebody may before this is stored.
    assert_eq!(waited(&running), Vec::<String>::new());
}

#[tokio::test]
async fn a_dry_run_says_it_and_writes_nothing() {
    let running = Running::start().await;
    put_pod(&running, plain_pod("billing-1"));
    let mut old = plain();
    old["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(0);
    let mut review = review_of("UPDATE", &deployment(), &old);
    review["request"]["dryRun"] = json!(true);
    let response = running.review(&review).await;
    assert!(warnings(&response).contains("kubectl leader resume billing -n shop"), "{response}");
    assert!(warnings(&response).contains("until 1 pod of before has ended"), "{response}");
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_made_waits_only_for_pods_that_an_earlier_one_left() {
    let running = Running::start().await;
    patched(&deployment(), &running.review(&create(&deployment())).await);
    assert_eq!(said(&running), None);

    let running = Running::start().await;
    put_pod(&running, plain_pod("billing-1"));
    let mut of_another = plain_pod("billing-2");
    let owner =
        json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "billing", "uid": "u", "controller": true }]);
    of_another["metadata"]["ownerReferences"] = owner;
    put_pod(&running, of_another);
    put_pod(&running, ended(plain_pod("billing-3")));
    patched(&deployment(), &running.review(&create(&deployment())).await);
    assert_eq!(waited(&running), ["billing-1"]);
}

#[tokio::test]
async fn what_is_elected_already_waits_for_nobody() {
    let running = Running::start().await;
    let stored = patched(&deployment(), &running.review(&create(&deployment())).await);
    put_pod(&running, plain_pod("billing-1"));
    let mut changed = stored.clone();
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = json!("127.0.0.1:1/billing:2");
    patched(&changed, &running.review(&review_of("UPDATE", &changed, &stored)).await);
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn a_changed_id_waits_for_the_pods_of_the_one_before() {
    let running = Running::start().await;
    let stored = patched(&deployment(), &running.review(&create(&deployment())).await);
    put_pod(&running, elected_pod("billing-1", &stored));
    let mut changed = stored.clone();
    changed["metadata"]["annotations"]["leader.io/id"] = json!("invoices");
    patched(&changed, &running.review(&review_of("UPDATE", &changed, &stored)).await);
    assert_eq!(said(&running), None, "those of the id before go on");
    let lease = running.api.get("/apis/coordination.k8s.io/v1/namespaces/shop/leases/invoices").unwrap();
    let text = lease["metadata"]["annotations"][names::TURNING_ON].as_str().unwrap();
    assert!(text.contains("\"uid-of-billing-1\":\"billing-1\""), "{text}");
}

/// The old pods run it bare, beside which no elected pod may.
#[tokio::test]
async fn another_container_waits_for_the_pods_that_run_it_bare() {
    let running = Running::start().await;
    let mut two = deployment();
    let mut proxy = two["spec"]["template"]["spec"]["containers"][0].clone();
    (proxy["name"], proxy["command"]) = (json!("proxy"), json!(["/proxy"]));
    two["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(proxy);
    let stored = patched(&two, &running.review(&create(&two)).await);
    put_pod(&running, elected_pod("billing-1", &stored));
    assert_eq!(said(&running), None);
    let mut changed = stored.clone();
    changed["metadata"]["annotations"]["leader.io/container"] = json!("proxy");
    let response = running.review(&review_of("UPDATE", &changed, &stored)).await;
    let mut now = patched(&changed, &response);
    assert_eq!(waited(&running), ["billing-1"]);
    assert!(warnings(&response).contains("until 1 pod of before has ended"), "{response}");
    // Its end ends that, and pods in which it is wrapped are none that are waited for.
    now["metadata"]["generation"] = json!(2);
    now["status"] = json!({ "observedGeneration": 2 });
    running.api.put(DEPLOYMENT, now.clone());
    put_pod(&running, elected_pod("billing-2", &now));
    Controller::new(&running).work(&running).await;
    assert_eq!(waited(&running), ["billing-1"]);
    put_pod(&running, ended(elected_pod("billing-1", &stored)));
    Controller::new(&running).work(&running).await;
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn what_is_made_waits_for_a_set_that_is_left_and_may_make_pods() {
    for (replicas, waits) in [(1, true), (0, false)] {
        let running = Running::start().await;
        running.api.put(SET, plain_set(replicas, None));
        patched(&deployment(), &running.review(&create(&deployment())).await);
        assert_eq!(said(&running).is_some(), waits, "{replicas}");
    }
}

/// Another workload takes part under the id: of whom its Lease said, which is lost, nobody knows here.
#[tokio::test]
async fn what_is_made_under_an_id_with_pods_takes_a_missing_lease_for_lost() {
    let running = Running::start().await;
    let mut other = plain_pod("reports-1");
    other["metadata"]["labels"] = json!({ "app": "reports", "leader.io/id": "billing" });
    put_pod(&running, other);
    patched(&deployment(), &running.review(&create(&deployment())).await);
    assert_eq!(said(&running), Some(TurningOn::of_a_lost_lease()));
}

/// Agents wait as long as the annotation is there.
#[tokio::test]
async fn what_says_nothing_is_taken_off() {
    let running = turned_on(&[]).await;
    let mut lease = running.api.get(LEASE).unwrap();
    lease["metadata"]["annotations"][names::TURNING_ON] = json!("{}");
    running.api.put(LEASE, lease);
    Controller::new(&running).work(&running).await;
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn a_workload_whose_pods_cannot_be_told_is_refused() {
    let running = Running::start().await;
    for selector in [json!({}), json!({ "matchLabels": { "app": "shop" } })] {
        let mut made = deployment();
        made["spec"]["selector"] = selector;
        let response = running.review(&create(&made)).await;
        assert_eq!(response["allowed"], false, "{response}");
        assert!(response["status"]["message"].as_str().unwrap().contains("spec.selector is"), "{response}");
    }
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

/// A Job's template cannot be changed: it is deleted and made again, and its pods may still be there.
#[tokio::test]
async fn a_job_that_is_made_again_waits_for_the_pods_of_the_one_before() {
    let running = Running::start().await;
    let mut pod = plain_pod("billing-x7");
    pod["metadata"]["labels"] = json!({ "batch.kubernetes.io/job-name": "billing" });
    pod["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "billing", "uid": "before", "controller": true }]);
    put_pod(&running, pod);
    let mut template = plain()["spec"]["template"].clone();
    template["metadata"]["annotations"] = json!({ "leader.io/id": "billing" });
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "billing", "namespace": "shop" },
        "spec": { "template": template } });
    let response = running.review(&create(&job)).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(waited(&running), ["billing-x7"]);
}

async fn resumed(running: &Running) -> Result<String, String> {
    let resumed = resume(&running.api.client(), "shop", &"billing".parse().unwrap(), false).await;
    resumed.map_err(|error| {
        assert!(matches!(error, ResumeError::Running { .. }), "{error}");
        error.to_string()
    })
}

#[tokio::test]
async fn a_person_resumes_when_what_is_waited_for_is_gone() {
    let running = turned_on(&["billing-1"]).await;
    let refused = resumed(&running).await.unwrap_err();
    assert!(
        refused.contains("these pods of Deployment/billing run the application without the election: billing-1"),
        "{refused}"
    );
    running.api.remove(&format!("{PODS}/billing-1"));
    assert!(resumed(&running).await.unwrap().contains("Deployment/billing: billing-1"));
    assert_eq!(said(&running), None);
}

/// Whatever the Lease says of whom.
#[tokio::test]
async fn nobody_resumes_beside_what_the_lease_does_not_name() {
    let running = turned_on(&[]).await;
    put_pod(&running, plain_pod("made-since"));
    let refused = resumed(&running).await.unwrap_err();
    assert!(refused.contains("made-since"), "{refused}");
    let mut lease = running.api.get(LEASE).unwrap();
    lease["metadata"]["annotations"][names::TURNING_ON] = json!(names::TURNING_ON_UNKNOWN);
    running.api.put(LEASE, lease);
    let refused = resumed(&running).await.unwrap_err();
    assert!(refused.contains("made-since"), "{refused}");
    running.api.remove(&format!("{PODS}/made-since"));
    running.api.put(SET, plain_set(2, Some("billing")));
    let refused = resumed(&running).await.unwrap_err();
    assert!(refused.contains("billing-5d is to have 2 pods"), "{refused}");
    running.api.put(DEPLOYMENT, plain());
    running.api.remove(SET);
    let refused = resumed(&running).await;
    assert!(refused.is_ok(), "nobody takes part, and nobody is named: {refused:?}");
}

#[tokio::test]
async fn nobody_resumes_before_what_was_decided_is_stored() {
    let running = turned_on(&[]).await;
    running.api.put(DEPLOYMENT, plain());
    let refused = resumed(&running).await.unwrap_err();
    assert!(refused.contains("takes no part in the election as it is stored"), "{refused}");
    assert!(said(&running).is_some());
}

#[tokio::test]
async fn a_lease_that_was_lost_comes_back_waiting() {
    let running = Running::start().await;
    let stored = patched(&deployment(), &running.review(&create(&deployment())).await);
    running.api.remove(LEASE);
    // What is there is left to the controller; this needs a binding.
    let mut under_its_own = stored.clone();
    under_its_own["metadata"]["annotations"]["leader.io/service-account"] = json!("keep");
    patched(&under_its_own, &running.review(&review_of("UPDATE", &under_its_own, &stored)).await);
    assert_eq!(said(&running), Some(TurningOn::of_a_lost_lease()));
}

/// A controller's part, with what it has seen of the Lease.
struct Controller {
    context: Context,
}

impl Controller {
    fn new(running: &Running) -> Self {
        let recorder = Recorder::silent();
        Self { context: Context::new(running.api.client(), recorder, Arc::new(Metrics::default()), None) }
    }

    /// Reconciles, with the watch's newest word, for so long that a pod's end has been told.
    async fn work(&self, running: &Running) {
        for _ in 0..14 {
            if let Some(lease) = running.api.get(LEASE) {
                let lease: Lease = serde_json::from_value(lease).unwrap();
                self.context.view.apply(Change::Lease(Event::Apply(lease)));
            }
            let requeue = turning_on::reconcile(&self.context, "shop", &"billing".parse().unwrap()).await.unwrap();
            if requeue == Requeue::OnChange {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// A Deployment whose election was turned on while these pods ran, as it is stored once its controller has seen it.
async fn turned_on(pods: &[&str]) -> Running {
    let running = Running::start().await;
    for name in pods {
        put_pod(&running, plain_pod(name));
    }
    let response = running.review(&review_of("UPDATE", &deployment(), &plain())).await;
    let mut stored = patched(&deployment(), &response);
    stored["metadata"]["generation"] = json!(2);
    stored["status"] = json!({ "observedGeneration": 2 });
    running.api.put(DEPLOYMENT, stored);
    running
}

#[tokio::test]
async fn it_ends_with_the_last_pod_whose_end_was_reported() {
    let running = turned_on(&["billing-1", "billing-2"]).await;
    let controller = Controller::new(&running);
    put_pod(&running, ended(plain_pod("billing-1")));
    controller.work(&running).await;
    assert_eq!(waited(&running), ["billing-2"]);
    // Whoever works next goes on from there.
    put_pod(&running, ended(plain_pod("billing-2")));
    Controller::new(&running).work(&running).await;
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn a_pod_that_vanished_without_a_report_keeps_it() {
    let running = turned_on(&["billing-1"]).await;
    running.api.remove(&format!("{PODS}/billing-1"));
    Controller::new(&running).work(&running).await;
    assert_eq!(waited(&running), ["billing-1"]);
}

#[tokio::test]
async fn a_set_that_may_make_another_pod_keeps_it() {
    let running = turned_on(&[]).await;
    running.api.put(SET, plain_set(1, Some("billing")));
    let controller = Controller::new(&running);
    controller.work(&running).await;
    assert_eq!(waited(&running), Vec::<String>::new());
    running.api.put(SET, plain_set(0, Some("billing")));
    controller.work(&running).await;
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn what_is_not_stored_yet_keeps_it() {
    let running = turned_on(&[]).await;
    running.api.put(DEPLOYMENT, plain());
    Controller::new(&running).work(&running).await;
    assert_eq!(waited(&running), Vec::<String>::new());
}

#[tokio::test]
async fn a_lease_that_says_nothing_of_whom_is_looked_into() {
    let running = turned_on(&["billing-1"]).await;
    let mut lease = running.api.get(LEASE).unwrap();
    lease["metadata"]["annotations"][names::TURNING_ON] = json!(names::TURNING_ON_UNKNOWN);
    running.api.put(LEASE, lease);
    Controller::new(&running).work(&running).await;
    assert_eq!(waited(&running), ["billing-1"]);
    assert!(!said(&running).unwrap().unknown);
    put_pod(&running, ended(plain_pod("billing-1")));
    Controller::new(&running).work(&running).await;
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn another_lease_in_its_place_waits_as_the_one_before() {
    let running = turned_on(&["billing-1"]).await;
    let controller = Controller::new(&running);
    controller.work(&running).await;
    let mut bare = running.api.get(LEASE).unwrap();
    bare["metadata"]["uid"] = json!("another");
    bare["metadata"]["annotations"] = json!({});
    running.api.put(LEASE, bare.clone());
    controller.work(&running).await;
    assert_eq!(waited(&running), ["billing-1"]);
    // Who takes it off the Lease that says it means it.
    running.api.put(LEASE, bare);
    controller.work(&running).await;
    assert_eq!(said(&running), None);
}

#[tokio::test]
async fn another_programs_lease_in_its_place_is_left_alone() {
    let running = turned_on(&["billing-1"]).await;
    let controller = Controller::new(&running);
    let ours: Lease = serde_json::from_value(running.api.get(LEASE).unwrap()).unwrap();
    controller.context.view.apply(Change::Lease(Event::Apply(ours)));
    // Of what comes now the watch has not told yet.
    let foreign =
        json!({ "metadata": { "name": "billing", "namespace": "shop" }, "spec": { "holderIdentity": "another" } });
    running.api.remove(LEASE);
    running.api.put(LEASE, foreign);
    let before = running.api.get(LEASE);
    turning_on::reconcile(&controller.context, "shop", &"billing".parse().unwrap()).await.unwrap();
    controller.work(&running).await;
    assert_eq!(running.api.get(LEASE), before);
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_not_begun_over_and_over() {
    let running = turned_on(&["billing-1"]).await;
    running.api.end_watches(PODS);
    let before = running.api.asked(PODS);
    let controller = Controller::new(&running);
    controller.work(&running).await;
    // It takes some seconds: a watch in each, and a few lists.
    let asked = running.api.asked(PODS) - before;
    assert!((2..50).contains(&asked), "{asked} requests");
    assert_eq!(waited(&running), ["billing-1"]);
}
