//! The agent's HTTP server: on its port for the kubelet, and on a Unix socket for the agent's own subcommands.
//!
//! It shares a thread with whoever elects and kills, so nothing of it may take long: no blocking I/O, few connections, few new
//! ones in a second, short patience with their senders. What is answered is left to the handler.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, body::Body, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    task::AbortHandle,
    time::{Instant, sleep},
};

use crate::names;

/// Connections at once, on each listener.
const CONNECTIONS: usize = 64;
/// New connections in a second, when more of them wait. The kernel keeps [`BACKLOG`] waiting.
const RATE: f64 = 500.0;
/// New connections that may come at once.
const BURST: f64 = 64.0;
const BACKLOG: u32 = 128;
/// How long a sender may take for its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// After this, in milliseconds, a client that acknowledges nothing of what it was sent is given up.
const USER_TIMEOUT: u32 = 30_000;
/// The most that is kept of a head (hyper's least).
const HEAD: usize = 8 * 1024;
const HEADERS: usize = 64;
/// After an error of the listener, such as no free descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The port, which everybody who reaches the pod can use.
    Port,
    /// The Unix socket, which only processes of this container's user can use.
    Socket,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else has the port.
    #[error(
        "port {port}, on which the agent answers the kubelet's probes, is in use: set the workload's annotation {}port, or --port where nothing was injected, to a port that nothing in the pod, or on the node of a pod with hostNetwork, listens on",
        names::PREFIX
    )]
    InUse {
        /// The port.
        port: u16,
    },
    /// The port cannot be listened on.
    #[error(
        "cannot listen on port {port}: {source}. The workload's annotation {}port can say another one, or --port where nothing was injected",
        names::PREFIX
    )]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The Unix socket cannot be listened on.
    #[error("cannot listen on the Unix socket {}: {source}. Is its folder writable for this user, and its path below 108 bytes?", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What listens, before anything is answered.
#[derive(Debug)]
pub struct Server {
    port: Option<TcpListener>,
    socket: Option<UnixListener>,
}

/// The agent's Unix socket in its state folder.
pub fn socket_path(folder: &Path) -> PathBuf {
    folder.join(names::SOCKET)
}

impl Server {
    /// Listens on `port`, and on the Unix socket in `folder`, each if given. A socket that a former process left is replaced.
    ///
    /// # Errors
    /// When either cannot be had; the message says what to do.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn bind(port: Option<u16>, folder: Option<&Path>) -> Result<Self, ServerError> {
        let port = port.map(|port| {
            listen(port).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ServerError::InUse { port },
                _ => ServerError::Port { port, source },
            })
        });
        let socket = folder.map(socket_path).map(|path| {
            let is_socket = fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket());
            let removed = if is_socket { fs::remove_file(&path) } else { Ok(()) };
            removed.and_then(|()| UnixListener::bind(&path)).map_err(|source| ServerError::Socket { path, source })
        });
        Ok(Self { port: port.transpose()?, socket: socket.transpose()? })
    }

    /// The port in use, where one was asked for.
    pub fn port(&self) -> Option<u16> {
        Some(self.port.as_ref()?.local_addr().ok()?.port())
    }

    /// Answers requests with `handler` for as long as the runtime lives.
    pub fn serve<H, F, B>(self, handler: H)
    where
        H: Fn(Origin, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        if let Some(listener) = self.port {
            tokio::spawn(accept(listener, Origin::Port, handler.clone()));
        }
        if let Some(listener) = self.socket {
            tokio::spawn(accept(listener, Origin::Socket, handler));
        }
    }
}

/// Every address of both families, or of IPv4 where the machine has no IPv6.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listen = |socket: TcpSocket, address: SocketAddr| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let both = TcpSocket::new_v6().and_then(|socket| {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        listen(socket, (Ipv6Addr::UNSPECIFIED, port).into())
    });
    match both {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            listen(TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        both => both,
    }
}

trait Listener: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let stream = self.accept().await?.0;
        // Without it a client that vanished in the middle of a stream keeps its place for a quarter of an hour.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT);
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

async fn accept<L, H, F, B>(listener: L, origin: Origin, handler: H)
where
    L: Listener,
    H: Fn(Origin, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut open = Open::default();
    let mut bucket = Bucket { tokens: BURST, since: Instant::now() };
    loop {
        match listener.next().await {
            Ok(stream) => {
                if let Some(has_asked) = open.make_room() {
                    let answering = answer(stream, origin, handler.clone(), Arc::clone(&has_asked));
                    open.add(tokio::spawn(answering).abort_handle(), has_asked);
                }
            }
            Err(_) => sleep(PAUSE).await,
        }
        let wait = bucket.take(Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// One request on one connection: the kubelet makes a new one for each probe.
async fn answer<S, H, F, B>(stream: S, origin: Origin, handler: H, has_asked: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Origin, Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        let response = handler(origin, request);
        async { Ok::<_, Infallible>(response.await) }
    });
    // A sender that breaks off is its own affair.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The open connections of a listener, the oldest first.
#[derive(Default)]
struct Open(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl Open {
    /// Room for one more connection: where there is none, the oldest one that has not asked anything yet is dropped for it.
    fn make_room(&mut self) -> Option<Arc<AtomicBool>> {
        if self.0.len() >= CONNECTIONS {
            self.0.retain(|(task, _)| !task.is_finished());
        }
        if self.0.len() >= CONNECTIONS {
            let silent = self.0.iter().position(|(_, has_asked)| !has_asked.load(Ordering::Relaxed))?;
            if let Some((task, _)) = self.0.remove(silent) {
                task.abort();
            }
        }
        Some(Arc::default())
    }

    fn add(&mut self, task: AbortHandle, has_asked: Arc<AtomicBool>) {
        self.0.push_back((task, has_asked));
    }
}

/// Lets [`BURST`] pass at once and [`RATE`] in a second.
struct Bucket {
    tokens: f64,
    since: Instant,
}

impl Bucket {
    /// Takes one; returns how long to wait before the next.
    fn take(&mut self, now: Instant) -> Duration {
        self.tokens = (self.tokens + (now - self.since).as_secs_f64() * RATE).min(BURST) - 1.0;
        self.since = now;
        Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / RATE)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::body::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET /path HTTP/1.1\r\nHost: me\r\n\r\n";

    async fn hello(origin: Origin, request: Request<Incoming>) -> Response<Full<Bytes>> {
        Response::new(Full::from(format!("{origin:?} {}", request.uri())))
    }

    async fn text(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        stream.write_all(REQUEST).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn both_families_and_the_socket_are_served() {
        let folder = tempfile::tempdir().unwrap();
        // One that a former process left.
        drop(std::os::unix::net::UnixListener::bind(socket_path(folder.path())).unwrap());
        let server = Server::bind(Some(0), Some(folder.path())).unwrap();
        let port = server.port().unwrap();
        server.serve(hello);
        let mut loopbacks = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))];
        if TcpSocket::new_v6().is_ok_and(|socket| socket.bind((Ipv6Addr::LOCALHOST, 0).into()).is_ok()) {
            loopbacks.push((Ipv6Addr::LOCALHOST, port).into());
        }
        for address in loopbacks {
            let text = text(TcpStream::connect(address).await.unwrap()).await;
            assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("Port /path"), "{address}: {text}");
        }
        let text = text(UnixStream::connect(socket_path(folder.path())).await.unwrap()).await;
        assert!(text.ends_with("Socket /path"), "{text}");
    }

    #[tokio::test]
    async fn what_cannot_be_had_says_what_to_do() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let error = Server::bind(Some(taken.local_addr().unwrap().port()), None).unwrap_err().to_string();
        assert!(error.contains("leader.io/port") && error.contains("in use"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(socket_path(folder.path()), "a file of somebody's").unwrap();
        let error = Server::bind(None, Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("agent.sock"), "{error}");
        assert!(socket_path(folder.path()).is_file(), "what is no socket is left alone");
    }

    #[tokio::test]
    async fn who_says_nothing_makes_room_for_who_does() {
        let server = Server::bind(Some(0), None).unwrap();
        let address = (Ipv4Addr::LOCALHOST, server.port().unwrap());
        server.serve(hello);
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /path HTT").await.unwrap();
            silent.push(stream);
        }
        let began = Instant::now();
        let text = text(TcpStream::connect(address).await.unwrap()).await;
        assert!(text.ends_with("Port /path"), "{text}");
        assert!(began.elapsed() < HEAD_TIMEOUT, "served without waiting for the silent ones");
        // And none of them is waited for for ever.
        for mut stream in silent {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(HEAD_TIMEOUT * 3, stream.read_to_end(&mut rest)).await;
            assert!(read.is_ok(), "a silent connection is still open");
        }
    }

    #[test]
    fn after_a_burst_connections_come_at_a_rate() {
        let mut now = Instant::now();
        let mut bucket = Bucket { tokens: BURST, since: now };
        let mut taken = 0;
        let end = now + Duration::from_secs(10);
        while now < end {
            now += bucket.take(now);
            taken += 1;
        }
        let most = BURST + 10.0 * RATE;
        assert!((most - 5.0..most + 5.0).contains(&f64::from(taken)), "{taken}");
    }
}
