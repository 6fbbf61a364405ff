//! Leader-only Services: what their reviews are answered with, and what the controller makes of them.

use std::time::Duration;

use leader_webhook::{
    controller::{self, Context},
    events::Recorder,
};
use serde_json::{Value, json};

use crate::{
    fake_api::FakeApi,
    running::{Running, create, patched, refusal, review_of},
};

const CORE: &str = "/api/v1/namespaces/shop";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const OURS: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-leader-ipv4";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles/leader-billing";

/// As a person writes it.
fn service(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "shop", "annotations": annotations },
        "spec": { "selector": { "app": "billing" }, "ports": [{ "port": 80, "targetPort": 8080, "protocol": "TCP" }] },
    })
}

/// As it is stored once it was taken over.
fn taken_over(target: &Value) -> Value {
    let annotations = json!({ "leader.io/leader-only": "billing", "leader.io/selector": r#"{"app":"billing"}"# });
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "shop", "uid": "s1", "annotations": annotations },
        "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
            "ports": [{ "port": 80, "targetPort": target, "protocol": "TCP" }] },
    })
}

#[tokio::test]
async fn a_service_that_asks_for_the_leader_only_loses_its_selector_and_others_are_as_they_were() {
    let running = Running::start().await;
    let asked = service(&json!({ "leader.io/leader-only": "billing" }));
    let response = running.review(&create(&asked)).await;
    let stored = patched(&asked, &response);
    assert_eq!(stored["spec"]["selector"], Value::Null);
    assert_eq!(stored["metadata"]["annotations"]["leader.io/selector"], r#"{"app":"billing"}"#);
    let warnings = response["warnings"].to_string();
    assert!(
        warnings.contains("leader of `billing` only") && warnings.contains("nobody is elected under `billing`"),
        "{warnings}"
    );
    assert!(running.api.writes().is_empty(), "reviewing a Service writes nothing");

    // Where somebody is elected, nothing is said about that.
    let labels = json!({ "leader.io/id": "billing" });
    running.api.put(LEASE, json!({ "metadata": { "name": "billing", "namespace": "shop", "labels": labels } }));
    let plain = service(&Value::Null);
    let response = running.review(&review_of("UPDATE", &asked, &plain)).await;
    assert!(!response["warnings"].to_string().contains("nobody is elected"), "{}", response["warnings"]);
    // And the second time nothing at all.
    let again = running.review(&review_of("UPDATE", &asked, &stored)).await;
    assert_eq!((&patched(&asked, &again)["spec"], &again["warnings"]), (&stored["spec"], &Value::Null));

    let back = running.review(&review_of("UPDATE", &plain, &stored)).await;
    assert_eq!(patched(&plain, &back)["spec"]["selector"], json!({ "app": "billing" }));

    let release = service(&json!({ "leader.io/id": "billing", "leader.io/lease-duration": "5s" }));
    assert_eq!(patched(&release, &running.review(&create(&release)).await), release);
    let mut external = asked.clone();
    external["spec"]["type"] = json!("ExternalName");
    assert!(refusal(&running.review(&create(&external)).await).contains("ExternalName"));
}

#[tokio::test]
async fn services_of_the_cluster_and_of_the_webhook_are_not_taken_over_and_are_given_back() {
    let running = Running::start().await;
    for namespace in ["kube-system", "leader-system"] {
        let of_there = |mut service: Value| {
            service["metadata"]["namespace"] = json!(namespace);
            service
        };
        let plain = of_there(service(&Value::Null));
        let asked = of_there(service(&json!({ "leader.io/leader-only": "billing" })));
        for review in [create(&asked), review_of("UPDATE", &asked, &plain)] {
            let response = running.review(&review).await;
            let reason = refusal(&response);
            assert!(reason.contains(&format!("Services in namespace {namespace}")), "{reason}");
        }
        let taken = of_there(taken_over(&json!(8080)));
        let mut left = taken.clone();
        left["metadata"]["annotations"].as_object_mut().unwrap().remove("leader.io/leader-only");
        for back in [left, plain] {
            let response = running.review(&review_of("UPDATE", &back, &taken)).await;
            assert_eq!(patched(&back, &response)["spec"]["selector"], json!({ "app": "billing" }));
        }
        // What is put on every object of a release asks a Service for nothing.
        let release = of_there(service(&json!({ "leader.io/id": "billing" })));
        assert_eq!(patched(&release, &running.review(&create(&release)).await), release);
    }
}

/// A controller that works until the end of the test.
struct Working {
    api: FakeApi,
    task: tokio::task::JoinHandle<std::convert::Infallible>,
}

impl Working {
    fn start(api: &FakeApi) -> Self {
        let context = Context::new(api.client(), Recorder::silent(), std::sync::Arc::default(), None);
        Self { api: api.clone(), task: tokio::spawn(controller::work(context)) }
    }

    /// Waits until an object was read so many times.
    async fn until_read(&self, path: &str, times: usize) {
        for _ in 0..6000 {
            if self.api.asked(path) >= times {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} was read {} times", self.api.asked(path));
    }

    /// Waits until an object is as it should be, or is gone where `is_right` says so of nothing.
    async fn until(&self, path: &str, is_right: impl Fn(Option<&Value>) -> bool) -> Value {
        let mut last = None;
        for _ in 0..6000 {
            assert!(!self.task.is_finished(), "the controller has ended");
            last = self.api.get(path);
            if is_right(last.as_ref()) {
                return last.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays {last:#?}");
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An elected Deployment, its pods, and who leads.
fn api(holder: &str) -> FakeApi {
    let api = FakeApi::default();
    api.tell_changes();
    let record = json!({ "version": 1, "id": "billing", "container": "app", "leaseDuration": "15s", "serviceAccount": "dedicated" });
    let metadata =
        json!({ "labels": { "app": "billing" }, "annotations": { "leader.io/injected": record.to_string() } });
    api.put(
        "/apis/apps/v1/namespaces/shop/deployments/billing",
        json!({ "metadata": { "name": "billing", "namespace": "shop", "annotations": { "leader.io/id": "billing" } },
            "spec": { "selector": {}, "template": { "metadata": metadata,
                "spec": { "containers": [], "serviceAccountName": "leader-billing" } } } }),
    );
    for (pod, port) in [("billing-1", 8081), ("billing-2", 8082)] {
        api.put(
            &format!("{CORE}/pods/{pod}"),
            json!({ "metadata": { "name": pod, "namespace": "shop", "uid": format!("uid-of-{pod}"),
                    "labels": { "leader.io/id": "billing", "app": "billing" },
                    "annotations": { "leader.io/injected": record.to_string() } },
                "spec": { "containers": [{ "name": "app", "ports": [{ "name": "http", "containerPort": port }] }],
                    "serviceAccountName": "leader-billing" } }),
        );
    }
    api.put(
        LEASE,
        json!({ "metadata": { "name": "billing", "namespace": "shop", "labels": { "leader.io/id": "billing" } },
            "spec": { "holderIdentity": holder } }),
    );
    api
}

fn made_by_the_selector() -> [String; 3] {
    [format!("{SLICES}/web-x7d"), format!("{SLICES}/web-m"), format!("{CORE}/endpoints/web")]
}

fn put_what_a_selector_had_made(api: &FakeApi) {
    let [slice, mirrored, endpoints] = made_by_the_selector();
    for (path, manager) in
        [(slice, "endpointslice-controller.k8s.io"), (mirrored, "endpointslicemirroring-controller.k8s.io")]
    {
        let labels = json!({ "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": manager });
        let metadata = json!({ "name": path.rsplit('/').next(), "namespace": "shop", "labels": labels });
        api.put(&path, json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": [] }));
    }
    api.put(&endpoints, json!({ "metadata": { "name": "web", "namespace": "shop" } }));
}

fn endpoints(pod: &str) -> Value {
    json!([{ "addresses": ["10.244.0.7"], "targetRef": { "kind": "Pod", "name": pod, "uid": format!("uid-of-{pod}") } }])
}

#[tokio::test]
async fn the_slice_is_there_is_named_and_may_be_written_and_what_was_there_before_goes() {
    let api = api("billing-2_uid-of-billing-2_app");
    put_what_a_selector_had_made(&api);
    api.put(&format!("{CORE}/services/web"), taken_over(&json!("http")));
    let working = Working::start(&api);
    let slice = working.until(OURS, |slice| slice.is_some()).await;
    // The leader's pod says which number the name has.
    assert_eq!(slice["ports"][0]["port"], 8082);
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "s1");
    let named = json!(r#"["web-leader-ipv4"]"#);
    working.until(LEASE, |lease| lease.unwrap()["metadata"]["annotations"]["leader.io/slices"] == named).await;
    let right = json!({ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
        "resourceNames": ["web-leader-ipv4"], "verbs": ["get", "update"] });
    working.until(ROLE, |role| role.is_some_and(|role| role["rules"][1] == right)).await;
    for gone in made_by_the_selector() {
        working.until(&gone, |object| object.is_none()).await;
    }

    // The leader puts itself in: that is nobody else's business.
    let mut inside = api.get(OURS).unwrap();
    inside["endpoints"] = endpoints("billing-2");
    api.put(OURS, inside);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(api.get(OURS).unwrap()["endpoints"], endpoints("billing-2"));
    let writes = api.writes().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.writes().len(), writes, "an id in order costs no request: {:?}", api.writes());

    // Another leader, whose port has another number; and another port of the Service.
    let mut lease = api.get(LEASE).unwrap();
    lease["spec"]["holderIdentity"] = json!("billing-1_uid-of-billing-1_app");
    api.put(LEASE, lease);
    let moved = working.until(OURS, |slice| slice.unwrap()["ports"][0]["port"] == 8081).await;
    assert_eq!(moved["endpoints"], endpoints("billing-2"), "who is in it is the agents' alone");
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(9000)));
    working.until(OURS, |slice| slice.unwrap()["ports"][0]["port"] == 9000).await;

    // What somebody deletes comes back, and a wrong right goes.
    api.remove(OURS);
    working.until(OURS, |slice| slice.is_some()).await;
    let mut role = api.get(ROLE).unwrap();
    role["rules"][1]["verbs"] = json!(["*"]);
    api.put(ROLE, role);
    working.until(ROLE, |role| role.unwrap()["rules"][1] == right && role.unwrap()["rules"][2].is_null()).await;
}

#[tokio::test]
async fn a_pod_that_is_gone_is_taken_out_and_one_that_is_there_stays() {
    let api = api("billing-1_uid-of-billing-1_app");
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(8080)));
    let working = Working::start(&api);
    let mut slice = working.until(OURS, |slice| slice.is_some()).await;
    slice["endpoints"] = endpoints("billing-1");
    api.put(OURS, slice);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.get(OURS).unwrap()["endpoints"], endpoints("billing-1"));
    api.remove(&format!("{CORE}/pods/billing-1"));
    working.until(OURS, |slice| slice.unwrap()["endpoints"] == json!([])).await;
}

#[tokio::test]
async fn whoever_is_no_pod_by_its_own_address_is_taken_out() {
    let api = api("billing-1_uid-of-billing-1_app");
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(8080)));
    let working = Working::start(&api);
    let empty = working.until(OURS, |slice| slice.is_some()).await;
    let put = |endpoints: Value| {
        let mut slice = api.get(OURS).unwrap_or_else(|| empty.clone());
        slice["endpoints"] = endpoints;
        api.put(OURS, slice);
    };
    put(json!([{ "addresses": ["10.96.0.50"] }]));
    working.until(OURS, |slice| slice.unwrap()["endpoints"] == json!([])).await;
    // In before its addresses are reported, and judged when they are.
    put(endpoints("billing-1"));
    working.until_read(&format!("{CORE}/pods/billing-1"), 1).await;
    let report = |address: &str, spec: Value| {
        let path = format!("{CORE}/pods/billing-1");
        let mut pod = api.get(&path).unwrap();
        pod["status"] = json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] });
        json_patch::merge(&mut pod["spec"], &spec);
        api.put(&path, pod);
    };
    report("10.244.0.7", json!({}));
    put(
        json!([endpoints("billing-1")[0], { "addresses": ["10.96.0.50"], "targetRef": endpoints("billing-1")[0]["targetRef"] }]),
    );
    working.until(OURS, |slice| slice.unwrap()["endpoints"] == json!([])).await;
    put(endpoints("billing-1"));
    report("10.244.0.8", json!({}));
    working.until(OURS, |slice| slice.unwrap()["endpoints"] == json!([])).await;
    // Which of its node's addresses it has is not known.
    report("192.168.0.1", json!({ "hostNetwork": true }));
    put(endpoints("billing-1"));
    // It is judged again when anything changes: then it was judged before.
    for address in ["192.168.0.2", "192.168.0.3"] {
        let reads = api.asked(&format!("{CORE}/pods/billing-1"));
        report(address, json!({}));
        working.until_read(&format!("{CORE}/pods/billing-1"), reads + 1).await;
    }
    assert_eq!(api.get(OURS).unwrap()["endpoints"], endpoints("billing-1"));
}

#[tokio::test]
async fn what_was_there_before_goes_also_where_nobody_was_ever_elected() {
    let api = FakeApi::default();
    api.tell_changes();
    put_what_a_selector_had_made(&api);
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(8080)));
    let working = Working::start(&api);
    for gone in made_by_the_selector() {
        working.until(&gone, |object| object.is_none()).await;
    }
    assert!(api.get(OURS).is_some());
}

fn given_back() -> Value {
    let mut back = service(&Value::Null);
    (back["metadata"]["uid"], back["spec"]["ipFamilies"]) = (json!("s1"), json!(["IPv4"]));
    back
}

/// An API server whose watches tell nothing: what the controller sees is as old as its start.
fn seen_once() -> FakeApi {
    let api = FakeApi::default();
    put_what_a_selector_had_made(&api);
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(8080)));
    api
}

#[tokio::test]
async fn what_a_service_has_stays_where_it_was_given_back_or_made_again_and_that_was_not_seen() {
    let mut again = taken_over(&json!(8080));
    again["metadata"]["uid"] = json!("s2");
    let mut others = taken_over(&json!(8080));
    others["metadata"]["annotations"]["leader.io/leader-only"] = json!("orders");
    let kept = [Some(given_back()), Some(again), Some(others), None].map(async |live| {
        let (api, service) = (seen_once(), format!("{CORE}/services/web"));
        let working = Working::start(&api);
        working.until(OURS, |slice| slice.is_some()).await;
        match &live {
            Some(live) => api.put(&service, live.clone()),
            None => api.remove(&service),
        }
        // The second look comes after what the first one led to.
        working.until_read(&service, 2).await;
        for kept in made_by_the_selector() {
            assert!(api.get(&kept).is_some(), "{kept} was deleted: {live:?}");
        }
    });
    futures::future::join_all(kept).await;
}

#[tokio::test]
async fn what_was_written_since_it_was_looked_at_stays() {
    let (api, service) = (seen_once(), format!("{CORE}/services/web"));
    let endpoints = format!("{CORE}/endpoints/web");
    let newer = json!({ "metadata": { "name": "web", "namespace": "shop", "labels": { "newer": "" } } });
    api.put_after_read(&endpoints, &endpoints, newer);
    api.put_after_read(&service, &service, given_back());
    let working = Working::start(&api);
    working.until_read(&service, 2).await;
    assert_eq!(api.get(&endpoints).unwrap()["metadata"]["labels"]["newer"], "");
}

#[tokio::test]
async fn a_service_that_is_given_back_keeps_our_slice_until_it_has_its_own() {
    let api = api("billing-1_uid-of-billing-1_app");
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(8080)));
    let working = Working::start(&api);
    working.until(OURS, |slice| slice.is_some()).await;
    working.until(LEASE, |lease| !lease.unwrap()["metadata"]["annotations"]["leader.io/slices"].is_null()).await;
    api.put(&format!("{CORE}/services/web"), given_back());
    working.until(LEASE, |lease| lease.unwrap()["metadata"]["annotations"]["leader.io/slices"].is_null()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(api.get(OURS).is_some(), "traffic would have nowhere to go");
    let labels = json!({ "kubernetes.io/service-name": "web" });
    api.put(
        &format!("{SLICES}/web-new"),
        json!({ "metadata": { "name": "web-new", "namespace": "shop", "labels": labels }, "addressType": "IPv4", "endpoints": [] }),
    );
    working.until(OURS, |slice| slice.is_none()).await;
    working.until(ROLE, |role| role.unwrap()["rules"][1].is_null()).await;
    assert!(api.get(&format!("{SLICES}/web-new")).is_some());
}

#[tokio::test]
async fn a_slice_of_that_name_which_is_somebody_elses_is_left_alone() {
    let api = api("billing-1_uid-of-billing-1_app");
    let foreign = json!({ "metadata": { "name": "web-leader-ipv4", "namespace": "shop" }, "addressType": "IPv4", "endpoints": [] });
    api.put(OURS, foreign);
    let before = api.get(OURS);
    api.put(&format!("{CORE}/services/web"), taken_over(&json!(8080)));
    let working = Working::start(&api);
    working.until(ROLE, |role| role.is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.get(OURS), before);
    assert!(api.get(LEASE).unwrap()["metadata"]["annotations"]["leader.io/slices"].is_null());
}
