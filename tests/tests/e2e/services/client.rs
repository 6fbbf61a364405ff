//! A real client: one connection after the other through a Service's address, from the cluster's network, each with one question.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use leader_tests::Cluster;

use crate::stage::until;

/// The pause between two connections.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a connection, or an answer, is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a connection came to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Met {
    /// This pod answered.
    Pod(String),
    /// Nobody listens, or there are no endpoints.
    Refused,
    /// There is no way to the endpoint.
    Unreachable,
    /// Nothing came.
    TimedOut,
    /// It ended before the answer did.
    BrokenOff,
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// When it was begun.
    pub(super) at: Instant,
    pub(super) met: Met,
}

/// A client that asks until it is stopped.
pub(super) struct Client {
    seen: Arc<Mutex<Vec<Seen>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Client {
    pub(super) fn start(cluster: &'static Cluster, address: SocketAddr) -> Result<Self> {
        let (seen, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (told, stopped) = (Arc::clone(&seen), Arc::clone(&done));
        let ask = move || -> Result<()> {
            // The cluster is found in its own network only.
            cluster.enter_network()?;
            while !stopped.load(Ordering::Relaxed) {
                let at = Instant::now();
                let met = ask(address);
                told.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { at, met });
                std::thread::sleep(PAUSE);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("client".to_owned()).spawn(ask).context("starting a client")?;
        Ok(Self { seen, done, thread: Some(thread) })
    }

    /// What it met so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this pod answers.
    pub(super) fn answered_by(&self, pod: &str) -> Result<()> {
        self.meets(&Met::Pod(pod.to_owned()))
    }

    /// Waits until it meets this.
    pub(super) fn meets(&self, wanted: &Met) -> Result<()> {
        let from = self.seen().len();
        until(&format!("a client to meet {wanted:?}"), || {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                bail!("the client has ended");
            }
            let seen = self.seen();
            let is_there = seen[from..].iter().any(|seen| seen.met == *wanted);
            is_there.then_some(()).with_context(|| format!("it met {:?}", seen.last()))
        })
    }

    /// Stops it; all that it met.
    pub(super) fn stop(mut self) -> Result<Vec<Seen>> {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the client panicked"))??;
        }
        Ok(self.seen())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks once who answers.
fn ask(address: SocketAddr) -> Met {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /who HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match answer() {
        Ok(text) if text.starts_with("HTTP/1.1 200 ") => {
            Met::Pod(text.lines().last().unwrap_or_default().trim().to_owned())
        }
        Ok(_) => Met::BrokenOff,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Met::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Met::Unreachable,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Met::TimedOut,
            _ => Met::BrokenOff,
        },
    }
}
