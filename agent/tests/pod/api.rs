//! An API server that has one Lease, and can be silent.

use std::{
    convert::Infallible,
    io::Write,
    net::Ipv4Addr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use futures::stream;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use leader_agent::names;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// Where it all happens.
pub(crate) const NAMESPACE: &str = "shop";
const NAME: &str = "billing";

/// The API server.
pub(crate) struct Api {
    state: Arc<State>,
    port: u16,
}

struct State {
    lease: Mutex<Lease>,
    /// The resource version; who watches waits for the next.
    version: watch::Sender<u64>,
    silent: watch::Sender<bool>,
}

struct Lease {
    object: Value,
    version: u64,
    /// When each PUT was stored.
    writes: Vec<Instant>,
}

impl Api {
    /// A Lease that was given back, so that the first candidate leads at once.
    pub(crate) fn released() -> Self {
        Self::new(json!({
            "metadata": { "annotations": { (names::RELEASED): "uid1/ghost/0/2026-11-18T11:06:40.120000Z" } },
            "spec": { "leaseTransitions": 0, "leaseDurationSeconds": 15 },
        }))
    }

    /// A Lease that somebody holds who does not renew it: whoever waits for it waits for its duration.
    pub(crate) fn held() -> Self {
        Self::new(json!({
            "metadata": {},
            "spec": { "holderIdentity": "ghost", "leaseTransitions": 0, "leaseDurationSeconds": 3600 },
        }))
    }

    fn new(mut object: Value) -> Self {
        object["apiVersion"] = json!("coordination.k8s.io/v1");
        object["kind"] = json!("Lease");
        object["metadata"]["name"] = json!(NAME);
        object["metadata"]["namespace"] = json!(NAMESPACE);
        object["metadata"]["uid"] = json!("uid1");
        object["metadata"]["resourceVersion"] = json!("1");
        let lease = Mutex::new(Lease { object, version: 1, writes: Vec::new() });
        let state = Arc::new(State { lease, version: watch::Sender::new(1), silent: watch::Sender::new(false) });
        let serving = Arc::clone(&state);
        let (sender, port) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                sender.send(listener.local_addr().expect("an address").port()).expect("the test waits");
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    let state = Arc::clone(&serving);
                    let service = service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        Self { state, port: port.recv().expect("a port") }
    }

    /// Writes a kubeconfig for it.
    pub(crate) fn kubeconfig(&self, path: &Path) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://127.0.0.1:{}", self.port) } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": NAMESPACE } }],
        });
        std::fs::File::create(path).and_then(|mut file| file.write_all(config.to_string().as_bytes())).expect("a file");
    }

    /// Whether it answers nothing at all.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.state.silent.send_replace(silent);
    }

    /// The Lease as it stands.
    pub(crate) fn lease(&self) -> Value {
        self.state.lock().object.clone()
    }

    /// Who holds it.
    pub(crate) fn holder(&self) -> String {
        self.lease()["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    /// Somebody edits it.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut object = self.lease();
        change(&mut object);
        self.state.store(object);
    }

    /// Puts it on hold.
    pub(crate) fn hold(&self) {
        self.edit(|object| object["metadata"]["annotations"][names::HOLD] = json!("by the test"));
    }

    /// How many PUTs were stored.
    pub(crate) fn writes(&self) -> usize {
        self.state.lock().writes.len()
    }

    /// The longest time between two PUTs since the one with this number.
    pub(crate) fn longest_gap(&self, from: usize) -> Duration {
        let lease = self.state.lock();
        let gaps = lease.writes[from..].windows(2).map(|pair| pair[1] - pair[0]);
        gaps.chain(lease.writes.last().map(Instant::elapsed)).max().unwrap_or_default()
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().expect("no test panics with it")
    }

    fn store(&self, mut object: Value) -> Value {
        let mut lease = self.lock();
        lease.version += 1;
        object["metadata"]["uid"] = json!("uid1");
        object["metadata"]["resourceVersion"] = json!(lease.version.to_string());
        lease.object = object.clone();
        self.version.send_replace(lease.version);
        object
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let is_list = path.ends_with("/leases");
        match *request.method() {
            Method::GET if is_list && query.contains("watch=true") => self.watched(),
            Method::GET if is_list => {
                let object = self.lock().object.clone();
                let version = object["metadata"]["resourceVersion"].clone();
                whole(StatusCode::OK, &json!({ "metadata": { "resourceVersion": version }, "items": [object] }))
            }
            Method::GET => whole(StatusCode::OK, &self.lock().object.clone()),
            Method::PUT => {
                let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                let object: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
                let now = self.lock().object["metadata"]["resourceVersion"].clone();
                if object["metadata"]["resourceVersion"] == now {
                    let object = self.store(object);
                    self.lock().writes.push(Instant::now());
                    whole(StatusCode::OK, &object)
                } else {
                    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "another one",
                        "reason": "Conflict", "code": 409 });
                    whole(StatusCode::CONFLICT, &status)
                }
            }
            _ => whole(StatusCode::NOT_FOUND, &json!({})),
        }
    }

    /// Every state from now on, as an event each.
    fn watched(self: Arc<Self>) -> Response<BoxBody<Bytes, Infallible>> {
        let versions = self.version.subscribe();
        let events = stream::unfold((self, versions), |(state, mut versions)| async move {
            versions.changed().await.ok()?;
            let _ = state.silent.subscribe().wait_for(|silent| !silent).await;
            let event = json!({ "type": "MODIFIED", "object": state.lock().object });
            let frame = Frame::data(Bytes::from(format!("{event}\n")));
            Some((Ok(frame), (state, versions)))
        });
        Response::new(BodyExt::boxed(StreamBody::new(events)))
    }
}

fn whole(status: StatusCode, body: &Value) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(BodyExt::boxed(http_body_util::Full::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}
