//! The control groups of a cluster: one folder of its own in every hierarchy, so that several kubelets do not take each
//! other's pods for orphans, and everything that runs in its pods can be found.

use crate::mounts;
use crate::state::ClusterName;
use anyhow::{Context, Result};
use rustix::process::Pid;
use std::fs;
use std::path::{Path, PathBuf};

/// The cluster's folder in every hierarchy.
#[derive(Debug, Clone)]
pub struct ControlGroup {
    name: String,
}

impl ControlGroup {
    /// The control group of the cluster of this name.
    pub fn of(cluster: &ClusterName) -> Self {
        Self { name: format!("leader-cluster-{}", cluster.as_str()) }
    }

    /// The kubelet's `cgroupRoot`.
    pub fn kubelet_root(&self) -> String {
        format!("/{}", self.name)
    }

    /// The folders that exist.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub fn folders(&self) -> Result<Vec<PathBuf>> {
        Ok(hierarchies()?.into_iter().map(|root| root.join(&self.name)).filter(|folder| folder.is_dir()).collect())
    }

    /// Makes the folder in every hierarchy: with version 1 the kubelet expects it, and a new cpuset takes no process
    /// before it has processors and memory nodes.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn create(&self) -> Result<()> {
        for root in hierarchies()? {
            let folder = root.join(&self.name);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the control group {}", folder.display()))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let from = root.join(file);
                if from.exists() {
                    let value = fs::read_to_string(&from)?;
                    fs::write(folder.join(file), value.trim())
                        .with_context(|| format!("cannot set {file} in {}", folder.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Every process in the cluster's pods.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let mut found = Vec::new();
        for folder in self.folders()? {
            for group in with_children(&folder) {
                found.extend(processes_in(&group));
            }
        }
        found.sort_by_key(|pid| pid.as_raw_nonzero());
        found.dedup();
        Ok(found)
    }

    /// The processes of one container, by its pod's uid and its id in containerd.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub fn container_processes(&self, pod_uid: &str, container_id: &str) -> Result<Vec<Pid>> {
        let pod = format!("pod{pod_uid}");
        for folder in self.folders()? {
            for group in with_children(&folder) {
                let is_pod = group.parent().and_then(Path::file_name).is_some_and(|name| name == pod.as_str());
                if is_pod && group.file_name().is_some_and(|name| name == container_id) {
                    return Ok(with_children(&group).iter().flat_map(|group| processes_in(group)).collect());
                }
            }
        }
        Ok(Vec::new())
    }

    /// Lets processes run that a freezer holds: a frozen one cannot be killed.
    ///
    /// # Errors
    /// When the mounts cannot be read.
    pub fn thaw(&self) -> Result<()> {
        for folder in self.folders()? {
            for group in with_children(&folder) {
                for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                    if group.join(file).exists() {
                        // A group may vanish meanwhile.
                        let _ = fs::write(group.join(file), value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes the folders, which must be without processes.
    ///
    /// # Errors
    /// When one is still in use.
    pub fn remove(&self) -> Result<()> {
        for folder in self.folders()? {
            for group in with_children(&folder).into_iter().rev() {
                match fs::remove_dir(&group) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error)
                            .with_context(|| format!("cannot remove the control group {}", group.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The roots of the mounted hierarchies, of both versions.
///
/// # Errors
/// When the mounts cannot be read.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let is_hierarchy =
        |mount: &mounts::Mount| mount.kind.starts_with("cgroup") && mount.point.starts_with("/sys/fs/cgroup");
    let mut roots: Vec<_> = mounts::all()?.into_iter().filter(is_hierarchy).map(|mount| mount.point).collect();
    roots.dedup();
    Ok(roots)
}

/// A group and all below it, parents first.
fn with_children(group: &Path) -> Vec<PathBuf> {
    let mut found = vec![group.to_owned()];
    let mut next = 0;
    while let Some(group) = found.get(next) {
        // A group may vanish meanwhile.
        let entries = fs::read_dir(group).into_iter().flatten().flatten();
        let children: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(children);
        next += 1;
    }
    found
}

fn processes_in(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}
