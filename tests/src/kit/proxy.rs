//! A proxy between pods and the API server that answers as a sick API server would, to all of them or to some.
//!
//! Pods reach it when their environment names its address as the API server's. It has the API server's own certificate, so
//! that clients check what they always check.

use crate::cluster::Cluster;
use crate::network::API_PORT;
use crate::pki::Pki;
use crate::progress::say;
use anyhow::{Context, Result, anyhow};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is refused with this HTTP status, and does not reach the API server.
    Refused {
        /// The status code.
        code: u16,
        /// The value of `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// It reaches the API server so much later, also when its sender no longer waits.
    LateRequest(Duration),
    /// It reaches the API server at once, and the answer comes so much later.
    LateReply(Duration),
}

type Body = BoxBody<Bytes, hyper::Error>;

/// What the connections share.
#[derive(Debug, Default)]
struct Rules {
    /// For requests from these addresses.
    of_pods: HashMap<IpAddr, Answer>,
    /// How many requests from each address were treated so.
    treated: HashMap<IpAddr, usize>,
}

/// The proxy's own part of a connection.
struct Shared {
    rules: Mutex<Rules>,
    api_server: SocketAddr,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

/// A proxy that listens on the node's address; it ends when this is dropped.
#[derive(Debug)]
pub struct ApiProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl ApiProxy {
    /// Starts a proxy that passes everything on.
    ///
    /// # Errors
    /// When it cannot listen, or the cluster's keys cannot be read.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let node = IpAddr::V4(cluster.range().node_address());
        let (acceptor, connector) = tls(&Pki::of(cluster.state()))?;
        let api_server = SocketAddr::new(node, API_PORT);
        let shared = Arc::new(Shared { rules: Mutex::default(), api_server, acceptor, connector });
        let (stop, stopped) = oneshot::channel();
        let (report, listening) = mpsc::channel();
        let (cluster, theirs) = (cluster.clone(), Arc::clone(&shared));
        // A thread of its own: the sockets belong to the network that the thread is in when it makes them.
        let thread = thread::spawn(move || {
            let begun = cluster.enter_network().and_then(|()| Ok(runtime()?));
            let runtime = match begun {
                Ok(runtime) => runtime,
                Err(error) => return drop(report.send(Err(error))),
            };
            runtime.block_on(async {
                match TcpListener::bind(SocketAddr::new(node, 0)).await {
                    Ok(listener) => {
                        let _ = report.send(listener.local_addr().map_err(Into::into));
                        tokio::select! {
                            () = accept(listener, theirs) => {}
                            _ = stopped => {}
                        }
                    }
                    Err(error) => drop(report.send(Err(error.into()))),
                }
            });
        });
        let address = listening.recv().context("the proxy's thread ended at once")?.context("cannot start a proxy")?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests from this address are treated so; `None` passes them on again.
    pub fn treat(&self, source: IpAddr, answer: Option<Answer>) {
        let mut rules = self.rules();
        rules.treated.remove(&source);
        match answer {
            Some(answer) => rules.of_pods.insert(source, answer),
            None => rules.of_pods.remove(&source),
        };
    }

    /// How many requests from this address came since it was last told how to treat them.
    pub fn treated(&self, source: IpAddr) -> usize {
        self.rules().treated.get(&source).copied().unwrap_or_default()
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            say("a proxy's thread panicked");
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn tls(pki: &Pki) -> Result<(TlsAcceptor, TlsConnector)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(pki.certificate("apiserver"))?.collect::<Result<Vec<_>, _>>()?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(pki.key("apiserver"))?)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.authority())?)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client))))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // An error is of one connection, and the next one may be good; a short pause where it is not.
        let Ok((stream, source)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Clients come and go as they like: their connections' ends are no failures of the proxy.
            let _ = serve(stream, source.ip(), shared).await;
        });
    }
}

async fn serve(stream: TcpStream, source: IpAddr, shared: Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = shared.acceptor.accept(stream).await?;
    let service = service_fn(move |request| answer(Arc::clone(&shared), source, request));
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

/// An error closes the client's connection, as the API server's end would.
async fn answer(shared: Arc<Shared>, source: IpAddr, request: Request<Incoming>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let request = Request::from_parts(head, Full::new(body.collect().await?.to_bytes()));
    let answer = {
        let mut rules = shared.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = rules.of_pods.get(&source).copied();
        if answer.is_some() {
            *rules.treated.entry(source).or_default() += 1;
        }
        answer
    };
    let (before, after) = match answer {
        Some(Answer::Refused { code, retry_after }) => return refusal(code, retry_after),
        Some(Answer::LateRequest(late)) => (late, Duration::ZERO),
        Some(Answer::LateReply(late)) => (Duration::ZERO, late),
        None => (Duration::ZERO, Duration::ZERO),
    };
    // A task of its own: when the client gives up, what it sent goes on its way all the same.
    let under_way = tokio::spawn(async move {
        tokio::time::sleep(before).await;
        let response = forward(&shared, request).await;
        tokio::time::sleep(after).await;
        response
    });
    under_way.await?
}

async fn forward(shared: &Shared, request: Request<Full<Bytes>>) -> Result<Response<Body>> {
    let stream = TcpStream::connect(shared.api_server).await?;
    stream.set_nodelay(true)?;
    let stream = shared.connector.connect(ServerName::from(shared.api_server.ip()), stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    Ok(response.map(BodyExt::boxed))
}

/// What an API server says when it refuses: a Status.
fn refusal(code: u16, retry_after: Option<u32>) -> Result<Response<Body>> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "refused by a test's proxy",
    });
    let mut response = Response::builder().status(StatusCode::from_u16(code)?).header(CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header(RETRY_AFTER, seconds);
    }
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {}).boxed();
    response.body(body).map_err(|error| anyhow!(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Output;
    use anyhow::ensure;
    use std::net::Ipv4Addr;
    use std::time::Instant;

    #[tokio::test]
    async fn a_refusal_is_a_status_and_says_when_to_come_again() {
        let response = refusal(429, Some(7)).unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()[RETRY_AFTER]), (429, &"7".parse().unwrap()));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &429.into()));
        assert!(!refusal(500, None).unwrap().headers().contains_key(RETRY_AFTER));
    }

    fn get(cluster: &Cluster, proxy: &ApiProxy, path: &str) -> Result<Output> {
        cluster.kubectl(&["--server", &format!("https://{}", proxy.address()), "get", "--raw", path]).output()
    }

    #[test]
    fn a_proxy_passes_on_refuses_and_is_late() -> Result<()> {
        let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
        let proxy = ApiProxy::start(cluster)?;
        // kubectl's certificate does not come through: what everybody may see is asked for.
        let passed = get(cluster, &proxy, "/version")?;
        ensure!(passed.success() && passed.stdout.contains("gitVersion"), "{passed:?}");

        let node = IpAddr::V4(cluster.range().node_address());
        ensure!(proxy.treated(node) == 0, "requests were counted that were passed on");
        proxy.treat(node, Some(Answer::Refused { code: 403, retry_after: None }));
        let refused = get(cluster, &proxy, "/version")?;
        ensure!(!refused.success() && refused.stderr.contains("refused by a test's proxy"), "{refused:?}");
        ensure!(proxy.treated(node) > 0, "the refusal was not counted");

        for late in [Answer::LateRequest(Duration::from_secs(1)), Answer::LateReply(Duration::from_secs(1))] {
            proxy.treat(node, Some(late));
            let started = Instant::now();
            ensure!(get(cluster, &proxy, "/version")?.success(), "{late:?}");
            ensure!(started.elapsed() >= Duration::from_secs(1), "{late:?} came in time");
        }
        proxy.treat(IpAddr::V4(Ipv4Addr::LOCALHOST), Some(Answer::Refused { code: 503, retry_after: Some(1) }));
        proxy.treat(node, None);
        ensure!(get(cluster, &proxy, "/version")?.success(), "another's fault is ours");
        Ok(())
    }
}
