use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::Config;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "web-leader-ipv4";

/// An API server that has slices and nothing else.
#[derive(Default)]
struct State {
    slices: BTreeMap<String, Value>,
    version: u64,
    requests: Vec<String>,
    /// The next so many writes are carried out and not answered.
    silent: u32,
    /// Reads are answered once nobody holds this.
    reads: Arc<tokio::sync::Mutex<()>>,
    /// Somebody else stores this just before the next write arrives.
    overtakes: Option<Value>,
    /// Everything is forbidden.
    forbidden: bool,
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

impl Server {
    fn put(&self, name: &str, mut slice: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        slice["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.slices.insert(name.to_owned(), slice);
    }

    fn uids(&self, name: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let endpoints = state.slices[name]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|endpoint| endpoint["targetRef"]["uid"].as_str().unwrap().to_owned()).collect()
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    async fn listen(&self) -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let server = server.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let (code, object) = server.answer(&parts.method, parts.uri.path(), &body).await;
                        let response = Response::builder().status(code).header("content-type", "application/json");
                        Ok::<_, std::convert::Infallible>(
                            response.body(Full::new(Bytes::from(object.to_string()))).unwrap(),
                        )
                    }
                });
                let serve = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(serve.await) });
            }
        });
        Config::new(format!("http://{address}").parse().unwrap())
    }

    async fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let name = path.strip_prefix("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/").unwrap().to_owned();
        self.0.lock().unwrap().requests.push(method.to_string());
        if *method == Method::GET {
            let reads = self.0.lock().unwrap().reads.clone();
            drop(reads.lock().await);
        }
        let overtakes = self.0.lock().unwrap().overtakes.take_if(|_| *method == Method::PUT);
        if let Some(slice) = overtakes {
            self.put(&name, slice);
        }
        let (answer, is_silent) = {
            let mut state = self.0.lock().unwrap();
            let failure = |code: StatusCode| {
                let status = json!({ "kind": "Status", "status": "Failure", "message": "no", "code": code.as_u16() });
                (code, status)
            };
            if state.forbidden {
                return failure(StatusCode::FORBIDDEN);
            }
            let Some(existing) = state.slices.get(&name).cloned() else { return failure(StatusCode::NOT_FOUND) };
            if *method == Method::GET {
                (existing_answer(existing), false)
            } else {
                let mut slice: Value = serde_json::from_slice(body).unwrap();
                if slice["metadata"]["resourceVersion"] != existing["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT);
                }
                state.version += 1;
                slice["metadata"]["resourceVersion"] = state.version.to_string().into();
                state.slices.insert(name, slice.clone());
                let is_silent = state.silent > 0;
                state.silent = state.silent.saturating_sub(1);
                (existing_answer(slice), is_silent)
            }
        };
        if is_silent {
            std::future::pending::<()>().await;
        }
        answer
    }
}

fn existing_answer(slice: Value) -> (StatusCode, Value) {
    (StatusCode::OK, slice)
}

fn slice() -> Value {
    json!({ "metadata": { "name": NAME }, "addressType": "IPv4", "endpoints": [], "ports": [{ "port": 80 }] })
}

async fn candidate(server: &Server, uid: &str) -> Slices {
    let client =
        LeaseClient::new(server.listen().await, "shop", &"billing".parse().unwrap(), Duration::from_millis(300));
    let place = Place {
        namespace: "shop".to_owned(),
        pod: format!("billing-{uid}"),
        uid: uid.to_owned(),
        node: None,
        hostname: None,
        addresses: vec!["10.244.0.7".parse().unwrap()],
    };
    let mut slices = Slices::new(client, "shop".to_owned(), Some(place));
    slices.named(Some(&json!([NAME]).to_string()));
    slices
}

/// Works until nothing is due but the check of a leader.
async fn settle(slices: &mut Slices) {
    while slices.job.is_some() || slices.due().is_some_and(|due| due < Instant::now() + FIRST_CHECKS[0] / 2) {
        slices.turn().await;
    }
}

#[tokio::test]
async fn in_while_ready_and_out_before_the_stop() {
    let server = Server::default();
    server.put(NAME, slice());
    let mut one = candidate(&server, "u1").await;
    settle(&mut one).await;
    assert_eq!(server.requests(), ["GET"], "what a former process left is looked for");
    one.aim(Aim::Started);
    settle(&mut one).await;
    assert!(server.uids(NAME).is_empty());
    server.requests();
    one.aim(Aim::Ready);
    settle(&mut one).await;
    assert_eq!((server.uids(NAME), server.requests()), (vec!["u1".to_owned()], vec!["PUT".to_owned()]));
    one.aim(Aim::Out);
    settle(&mut one).await;
    assert_eq!((server.uids(NAME), server.requests()), (vec![], vec!["PUT".to_owned()]));
}

#[tokio::test]
async fn the_next_leader_replaces_the_old_one_and_the_old_one_takes_nobody_out() {
    let server = Server::default();
    server.put(NAME, slice());
    let (mut one, mut two) = (candidate(&server, "u1").await, candidate(&server, "u2").await);
    one.aim(Aim::Ready);
    settle(&mut one).await;
    two.aim(Aim::Ready);
    settle(&mut two).await;
    assert_eq!(server.uids(NAME), ["u2"]);
    one.aim(Aim::Out);
    settle(&mut one).await;
    assert_eq!(server.uids(NAME), ["u2"]);
}

#[tokio::test]
async fn what_a_former_process_of_this_pod_left_is_taken_out() {
    let server = Server::default();
    server.put(NAME, slice());
    let mut before = candidate(&server, "u1").await;
    before.aim(Aim::Ready);
    settle(&mut before).await;
    drop(before);
    let mut after = candidate(&server, "u1").await;
    settle(&mut after).await;
    assert!(server.uids(NAME).is_empty());
}

#[tokio::test]
async fn an_old_leader_that_was_overtaken_does_not_put_itself_back() {
    let server = Server::default();
    server.put(NAME, slice());
    let (mut one, mut two) = (candidate(&server, "u1").await, candidate(&server, "u2").await);
    two.aim(Aim::Ready);
    settle(&mut two).await;
    let led_by_two = server.0.lock().unwrap().slices[NAME].clone();
    server.put(NAME, slice());
    settle(&mut one).await;
    server.requests();
    server.0.lock().unwrap().overtakes = Some(led_by_two);
    one.aim(Aim::Ready);
    while !server.requests().contains(&"PUT".to_owned()) {
        one.turn().await;
    }
    one.aim(Aim::Out);
    settle(&mut one).await;
    assert_eq!(server.uids(NAME), ["u2"]);
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_not_written() {
    let server = Server::default();
    server.put(NAME, slice());
    let mut one = candidate(&server, "u1").await;
    settle(&mut one).await;
    server.requests();
    let reads = server.0.lock().unwrap().reads.clone();
    let held = reads.lock().await;
    one.aim(Aim::Ready);
    while server.0.lock().unwrap().requests.is_empty() {
        let _ = tokio::time::timeout(Duration::from_millis(1), one.turn()).await;
    }
    one.aim(Aim::Out);
    drop(held);
    settle(&mut one).await;
    assert_eq!((server.uids(NAME), server.requests()), (vec![], vec!["GET".to_owned()]));
}

/// A former leader's write may have been on its way.
#[tokio::test]
async fn who_has_just_got_in_soon_looks_whether_it_still_is() {
    let server = Server::default();
    server.put(NAME, slice());
    let mut one = candidate(&server, "u1").await;
    one.aim(Aim::Ready);
    settle(&mut one).await;
    let dues = |slices: &Slices| slices.due().unwrap() - Instant::now();
    assert!(dues(&one) <= FIRST_CHECKS[0]);
    server.put(NAME, slice());
    for expected in [FIRST_CHECKS[1], CHECK] {
        one.by_name.get_mut(NAME).unwrap().not_before = Some(Instant::now());
        settle(&mut one).await;
        assert_eq!(server.uids(NAME), ["u1"]);
        let due = dues(&one);
        assert!(due <= expected && due > expected / 2, "{due:?}");
    }
}

/// A write that got no answer may be carried out at any time: it is made void before this pod counts as out.
#[tokio::test]
async fn an_unanswered_write_does_not_bring_an_old_leader_back() {
    let server = Server::default();
    server.put(NAME, slice());
    let mut one = candidate(&server, "u1").await;
    settle(&mut one).await;
    server.0.lock().unwrap().silent = 1;
    one.aim(Aim::Ready);
    while !one.by_name[NAME].uncertain {
        one.turn().await;
    }
    let before = server.0.lock().unwrap().version;
    one.aim(Aim::Out);
    settle(&mut one).await;
    assert!(server.uids(NAME).is_empty() && !one.by_name[NAME].uncertain);
    assert!(server.0.lock().unwrap().version > before, "nothing was written that would make it void");
}

#[tokio::test]
async fn what_fails_is_tried_again_and_holds_up_nothing() {
    let server = Server::default();
    server.put(NAME, slice());
    server.0.lock().unwrap().forbidden = true;
    let mut one = candidate(&server, "u1").await;
    one.aim(Aim::Ready);
    one.turn().await;
    assert_eq!(one.by_name[NAME].failures, 1);
    server.0.lock().unwrap().forbidden = false;
    settle(&mut one).await;
    assert_eq!(server.uids(NAME), ["u1"]);
}

#[tokio::test]
async fn a_lost_lease_takes_nobody_out_and_a_slice_that_is_named_no_more_is_left() {
    let server = Server::default();
    server.put(NAME, slice());
    let mut one = candidate(&server, "u1").await;
    one.aim(Aim::Ready);
    settle(&mut one).await;
    one.named(None);
    settle(&mut one).await;
    assert_eq!(server.uids(NAME), ["u1"]);
    one.named(Some(r#"["another"]"#));
    assert!(one.by_name[NAME].is_dropped);
    while one.by_name.contains_key(NAME) {
        one.turn().await;
    }
    assert!(server.uids(NAME).is_empty());
    one.named(Some("junk"));
    assert!(one.are_there());
}

#[tokio::test]
async fn a_slice_that_is_gone_is_not_asked_for_again_and_again() {
    let server = Server::default();
    let mut standby = candidate(&server, "u1").await;
    settle(&mut standby).await;
    assert_eq!(server.requests(), ["GET"]);
    // A leader whose Service was given back.
    server.put(NAME, slice());
    standby.aim(Aim::Ready);
    settle(&mut standby).await;
    server.0.lock().unwrap().slices.clear();
    standby.named(None);
    // It is time to look.
    standby.by_name.get_mut(NAME).unwrap().not_before = Some(Instant::now());
    settle(&mut standby).await;
    assert!(!standby.are_there());
    // And comes back under the same name.
    server.put(NAME, slice());
    standby.named(Some(&json!([NAME]).to_string()));
    settle(&mut standby).await;
    assert_eq!(server.uids(NAME), ["u1"]);
}
