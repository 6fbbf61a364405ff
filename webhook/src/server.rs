//! HTTPS: accepts connections, speaks HTTP/1.1 on them, and ends without breaking a request off.
//!
//! No HTTP/2: the API server does not speak it with webhooks (`NextProtos` in k8s.io/apiserver, pkg/util/webhook/client.go). Its windows
//! are shared by all requests of a connection, so that large bodies which wait for their turn keep back the one whose turn it is.
//!
//! What is answered is [`crate::handler`]'s, which certificate is shown that of `leader_certs`, who leaves when there are too many
//! connections that of [`crate::room`].

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::Request,
    middleware::{self, Next},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    clients::Client,
    room::{self, Place, Room},
};

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
pub const CONNECTIONS: usize = 512;
/// How often it is tried to make room for one more.
const AGAIN: Duration = Duration::from_millis(50);
/// How long requests in flight may take after the listener is closed: above the API server's patience.
const FINISH: Duration = Duration::from_secs(12);
/// The pause after an accept that failed, for example because the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no configuration of TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The versions or ciphers do not fit.
    #[error(transparent)]
    Config(#[from] rustls::Error),
    /// Clients cannot be verified.
    #[error("clients cannot be verified by these authorities: {0}")]
    Clients(#[from] VerifierBuilderError),
}

/// TLS 1.2 and 1.3 with the certificates of `resolver`.
pub fn tls(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    tls_asking(resolver, None)
}

/// The same, and clients are asked for a certificate that one of `authorities` has signed. One that shows none is served too: what for, is
/// decided with [`crate::clients`].
pub fn tls_asking(
    resolver: Arc<dyn ResolvesServerCert>,
    authorities: Option<RootCertStore>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match authorities {
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
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
    let (slots, room) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Room::default()));
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accept = async {
            let (stream, _) = listener.accept().await?;
            io::Result::Ok((stream, slot(&slots, &room).await))
        };
        let (stream, slot) = tokio::select! {
            () = &mut stop => break,
            accepted = accept => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (acceptor, router, watcher, place) = (acceptor.clone(), router.clone(), graceful.watcher(), room.enter());
        tokio::spawn(async move {
            let _slot = slot;
            let ended = tokio::select! {
                ended = connection(stream, acceptor, router, watcher, Arc::clone(&place)) => ended,
                () = place.asked_to_leave() => Err("nothing was asked on it for longest when there were too many".to_owned()),
            };
            if let Err(error) = ended {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were still open {} s after the listener was closed", FINISH.as_secs());
    }
}

/// The right to one more connection, for which another one may have to leave.
async fn slot(slots: &Arc<Semaphore>, room: &Room) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Some(slot);
    }
    loop {
        room.make(room::LEAST);
        if let Ok(slot) = tokio::time::timeout(AGAIN, Arc::clone(slots).acquire_owned()).await {
            // The semaphore is never closed.
            return slot.ok();
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    place: Arc<Place>,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = tokio::time::timeout(OPENING, acceptor.accept(stream))
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| format!("the TLS handshake failed: {error}"))?;
    // Its presence is enough: the handshake fails with one that does not count.
    let is_verified = stream.get_ref().1.peer_certificates().is_some_and(|shown| !shown.is_empty());
    let at_work = middleware::from_fn(move |request: Request, next: Next| {
        let busy = place.work();
        async move {
            let response = next.run(request).await;
            drop(busy);
            response
        }
    });
    let router = router.layer(at_work).layer(Extension(Client { is_verified }));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(HEADER);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    watcher.watch(connection).await.map_err(|error| error.to_string())
}
