//! The writer's connection to the keeper: made in a thread of its own, so that the writer never waits for the network.

use std::io::{BufReader, Error, ErrorKind, Result};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::overlap::Writer;
use crate::wire::{Entry, Hello, Welcome, receive, send};

/// How long connecting and the keeper's answer may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How long an entry may take into the kernel; it takes longer only when the network has been down for minutes.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// A connection that is there, or being made.
#[derive(Debug)]
pub(super) struct Connection {
    keeper: String,
    writer: Writer,
    state: State,
}

#[derive(Debug)]
enum State {
    Connecting(Receiver<(TcpStream, u64)>),
    Connected { stream: TcpStream, next: u64 },
}

impl Connection {
    pub(super) fn new(keeper: String, writer: Writer) -> Self {
        let state = State::Connecting(connect(keeper.clone(), writer.clone()));
        Self { keeper, writer, state }
    }

    /// Sends an entry, if there is a connection; says when one was made or lost.
    pub(super) fn write(&mut self, boot: u64, wall: u64) {
        if let State::Connecting(made) = &self.state {
            match made.try_recv() {
                Ok((stream, next)) => {
                    println!("connected to the keeper {}: going on with number {next}", self.keeper);
                    self.state = State::Connected { stream, next };
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.reconnect();
                    return;
                }
            }
        }
        if let State::Connected { stream, next } = &mut self.state {
            match send(stream, &Entry { number: *next, boot, wall }) {
                Ok(()) => *next += 1,
                Err(error) => {
                    println!("lost the keeper {}: {error}", self.keeper);
                    self.reconnect();
                }
            }
        }
    }

    fn reconnect(&mut self) {
        self.state = State::Connecting(connect(self.keeper.clone(), self.writer.clone()));
    }
}

fn connect(keeper: String, writer: Writer) -> Receiver<(TcpStream, u64)> {
    let (made, connection) = channel();
    thread::spawn(move || {
        loop {
            match attempt(&keeper, &writer) {
                // The receiver is gone only when the writer is.
                Ok(connected) => return made.send(connected).unwrap_or_default(),
                Err(error) => println!("no connection to the keeper {keeper}: {error}"),
            }
            thread::sleep(RETRY_INTERVAL);
        }
    });
    connection
}

fn attempt(keeper: &str, writer: &Writer) -> Result<(TcpStream, u64)> {
    let address =
        keeper.to_socket_addrs()?.next().ok_or_else(|| Error::new(ErrorKind::NotFound, "the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    send(&mut stream, &Hello { writer: writer.clone(), boot: clock::boot()?, wall: clock::wall() })?;
    let welcome: Option<Welcome> = receive(&mut BufReader::new(&stream))?;
    let welcome = welcome.ok_or(ErrorKind::UnexpectedEof)?;
    Ok((stream, welcome.next))
}
