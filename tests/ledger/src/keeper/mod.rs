//! The keeper: takes entries on one port, and serves what it knows on another.

mod http;

use std::io::{self, BufReader};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::clock;
use crate::ledger::{Ledger, Outcome};
use crate::wire::{Entry, Hello, Welcome, receive, send};

/// How long a connection may stay silent: a writer whose network was cut never says that it is gone.
const SILENCE: Duration = Duration::from_mins(2);

/// The ledger, shared by all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Ledger>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        // No panic can leave the ledger half written: it is numbers, changed one at a time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves on both ports, of all addresses, until it is told to stop.
///
/// # Errors
/// When a port cannot be had, or signals cannot be waited for.
pub fn run(entry_port: u16, report_port: u16) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let ledger = Shared::default();
    let (entries, reports) = (listen(entry_port)?, listen(report_port)?);
    let shared = ledger.clone();
    thread::spawn(move || accept(&entries, &shared, take));
    thread::spawn(move || accept(&reports, &ledger, http::answer));
    println!("taking entries on port {entry_port}, reporting on port {report_port}");
    signals.wait()?;
    Ok(())
}

/// Listens on both IP versions, or on the one that there is.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn accept(listener: &TcpListener, ledger: &Shared, serve: fn(&TcpStream, &Shared) -> io::Result<()>) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let ledger = ledger.clone();
                thread::spawn(move || {
                    if let Err(error) = serve(&stream, &ledger) {
                        println!("{peer}: {error}");
                    }
                });
            }
            Err(error) => println!("cannot accept a connection: {error}"),
        }
    }
}

fn take(mut stream: &TcpStream, ledger: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut lines = BufReader::new(stream);
    let Some(hello) = receive::<Hello>(&mut lines)? else { return Ok(()) };
    let (seat, next) = ledger.lock().open(&hello, clock::boot()?);
    println!(
        "{} is connected, {}",
        hello.writer.pod,
        match hello.writer.token {
            Some(token) => format!("elected with token {token}"),
            None => "not elected".to_owned(),
        }
    );
    send(&mut stream, &Welcome { next })?;
    while let Some(entry) = receive::<Entry>(&mut lines)? {
        if ledger.lock().append(&seat, entry, clock::boot()?) == Outcome::Stale {
            break;
        }
    }
    Ok(())
}
