//! Breaking the cluster's own servers: a part of it made to stand still, or ended and started again as it was.

use crate::cluster::Cluster;
use crate::process::{self, PARTS};
use crate::progress::say;
use crate::wait;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a part may take to end, and to answer again, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A part that stands still; goes on by [`PausedServer::resume`] or when this is dropped.
#[derive(Debug)]
#[must_use = "the server goes on when this is dropped"]
pub struct PausedServer {
    pid: Pid,
    resumed: bool,
}

impl PausedServer {
    /// Lets it go on.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resume(mut self) -> Result<()> {
        self.continue_it()
    }

    fn continue_it(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.resumed, true) {
            kill_process(self.pid, Signal::CONT).with_context(|| format!("process {} cannot go on", self.pid))?;
        }
        Ok(())
    }
}

impl Drop for PausedServer {
    fn drop(&mut self) {
        if let Err(error) = self.continue_it() {
            say(format!("{error:#}"));
        }
    }
}

/// A part that was ended; started again by [`StoppedServer::start_again`] or when this is dropped.
#[derive(Debug)]
#[must_use = "the server is started again when this is dropped"]
pub struct StoppedServer<'a> {
    cluster: &'a Cluster,
    part: &'static str,
    program: String,
    arguments: Vec<OsString>,
    started: bool,
}

impl StoppedServer<'_> {
    /// Starts it with the arguments that it had, and does not wait until it answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(mut self) -> Result<()> {
        self.start()
    }

    /// Starts the API server with the arguments that it had, and waits until it says that it is ready. When it ends meanwhile, as it may where
    /// what it does first takes too long on a busy machine, it is started once more, as every node does with it.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready within two minutes.
    pub fn start_until_served(mut self) -> Result<()> {
        self.start()?;
        wait::until("the API server", PATIENCE, || {
            if process::find(self.cluster.state(), self.part).is_none() {
                let log = fs::read_to_string(self.cluster.state().log(self.part)).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                say(format!("{} has ended and is started again; it said last: {last}", self.part));
                self.started = false;
                self.start()?;
            }
            self.cluster.is_served()
        })
    }

    fn start(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let state = self.cluster.state();
        // A part's log begins with its process: the last one's would be lost.
        let log = state.log(self.part);
        fs::rename(&log, state.log(&format!("{}-before", self.part)))?;
        process::restart(state, self.cluster.binaries(), self.part, &self.program, &self.arguments)
    }
}

impl Drop for StoppedServer<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.start() {
            say(format!("{} cannot be started again: {error:#}", self.part));
        }
    }
}

/// The parts that believe what they saw before: after a restore they have to start anew, as Kubernetes' documentation asks
/// (Operating etcd clusters, Restoring an etcd cluster).
const CLIENTS: [&str; 4] = ["manager", "scheduler", "kubelet", "proxy"];

/// What etcd held at a moment; the copy goes when this is dropped.
#[derive(Debug)]
pub struct EtcdSnapshot<'a> {
    cluster: &'a Cluster,
    folder: tempfile::TempDir,
}

impl EtcdSnapshot<'_> {
    /// Puts the data back as they were, revisions included, while API server and etcd are stopped, and starts all parts again.
    ///
    /// # Errors
    /// When a server does not end or start, or the data cannot be put back.
    pub fn restore(&self) -> Result<()> {
        let api_server = self.cluster.stop_server("apiserver", Signal::KILL)?;
        let etcd = self.cluster.stop_server("etcd", Signal::KILL)?;
        let data = etcd_data(self.cluster);
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        copy_folder(&self.folder.path().join("etcd"), &data)?;
        etcd.start_again()?;
        api_server.start_again()?;
        self.cluster.wait_until_served()?;
        CLIENTS.into_iter().try_for_each(|part| self.cluster.stop_server(part, Signal::KILL)?.start_again())
    }
}

fn etcd_data(cluster: &Cluster) -> PathBuf {
    cluster.state().path("etcd")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot copy to {}", target.display()))?;
        }
    }
    Ok(())
}

impl Cluster {
    /// Makes a part of the cluster stand still (SIGSTOP), connections and all.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause_server(&self, part: &'static str) -> Result<PausedServer> {
        let pid = self.server(part)?;
        kill_process(pid, Signal::STOP).with_context(|| format!("cannot stop {part}"))?;
        Ok(PausedServer { pid, resumed: false })
    }

    /// Ends a part of the cluster by a signal, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn stop_server(&self, part: &'static str, signal: Signal) -> Result<StoppedServer<'_>> {
        let pid = self.server(part)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).with_context(|| format!("cannot read how {part} runs"))?;
        let (program, arguments) = command(&line).with_context(|| format!("{part} has no command line"))?;
        kill_process(pid, signal).with_context(|| format!("cannot end {part}"))?;
        let gone = wait::until(&format!("the end of {part}"), PATIENCE, || {
            ensure!(process::find(self.state(), part).is_none(), "process {pid} is still there");
            Ok(())
        });
        let stopped = StoppedServer { cluster: self, part, program, arguments, started: gone.is_err() };
        gone.map(|()| stopped)
    }

    /// Copies what etcd holds; it is stopped meanwhile.
    ///
    /// # Errors
    /// When etcd does not end or start, or its data cannot be copied.
    pub fn etcd_snapshot(&self) -> Result<EtcdSnapshot<'_>> {
        let folder = tempfile::tempdir().context("cannot make a folder for a copy of etcd's data")?;
        let etcd = self.stop_server("etcd", Signal::KILL)?;
        copy_folder(&etcd_data(self), &folder.path().join("etcd"))?;
        etcd.start_again()?;
        self.wait_until_served()?;
        Ok(EtcdSnapshot { cluster: self, folder })
    }

    /// Does `work` while a part runs with `more` arguments beside its own; then it has its own again.
    ///
    /// # Errors
    /// Those of `work`, and when the part does not end or start.
    pub fn with_server_arguments<T>(
        &self,
        part: &'static str,
        more: &[&str],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut stopped = self.stop_server(part, Signal::KILL)?;
        let own = stopped.arguments.clone();
        stopped.arguments.extend(more.iter().map(OsString::from));
        stopped.start_again()?;
        let result = work();
        let restored = self.stop_server(part, Signal::KILL).and_then(|mut stopped| {
            stopped.arguments = own;
            stopped.start_again()
        });
        let value = result?;
        restored.map(|()| value)
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// When it does not within two minutes.
    pub fn wait_until_served(&self) -> Result<()> {
        wait::until("the API server", PATIENCE, || self.is_served())
    }

    fn is_served(&self) -> Result<()> {
        self.kubectl(&["get", "--raw", "/readyz", "--request-timeout=5s"]).run().map(drop)
    }

    fn server(&self, part: &'static str) -> Result<Pid> {
        ensure!(PARTS.contains(&part), "{part} is none of {PARTS:?}");
        process::find(self.state(), part).with_context(|| format!("{part} does not run"))
    }
}

/// The program's name without its folder, and its arguments, from what stands in /proc.
fn command(line: &[u8]) -> Option<(String, Vec<OsString>)> {
    let mut words = line.strip_suffix(b"\0")?.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let program = PathBuf::from(words.next()?).file_name()?.to_str()?.to_owned();
    Some((program, words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_told_as_it_was_given() {
        let (program, arguments) = command(b"/cache/bin/etcd\0--data-dir=/a b\0\0").unwrap();
        assert_eq!(program, "etcd");
        assert_eq!(arguments, ["--data-dir=/a b", ""]);
        assert_eq!(command(b""), None);
    }

    #[test]
    fn a_folder_is_copied_with_all_below_it() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("member/wal")).unwrap();
        fs::write(from.path().join("member/wal/0.wal"), "entries").unwrap();
        let copy = to.path().join("copy");
        copy_folder(from.path(), &copy).unwrap();
        assert_eq!(fs::read_to_string(copy.join("member/wal/0.wal")).unwrap(), "entries");
    }
}
