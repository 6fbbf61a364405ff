//! Requests, against an API server that has one Lease and agents that do as they are asked, at once.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::to_bytes,
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};

use super::*;

const A: &str = "billing-a_u1_app";
const TERM: &str = "l1/billing-a_u1_app/3/2026-11-21T12:00:03.000000Z";

/// What agents, or others, make of the Lease after a write.
type Reaction = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// The API server.
#[derive(Clone)]
struct Server {
    lease: Arc<Mutex<Option<Value>>>,
    /// Before each of the first writes somebody else does this.
    races: Arc<Mutex<Vec<Reaction>>>,
    agents: Reaction,
    writes: Arc<Mutex<Vec<Value>>>,
}

fn lease(holder: &str, transitions: i64) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "billing", "namespace": "shop", "uid": "l1", "resourceVersion": "7", "annotations": {} },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 5, "leaseTransitions": transitions,
            "acquireTime": format!("2026-11-21T12:00:0{transitions}.000000Z") },
    })
}

fn acquire(lease: &mut Value, holder: &str) {
    let transitions = lease["spec"]["leaseTransitions"].as_i64().unwrap() + 1;
    lease["spec"]["holderIdentity"] = json!(holder);
    lease["spec"]["leaseTransitions"] = json!(transitions);
    lease["spec"]["acquireTime"] = json!(format!("2026-11-21T12:00:0{transitions}.000000Z"));
}

fn pod(name: &str, uid: &str) -> Value {
    let record = json!({ "version": 1, "id": "billing", "container": "app" });
    json!({
        "metadata": { "name": name, "namespace": "shop", "uid": uid, "labels": { "leader.io/id": "billing" },
            "annotations": { "leader.io/injected": record.to_string() } },
        "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "app", "state": { "running": {} } }],
        },
    })
}

impl Server {
    fn new(lease: Value, agents: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        let lease = Arc::new(Mutex::new(Some(lease)));
        Self { lease, races: Arc::default(), agents: Arc::new(agents), writes: Arc::default() }
    }

    fn race(&self, race: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.races.lock().unwrap().push(Arc::new(race));
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let router = Router::new().fallback(move |request: Request| {
            let server = server.clone();
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
                server.answer(&method, &path, &serde_json::from_slice(&body).unwrap_or_default())
            }
        });
        Client::new(router, "default")
    }

    fn answer(&self, method: &Method, path: &str, body: &Value) -> Response {
        let pods = [pod("billing-a", "u1"), pod("billing-b", "u2")];
        let found = match (method.as_str(), path) {
            ("GET", "/version") => Some(json!({})),
            ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews") => Some(json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {},
                "status": { "userInfo": { "username": "alice" } },
            })),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing") => {
                self.lease.lock().unwrap().clone()
            }
            ("PATCH", "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing") => return self.patch(body),
            ("GET", "/api/v1/namespaces/shop/pods") => Some(json!({ "metadata": {}, "items": pods })),
            ("GET", path) => pods
                .into_iter()
                .find(|pod| path.ends_with(&format!("/pods/{}", pod["metadata"]["name"].as_str().unwrap()))),
            _ => None,
        };
        found.map_or_else(|| refused(StatusCode::NOT_FOUND, "NotFound"), |object| Json(object).into_response())
    }

    fn patch(&self, body: &Value) -> Response {
        let mut stored = self.lease.lock().unwrap();
        let Some(lease) = stored.as_mut() else { return refused(StatusCode::NOT_FOUND, "NotFound") };
        let next = |lease: &mut Value| {
            let version: u64 = lease["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            lease["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        };
        if let Some(race) = self.races.lock().unwrap().pop() {
            race(lease);
            next(lease);
        }
        for key in ["uid", "resourceVersion"] {
            if body["metadata"][key] != lease["metadata"][key] {
                return refused(StatusCode::CONFLICT, "Conflict");
            }
        }
        for (key, value) in body["metadata"]["annotations"].as_object().unwrap() {
            let annotations = lease["metadata"]["annotations"].as_object_mut().unwrap();
            match value {
                Value::Null => drop(annotations.shift_remove(key)),
                value => drop(annotations.insert(key.clone(), value.clone())),
            }
        }
        self.writes.lock().unwrap().push(body["metadata"]["annotations"].clone());
        next(lease);
        (self.agents)(lease);
        Json(lease.clone()).into_response()
    }

    fn annotation(&self, key: &str) -> Value {
        self.lease.lock().unwrap().as_ref().unwrap()["metadata"]["annotations"][key].clone()
    }
}

fn refused(code: StatusCode, reason: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": reason,
        "code": code.as_u16() });
    (code, Json(status)).into_response()
}

/// Does something, and gives what was told on the way and how it came out.
async fn ask(
    server: &Server,
    wait: Wait,
    work: impl AsyncFnOnce(Steering<'_>) -> Result<Outcome, SteerError>,
) -> (String, Result<Outcome, SteerError>) {
    let told = Mutex::new(String::new());
    let tell = |line: String| *told.lock().unwrap() += &(line + "\n");
    let (client, id) = (server.client(), "billing".parse().unwrap());
    let result = work(Steering { client: &client, namespace: "shop", id: &id, wait, tell: &tell }).await;
    (told.into_inner().unwrap(), result)
}

#[test]
fn an_app_with_a_long_grace_period_is_waited_for() {
    let lease = Seen(json!({ "spec": { "leaseDurationSeconds": 15 } }));
    let limit = |wait: Wait, grace: Option<u64>| {
        wait.limit(&lease, grace.map(Duration::from_secs)).map(|limit| limit.as_secs())
    };
    assert_eq!(limit(Wait::Default, None), Some(60));
    assert_eq!(limit(Wait::Default, Some(5)), Some(60));
    assert_eq!(limit(Wait::Default, Some(300)), Some(330));
    assert_eq!(limit(Wait::AtMost(Duration::from_secs(7)), Some(300)), Some(7));
    assert_eq!(limit(Wait::No, Some(300)), None);
}

/// Agents that do as they are asked.
fn obedient(lease: &mut Value) {
    let annotations = &lease["metadata"]["annotations"];
    if annotations[names::HOLD].is_string() {
        lease["spec"]["holderIdentity"] = json!("");
    } else if annotations[names::STEP_DOWN] == TERM {
        acquire(lease, "billing-b_u2_app");
    } else if lease["spec"]["holderIdentity"] == "" {
        acquire(lease, A);
    }
}

#[tokio::test]
async fn a_leader_is_asked_by_its_term() {
    let server = Server::new(lease(A, 3), obedient);
    let (told, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    let outcome = outcome.unwrap();
    assert!(outcome.as_asked, "{outcome:?}");
    assert!(outcome.text.starts_with("billing-b leads `billing` now (term 4), after billing-a, "), "{outcome:?}");
    assert_eq!(told, "billing-a is asked to give leadership of `billing` away\n");
    let writes = server.writes.lock().unwrap();
    assert_eq!((writes.len(), &writes[0][names::STEP_DOWN]), (1, &json!(TERM)));
    assert_eq!(writes[0].get(names::TRANSFER_TO), None);
    let steered = Steered::parse(writes[0][names::STEERED].as_str().unwrap()).unwrap();
    assert_eq!((steered.by.as_str(), steered.what.as_str()), ("alice", "step-down of billing-a (term 3)"));
}

#[tokio::test]
async fn a_renewal_in_between_changes_nothing() {
    let server = Server::new(lease(A, 3), obedient);
    for _ in 0..3 {
        server.race(|lease| lease["spec"]["renewTime"] = json!("2026-11-21T12:01:00.000000Z"));
    }
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    assert!(outcome.unwrap().as_asked);
    assert_eq!(server.writes.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn another_leader_is_asked_nothing() {
    let server = Server::new(lease(A, 3), |_| {});
    server.race(|lease| acquire(lease, "billing-b_u2_app"));
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.to_string(), "billing-a does not lead `billing` any more, but billing-b does: nothing was asked");
    assert!(server.writes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_writes_all_the_time_is_given_way_to() {
    let server = Server::new(lease(A, 3), |_| {});
    for _ in 0..RACES {
        server.race(|_| {});
    }
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    assert!(matches!(outcome, Err(SteerError::Race)), "{outcome:?}");
}

fn named(pod: &str) -> PodName {
    pod.parse().unwrap()
}

#[tokio::test]
async fn leadership_is_given_to_a_standby_and_to_nobody_else() {
    let server = Server::new(lease(A, 3), obedient);
    for (pod, why) in [("billing-a", "it leads already"), ("billing-x", "there is no such pod")] {
        let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.transfer(&named(pod)).await).await;
        let error = outcome.unwrap_err().to_string();
        assert_eq!(error, format!("pod {pod} is no standby of `billing`: {why}"));
    }
    assert!(server.writes.lock().unwrap().is_empty());
    let (told, outcome) =
        ask(&server, Wait::Default, async |steering| steering.transfer(&named("billing-b")).await).await;
    assert!(outcome.unwrap().as_asked);
    assert_eq!(told, "billing-a is asked to give leadership of `billing` to billing-b\n");
    let writes = server.writes.lock().unwrap();
    assert_eq!((&writes[0][names::STEP_DOWN], &writes[0][names::TRANSFER_TO]), (&json!(TERM), &json!("billing-b")));
}

#[tokio::test]
async fn a_transfer_that_went_elsewhere_is_not_what_was_asked() {
    let server = Server::new(lease(A, 3), |lease| acquire(lease, "billing-c_u3_app"));
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.transfer(&named("billing-b")).await).await;
    let outcome = outcome.unwrap();
    assert!(!outcome.as_asked && outcome.text.starts_with("billing-c leads"), "{outcome:?}");
}

#[tokio::test]
async fn a_hold_and_its_end() {
    let server = Server::new(lease(A, 3), obedient);
    let (told, outcome) = ask(&server, Wait::Default, async |steering| steering.hold(Some("upgrade")).await).await;
    let outcome = outcome.unwrap();
    assert!(outcome.as_asked && outcome.text.starts_with("billing-a has stopped, "), "{outcome:?}");
    assert_eq!(told, "`billing` is on hold; to end it: kubectl leader resume billing -n shop\n");
    assert_eq!(server.annotation(names::HOLD), "upgrade");

    // The same again writes nothing, and other reasons are written.
    let (told, outcome) = ask(&server, Wait::Default, async |steering| steering.hold(Some("upgrade")).await).await;
    assert_eq!(
        (told.as_str(), outcome.unwrap().text.as_str()),
        ("`billing` is on hold already: upgrade\n", "nobody leads `billing`")
    );
    assert_eq!(server.writes.lock().unwrap().len(), 1);
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.hold(Some("more")).await).await;
    assert!(outcome.unwrap().as_asked && server.annotation(names::HOLD) == "more");

    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.ends_with("it is on hold, which `kubectl leader resume billing` ends"), "{error}");

    let (told, outcome) = ask(&server, Wait::Default, async |steering| steering.resume(false).await).await;
    let outcome = outcome.unwrap();
    assert!(outcome.as_asked && outcome.text.starts_with("billing-a leads `billing` now (term 4)"), "{outcome:?}");
    assert_eq!(told, "`billing` is not on hold any more; it was: more\n");
    assert_eq!(server.annotation(names::HOLD), Value::Null);
}

#[tokio::test]
async fn a_hold_says_who_holds_where_nobody_says_why() {
    let server = Server::new(lease(A, 3), obedient);
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.hold(None).await).await;
    assert!(outcome.unwrap().as_asked);
    let value = server.annotation(names::HOLD);
    assert!(value.as_str().unwrap().starts_with("by alice at "), "{value}");
}

/// Who ends a hold does not say by that that pods have ended of which nobody knows.
#[tokio::test]
async fn a_hold_is_ended_alone() {
    let mut held = lease("", 3);
    let waits = r#"{"Deployment/billing":{"selector":"app=billing","version":"1","pods":{"u0":"billing-0"}}}"#;
    held["metadata"]["annotations"] = json!({ names::HOLD: "upgrade", names::TURNING_ON: waits });
    let server = Server::new(held, |_| {});
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.resume(true).await).await;
    let outcome = outcome.unwrap();
    assert!(outcome.as_asked && outcome.text.contains("it is being turned on"), "{outcome:?}");
    assert_eq!((server.annotation(names::HOLD), server.annotation(names::TURNING_ON)), (Value::Null, json!(waits)));
}

#[tokio::test]
async fn who_does_not_wait_is_not_told_how_it_came_out() {
    let server = Server::new(lease(A, 3), |_| {});
    let (_, outcome) = ask(&server, Wait::No, async |steering| steering.step_down().await).await;
    let outcome = outcome.unwrap();
    assert!(outcome.as_asked && outcome.text.starts_with("kubectl leader status billing"), "{outcome:?}");
    assert_eq!(server.annotation(names::STEP_DOWN), TERM);
}

#[tokio::test]
async fn an_agent_that_does_nothing_is_waited_for_as_long_as_was_said() {
    let server = Server::new(lease(A, 3), |_| {});
    let limit = Wait::AtMost(Duration::from_millis(300));
    let (_, outcome) = ask(&server, limit, async |steering| steering.step_down().await).await;
    let outcome = outcome.unwrap();
    assert!(!outcome.as_asked && outcome.text.starts_with("billing-a still leads"), "{outcome:?}");
}

#[tokio::test]
async fn nobody_is_asked_to_give_away_what_nobody_may_take() {
    let mut turning_on = lease(A, 3);
    turning_on["metadata"]["annotations"][names::TURNING_ON] = json!("{}");
    let server = Server::new(turning_on, obedient);
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.starts_with("nobody may take over from billing-a while `billing` is being turned on"), "{error}");
    assert!(server.writes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_lease_or_a_leader_nothing_is_asked() {
    let server = Server::new(lease("", 3), |_| {});
    let (_, outcome) = ask(&server, Wait::Default, async |steering| steering.step_down().await).await;
    assert!(matches!(outcome, Err(SteerError::NobodyLeads { .. })), "{outcome:?}");
    *server.lease.lock().unwrap() = None;
    for outcome in [
        ask(&server, Wait::Default, async |steering| steering.hold(None).await).await.1,
        ask(&server, Wait::Default, async |steering| steering.step_down().await).await.1,
    ] {
        assert!(outcome.unwrap_err().to_string().starts_with("there is no Lease shop/billing"));
    }
    assert!(server.writes.lock().unwrap().is_empty());
}
