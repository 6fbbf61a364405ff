//! A registry in the test's process: images by tag and digest, logins, and whatever misbehaviour a test asks for.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use leader_certs::authority::Authority;
use leader_certs::leaf::Leaf;
use rustls::{ServerConfig, crypto::ring};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a request said.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap())
    }
}

type Rule = Box<dyn Fn(&Asked) -> Option<Response> + Send + Sync>;

#[derive(Default)]
struct State {
    /// Media type and content, by the path behind `/v2/`.
    things: BTreeMap<String, (String, Vec<u8>)>,
    asked: Vec<Asked>,
    /// The latest comes first.
    rules: Vec<Rule>,
}

/// A registry that runs for one test.
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    /// One that speaks HTTP without TLS.
    pub(crate) async fn start() -> Self {
        let (state, listener) = (Arc::<Mutex<State>>::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let router = router(Arc::clone(&state));
        let task = tokio::spawn(async move { axum_serve(listener, router).await });
        Self { state, address, task }
    }

    /// One that is `localhost` over TLS, with a certificate of `authority`.
    pub(crate) async fn start_tls(authority: &Authority) -> Self {
        let leaf = Leaf::issue(authority, &["localhost".to_owned()], jiff::Timestamp::now()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(leader_certs::resolver::Resolver::new(leaf.certified_key)));
        let (state, listener) = (Arc::<Mutex<State>>::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let router = router(Arc::clone(&state));
        let task = tokio::spawn(leader_webhook::server::serve(listener, config, router, std::future::pending()));
        Self { state, address, task }
    }

    /// Its name in image references.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// How many requests there were for paths that contain `part`.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.contains(part)).count()
    }

    /// From now on `rule` answers what it has an answer for.
    pub(crate) fn rule(&self, rule: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static) {
        self.state.lock().unwrap().rules.insert(0, Box::new(rule));
    }

    /// From now on paths that contain `part` have this answer.
    pub(crate) fn answer(&self, part: &'static str, answer: impl Fn() -> Response + Send + Sync + 'static) {
        self.rule(move |asked| asked.path.contains(part).then(&answer));
    }

    fn put(&self, path: &str, media: &str, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.state.lock().unwrap().things.insert(format!("{path}{digest}"), (media.to_owned(), bytes));
        digest
    }

    /// Stores a manifest under its digest and, if it has one, a tag. Returns the digest.
    pub(crate) fn put_manifest(&self, repository: &str, tag: Option<&str>, media: &str, manifest: &Value) -> String {
        let bytes = manifest.to_string().into_bytes();
        let path = format!("{repository}/manifests/");
        if let Some(tag) = tag {
            self.state.lock().unwrap().things.insert(format!("{path}{tag}"), (media.to_owned(), bytes.clone()));
        }
        self.put(&path, media, bytes)
    }

    /// Stores an image whose configuration says `config`. Returns the digest.
    pub(crate) fn put_image(&self, repository: &str, tag: Option<&str>, config: &Value) -> String {
        self.put_image_as(repository, tag, config, MANIFEST, CONFIG)
    }

    pub(crate) fn put_image_as(
        &self,
        repository: &str,
        tag: Option<&str>,
        config: &Value,
        manifest: &str,
        media: &str,
    ) -> String {
        let document = json!({ "architecture": "amd64", "os": "linux", "config": config, "rootfs": {} });
        let digest = self.put(&format!("{repository}/blobs/"), "application/octet-stream", document.to_string().into());
        let image = json!({ "schemaVersion": 2, "mediaType": manifest, "config": { "mediaType": media, "digest": digest,
            "size": 1 }, "layers": [] });
        self.put_manifest(repository, tag, manifest, &image)
    }

    /// Stores an index of images. Returns the digest.
    pub(crate) fn put_index(&self, repository: &str, tag: &str, variants: &[(&str, String)]) -> String {
        let manifests: Vec<Value> = variants
            .iter()
            .map(|(platform, digest)| {
                let (os, architecture) = platform.split_once('/').unwrap();
                json!({ "mediaType": MANIFEST, "digest": digest, "size": 1,
                    "platform": { "os": os, "architecture": architecture } })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.put_manifest(repository, Some(tag), INDEX, &index)
    }

    /// From now on everything needs this authorization; without it the answer is a 401 that asks for `challenge`.
    pub(crate) fn require(&self, authorization: &'static str, challenge: impl Into<String>) {
        let challenge = challenge.into();
        self.rule(move |asked| {
            let refused = asked.path.starts_with("/v2/") && asked.authorization() != Some(authorization);
            refused.then(|| unauthorized(&challenge))
        });
    }

    /// From now on everything needs the token `TOKEN`, which `/token` of this server gives to `user` and `password`.
    pub(crate) fn require_token(&self, basic: &'static str) {
        let challenge = format!("Bearer realm=\"http://{}/token?a=b\",service=\"the registry\"", self.host());
        self.require("Bearer TOKEN", challenge);
        self.rule(move |asked| {
            asked.path.starts_with("/token").then(|| match asked.authorization() {
                Some(given) if given == basic => json_answer(&json!({ "token": "TOKEN", "expires_in": 300 })),
                Some(_) => StatusCode::UNAUTHORIZED.into_response(),
                None => json_answer(&json!({ "access_token": "OF NOBODY".replace(' ', "-") })),
            })
        });
    }
}

pub(crate) fn unauthorized(challenge: &str) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge.to_owned())]).into_response()
}

pub(crate) fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("sha256:{hex}")
}

/// A body that has no end.
pub(crate) fn endless(media: &str) -> Response {
    let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
    ([(header::CONTENT_TYPE, media.to_owned())], Body::from_stream(chunks)).into_response()
}

/// A body that never comes.
pub(crate) fn silent(media: &str) -> Response {
    let nothing = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    ([(header::CONTENT_TYPE, media.to_owned())], Body::from_stream(nothing)).into_response()
}

fn router(state: Arc<Mutex<State>>) -> Router {
    Router::new().fallback(move |request: Request| {
        let state = Arc::clone(&state);
        async move { answer(&state, request).await }
    })
}

async fn answer(state: &Mutex<State>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().unwrap().to_string(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let mut state = state.lock().unwrap();
    state.asked.push(asked.clone());
    if let Some(answer) = state.rules.iter().find_map(|rule| rule(&asked)) {
        return answer;
    }
    match asked.path.strip_prefix("/v2/").and_then(|path| state.things.get(path)) {
        Some((media, bytes)) => {
            let headers = [(header::CONTENT_TYPE, media.clone()), (digest_header(), digest(bytes))];
            (headers, bytes.clone()).into_response()
        }
        None => (StatusCode::NOT_FOUND, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#).into_response(),
    }
}

pub(crate) fn digest_header() -> header::HeaderName {
    header::HeaderName::from_static("docker-content-digest")
}

async fn axum_serve(listener: TcpListener, router: Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let stream = hyper_util::rt::TokioIo::new(stream);
            let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
            // The client may leave in the middle of an answer.
            drop(builder.serve_connection(stream, service).await);
        });
    }
}
