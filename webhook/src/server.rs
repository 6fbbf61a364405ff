//! HTTPS: accepts connections, speaks HTTP/1.1 on them, and ends without breaking a request off.
//!
//! No HTTP/2: the API server does not speak it with webhooks (`NextProtos` in k8s.io/apiserver, pkg/util/webhook/client.go). Its windows
//! are shared by all requests of a connection, so that large bodies which wait for their turn keep back the one whose turn it is.
//!
//! What is answered is [`crate::handler`]'s, which certificate is shown that of `leader_certs`.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::{ServerConfig, crypto::ring, server::ResolvesServerCert};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

/// How long a handshake may take.
const OPENING: Duration = Duration::from_secs(5);
/// How long a connection may be silent: between requests, and until a request's header is complete.
///
/// Longer than the API server's 90 s (`IdleConnTimeout` in k8s.io/apimachinery, pkg/util/net/http.go): who closes first must be the one
/// who asks. A request that meets
/// a closing connection is a POST that nobody may send again, and the person is told of a broken pipe.
const SILENCE: Duration = Duration::from_secs(100);
/// The longest header, in bytes: the API server's take about 500.
const HEADER: usize = 16 * 1024;
/// How many connections are open at once. The API server needs one for each review under way, and keeps some of them.
const CONNECTIONS: usize = 512;
/// How long requests in flight may take after the listener is closed: above the API server's patience.
const FINISH: Duration = Duration::from_secs(12);
/// The pause after an accept that failed, for example because the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// TLS 1.2 and 1.3 with the certificates of `resolver`.
pub fn tls(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Listens on `address`; on a machine without IPv6 the unspecified address means that of IPv4.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    }
}

/// Serves `router` until `stop` is done, then closes the listener and lets requests in flight finish.
pub async fn serve(listener: TcpListener, tls: ServerConfig, router: Router, stop: impl Future<Output = ()>) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accept = async {
            // The semaphore is never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            () = &mut stop => break,
            (slot, accepted) = accept => match accepted {
                Ok((stream, _)) => (slot, stream),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = connection(stream, acceptor, router, watcher).await {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were still open {} s after the listener was closed", FINISH.as_secs());
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tokio::time::timeout(OPENING, acceptor.accept(stream))
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("the TLS handshake failed: {error}"))?;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(HEADER);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    watcher.watch(connection).await.map_err(|error| error.to_string())
}
