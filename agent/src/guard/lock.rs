//! The exclusive lock in the state folder: who has it knows that no earlier stub or agent of this container lives.

use std::{fs::OpenOptions, io, os::fd::OwnedFd, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// The file's name in the state folder.
const NAME: &str = "lock";
/// Everybody may open it: containers of one pod may run as different users.
const MODE: u32 = 0o666;

/// Takes the lock without waiting for it; `None` when somebody else has it. It is held as long as the descriptor, or a
/// copy of it that a fork made, is open.
pub(super) fn take(folder: &Path) -> io::Result<Option<OwnedFd>> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(MODE).open(folder.join(NAME))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file.into())),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path()).unwrap().unwrap();
        assert!(take(folder.path()).unwrap().is_none());
        drop(first);
        assert!(take(folder.path()).unwrap().is_some());
        assert!(take(&folder.path().join("missing")).is_err());
    }
}
