//! What trials showed, from the writers' stamps.

use std::time::Duration;

use leader_ledger::overlap::{Overlap, Run};

/// What one trial showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// How long nobody led, from the fault until all was well again.
    pub(super) leaderless: Duration,
    /// Whether another pod led in the end.
    pub(super) moved: bool,
}

impl Outcome {
    /// Judges what followed a fault at the moment `at`, by the boot clock, when `leader` led.
    pub(super) fn of(runs: &[Run], leader: &Run, at: u64) -> Self {
        let mut elected: Vec<&Run> = runs.iter().filter(|run| run.writer.elected()).collect();
        elected.sort_by_key(|run| (run.first, run.last));
        let (mut reached, mut leaderless) = (u64::MAX, 0);
        for run in &elected {
            if run.first > at {
                leaderless += run.first.saturating_sub(reached);
            }
            reached = if reached == u64::MAX { run.last } else { reached.max(run.last) };
        }
        let moved = elected.last().is_some_and(|newest| newest.writer.pod != leader.writer.pod);
        Self { leaderless: Duration::from_nanos(leaderless), moved }
    }
}

/// What all trials of a row showed.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Of every trial that came to its end.
    pub(super) outcomes: Vec<Outcome>,
    /// Elected runs of one workload that shared a moment, from its first start to its last trial's end.
    pub(super) overlaps: Vec<Overlap>,
    /// The same between an elected run and one of a rival that is no agent of ours: those are not ours to prevent.
    pub(super) with_rival: Vec<Overlap>,
    /// Why the other trials failed.
    pub(super) failures: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use leader_ledger::overlap::Writer;

    fn run(pod: &str, token: Option<u64>, first: u64, last: u64) -> Run {
        Run { writer: Writer { pod: pod.to_owned(), token, started: first }, first, last }
    }

    #[test]
    fn only_gaps_that_end_after_the_fault_count_and_only_elected_runs_fill_them() {
        let runs = [
            run("a", Some(1), 0, 10),
            run("a", Some(2), 20, 30),
            run("plain", None, 31, 39),
            run("b", Some(3), 40, 50),
        ];
        let outcome = Outcome::of(&runs, &runs[1], 25);
        assert_eq!(outcome, Outcome { leaderless: Duration::from_nanos(10), moved: true });
    }

    #[test]
    fn several_gaps_are_added_and_a_leader_may_come_back() {
        let runs = [run("a", Some(1), 0, 10), run("b", Some(2), 13, 20), run("a", Some(3), 25, 50)];
        let outcome = Outcome::of(&runs, &runs[0], 5);
        assert_eq!(outcome, Outcome { leaderless: Duration::from_nanos(8), moved: false });
    }

    #[test]
    fn a_leader_that_stays_leaves_no_gap() {
        let runs = [run("a", Some(1), 0, 100)];
        assert_eq!(Outcome::of(&runs, &runs[0], 50), Outcome { leaderless: Duration::ZERO, moved: false });
    }
}
