//! The state folder of a cluster: everything it keeps on disk, and by which its remains are found after a crash.

use crate::network::AddressRange;
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Holds one folder per cluster. A fixed place, not the user's cache: names of network namespaces and control groups are the
/// machine's, and a cluster is to be found by its name alone.
const CLUSTERS: &str = "/var/lib/leader-clusters";
const DESCRIPTION: &str = "cluster.json";
const READY: &str = "ready";

/// A cluster's name: also the name of its network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name that is used when none is given.
    pub const DEFAULT: &str = "leader";

    /// Takes a DNS label of at most 15 characters: it becomes part of a socket's path, which may have 107 bytes.
    ///
    /// # Errors
    /// When the name is anything else.
    pub fn new(name: &str) -> Result<Self> {
        let allowed =
            |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
        let fits = !name.is_empty() && name.len() <= 15 && name.chars().all(allowed);
        if !fits || name.starts_with('-') || name.ends_with('-') {
            bail!("`{name}` cannot be a cluster's name: use 1 to 15 lower-case letters, digits and inner hyphens");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is written down about a cluster before anything of it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    address_range: u8,
    binaries: PathBuf,
}

/// The state folder of one cluster.
#[derive(Debug, Clone)]
pub struct State {
    name: ClusterName,
    folder: PathBuf,
}

/// The lock of a cluster: only its owner brings it up or down. It is free again when this is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl State {
    /// The state folder of the cluster of this name; nothing is made.
    pub fn of(name: &ClusterName) -> Self {
        Self { name: name.clone(), folder: Path::new(CLUSTERS).join(name.as_str()) }
    }

    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path in the folder.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.folder.join(relative)
    }

    /// The log of a part of the cluster.
    pub fn log(&self, part: &str) -> PathBuf {
        self.path("log").join(format!("{part}.log"))
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("pki/admin.kubeconfig")
    }

    /// The socket of the cluster's containerd.
    pub fn containerd_socket(&self) -> PathBuf {
        self.path("run/containerd.sock")
    }

    /// The folder of the sockets of containerd's shims.
    pub fn shim_sockets(&self) -> PathBuf {
        self.path("s")
    }

    /// Whether anything of this cluster is on disk.
    pub fn exists(&self) -> bool {
        self.folder.exists()
    }

    /// Waits for the cluster's lock.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self) -> Result<Lock> {
        self.lock_file(&format!("{}.lock", self.name.as_str()), "another run works on this cluster; waiting for it")
    }

    fn lock_file(&self, name: &str, waiting: &str) -> Result<Lock> {
        fs::create_dir_all(CLUSTERS).with_context(|| format!("cannot make {CLUSTERS}; the cluster needs root"))?;
        lock(&Path::new(CLUSTERS).join(name), waiting).with_context(|| format!("for cluster `{}`", self.name.as_str()))
    }

    /// Makes the folder and writes down the lowest address range that no other cluster has, and the folder of the binaries.
    ///
    /// # Errors
    /// When the folder exists, or cannot be written.
    pub fn create(&self, binaries: &Path) -> Result<AddressRange> {
        let _lock = self.lock_file(".ranges.lock", "another run takes an address range; waiting for it")?;
        let mut taken = Vec::new();
        for entry in fs::read_dir(CLUSTERS).with_context(|| format!("cannot read {CLUSTERS}"))? {
            if let Ok(description) = read_description(&entry?.path()) {
                taken.push(AddressRange::new(description.address_range));
            }
        }
        let range = AddressRange::lowest_free(&taken)?;
        fs::create_dir(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        for folder in ["pki", "log", "run", "s"] {
            fs::create_dir(self.path(folder))?;
        }
        let description = Description { address_range: range.index(), binaries: binaries.to_owned() };
        fs::write(self.path(DESCRIPTION), serde_json::to_string_pretty(&description)?)?;
        Ok(range)
    }

    /// The address range and the folder of the binaries that were written down.
    ///
    /// # Errors
    /// When there is no such cluster, or its description is unreadable.
    pub fn describe(&self) -> Result<(AddressRange, PathBuf)> {
        let description = read_description(&self.folder)?;
        Ok((AddressRange::new(description.address_range), description.binaries))
    }

    /// Writes down that the cluster came up wholly.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn mark_ready(&self) -> Result<()> {
        fs::write(self.path(READY), "").with_context(|| format!("cannot write in {}", self.folder.display()))
    }

    /// Whether the cluster once came up wholly.
    pub fn is_marked_ready(&self) -> bool {
        self.path(READY).exists()
    }

    /// Removes the folder with all in it. Mounts under it must be gone.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }
}

fn read_description(folder: &Path) -> Result<Description> {
    let file = folder.join(DESCRIPTION);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what was written there", file.display()))
}

/// Locks a file, which is made if it is missing; says `waiting` when somebody else holds it.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn lock(path: &Path, waiting: &str) -> Result<Lock> {
    let context = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).append(true).open(path).with_context(context)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        crate::progress::say(waiting);
        flock(&file, FlockOperation::LockExclusive).with_context(context)?;
    }
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for name in ["leader", "a", "demo-2", "0"] {
            assert_eq!(ClusterName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "-a", "a-", "../etc", "system.slice", "Leader", &"a".repeat(16)] {
            let error = ClusterName::new(name).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn the_sockets_of_the_longest_name_fit_into_a_socket_address() {
        let state = State::of(&ClusterName::new(&"a".repeat(15)).unwrap());
        // A shim's socket is called by a SHA-256 in hexadecimal; the kernel takes 107 bytes and a zero.
        assert!(state.shim_sockets().join("0".repeat(64)).as_os_str().len() <= 107);
        assert!(state.containerd_socket().with_extension("sock.ttrpc").as_os_str().len() <= 107);
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path, "waiting").unwrap();
        let other = File::options().append(true).open(&path).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(held);
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
