//! The rows, and how each came out.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leader_tests::progress::say;

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No rollout, and the template is the same to the last byte.
    Unchanged,
    /// One more revision.
    RolledOut,
    /// Refused, as it would be without leader.
    Refused,
}

struct Row {
    what: String,
    took: Duration,
    result: Result<Outcome>,
}

/// Rows about one workload, which are written one after the other.
pub(super) struct Group {
    name: String,
    rows: Vec<Row>,
}

impl Group {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), rows: Vec::new() }
    }

    /// A row that fails does not keep the next ones from being written: each is a write of its own.
    pub(super) fn row(&mut self, what: &str, row: impl FnOnce() -> Result<Outcome>) {
        let started = Instant::now();
        let result = row();
        self.rows.push(Row { what: what.to_owned(), took: started.elapsed(), result });
    }

    /// What kept a group from being written at all counts as a row that failed.
    pub(super) fn filled(mut self, fill: impl FnOnce(&mut Self) -> Result<()>) -> Self {
        if let Err(error) = fill(&mut self) {
            self.row("(all of the others)", || Err(error));
        }
        self
    }
}

/// Prints every row, and fails when one did.
pub(super) fn judge(groups: &[Group]) -> Result<()> {
    let rows: Vec<(&Group, &Row)> =
        groups.iter().flat_map(|group| group.rows.iter().map(move |row| (group, row))).collect();
    let width = |length: &dyn Fn(&(&Group, &Row)) -> usize| rows.iter().map(length).max().unwrap_or_default();
    let first = width(&|(group, _)| group.name.len());
    let second = width(&|(_, row)| row.what.len());
    for (group, row) in &rows {
        let outcome = match &row.result {
            Ok(Outcome::Unchanged) => "unchanged",
            Ok(Outcome::RolledOut) => "rolled out",
            Ok(Outcome::Refused) => "refused, as without leader",
            Err(_) => "FAILED",
        };
        say(format!("{:first$}  {:second$}  {:>5.1} s  {outcome}", group.name, row.what, row.took.as_secs_f32()));
    }
    let failed: Vec<String> = rows
        .iter()
        .filter_map(|(group, row)| {
            let error = row.result.as_ref().err()?;
            Some(format!("{}: {}: {error:#}", group.name, row.what))
        })
        .collect();
    say(format!("{} rows, {} failed", rows.len(), failed.len()));
    ensure!(failed.is_empty(), "rows failed:\n{}", failed.join("\n"));
    ensure!(!rows.is_empty(), "the table has no rows");
    Ok(())
}
