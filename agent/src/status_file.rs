//! The status file: there only while this candidate leads, for programs that look at a file rather than ask.
//!
//! The first line is the candidate's name alone; then come the fencing token and until when it can be believed, each as
//! `name=value`. A thread of its own writes it, because a file system may hang, and whoever elects must not wait for it. That the
//! Lease is not released before the file is gone is the caller's business: [`StatusFile::removed`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::warn;

use crate::api::status::Seconds;

/// Why there can be no status file.
#[derive(Debug, thiserror::Error)]
pub enum StatusFileError {
    /// It could not be written or removed.
    #[error("cannot write and remove the status file {}: {source}. Its folder must exist and be writable for this user: in a pod, mount an emptyDir there", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("cannot start a thread for the status file: {0}. Is a limit of processes (pids.max, ulimit -u) reached?")]
    Thread(#[source] io::Error),
}

/// A status file, written and removed in the order of the calls.
#[derive(Debug)]
pub struct StatusFile {
    orders: mpsc::Sender<Order>,
    state: State,
}

#[derive(Debug)]
enum Order {
    Write { token: u64, believe_until: Duration },
    Remove(oneshot::Sender<io::Result<()>>),
}

#[derive(Debug)]
enum State {
    Removed,
    Written,
    /// Its removal has been ordered.
    Going(oneshot::Receiver<io::Result<()>>),
}

impl StatusFile {
    /// Removes what a former process left at `path`, and starts the thread. The file's first line will be `name`.
    ///
    /// # Errors
    /// When a file there could not be written, or removed: better now than while leading.
    pub fn new(path: &Path, name: &str) -> Result<Self, StatusFileError> {
        let place = Place::new(path, name);
        place.try_out().map_err(|source| StatusFileError::Unusable { path: path.to_owned(), source })?;
        let (orders, received) = mpsc::channel();
        thread::Builder::new()
            .name("status-file".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || place.keep(&received))
            .map_err(StatusFileError::Thread)?;
        Ok(Self { orders, state: State::Removed })
    }

    /// Says that this candidate leads with `token`, which can be believed until `believe_until` on the boot clock.
    pub fn write(&mut self, token: u64, believe_until: Duration) {
        self.state = State::Written;
        let _ = self.orders.send(Order::Write { token, believe_until });
    }

    /// Has the file removed.
    pub fn remove(&mut self) {
        if matches!(self.state, State::Written) {
            let (done, going) = oneshot::channel();
            self.state = State::Going(going);
            let _ = self.orders.send(Order::Remove(done));
        }
    }

    /// Whether there is no file.
    pub fn is_removed(&self) -> bool {
        matches!(self.state, State::Removed)
    }

    /// Has the file removed, and waits until it is. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When it cannot be removed: then it may still say that this candidate leads.
    pub async fn removed(&mut self) -> io::Result<()> {
        self.remove();
        if let State::Going(going) = &mut self.state {
            let done = going.await.unwrap_or_else(|_| Err(io::Error::other("the thread of the status file has ended")));
            self.state = if done.is_ok() { State::Removed } else { State::Written };
            return done;
        }
        Ok(())
    }
}

/// Where the file is, and what it says first.
struct Place {
    path: PathBuf,
    /// What is written before it gets its name. Fixed, so that a crashed process leaves at most one.
    new: PathBuf,
    name: String,
}

impl Place {
    fn new(path: &Path, name: &str) -> Self {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        Self { path: path.to_owned(), new: new.into(), name: name.lines().next().unwrap_or_default().to_owned() }
    }

    fn try_out(&self) -> io::Result<()> {
        self.remove()?;
        fs::write(&self.new, [])?;
        fs::remove_file(&self.new)
    }

    fn keep(&self, orders: &mpsc::Receiver<Order>) {
        let mut complaint = None;
        while let Ok(mut order) = orders.recv() {
            // After a pause only the newest counts.
            while matches!(order, Order::Write { .. }) {
                match orders.try_recv() {
                    Ok(next) => order = next,
                    Err(_) => break,
                }
            }
            match order {
                Order::Write { token, believe_until } => {
                    let failed = self.write(token, believe_until).err().map(|error| error.to_string());
                    if let Some(error) = failed.as_ref().filter(|_| failed != complaint) {
                        warn!(path = %self.path.display(), error, "cannot write the status file");
                    }
                    complaint = failed;
                }
                Order::Remove(done) => {
                    // Who does not wait has other reasons to end.
                    let _ = done.send(self.remove());
                }
            }
        }
    }

    /// Whole or not at all.
    fn write(&self, token: u64, believe_until: Duration) -> io::Result<()> {
        let text = format!("{}\ntoken={token}\nbelieve_until={}\n", self.name, Seconds::of(believe_until));
        fs::write(&self.new, text)?;
        fs::rename(&self.new, &self.path)
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(path: &Path, text: &str) {
        while fs::read_to_string(path).ok().as_deref() != Some(text) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn it_is_there_while_leading_and_gone_when_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leader");
        fs::write(&path, "left by a former process").unwrap();
        let mut file = StatusFile::new(&path, "ann").unwrap();
        assert!(!path.exists() && file.is_removed());
        file.remove();
        file.removed().await.unwrap();
        for term in 1..=50 {
            file.write(term, Duration::from_millis(1500));
            file.write(term, Duration::from_millis(2500));
            assert!(!file.is_removed());
            if term % 2 == 0 {
                wait_for(&path, &format!("ann\ntoken={term}\nbelieve_until=2.500\n"));
            }
            file.remove();
            file.removed().await.unwrap();
            assert!(!path.exists() && file.is_removed(), "term {term}");
        }
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_removed_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leader");
        let mut file = StatusFile::new(&path, "ann").unwrap();
        file.write(1, Duration::ZERO);
        wait_for(&path, "ann\ntoken=1\nbelieve_until=0.000\n");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(file.removed().await.is_err() && !file.is_removed());
        let error = StatusFile::new(&path, "ann").unwrap_err().to_string();
        assert!(error.contains("status file") && error.contains("leader"), "{error}");
        let error = StatusFile::new(&folder.path().join("no/leader"), "ann").unwrap_err().to_string();
        assert!(error.contains("folder must exist") && error.contains("mount an emptyDir"), "{error}");
    }
}
