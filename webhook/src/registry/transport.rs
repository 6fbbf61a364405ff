//! HTTP to registries: TLS, proxies, redirects, and bodies that cannot fill the memory.
//!
//! oci-client 0.18 is not used for it, though it would save some of this. It reads manifests and tokens to their end, however long
//! they are (`Response::bytes`); one of its clients keeps credentials and tokens by registry, for whoever asks next; and it drops the
//! reason of a failed login, and `Retry-After`. Its reqwest would bring 45 crates more; hyper and rustls are here already.

use std::{
    collections::BTreeSet,
    error::Error,
    fs,
    future::Future,
    io,
    ops::Deref,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clap::Args;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Scheme};
use http_body_util::{BodyExt, Collected, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::{
        legacy::{
            self,
            connect::{HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower_service::Service;

use super::{failure::Failure, reference::is_domain};

/// How many redirects are followed: as many as Go's client, which kubelet and containerd are built on.
const REDIRECTS: usize = 10;
/// For all addresses of a name together; well below the time that a look-up has.
const CONNECT: Duration = Duration::from_secs(3);
/// Connections are kept for the next request of the same look-up.
const IDLE: Duration = Duration::from_secs(5);
/// The largest body that any number of look-ups may have in memory. Manifests and configurations are a few kB.
const SMALL: usize = 256 * 1024;
/// How many larger ones there are at once. As values, one of 4 MiB takes up to 40.
const LARGE_AT_ONCE: usize = 4;
const AGENT: &str = concat!("leader.io/", env!("CARGO_PKG_VERSION"));

/// How registries are reached. `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are heeded as by curl.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Registry that speaks HTTP without TLS, as it stands in image references. Repeatable; the variable has a comma between them.
    #[arg(long, env = "LEADER_WEBHOOK_PLAIN_HTTP_REGISTRIES", value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub plain_http_registry: Vec<String>,
    /// PEM file with certificate authorities of registries, which are trusted beside the system's. Read at the start.
    #[arg(long, env = "LEADER_WEBHOOK_REGISTRY_CA", value_name = "FILE")]
    pub registry_ca: Option<PathBuf>,
}

/// Why no registry can be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The file cannot be read.
    #[error("the registries' certificate authorities cannot be read from {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file has something else in it.
    #[error("{} has no certificate in PEM form that can be used: {reason}", path.display())]
    NotCertificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Not a host.
    #[error("{0:?} is not a registry: expected HOST or HOST:PORT, as it stands in image references")]
    Host(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A client for all registries. It knows no credentials.
#[derive(Debug)]
pub(super) struct Transport {
    client: legacy::Client<HttpsConnector<Route>, Full<Bytes>>,
    plain_http: BTreeSet<String>,
    large: Arc<Semaphore>,
}

/// A body that was read. It keeps its place among the large ones until it is dropped.
pub(super) struct Document {
    bytes: Vec<u8>,
    place: Option<OwnedSemaphorePermit>,
}

impl Deref for Document {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Transport {
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        // A variable that is set to nothing names nothing.
        let plain_http: BTreeSet<String> = options
            .plain_http_registry
            .iter()
            .map(|host| host.trim().to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        if let Some(host) = plain_http.iter().find(|host| !is_domain(host)) {
            return Err(OptionsError::Host(host.clone()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(options.registry_ca.as_ref())?)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let connector = HttpsConnector::from((Route { http, proxies: Arc::new(Matcher::from_env()) }, config));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { client, plain_http, large: Arc::new(Semaphore::new(LARGE_AT_ONCE)) })
    }

    /// The scheme that a registry is spoken to with.
    pub(super) fn scheme(&self, host: &str) -> Scheme {
        if self.plain_http.contains(host) { Scheme::HTTP } else { Scheme::HTTPS }
    }

    /// Gets `uri`, through redirects. Whoever is redirected to does not see the authorization, unless it is the same server.
    pub(super) async fn get(
        &self,
        uri: Uri,
        accept: &'static str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        let (first, mut uri) = (uri.clone(), uri);
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = uri.clone();
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            if let Some(authorization) = authorization.filter(|_| is_same_server(&first, &uri)) {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            let response = self.send(request).await?;
            match redirect(&uri, &response)? {
                Some(next) => uri = next,
                None => return Ok(response),
            }
        }
        Err(Failure::Redirect { host: host(&first), reason: "in a circle" })
    }

    /// Posts a form. Redirects are answers: what is in the form is for this server only.
    pub(super) async fn post(&self, uri: &Uri, form: String) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Full::from(form));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let media = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(header::CONTENT_TYPE, media);
        self.send(request).await
    }

    /// Reads a body, and no further than `limit`. However many are read, they do not fill the memory.
    pub(super) async fn read(
        &self,
        response: Response<Incoming>,
        from: &str,
        what: &'static str,
        limit: usize,
    ) -> Result<Document, Failure> {
        let mut body = Limited::new(response.into_body(), limit);
        let mut document = Document { bytes: Vec::new(), place: None };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unread(error.as_ref(), from, what, limit))?;
            let Ok(data) = frame.into_data() else { continue };
            if document.place.is_none() && document.bytes.len() + data.len() > SMALL {
                document.place = Arc::clone(&self.large).acquire_owned().await.ok();
            }
            document.bytes.extend_from_slice(&data);
        }
        Ok(document)
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        let uri = request.uri().clone();
        self.client.request(request).await.map_err(|error| failure(&uri, &error))
    }
}

/// Host and port, as a person sees them in a reference.
pub(super) fn host(uri: &Uri) -> String {
    uri.authority().map_or_else(
        || "the registry".to_owned(),
        |authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned(),
    )
}

/// Reads a body, and no further than `limit`.
pub(super) async fn body(
    response: Response<Incoming>,
    from: &str,
    what: &'static str,
    limit: usize,
) -> Result<Bytes, Failure> {
    let body = Limited::new(response.into_body(), limit).collect().await;
    body.map(Collected::to_bytes).map_err(|error| unread(error.as_ref(), from, what, limit))
}

fn unread(error: &(dyn Error + Send + Sync + 'static), from: &str, what: &'static str, limit: usize) -> Failure {
    if error.is::<LengthLimitError>() {
        return Failure::TooLong { host: from.to_owned(), what, limit };
    }
    Failure::Broken { host: from.to_owned(), reason: deepest(error) }
}

fn is_same_server(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

fn redirect(from: &Uri, response: &Response<Incoming>) -> Result<Option<Uri>, Failure> {
    let followed = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !followed.contains(&response.status()) {
        return Ok(None);
    }
    let refuse = |reason| Failure::Redirect { host: host(from), reason };
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| refuse("to nowhere"))?;
    let origin = |scheme: &Scheme| format!("{scheme}:");
    let scheme = from.scheme().unwrap_or(&Scheme::HTTPS);
    let absolute = if location.starts_with("//") {
        origin(scheme) + location
    } else if location.starts_with('/') {
        format!("{}//{}{location}", origin(scheme), host(from))
    } else {
        location.to_owned()
    };
    let to: Uri = absolute.parse().map_err(|_| refuse("to no URL"))?;
    match (scheme.as_str(), to.scheme_str()) {
        _ if to.authority().is_none_or(|authority| authority.as_str().contains('@')) => Err(refuse("to no URL")),
        (_, Some("https")) | ("http", Some("http")) => Ok(Some(to)),
        (_, Some("http")) => Err(refuse("from TLS to plain HTTP, which is not followed")),
        _ => Err(refuse("to something else than HTTP")),
    }
}

/// The certificate authorities of the system, or where it has none (the webhook's image is empty), Mozilla's.
fn roots(ca: Option<&PathBuf>) -> Result<RootCertStore, OptionsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let Some(path) = ca else { return Ok(roots) };
    let pem = fs::read(path).map_err(|source| OptionsError::Read { path: path.clone(), source })?;
    let refuse = |reason: String| OptionsError::NotCertificates { path: path.clone(), reason };
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        added += 1;
    }
    if added == 0 {
        return Err(refuse("it has no CERTIFICATE block".to_owned()));
    }
    Ok(roots)
}

/// The way to a server: through the proxy that `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` ask for, or straight.
///
/// A registry without TLS is a neighbour, which no proxy is needed for.
#[derive(Clone, Debug)]
struct Route {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, Box<dyn Error + Send + Sync>>> + Send>>;

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Connecting;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Connecting {
        let is_tls = target.scheme() == Some(&Scheme::HTTPS);
        let mut http = self.http.clone();
        match self.proxies.intercept(&target).filter(|_| is_tls) {
            None => Box::pin(async move { Ok(http.call(target).await?) }),
            Some(proxy) if proxy.uri().scheme() == Some(&Scheme::HTTP) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                Box::pin(async move {
                    tunnel.call(target).await.map_err(|error| format!("through the proxy: {}", deepest(&error)).into())
                })
            }
            Some(proxy) => {
                let scheme = proxy.uri().scheme_str().unwrap_or_default().to_owned();
                Box::pin(async move { Err(format!("a proxy that speaks {scheme} is not supported, only http").into()) })
            }
        }
    }
}

/// What went wrong on the way to `uri`.
fn failure(uri: &Uri, error: &legacy::Error) -> Failure {
    let host = host(uri);
    let Some(tls) = tls_error(error) else {
        let reason = deepest(error);
        return if error.is_connect() {
            Failure::Unreachable { host, reason }
        } else {
            Failure::Broken { host, reason }
        };
    };
    let hint = match tls {
        rustls::Error::InvalidCertificate(_) => "; --registry-ca trusts another certificate authority",
        rustls::Error::InvalidMessage(_) => "; --plain-http-registry is for registries without TLS",
        _ => "",
    };
    Failure::Tls { host, reason: format!("{tls}{hint}") }
}

/// The causes of an error, itself first. An `io::Error` hides the one that it was made from.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn deepest(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_be() {
        let new = |options: Options| Transport::new(&options).unwrap_err().to_string();
        let plain_http_registry = vec![String::new(), "http://registry".to_owned()];
        let no_host = Options { plain_http_registry, registry_ca: None };
        assert!(new(no_host).contains("\"http://registry\" is not a registry"));
        let with_ca = |path: &str| Options { plain_http_registry: vec![], registry_ca: Some(path.into()) };
        assert!(new(with_ca("/nowhere/ca.pem")).contains("/nowhere/ca.pem"));
        assert!(new(with_ca(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))).contains("no CERTIFICATE block"));
    }
}
