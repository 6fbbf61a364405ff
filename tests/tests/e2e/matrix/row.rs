//! A row of the matrix: what is tried, on what, how often, and what has to follow.

use std::env;
use std::time::Duration;

use anyhow::{Result, bail};
use leader_ledger::overlap::Run;
use leader_tests::progress::say;

use super::broken::Broken;
use super::outcome::Summary;
use super::table::{self, Line};
use super::trial;
use crate::stage::Stage;
use crate::workload::Workload;
use crate::writer::Writer;

/// How many trials of each fault when nothing else is asked for.
const TRIALS: usize = 20;
/// How many workloads at once: as many as a machine with two processors carries without being what is measured.
const AT_ONCE: usize = 10;

/// How a trial goes on once the fault is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Another pod has to lead while the fault lasts.
    AnotherPod,
    /// Another run has to follow while the fault lasts, be it in the same pod.
    AnotherRun,
    /// The fault lasts this long, and leaves the leader's run as it is.
    SameRun(Duration),
    /// The fault lasts this long; whether leadership moves is not asked.
    Lasting(Duration),
}

/// A row that is being described.
pub(crate) struct Row {
    pub(super) group: &'static str,
    pub(super) fault: &'static str,
    pub(super) writer: Writer,
    pub(super) lease_seconds: u32,
    pub(super) at_once: usize,
    pub(super) follow: Follow,
    pub(super) moves: bool,
    limit: Option<&'static str>,
}

impl Row {
    /// A fault, in the words of the table, in a group of faults that stand together there: on workloads of two replicas with
    /// the shortest lease, after which another pod has to lead.
    pub(crate) fn new(group: &'static str, fault: &'static str) -> Self {
        Self {
            group,
            fault,
            writer: Writer::new("").replicas(2).stop_seconds(1),
            lease_seconds: 5,
            at_once: AT_ONCE,
            follow: Follow::AnotherPod,
            moves: false,
            limit: None,
        }
    }

    /// With the default lease, 15 s.
    pub(crate) fn default_lease(mut self) -> Self {
        self.lease_seconds = 15;
        self
    }

    /// On workloads of another shape; their names, ids and lease are the row's to choose.
    pub(crate) fn on(mut self, change: impl FnOnce(Writer) -> Writer) -> Self {
        self.writer = change(self.writer);
        self
    }

    /// On so many workloads at once.
    pub(crate) fn at_once(mut self, workloads: usize) -> Self {
        self.at_once = workloads;
        self
    }

    /// What follows the fault.
    pub(crate) fn follow(mut self, follow: Follow) -> Self {
        self.follow = follow;
        self
    }

    /// Leadership may have moved by the time that the fault has been applied. Of all others it is made sure that they hit the
    /// leader: on a busy machine leadership may move just before.
    pub(crate) fn moves(mut self) -> Self {
        self.moves = true;
        self
    }

    /// A stated limit: overlaps are reported and fail nothing. The reason stands in the table.
    pub(crate) fn limit(mut self, why: &'static str) -> Self {
        self.limit = Some(why);
        self
    }

    /// Tries a fault on the leader of each workload. It is given the workload and its leader, and gives what mends it.
    pub(crate) fn on_leader(self, fault: impl Fn(&Workload<'_>, &Run) -> Result<Broken> + Sync) -> Result<()> {
        self.test(|row, stage| trial::rounds(&row, stage, |workloads| Ok(trial::strike_each(&row, workloads, &fault))))
    }

    /// As [`Row::on_leader`], with something that is made once for the whole row and may change the workloads' shape.
    pub(crate) fn on_leader_with<T: Sync>(
        self,
        prepare: impl FnOnce(&Stage, Writer) -> Result<(T, Writer)>,
        fault: impl Fn(&T, &Workload<'_>, &Run) -> Result<Broken> + Sync,
    ) -> Result<()> {
        self.test(|mut row, stage| {
            let (prepared, writer) = prepare(stage, row.writer.clone())?;
            row.writer = writer;
            let fault = |workload: &Workload<'_>, leader: &Run| fault(&prepared, workload, leader);
            trial::rounds(&row, stage, |workloads| Ok(trial::strike_each(&row, workloads, &fault)))
        })
    }

    /// Tries a fault that hits all workloads at once.
    pub(crate) fn on_all(self, fault: impl Fn(&[Workload<'_>]) -> Result<Broken>) -> Result<()> {
        self.test(|row, stage| trial::rounds(&row, stage, |workloads| trial::strike_all(&row, workloads, &fault)))
    }

    fn test(self, trials: impl FnOnce(Self, &Stage) -> Result<Summary>) -> Result<()> {
        let (group, fault, lease_seconds, limit) = (self.group, self.fault, self.lease_seconds, self.limit);
        if !is_wanted(group, fault) {
            return Ok(());
        }
        Stage::alone("matrix", |stage| {
            say(format!("{group}: {fault}: {} trials, {} at once", trials_wanted(), self.at_once));
            let summary = trials(self, stage)?;
            let line = Line::new(group, fault, lease_seconds, limit, &summary);
            table::add(&line)?;
            say(format!("{}\n{}", table::HEAD, line.markdown()));
            if !summary.failures.is_empty() {
                bail!("{} trials failed: {}", summary.failures.len(), summary.failures.join("\n"));
            }
            if let (Some(two), None) = (summary.overlaps.first(), limit) {
                bail!("{} times two ran at once, the first time {two:#?}", summary.overlaps.len());
            }
            Ok(())
        })
    }

    /// The name of a workload of this row, which is also its id.
    pub(super) fn workload(&self, number: usize) -> String {
        let words = self.fault.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut name = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
        // Pods' names get an ending, and a label has at most 63 characters.
        name.truncate(30);
        format!("{}-{number}", name.trim_end_matches('-'))
    }
}

/// How many trials of each fault are asked for.
pub(super) fn trials_wanted() -> usize {
    let wanted = env::var("LEADER_TESTS_TRIALS").ok().and_then(|number| number.parse().ok());
    wanted.filter(|trials| *trials > 0).unwrap_or(TRIALS)
}

/// Whether the matrix is asked for, and this row of it; else it is said what is left out.
fn is_wanted(group: &str, fault: &str) -> bool {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if set("LEADER_TESTS_FAULTS").is_none_or(|value| value == "0") {
        say(format!("left out: {group}: {fault}: the fault matrix takes long (`cargo xtask test faults` runs it)"));
        return false;
    }
    set("LEADER_TESTS_ROW").is_none_or(|part| format!("{group}: {fault}").contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_named_by_its_fault() {
        let name = |fault| Row::new("group", fault).workload(7);
        assert_eq!(name("API server: 503, Retry-After"), "api-server-503-retry-after-7");
        assert_eq!(name("a fault that takes thirty words to be told"), "a-fault-that-takes-thirty-word-7");
    }
}
