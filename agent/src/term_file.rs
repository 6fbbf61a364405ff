//! The term file: which term a container holds, so that the next process of the same container may take it up again at once.
//!
//! A thread of its own writes it, because a file system may hang, and whoever elects must not wait for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use tracing::warn;

use crate::lease::record::Term;

/// The file's name in the state folder.
const NAME: &str = "term";

/// The term that a former process left, if it can be read.
pub fn read(folder: &Path) -> Option<Term> {
    serde_json::from_slice(&fs::read(folder.join(NAME)).ok()?).ok()
}

/// Writes and removes the file, in the order of the calls and without delay to the caller.
#[derive(Debug)]
pub struct TermFile {
    orders: mpsc::Sender<Option<Term>>,
}

impl TermFile {
    /// Starts the thread that writes below `folder`.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        thread::Builder::new().name("term-file".to_owned()).stack_size(64 * 1024).spawn(move || {
            for order in received {
                let done = match &order {
                    Some(term) => write(&folder, term),
                    None => remove(&folder),
                };
                if let Err(error) = done {
                    warn!(folder = %folder.display(), %error, "cannot keep the term file: a restart of this container waits the whole lease");
                }
            }
        })?;
        Ok(Self { orders })
    }

    /// Remembers `term`.
    pub fn store(&self, term: Term) {
        let _ = self.orders.send(Some(term));
    }

    /// Forgets the term: it was released.
    pub fn forget(&self) {
        let _ = self.orders.send(None);
    }
}

/// Whole or not at all: half a file would only cost the reclaim, but would be reported as damage.
fn write(folder: &Path, term: &Term) -> io::Result<()> {
    let new = folder.join("term.new");
    fs::write(&new, serde_json::to_vec(term)?)?;
    fs::rename(new, folder.join(NAME))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_comes_back_whole_and_a_damaged_one_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        let term =
            Term { uid: "u".into(), transitions: 3, acquire_time: jiff::Timestamp::from_microsecond(5).unwrap() };
        write(folder.path(), &term).unwrap();
        assert_eq!(read(folder.path()), Some(term));
        fs::write(folder.path().join(NAME), "{\"uid\":").unwrap();
        assert_eq!(read(folder.path()), None);
        remove(folder.path()).unwrap();
        remove(folder.path()).unwrap();
        assert_eq!(read(folder.path()), None);
    }
}
