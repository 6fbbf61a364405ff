//! Connections from the agent to the app: what `tcpSocket` does, and the first step of `httpGet` and `grpc`.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use tokio::{net::TcpStream, sync::Semaphore, task::spawn_blocking};

use super::{Outcome, limited::Limited, spec::TcpSocket};

/// Look-ups of names at once. One that hangs keeps its place, and a thread, until the resolver gives up.
const LOOK_UPS: usize = 4;

/// Where handlers connect to.
#[derive(Clone, Debug)]
pub struct Target {
    pod: String,
    look_ups: Arc<Semaphore>,
}

impl Target {
    /// `pod` is the pod's address, for handlers that name no host. Without one it is the loopback's: the same network.
    pub fn new(pod: Option<String>) -> Self {
        Self { pod: pod.unwrap_or_else(|| "127.0.0.1".to_owned()), look_ups: Arc::new(Semaphore::new(LOOK_UPS)) }
    }

    /// The host that is meant by what stands in a handler.
    pub(super) fn host<'a>(&'a self, stated: &'a str) -> &'a str {
        if stated.is_empty() { &self.pod } else { stated }
    }

    /// Opens a connection; of several addresses that a name has, the first that works. Leaves the time it takes to the caller.
    pub(super) async fn connect(&self, host: &str, port: u16) -> io::Result<Limited> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return TcpStream::connect((address, port)).await.map(Limited::new);
        }
        let Ok(place) = Arc::clone(&self.look_ups).try_acquire_owned() else {
            return Err(io::Error::other(format!("too many look-ups of names are under way to look up `{host}`")));
        };
        let name = host.to_owned();
        let looked_up = spawn_blocking(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
            drop(place);
            found
        });
        TcpStream::connect(&looked_up.await.map_err(io::Error::other)??[..]).await.map(Limited::new)
    }
}

/// Carries a `tcpSocket` out: a connection that can be opened is success (pkg/probe/tcp/tcp.go).
pub async fn tcp(socket: &TcpSocket, target: &Target) -> Outcome {
    let (host, port) = (target.host(&socket.host), socket.port.get());
    match target.connect(host, port).await {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure(not_connected(host, port, &error)),
    }
}

/// Says that there is no connection.
pub(super) fn not_connected(host: &str, port: u16, error: &io::Error) -> String {
    format!("cannot connect to {}: {error}", authority(host, port))
}

/// `host:port`, with an IPv6 address in brackets (Go's `net.JoinHostPort`).
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
