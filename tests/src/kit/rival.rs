//! A rival on the same Lease: a candidate on client-go's leader election (`tests/go/candidate`), a process beside the pods.

use super::Namespace;
use crate::binaries::client_go_candidate;
use crate::{process, wait};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

/// How a rival is started. Without a command and without a folder for stamps it leads and runs nothing.
#[derive(Debug, Clone)]
pub struct RivalOptions {
    lease: String,
    identity: String,
    seconds: [u32; 3],
    release_on_cancel: bool,
    stamps: Option<PathBuf>,
    command: Vec<OsString>,
}

impl RivalOptions {
    /// A candidate for this Lease, with client-go's usual 15 s, 10 s and 2 s, that releases when it is told to end.
    /// `identity` is also the pod's name in its stamps.
    pub fn new(lease: &str, identity: &str) -> Self {
        Self {
            lease: lease.to_owned(),
            identity: identity.to_owned(),
            seconds: [15, 10, 2],
            release_on_cancel: true,
            stamps: None,
            command: Vec::new(),
        }
    }

    /// Lease duration, renew deadline and retry period, in seconds.
    #[must_use]
    pub fn seconds(mut self, lease_duration: u32, renew_deadline: u32, retry_period: u32) -> Self {
        self.seconds = [lease_duration, renew_deadline, retry_period];
        self
    }

    /// Ends without releasing.
    #[must_use]
    pub fn never_releasing(mut self) -> Self {
        self.release_on_cancel = false;
        self
    }

    /// While leading it leaves stamps in this folder as a ledger's writer does that has no fencing token: a run of it counts as
    /// not elected, so that its overlaps are told apart from ours.
    #[must_use]
    pub fn stamps(mut self, folder: &Path) -> Self {
        self.stamps = Some(folder.to_owned());
        self
    }

    /// While leading it runs this.
    #[must_use]
    pub fn command(mut self, command: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.command = command.into_iter().map(Into::into).collect();
        self
    }

    fn arguments(&self, namespace: &Namespace<'_>) -> Vec<OsString> {
        let [lease_duration, renew_deadline, retry_period] = self.seconds;
        let mut arguments = vec![
            format!("--kubeconfig={}", namespace.cluster().kubeconfig().display()),
            format!("--namespace={}", namespace.name()),
            format!("--lease={}", self.lease),
            format!("--identity={}", self.identity),
            format!("--lease-duration={lease_duration}s"),
            format!("--renew-deadline={renew_deadline}s"),
            format!("--retry-period={retry_period}s"),
            format!("--release-on-cancel={}", self.release_on_cancel),
        ];
        arguments.extend(self.stamps.iter().map(|folder| format!("--stamps={}", folder.display())));
        let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
        if !self.command.is_empty() {
            arguments.push("--".into());
            arguments.extend(self.command.iter().cloned());
        }
        arguments
    }
}

/// What a rival said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RivalEvent {
    /// `standing by`, `new leader`, `leading`, `lost` (and its app was killed) or `ended`.
    pub event: String,
    /// Whom it is about: itself, or for `new leader` the holder that it sees.
    pub identity: String,
    /// When, on the boot clock, in nanoseconds.
    pub boot: u64,
}

/// A client-go candidate that runs in the cluster's network as its admin; killed when this is dropped.
#[derive(Debug)]
pub struct Rival {
    child: Child,
    log: PathBuf,
}

impl Namespace<'_> {
    /// Starts a client-go candidate for a Lease of this namespace. The first time on a machine it is built.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn rival(&self, options: &RivalOptions) -> Result<Rival> {
        let program = client_go_candidate()?;
        let program = program.to_str().context("the cache folder's path is not UTF-8")?;
        let state = self.cluster().state();
        let name = format!("rival-{}-{}", self.name(), options.identity);
        // Marked as the cluster's own: taking that down ends it, too, should this process not come to it.
        let child = process::spawn(state, self.cluster().binaries(), &name, program, options.arguments(self))?;
        Ok(Rival { child, log: state.log(&name) })
    }
}

impl Rival {
    /// All that it said so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn events(&self) -> Result<Vec<RivalEvent>> {
        Ok(self.said()?.lines().filter_map(event).collect())
    }

    /// Waits until it said this of this identity, and gives the last time it did.
    ///
    /// # Errors
    /// When it takes longer than `patience`, or the process has ended; with its whole log.
    pub fn wait_for(&mut self, event: &str, identity: &str, patience: Duration) -> Result<RivalEvent> {
        let log = self.log.clone();
        let found = || {
            let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
            let said = text.lines().rev().filter_map(self::event);
            said.filter(|said| said.event == event && said.identity == identity)
                .max_by_key(|said| said.boot)
                .with_context(|| format!("it said:\n{text}"))
        };
        let child = &mut self.child;
        let runs = || match child.try_wait()? {
            // It may have said so just before.
            Some(status) if found().is_err() => bail!("the client-go candidate ended: {status}"),
            _ => Ok(()),
        };
        wait::until_while(&format!("`{event}` of {identity}"), patience, runs, &found)
    }

    /// Sends a signal: TERM asks it to end its app, release and end; KILL ends it and its app at once.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal).context("cannot signal the client-go candidate")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it takes longer than `patience`; with its whole log.
    pub fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        let log = self.log.clone();
        let child = &mut self.child;
        wait::until("the client-go candidate's end", patience, || {
            let status = child.try_wait()?;
            status.with_context(|| format!("it said:\n{}", fs::read_to_string(&log).unwrap_or_default()))
        })
    }

    fn said(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of its log; `None` for those that client-go wrote.
fn event(line: &str) -> Option<RivalEvent> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Some(RivalEvent { event: text("event")?, identity: text("identity")?, boot: value["boot"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn its_own_lines_are_told_from_those_of_client_go() {
        let line = r#"{"boot":5,"event":"new leader","identity":"a_b"}"#;
        let expected = RivalEvent { event: "new leader".into(), identity: "a_b".into(), boot: 5 };
        assert_eq!(event(line), Some(expected));
        assert_eq!(event("I1121 09:00:00 leaderelection.go:258] Attempting"), None);
    }

    #[test]
    fn two_rivals_lead_in_turn_and_what_they_run_ends_with_them() -> Result<()> {
        Namespace::test("kit-rival", |namespace| {
            let folder = tempfile::tempdir()?;
            let file = |name: &str| folder.path().join(name);
            let running = |name: &str| {
                let script = r#"trap 'exit 0' TERM; echo $$ > "$0"; while :; do sleep 0.1; done"#;
                let command = ["bash".into(), "-c".into(), script.into(), file(name).into_os_string()];
                RivalOptions::new("relay", name).command(command)
            };
            let mut first = namespace.rival(&running("first"))?;
            first.wait_for("leading", "first", PATIENCE)?;
            let mut second = namespace.rival(&running("second"))?;
            second.wait_for("new leader", "first", PATIENCE)?;
            wait::until("the first one's command", PATIENCE, || Ok(fs::metadata(file("first"))?))?;
            first.signal(Signal::TERM)?;
            ensure!(first.ended(PATIENCE)?.success(), "{:?}", first.events()?);
            second.wait_for("leading", "second", PATIENCE)?;
            let number = || -> Result<u32> { Ok(fs::read_to_string(file("second"))?.trim().parse()?) };
            let app = wait::until("the second one's command", PATIENCE, number)?;
            drop(second);
            wait::until("the end of what it ran", PATIENCE, || {
                // A zombie has no program.
                let program = fs::read_link(format!("/proc/{app}/exe"));
                ensure!(program.is_err(), "it runs {program:?}");
                Ok(())
            })
        })
    }
}
