//! One request on a connection of its own. All of it lives in the caller's future: dropped, nothing of it is left.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

/// So much of a body may be on its way unread: HTTP/2's own default, where hyper has megabytes.
const WINDOW: u32 = 65_535;

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Sends `request` by HTTP/1.1 and lets `read` read the answer while the connection works.
pub(crate) async fn http1<S, B, T>(
    stream: S,
    request: Request<B>,
    read: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> hyper::Result<T>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data: Send, Error: Into<BoxedError>> + 'static,
{
    // As Go writes them: `X-Name`.
    let (mut sender, connection) =
        http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await?;
    beside(connection, async { Ok(read(sender.send_request(request).await?).await) }).await
}

/// The same by HTTP/2.
pub(super) async fn http2<S, B, T>(
    stream: S,
    request: Request<B>,
    read: impl AsyncFnOnce(Response<Incoming>) -> T,
) -> hyper::Result<T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxedError>> + Send + Unpin + 'static,
{
    let (mut sender, connection) = http2::Builder::new(Tasks::default())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(stream))
        .await?;
    beside(connection, async { Ok(read(sender.send_request(request).await?).await) }).await
}

/// Drives a connection until the exchange on it is over. A connection that ends first may have brought all that is needed.
async fn beside<C: Future, T>(connection: C, exchange: impl Future<Output = T>) -> T {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}

/// Runs what HTTP/2 wants to have running, for as long as it exists.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).spawn(future);
    }
}
