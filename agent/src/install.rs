//! Puts the agent's own binary where the wrapped container finds it: what the injected init container does.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The file's name in the folder.
const NAME: &str = "agent";
/// What is written before it gets its name. Fixed, so that a crashed run leaves at most one.
const TEMPORARY: &str = ".agent.new";
/// Everybody may execute it: the wrapped container may run as any user.
const MODE: u32 = 0o755;

/// Why the binary could not be put there.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The running binary could not be read.
    #[error("cannot read the running binary /proc/self/exe: {0}. Is /proc mounted?")]
    Source(#[source] io::Error),
    /// The copy could not be written.
    #[error("cannot write {}: {source}. The folder must exist, be writable for this user, and have room for the binary", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Copies the running binary to `folder/agent`, mode 0755, and returns that path.
///
/// The file appears whole or not at all, and replaces an older one even while that is being executed: an init container
/// may run again beside a container that still runs.
pub fn install(folder: &Path) -> Result<PathBuf, InstallError> {
    let temporary = folder.join(TEMPORARY);
    let path = folder.join(NAME);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| InstallError::Write { path, source }
    };
    let mut source = File::open("/proc/self/exe").map_err(InstallError::Source)?;
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&temporary)(error)),
        _ => {}
    }
    let mut target = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(failed(&temporary))?;
    io::copy(&mut source, &mut target).map_err(failed(&temporary))?;
    // The mode given at creation would be cut by the umask.
    target.set_permissions(Permissions::from_mode(MODE)).map_err(failed(&temporary))?;
    // A file that is open for writing cannot be executed.
    drop(target);
    fs::rename(&temporary, &path).map_err(failed(&path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_the_running_binary_and_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(TEMPORARY), "left by a crash").unwrap();
        fs::write(folder.path().join(NAME), "an older one").unwrap();
        for _ in 0..2 {
            let path = install(folder.path()).unwrap();
            assert_eq!(path, folder.path().join("agent"));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
            assert!(fs::read(&path).unwrap() == fs::read("/proc/self/exe").unwrap());
        }
        assert!(!folder.path().join(TEMPORARY).exists());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = install(&folder.path().join("missing")).unwrap_err().to_string();
        assert!(error.contains("missing/.agent.new"), "{error}");
    }
}
