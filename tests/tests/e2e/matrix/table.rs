//! The table of all rows. Each row leaves a file of its own, so that a run of one row, or one that failed, loses no other.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use leader_ledger::overlap::Overlap;
use serde::{Deserialize, Serialize};

use super::outcome::Summary;

/// The first two lines of the table.
pub(super) const HEAD: &str = "\
| Fault | Lease | Trials | Led by another pod | Overlaps | Without a leader: median | Maximum |
|---|---|---|---|---|---|---|";

/// A row as it stands in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    group: String,
    fault: String,
    lease_seconds: u32,
    trials: usize,
    failed: usize,
    moved: usize,
    overlaps: usize,
    longest_overlap: Duration,
    /// With a rival that is no agent of ours.
    #[serde(default)]
    with_rival: usize,
    #[serde(default)]
    longest_with_rival: Duration,
    median: Duration,
    longest: Duration,
    limit: Option<String>,
}

impl Line {
    pub(super) fn new(group: &str, fault: &str, lease_seconds: u32, limit: Option<&str>, summary: &Summary) -> Self {
        let mut pauses: Vec<_> = summary.outcomes.iter().map(|outcome| outcome.leaderless).collect();
        pauses.sort();
        Self {
            group: group.to_owned(),
            fault: fault.to_owned(),
            lease_seconds,
            trials: pauses.len(),
            failed: summary.failures.len(),
            moved: summary.outcomes.iter().filter(|outcome| outcome.moved).count(),
            overlaps: summary.overlaps.len(),
            longest_overlap: longest(&summary.overlaps),
            with_rival: summary.with_rival.len(),
            longest_with_rival: longest(&summary.with_rival),
            median: pauses.get(pauses.len() / 2).copied().unwrap_or_default(),
            longest: pauses.last().copied().unwrap_or_default(),
            limit: limit.map(str::to_owned),
        }
    }

    /// The row as Markdown.
    pub(super) fn markdown(&self) -> String {
        let trials = match self.failed {
            0 => self.trials.to_string(),
            failed => format!("{} and {failed} failed", self.trials),
        };
        let overlaps = match self.overlaps {
            0 => "0".to_owned(),
            some => format!("**{some}**, at most {:.2} s", self.longest_overlap.as_secs_f64()),
        };
        let with_rival = match self.with_rival {
            0 => String::new(),
            some => format!("; with the rival {some}, at most {:.2} s", self.longest_with_rival.as_secs_f64()),
        };
        let limit = self.limit.as_ref().map(|why| format!(" (a limit: {why})")).unwrap_or_default();
        format!(
            "| {}: {}{limit} | {} s | {trials} | {} | {overlaps}{with_rival} | {:.2} s | {:.2} s |",
            self.group,
            self.fault,
            self.lease_seconds,
            self.moved,
            self.median.as_secs_f64(),
            self.longest.as_secs_f64()
        )
    }
}

fn longest(overlaps: &[Overlap]) -> Duration {
    let lengths = overlaps.iter().map(|two| Duration::from_nanos(two.until - two.from + 1));
    lengths.max().unwrap_or_default()
}

/// Where the rows and the table are: beside what cargo builds.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("fault-matrix")
}

/// Writes a row down, and the table of all rows that there are.
pub(super) fn add(line: &Line) -> Result<()> {
    let rows = folder().join("rows");
    fs::create_dir_all(&rows).with_context(|| format!("cannot make {}", rows.display()))?;
    let name = format!("{} {}.json", line.group, line.fault).replace('/', "-");
    fs::write(rows.join(&name), serde_json::to_string_pretty(line)?).with_context(|| format!("cannot write {name}"))?;
    let mut lines = Vec::new();
    for entry in fs::read_dir(&rows)? {
        // Another run may be writing just now: its table has that row.
        if let Ok(line) = serde_json::from_str::<Line>(&fs::read_to_string(entry?.path())?) {
            lines.push(line);
        }
    }
    fs::write(folder().join("table.md"), markdown(&mut lines)).context("cannot write the table of the fault matrix")
}

fn markdown(lines: &mut [Line]) -> String {
    lines.sort_by(|one, other| (&one.group, &one.fault).cmp(&(&other.group, &other.fault)));
    let rows: String = lines.iter().map(|line| line.markdown() + "\n").collect();
    format!("{HEAD}\n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::outcome::Outcome;
    use leader_ledger::overlap::Writer;

    fn summary() -> Summary {
        let outcome = |seconds, moved| Outcome { leaderless: Duration::from_secs(seconds), moved };
        Summary { outcomes: vec![outcome(9, true), outcome(3, true), outcome(5, false)], ..Summary::default() }
    }

    #[test]
    fn a_good_row_is_short() {
        let line = Line::new("network", "cut", 15, None, &summary());
        assert_eq!(line.markdown(), "| network: cut | 15 s | 3 | 2 | 0 | 5.00 s | 9.00 s |");
    }

    #[test]
    fn a_bad_row_says_so() {
        let writer = |pod: &str| Writer { pod: pod.to_owned(), token: Some(1), started: 0 };
        let two = |until| Overlap { earlier: writer("a"), later: writer("b"), from: 1, until };
        let summary = Summary {
            overlaps: vec![two(1_500_000_000), two(20)],
            failures: vec!["nobody led".to_owned()],
            ..summary()
        };
        let line = Line::new("network", "cut", 5, Some("why"), &summary);
        let row =
            "| network: cut (a limit: why) | 5 s | 3 and 1 failed | 2 | **2**, at most 1.50 s | 5.00 s | 9.00 s |";
        assert_eq!(line.markdown(), row);
        assert_eq!(serde_json::from_str::<Line>(&serde_json::to_string(&line).unwrap()).unwrap(), line);
    }

    #[test]
    fn a_rivals_overlaps_are_told_apart() {
        let writer = |pod: &str, token| Writer { pod: pod.to_owned(), token, started: 0 };
        let two = Overlap { earlier: writer("a", Some(1)), later: writer("rival", None), from: 1, until: 250_000_000 };
        let line = Line::new("workload", "rival", 15, None, &Summary { with_rival: vec![two], ..summary() });
        let row = "| workload: rival | 15 s | 3 | 2 | 0; with the rival 1, at most 0.25 s | 5.00 s | 9.00 s |";
        assert_eq!(line.markdown(), row);
    }

    #[test]
    fn rows_of_a_group_stand_together() {
        let line = |group, fault| Line::new(group, fault, 5, None, &summary());
        let text = markdown(&mut [line("b", "one"), line("a", "two"), line("b", "a first")]);
        let order: Vec<_> = text.lines().skip(2).map(|row| row.split('|').nth(1).unwrap().trim()).collect();
        assert_eq!(order, ["a: two", "b: a first", "b: one"]);
    }
}
