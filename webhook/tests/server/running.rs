//! A webhook that runs for one test, over real TLS, and what its clients send.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode, header},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use leader_certs::{authority::Authority, keeper::State, leaf::Leaf, resolver::Resolver};
use leader_webhook::{
    handler::Webhook,
    inject::Defaults,
    observers::Observers,
    registry::{Options, Registries},
    server,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::fake_api::FakeApi;

pub(crate) const NAME: &str = "leader-webhook.leader-system.svc";

/// The app's image: its registry refuses connections at once.
pub(crate) const IMAGE: &str = "127.0.0.1:1/billing:1";

/// A running webhook.
pub(crate) struct Running {
    pub(crate) api: FakeApi,
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) certificates: watch::Sender<State>,
    pub(crate) authority: Authority,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(&Options::default()).await
    }

    pub(crate) async fn start_with(registries: &Options) -> Self {
        let api = FakeApi::default();
        let now = Timestamp::now();
        let authority = Authority::generate(now).unwrap();
        let leaf = Leaf::issue(&authority, &[NAME.to_owned()], now).unwrap();
        let resolver = Arc::new(Resolver::new(leaf.certified_key));
        let (certificates, receiver) = watch::channel(State::Trusted { from: leaf.not_before, until: leaf.not_after });
        let defaults = Defaults { agent_image: "agent:1".to_owned(), agent_pull_secret: None };
        let registries = Registries::new(registries).unwrap();
        let namespace = "leader-system".to_owned();
        let webhook = Webhook::new(api.client(), registries, defaults, namespace, receiver, Observers::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = webhook.clone().router();
        let tls = server::tls(resolver.clone()).unwrap();
        let task = tokio::spawn(server::serve(listener, tls, router, async { drop(stopped.await) }));
        Self { api, webhook, certificates, authority, resolver, address, stop: Some(stop), task }
    }

    pub(crate) async fn tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // As Go does it by default. What is agreed on is what the API server asks for alone.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
    }

    pub(crate) async fn connect(&self) -> hyper::client::conn::http1::SendRequest<Body> {
        let stream = TokioIo::new(self.tls().await.unwrap());
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        text(self.connect().await.send_request(request).await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(request(Method::GET, path, "", Body::empty())).await
    }

    /// The response in the answer to a review.
    pub(crate) async fn review(&self, review: &Value) -> Value {
        let (status, text) = self.send(post(review.to_string())).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&answer["kind"], &answer["apiVersion"]),
            (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
        );
        answer["response"].clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn request(method: Method, path: &str, media: &str, body: Body) -> Request<Body> {
    let uri = format!("https://{NAME}{path}");
    let request = Request::builder().method(method).uri(uri).header(header::HOST, NAME);
    request.header(header::CONTENT_TYPE, media).body(body).unwrap()
}

pub(crate) fn post(body: impl Into<Body>) -> Request<Body> {
    request(Method::POST, "/inject?timeout=10s", "application/json", body.into())
}

pub(crate) async fn text(response: Response<hyper::body::Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub(crate) fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "billing", "namespace": "shop", "annotations": { "leader.io/id": "billing" } },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "billing" } },
            "template": {
                "metadata": { "labels": { "app": "billing" } },
                "spec": { "containers": [{ "name": "app", "image": IMAGE, "command": ["/billing"] }] },
            },
        },
    })
}

pub(crate) fn create(object: &Value) -> Value {
    review_of("CREATE", object, &Value::Null)
}

pub(crate) fn review_of(operation: &str, object: &Value, old: &Value) -> Value {
    let shown = if object.is_null() { old } else { object };
    let group = match shown["kind"].as_str() {
        Some("Pod" | "ReplicationController" | "Service") => "",
        Some("Job" | "CronJob") => "batch",
        _ => "apps",
    };
    let mut review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "0c9a8d74", "operation": operation, "dryRun": false, "userInfo": { "username": "alice" },
            "kind": { "group": group, "version": "v1", "kind": shown["kind"] },
            "resource": { "group": group, "version": "v1", "resource": "things" },
            "name": shown["metadata"]["name"], "namespace": shown["metadata"]["namespace"],
            "object": object, "oldObject": old,
        },
    });
    // As the API server sends it: what is to be given a name has none yet.
    if review["request"]["name"].is_null() {
        review["request"].as_object_mut().unwrap().remove("name");
    }
    review
}

/// The object that the API server stores after `response`.
pub(crate) fn patched(object: &Value, response: &Value) -> Value {
    assert_eq!(response["allowed"], true, "{response}");
    let mut object = object.clone();
    if let Some(patch) = response.get("patch") {
        assert_eq!(response["patchType"], "JSONPatch");
        let bytes = BASE64_STANDARD.decode(patch.as_str().unwrap()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
    }
    object
}

pub(crate) fn refusal(response: &Value) -> &str {
    assert_eq!(response["allowed"], false, "{response}");
    assert!(response.get("patch").is_none());
    response["status"]["message"].as_str().unwrap()
}
