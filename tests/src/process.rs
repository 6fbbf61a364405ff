//! The cluster's own processes: started to outlive the caller, found again by a mark in their environment, ended by process id.

use crate::binaries::Binaries;
use crate::cgroup::ControlGroup;
use crate::command::{Tool, exit_code};
use crate::state::State;
use crate::wait;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Environment variable of every process of a cluster: its state folder. What they start themselves (containerd's shims)
/// inherits it, so nothing can be lost between a start and the writing of a process id.
const MARK: &str = "LEADER_CLUSTER_STATE";
/// How long the kernel may take to end killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at a condition that takes milliseconds to seconds.
const POLL: Duration = Duration::from_millis(50);

/// The parts of a cluster, in the order of their start; also the names of their logs.
pub const PARTS: [&str; 8] =
    ["etcd", "apiserver", "registry", "containerd", "manager", "scheduler", "kubelet", "proxy"];

/// Starts parts of a cluster and watches that they go on.
#[derive(Debug)]
pub struct Starter<'a> {
    state: &'a State,
    binaries: &'a Binaries,
    children: Vec<(&'static str, Child)>,
}

impl<'a> Starter<'a> {
    /// Starts into this cluster.
    pub fn new(state: &'a State, binaries: &'a Binaries) -> Self {
        Self { state, binaries, children: Vec::new() }
    }

    /// Starts a part: inside the cluster's network, in a session of its own, writing into its log.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn start(
        &mut self,
        part: &'static str,
        program: &str,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<()> {
        let child = spawn(self.state, self.binaries, part, program, arguments)?;
        // nsenter and setsid replace themselves by the program, so this is the program's process id.
        fs::write(pid_file(self.state, part), child.id().to_string())?;
        self.children.push((part, child));
        Ok(())
    }

    /// Waits until `probe` succeeds.
    ///
    /// # Errors
    /// When it takes longer than `patience`, with the last answer of `probe`; at once when a started part has ended. Either
    /// names the log.
    pub fn wait_for<T>(
        &mut self,
        part: &str,
        what: &str,
        patience: Duration,
        probe: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let log = self.state.log(part);
        let children = &mut self.children;
        let all_run = || {
            for (part, child) in children.iter_mut() {
                if let Some(status) = child.try_wait()? {
                    bail!("{part} ended with code {}; see {}", exit_code(status), self.state.log(part).display());
                }
            }
            Ok(())
        };
        wait::until_while(what, patience, all_run, probe)
            .with_context(|| format!("for what went wrong see {}", log.display()))
    }
}

/// Starts a program of a cluster: inside its network, in a session of its own, writing into the log of this name, marked so
/// that [`kill_all`] finds it.
///
/// # Errors
/// When it could not be started.
pub fn spawn(
    state: &State,
    binaries: &Binaries,
    log: &str,
    program: &str,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Child> {
    let file = fs::File::create(state.log(log))?;
    // containerd looks for its shim in PATH.
    let mut path = binaries.folder().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let tool = Tool::in_network(state.name().as_str(), "setsid")
        .arg(binaries.path(program))
        .args(arguments.into_iter().map(Into::into))
        .env("PATH", path)
        .env(MARK, state.folder())
        // Nothing here collects traces; the registry would complain about that.
        .env("OTEL_TRACES_EXPORTER", "none");
    tool.into_command()
        .current_dir(state.folder())
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start {log}"))
}

/// Starts a part again that has ended, and does not wait until it answers.
///
/// # Errors
/// When it could not be started.
pub fn restart(
    state: &State,
    binaries: &Binaries,
    part: &str,
    program: &str,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<()> {
    let mut child = spawn(state, binaries, part, program, arguments)?;
    fs::write(pid_file(state, part), child.id().to_string())?;
    // Whoever started a process has to take note of its end: else a later look would find it as a zombie.
    thread::spawn(move || child.wait());
    Ok(())
}

fn pid_file(state: &State, part: &str) -> PathBuf {
    state.path("run").join(format!("{part}.pid"))
}

/// The process of a part, when it runs.
pub fn find(state: &State, part: &str) -> Option<Pid> {
    let pid = Pid::from_raw(fs::read_to_string(pid_file(state, part)).ok()?.trim().parse().ok()?)?;
    // The number may meanwhile be another process's.
    (is_marked(state, pid) && !is_zombie(pid)).then_some(pid)
}

/// Every process of a cluster's parts and of what they started, without those in its pods.
///
/// # Errors
/// When the processes cannot be listed.
pub fn all(state: &State) -> Result<Vec<Pid>> {
    let processes = fs::read_dir("/proc").context("cannot read /proc")?.flatten();
    let pids = processes.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    Ok(pids.filter(|pid| is_marked(state, *pid)).collect())
}

fn is_marked(state: &State, pid: Pid) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let mut mark = format!("{MARK}=").into_bytes();
    mark.extend(state.folder().as_os_str().as_bytes());
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

/// A zombie has no environment left; one that is seen here is a process that was just killed.
fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may itself contain some.
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// Kills every process of a cluster: its parts, what they started, and all in its pods.
///
/// Nothing is asked to end nicely: all that they would save is about to be removed.
///
/// # Errors
/// When some go on living; the message has their process ids.
pub fn kill_all(state: &State, group: &ControlGroup) -> Result<()> {
    let started = Instant::now();
    loop {
        // All are killed before the next look, so whoever starts others is gone by the end of the second round.
        group.thaw()?;
        let mut alive = all(state)?;
        alive.extend(group.processes()?.into_iter().filter(|pid| !is_zombie(*pid)));
        if alive.is_empty() {
            return Ok(());
        }
        if started.elapsed() > KILL_PATIENCE {
            let list = alive.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            bail!("processes {list} of cluster `{}` do not end, though they were killed", state.name().as_str());
        }
        for pid in alive {
            // It may have ended meanwhile; judged by the next look.
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ClusterName;
    use std::process::Command;

    #[test]
    fn marked_processes_are_found_and_only_those_of_the_same_cluster() {
        let state = State::of(&ClusterName::new("unit-test").unwrap());
        let other = State::of(&ClusterName::new("unit-test-2").unwrap());
        let mut child = Command::new("sleep").arg("60").env(MARK, state.folder()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        // The environment is readable once the child has become `sleep`.
        while !is_marked(&state, pid) {
            thread::yield_now();
        }
        assert_eq!(all(&state).unwrap(), [pid]);
        assert!(!all(&other).unwrap().contains(&pid));
        kill_process(pid, Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(!is_marked(&state, pid));
    }
}
