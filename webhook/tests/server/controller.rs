//! The controller at work on an API server in memory: what it makes of what its watches tell, and that it asks for nothing otherwise.

use std::time::{Duration, Instant};

use leader_webhook::{
    controller::{self, Context, Key, bound},
    events::Recorder,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake_api::FakeApi;

const SHOP: &str = "/api/v1/namespaces/shop";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/billing";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";

/// A controller that works until the end of the test.
struct Working {
    api: FakeApi,
    task: JoinHandle<std::convert::Infallible>,
}

impl Working {
    fn start(api: &FakeApi, agent_pull_secret: Option<&str>) -> Self {
        let secret = agent_pull_secret.map(str::to_owned);
        let context = Context::new(api.client(), Recorder::silent(), std::sync::Arc::default(), secret);
        Self { api: api.clone(), task: tokio::spawn(controller::work(context)) }
    }

    /// Waits until an object is as it should be; what it is then.
    async fn until(&self, path: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        for _ in 0..6000 {
            assert!(!self.task.is_finished(), "the controller has ended");
            last = self.api.get(path);
            if let Some(object) = last.as_ref().filter(|object| is_right(object)) {
                return object.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays {last:#?}");
    }

    async fn all_there(&self) {
        for path in objects() {
            self.until(&path, |_| true).await;
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn objects() -> [String; 4] {
    [
        LEASE.to_owned(),
        format!("{RBAC}/roles/leader-billing"),
        format!("{RBAC}/rolebindings/leader-billing"),
        format!("{SHOP}/serviceaccounts/leader-billing"),
    ]
}

/// A Deployment that is injected, whose pods run under its own account or under `kept`.
fn deployment(kept: Option<&str>) -> Value {
    let mode = if kept.is_some() { "keep" } else { "dedicated" };
    let record =
        json!({ "version": 1, "id": "billing", "container": "app", "leaseDuration": "15s", "serviceAccount": mode });
    json!({
        "metadata": { "name": "billing", "namespace": "shop", "annotations": { "leader.io/id": "billing" } },
        "spec": { "selector": {}, "template": {
            "metadata": { "annotations": { "leader.io/injected": record.to_string() } },
            "spec": { "containers": [], "serviceAccountName": kept.unwrap_or("leader-billing") },
        } },
    })
}

fn api() -> FakeApi {
    let api = FakeApi::default();
    api.tell_changes();
    api.put(
        &format!("{SHOP}/serviceaccounts/default"),
        json!({ "metadata": { "name": "default", "namespace": "shop" } }),
    );
    api
}

#[tokio::test]
async fn what_is_missing_at_the_start_and_what_goes_later_is_made() {
    let api = api();
    api.put(DEPLOYMENT, deployment(None));
    let working = Working::start(&api, None);
    working.all_there().await;
    for path in objects() {
        api.remove(&path);
        working.until(&path, |_| true).await;
    }
    // Edits, too.
    let role = format!("{RBAC}/roles/leader-billing");
    let good = api.get(&role).unwrap();
    let mut edited = good.clone();
    edited["rules"][0]["verbs"] = json!(["*"]);
    api.put(&role, edited);
    working.until(&role, |now| now["rules"] == good["rules"]).await;
}

#[tokio::test]
async fn an_id_in_order_costs_no_request() {
    let api = api();
    api.put(DEPLOYMENT, deployment(None));
    let working = Working::start(&api, None);
    working.all_there().await;
    // What it wrote itself reaches it by its watches.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (writes, lists) = (api.writes().len(), api.lists().len());
    let mut lease = api.get(LEASE).unwrap();
    for second in 0..20 {
        lease["spec"] = json!({ "holderIdentity": "me", "renewTime": format!("2026-01-01T00:00:{second:02}.000000Z") });
        api.put(LEASE, lease.clone());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((api.writes().len(), api.lists().len()), (writes, lists));
}

#[tokio::test]
async fn the_templates_own_account_is_bound() {
    let api = api();
    api.put(DEPLOYMENT, deployment(Some("robot")));
    let working = Working::start(&api, None);
    let binding = working.until(&format!("{RBAC}/rolebindings/leader-billing"), |_| true).await;
    assert_eq!(binding["subjects"][0]["name"], "robot");
    working.until(LEASE, |_| true).await;
    assert_eq!(api.get(&format!("{SHOP}/serviceaccounts/leader-billing")), None);
}

#[tokio::test]
async fn pull_secrets_follow_the_account_default() {
    let api = api();
    api.put(DEPLOYMENT, deployment(None));
    let working = Working::start(&api, Some("agent"));
    let account = format!("{SHOP}/serviceaccounts/leader-billing");
    working.until(&account, |account| account["imagePullSecrets"] == json!([{ "name": "agent" }])).await;
    let default = format!("{SHOP}/serviceaccounts/default");
    let mut changed = api.get(&default).unwrap();
    changed["imagePullSecrets"] = json!([{ "name": "registry" }]);
    api.put(&default, changed);
    let both = json!([{ "name": "agent" }, { "name": "registry" }]);
    working.until(&account, |account| account["imagePullSecrets"] == both).await;
}

#[tokio::test]
async fn what_others_own_is_left_alone_and_holds_up_nobody_else() {
    let api = api();
    let foreign = json!({ "metadata": { "name": "leader-billing", "namespace": "shop" }, "rules": [] });
    api.put(&format!("{RBAC}/roles/leader-billing"), foreign);
    api.put(DEPLOYMENT, deployment(None));
    let mut other = deployment(Some("robot"));
    other["metadata"]["namespace"] = json!("elsewhere");
    api.put(&DEPLOYMENT.replace("shop", "elsewhere"), other);
    let working = Working::start(&api, None);
    working.until(&LEASE.replace("shop", "elsewhere"), |_| true).await;
    let role = api.get(&format!("{RBAC}/roles/leader-billing")).unwrap();
    assert_eq!((&role["rules"], &role["metadata"]["labels"]), (&json!([]), &Value::Null));
    assert_eq!(api.get(LEASE), None, "nothing is made where something of it is somebody else's");
}

/// A Lease under which nobody may lead yet.
fn waiting_lease() -> Value {
    let waiting = r#"{"Deployment/billing":{"selector":"app=billing","version":"1","pods":{"u1":"billing-1"}}}"#;
    json!({
        "metadata": { "name": "billing", "namespace": "shop", "labels": { "leader.io/id": "billing" },
            "annotations": { "leader.io/turning-on": waiting } },
        "spec": {},
    })
}

/// What is looked at several times a second for one reason is not tried as often where it fails for another one.
#[tokio::test]
async fn what_fails_waits_though_the_id_is_looked_at_all_the_time() {
    let api = api();
    let role = format!("{RBAC}/roles/leader-billing");
    api.put(&role, json!({ "metadata": { "name": "leader-billing", "namespace": "shop" }, "rules": [] }));
    api.put(LEASE, waiting_lease());
    api.put(DEPLOYMENT, deployment(None));
    let _working = Working::start(&api, None);
    let deadline = Instant::now() + Duration::from_mins(1);
    while api.asked(&role) < 2 {
        assert!(Instant::now() < deadline, "it was not tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    // After pauses of 1, 2 and 4 seconds, and whatever is written meanwhile; every 250 ms would be 16 and more.
    assert!(api.asked(&role) <= 8, "{} times", api.asked(&role));
}

#[tokio::test]
async fn an_account_of_others_holds_up_no_other_account() {
    let api = api();
    let foreign = json!({ "metadata": { "name": "leader-billing", "namespace": "shop" } });
    api.put(&format!("{SHOP}/serviceaccounts/leader-billing"), foreign);
    api.put(DEPLOYMENT, deployment(None));
    let mut other = deployment(Some("robot"));
    other["metadata"]["name"] = json!("other");
    api.put(&DEPLOYMENT.replace("billing", "other"), other);
    let working = Working::start(&api, None);
    let binding = working.until(&format!("{RBAC}/rolebindings/leader-billing"), |_| true).await;
    assert_eq!((&binding["subjects"][0]["name"], &binding["subjects"][1]), (&json!("robot"), &Value::Null));
}

#[tokio::test]
async fn pods_of_an_id_that_is_gone_are_watched_no_longer() {
    let api = api();
    let pods = format!("{SHOP}/pods");
    api.end_watches(&pods);
    api.put(LEASE, waiting_lease());
    api.put(DEPLOYMENT, deployment(None));
    let working = Working::start(&api, None);
    working.all_there().await;
    let deadline = Instant::now() + Duration::from_mins(1);
    while api.asked(&pods) < 2 {
        assert!(Instant::now() < deadline, "its pods are not watched");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // As a namespace goes, the Lease last: nothing tells of the id after that.
    api.remove(DEPLOYMENT);
    for path in &objects()[1..] {
        api.remove(path);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    api.remove(LEASE);
    // A watch that ends at once begins again a second later.
    let mut asked = 0;
    while asked != api.asked(&pods) {
        assert!(Instant::now() < deadline, "its pods are still watched");
        asked = api.asked(&pods);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
}

#[tokio::test]
async fn a_lease_that_was_adopted_stays_as_it_is() {
    let api = api();
    let adopted = json!({
        "metadata": { "name": "billing", "namespace": "shop", "annotations": { "leader.io/adopt": "true" } },
        "spec": { "holderIdentity": "another-program" },
    });
    api.put(LEASE, adopted);
    let before = api.get(LEASE);
    api.put(DEPLOYMENT, deployment(None));
    let working = Working::start(&api, None);
    for path in &objects()[1..] {
        working.until(path, |_| true).await;
    }
    assert_eq!(api.get(LEASE), before);
}

/// An id is looked at several times a second while its election is turned on; an adopted Lease, which no watch shows, is not read as often.
#[tokio::test]
async fn an_adopted_lease_is_read_now_and_then() {
    let api = api();
    let mut adopted = waiting_lease();
    adopted["metadata"]["labels"] = Value::Null;
    adopted["metadata"]["annotations"]["leader.io/adopt"] = json!("true");
    api.put(LEASE, adopted);
    api.put(DEPLOYMENT, deployment(None));
    let working = Working::start(&api, None);
    for path in &objects()[1..] {
        working.until(path, |_| true).await;
    }
    // What was written reaches the controller by its watches, and the first look is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = api.asked(LEASE);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(api.asked(LEASE) - before <= 4, "{} times", api.asked(LEASE) - before);
}

#[tokio::test]
async fn pods_alone_keep_their_rights_while_they_shut_down() {
    let api = api();
    let record =
        json!({ "version": 1, "id": "billing", "container": "app", "serviceAccount": "dedicated" }).to_string();
    let pod = json!({
        "metadata": {
            "name": "billing-1", "namespace": "shop", "labels": { "leader.io/id": "billing" },
            "annotations": { "leader.io/id": "billing", "leader.io/injected": record },
            "deletionTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "containers": [], "serviceAccountName": "leader-billing" },
    });
    let path = format!("{SHOP}/pods/billing-1");
    api.put(&path, pod);
    let working = Working::start(&api, None);
    // The Lease is left to its agent for some seconds, then it is made as well.
    working.all_there().await;
    let role = format!("{RBAC}/roles/leader-billing");
    api.remove(&role);
    working.until(&role, |_| true).await;
    // Nothing goes with the pod.
    api.remove(&path);
    let before = api.writes();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.writes(), before);
}

#[tokio::test]
async fn an_account_under_which_no_pod_runs_any_more_is_unbound() {
    let api = api();
    let path = format!("{RBAC}/rolebindings/leader-billing");
    let subject = |name: &str| json!({ "kind": "ServiceAccount", "name": name, "namespace": "shop" });
    let subjects = ["old", "robot", "leader-billing"].map(subject);
    let metadata = json!({ "name": "leader-billing", "namespace": "shop", "labels": { "leader.io/id": "billing" } });
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leader-billing" });
    api.put(&path, json!({ "metadata": metadata, "roleRef": role, "subjects": subjects }));
    // It shuts down, and somebody has taken its labels away.
    let record = json!({ "version": 1, "id": "billing", "container": "app", "serviceAccount": "keep" }).to_string();
    let pod = format!("{SHOP}/pods/billing-1");
    api.put(
        &pod,
        json!({ "metadata": { "name": "billing-1", "namespace": "shop", "annotations": { "leader.io/injected": record },
            "deletionTimestamp": "2026-01-01T00:00:00Z" }, "spec": { "containers": [], "serviceAccountName": "old" } }),
    );
    let context = Context::new(api.client(), Recorder::silent(), std::sync::Arc::default(), None);
    let key = Key::parse("shop", "billing").unwrap();
    let unneeded = ["old", "robot"].map(str::to_owned).into();
    bound::unbind(&context, &key, &unneeded).await.unwrap();
    let bound = || api.get(&path).unwrap()["subjects"].clone();
    assert_eq!(bound(), json!([subject("old"), subject("leader-billing")]));
    let writes = api.writes();
    bound::unbind(&context, &key, &unneeded).await.unwrap();
    assert_eq!(api.writes(), writes);
    api.remove(&pod);
    bound::unbind(&context, &key, &unneeded).await.unwrap();
    assert_eq!(bound(), json!([subject("leader-billing")]));
    // A binding of others is theirs.
    let mut foreign = api.get(&path).unwrap();
    foreign["metadata"]["labels"] = Value::Null;
    foreign["subjects"] = json!([subject("robot")]);
    api.put(&path, foreign);
    bound::unbind(&context, &key, &unneeded).await.unwrap();
    assert_eq!(bound(), json!([subject("robot")]));
}
