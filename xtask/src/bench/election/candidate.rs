//! One candidate and what it runs, as in a container: PID 1 of a PID namespace, in the cluster's network.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leader_tests::{process, wait};
use rustix::process::{Pid, Signal, kill_process};

use super::accounts::Accounts;

/// How long a process may take to start or end on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    ClientGo,
}

/// The programs of a run.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) agent: PathBuf,
    pub(super) client_go: PathBuf,
    /// What candidates run: leaves stamps from its first instruction to its last.
    pub(super) app: PathBuf,
}

impl Kind {
    /// The beginning of its accounts' names.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::ClientGo => "client-go",
        }
    }

    pub(super) fn program(self, programs: &Programs) -> &Path {
        match self {
            Self::Ours => &programs.agent,
            Self::ClientGo => &programs.client_go,
        }
    }

    /// What it says when it knows who leads, and is ready to follow.
    fn stands_by(self) -> &'static str {
        match self {
            Self::Ours => "another candidate leads",
            Self::ClientGo => r#""event":"new leader""#,
        }
    }

    fn arguments(self, account: &str, lease: &str, accounts: &Accounts<'_>, app: &Path) -> Vec<OsString> {
        let namespace = accounts.namespace();
        let mut arguments: Vec<OsString> = match self {
            Self::Ours => vec!["run".into(), format!("--id={lease}").into(), format!("--namespace={namespace}").into()],
            Self::ClientGo => vec![
                format!("--kubeconfig={}", accounts.kubeconfig(account).display()).into(),
                format!("--lease={lease}").into(),
                format!("--namespace={namespace}").into(),
                format!("--identity={account}").into(),
            ],
        };
        arguments.extend(["--".into(), app.into()]);
        arguments
    }
}

/// A candidate that runs; killed when this is dropped.
pub(super) struct Candidate {
    /// Its account's name, and its app's name in the stamps.
    pub(super) account: String,
    kind: Kind,
    /// `unshare`, which waits for PID 1 of the namespace that it made.
    outer: Child,
    inner: Pid,
    log: PathBuf,
}

impl Candidate {
    pub(super) fn start(
        kind: Kind,
        account: &str,
        lease: &str,
        stamps: &Path,
        accounts: &Accounts<'_>,
        programs: &Programs,
    ) -> Result<Self> {
        let cluster = accounts.cluster();
        let variable = |name: &str, value: &str| OsString::from(format!("{name}={value}"));
        let mut line = vec![
            variable("KUBECONFIG", &accounts.kubeconfig(account).display().to_string()),
            variable("POD_NAME", account),
            // Nobody listens there: the stamps are what counts.
            variable("KEEPER", "127.0.0.1:9"),
            variable("STAMP_DIR", &stamps.display().to_string()),
        ];
        line.extend(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"].map(OsString::from));
        line.push(kind.program(programs).into());
        line.extend(kind.arguments(account, lease, accounts, &programs.app));
        let name = format!("bench-{account}");
        let outer = process::spawn(cluster.state(), cluster.binaries(), &name, "/usr/bin/env", line)?;
        let outer_pid = Pid::from_child(&outer);
        let inner = wait::until(&format!("{account}'s process"), PATIENCE, || {
            let child = children(outer_pid)?.into_iter().next().context("unshare has no child")?;
            let program = fs::read_link(format!("/proc/{child}/exe"))?;
            ensure!(program == kind.program(programs), "it is still {}", program.display());
            Ok(child)
        });
        let log = cluster.state().log(&name);
        let mut started = Self { account: account.to_owned(), kind, outer, inner: outer_pid, log };
        started.inner = started.explain(inner)?;
        Ok(started)
    }

    /// Waits until it knows who leads.
    pub(super) fn stands_by(&mut self) -> Result<()> {
        let waited = wait::until(&format!("{} to stand by", self.account), PATIENCE, || {
            ensure!(fs::read_to_string(&self.log)?.contains(self.kind.stands_by()), "it has not said so");
            Ok(())
        });
        self.explain(waited)
    }

    /// Asks it to end, as the kubelet does.
    pub(super) fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it and its app at once, as a node that loses its power.
    pub(super) fn crash(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.inner, signal).with_context(|| format!("cannot signal {}", self.account))
    }

    /// Waits for its end.
    pub(super) fn ended(&mut self) -> Result<ExitStatus> {
        let account = self.account.clone();
        wait::until(&format!("the end of {account}"), PATIENCE, || {
            self.outer.try_wait()?.with_context(|| format!("{account} runs"))
        })
    }

    /// The processes of the candidate itself, without its app: with our agent also its stub.
    pub(super) fn processes(&self) -> Result<Vec<Pid>> {
        let program = |pid: Pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let own = program(self.inner);
        let beside = children(self.inner)?.into_iter().filter(|child| program(*child) == own);
        Ok(std::iter::once(self.inner).chain(beside).collect())
    }

    /// Adds what it said to an error.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| format!("{} said:\n{}", self.account, fs::read_to_string(&self.log).unwrap_or_default()))
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // Once it has ended and was waited for, its process id may be another's.
        if matches!(self.outer.try_wait(), Ok(None)) {
            // PID 1's end is that of all in its namespace.
            let _ = kill_process(self.inner, Signal::KILL);
            let _ = self.outer.kill();
            let _ = self.outer.wait();
        }
    }
}

/// The children of a process.
fn children(parent: Pid) -> Result<Vec<Pid>> {
    let parent = parent.as_raw_nonzero().get().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // It may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The program's name, in parentheses, may hold anything; the parent is the second field after it.
        let Some((_, rest)) = stat.rsplit_once(')') else { bail!("/proc/{pid}/stat is {stat:?}") };
        if rest.split_whitespace().nth(1) == Some(parent.as_str()) {
            found.push(pid);
        }
    }
    Ok(found)
}
