//! The leader's side: takes the followers' connections, tells them what to do, and knows when none of them runs.
//!
//! Nothing here waits for a follower: who does not take what it is told loses its connection, and dies of that. Whether a follower may run
//! is the [`Roll`]'s to say.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::sleep,
};
use tracing::{info, warn};

use super::{
    roll::Roll,
    wire::{self, LONGEST, Order, Report, What},
};
use crate::clock;

/// Words of followers that wait to be heard; more make them wait.
const WORDS: usize = 64;
/// After an error of the listener, such as no free descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// Why followers cannot be told anything.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for followers on the Unix socket {}: {source}. Is its folder writable for this user?", path.display())]
pub struct FollowersError {
    path: PathBuf,
    source: io::Error,
}

/// The followers of one candidate.
#[derive(Debug)]
pub struct Followers {
    roll: Roll,
    connections: BTreeMap<String, Connection>,
    heard: mpsc::Receiver<(u64, Heard)>,
    /// Kept, so that `heard` never ends.
    _said: mpsc::Sender<(u64, Heard)>,
    /// Connections that have not said yet whose they are.
    strangers: BTreeMap<u64, OwnedWriteHalf>,
    /// The term and what is asked in it, while it may be that somebody runs.
    asked: Option<(u64, What)>,
    deadline: Duration,
    margin: Duration,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    writes: OwnedWriteHalf,
    /// The term in which it was told to run on this connection.
    runs: Option<u64>,
    /// The term of which it has reported the end on this connection.
    over: Option<u64>,
}

#[derive(Debug)]
enum Heard {
    Connected(OwnedWriteHalf),
    Said(Report),
    Lost,
}

impl Followers {
    /// For the containers `names`, which share `folder` with this one. `lease` is how long what an earlier process told them may count.
    ///
    /// # Errors
    /// When they cannot be listened for.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, where there are any.
    pub fn new(names: Vec<String>, folder: Option<&Path>, lease: Duration) -> Result<Self, FollowersError> {
        let (said, heard) = mpsc::channel(WORDS);
        let mut unknown = None;
        if let Some(folder) = folder.filter(|_| !names.is_empty()) {
            let path = wire::socket(folder);
            let is_left = fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket());
            // Without a socket of before nobody was ever told anything in this pod.
            unknown = is_left.then(|| clock::boot() + lease);
            let listener = listen(&path).map_err(|source| FollowersError { path, source })?;
            tokio::spawn(accept(listener, said.clone()));
        }
        Ok(Self {
            roll: Roll::new(names, unknown),
            connections: BTreeMap::new(),
            heard,
            _said: said,
            strangers: BTreeMap::new(),
            asked: None,
            deadline: Duration::ZERO,
            margin: Duration::ZERO,
        })
    }

    /// The deadline was moved; whoever is dead by it is gone `margin` after it at the latest.
    pub fn arm(&mut self, deadline: Duration, margin: Duration) {
        (self.deadline, self.margin) = (deadline, margin);
        self.tell_all();
    }

    /// The app was started in this term, whose deadline is armed.
    pub fn run(&mut self, token: u64) {
        self.asked = Some((token, What::Run));
        self.tell_all();
    }

    /// The app is asked to stop.
    pub fn stop(&mut self) {
        if let Some((token, What::Run)) = self.asked {
            self.asked = Some((token, What::Stop));
            self.tell_all();
        }
    }

    /// Everything is killed.
    pub fn kill(&mut self) {
        if let Some((token, What::Run | What::Stop)) = self.asked {
            self.asked = Some((token, What::Kill));
            self.tell_all();
        }
    }

    /// The term is over: nobody runs.
    pub fn end(&mut self) {
        self.asked = None;
    }

    /// Whether none of them runs, for sure.
    pub fn are_idle(&self) -> bool {
        self.roll.are_idle(clock::boot())
    }

    /// Waits until a follower says something, or until a time is over.
    pub async fn turn(&mut self) {
        let now = clock::boot();
        // It may have passed while the caller did something else.
        if self.roll.settle(now) {
            return;
        }
        let left = self.roll.idle_at().saturating_sub(now);
        let is_over = async { if left.is_zero() { std::future::pending().await } else { sleep(left).await } };
        tokio::select! {
            Some((number, heard)) = self.heard.recv() => self.hear(number, heard),
            () = is_over => {}
        }
    }

    fn hear(&mut self, number: u64, heard: Heard) {
        match heard {
            // Who does not say who it is takes no more memory than this.
            Heard::Connected(writes) if self.strangers.len() < WORDS => drop(self.strangers.insert(number, writes)),
            Heard::Connected(_) => {}
            Heard::Said(Report::Hello { name, clean }) => {
                let Some(writes) = self.strangers.remove(&number) else { return };
                if !self.roll.has(&name) {
                    return warn!(container = name, "a container that does not follow asked when to run");
                }
                if clean {
                    self.roll.clean(&name);
                }
                info!(container = name, "a follower is there");
                self.connections.insert(name.clone(), Connection { number, writes, runs: None, over: None });
                self.tell(&name);
            }
            Heard::Said(Report::Gone { token }) => {
                if let Some(name) = self.name_of(number) {
                    info!(container = name, "a follower has ended");
                    self.roll.gone(&name, token);
                    if let Some(connection) = self.connections.get_mut(&name) {
                        (connection.runs, connection.over) = (None, Some(token));
                    }
                }
            }
            Heard::Lost => {
                self.strangers.remove(&number);
                if let Some(name) = self.name_of(number) {
                    self.connections.remove(&name);
                }
            }
        }
    }

    fn name_of(&self, number: u64) -> Option<String> {
        let found = self.connections.iter().find(|(_, connection)| connection.number == number);
        found.map(|(name, _)| name.clone())
    }

    fn tell_all(&mut self) {
        let names: Vec<String> = self.connections.keys().cloned().collect();
        for name in names {
            self.tell(&name);
        }
    }

    /// Tells one what is asked: to begin, only where nothing of it can run; to end, only where something may.
    fn tell(&mut self, name: &str) {
        let (Some((token, what)), Some(connection)) = (self.asked, self.connections.get_mut(name)) else { return };
        let now = clock::boot();
        let runs = connection.runs == Some(token);
        // Whose command has ended by itself begins again with its container.
        let may_begin = connection.over != Some(token) && self.roll.is_idle(name, now);
        let begins = what == What::Run && !runs && may_begin && self.deadline > now;
        if !runs && !begins {
            return;
        }
        // Counted from before it can know, and to the end of whatever it heard.
        let end = self.deadline + self.margin;
        self.roll.told(name, token, end);
        connection.runs = Some(token);
        let line = wire::line(&Order::new(what, token, self.deadline, end));
        match connection.writes.try_write(&line) {
            Ok(written) if written == line.len() => {}
            // It does not listen, or is gone: without its connection it dies.
            _ => drop(self.connections.remove(name)),
        }
    }
}

/// Listens; containers of other users may connect. At no moment is there no socket where one was left: a start that dies here must not make
/// the next one believe that nobody was ever told anything.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o666))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, said: mpsc::Sender<(u64, Heard)>) {
    for number in 0.. {
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(_) => sleep(PAUSE).await,
            }
        };
        tokio::spawn(listen_to(number, stream, said.clone()));
    }
}

/// Hands on what one follower says, in its order.
async fn listen_to(number: u64, stream: UnixStream, said: mpsc::Sender<(u64, Heard)>) {
    let (reads, writes) = stream.into_split();
    if said.send((number, Heard::Connected(writes))).await.is_err() {
        return;
    }
    let mut words = Words::new(reads);
    while let Some(report) = words.next().await {
        if said.send((number, Heard::Said(report))).await.is_err() {
            return;
        }
    }
    let _ = said.send((number, Heard::Lost)).await;
}

/// The words that come over a connection.
pub(super) struct Words {
    lines: BufReader<OwnedReadHalf>,
    /// What has come of the next one.
    line: Vec<u8>,
}

impl Words {
    pub(super) fn new(reads: OwnedReadHalf) -> Self {
        Self { lines: BufReader::new(reads), line: Vec::new() }
    }

    /// The next word; `None` at the end, or at something else. Nothing is lost when the future is dropped.
    pub(super) async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let room = u64::try_from(LONGEST.saturating_sub(self.line.len())).unwrap_or_default();
        (&mut self.lines).take(room).read_until(b'\n', &mut self.line).await.ok()?;
        let line = std::mem::take(&mut self.line);
        serde_json::from_slice(line.strip_suffix(b"\n")?).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_never_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = wire::socket(folder.path());
        drop(listen(&path).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(fs::symlink_metadata(&path).is_ok(), "for a moment there is none");
                }
            });
            for _ in 0..1000 {
                drop(listen(&path).unwrap());
            }
            done.store(true, Ordering::Relaxed);
        });
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        let (connected, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_start_that_fails_leaves_the_socket_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = wire::socket(folder.path());
        drop(listen(&path).unwrap());
        fs::create_dir(path.with_extension("new")).unwrap();
        let names = || vec!["side".to_owned()];
        let second = Duration::from_secs(1);
        assert!(Followers::new(names(), Some(folder.path()), second).is_err());
        fs::remove_dir(path.with_extension("new")).unwrap();
        assert!(!Followers::new(names(), Some(folder.path()), second).unwrap().are_idle());
    }
}
