//! What the soak showed, as a table.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_tests::progress::say;

use super::outcome::{Disturbance, Outcome, Window, Write};

/// How many texts are shown of each kind.
const SHOWN: usize = 5;
/// An authority is to be replaced every minute. One that is late because of a disturbance is no failure; one in so long is.
const AUTHORITY: Duration = Duration::from_mins(4);
const HEAD: &str = "\
| Meanwhile | Times | Time | Annotated writes | Refused | Other writes | Refused | Why |
|---|---:|---:|---:|---:|---:|---:|---|
";

/// All that was seen.
pub(super) struct Soaked {
    pub(super) length: Duration,
    pub(super) writes: Vec<Write>,
    pub(super) windows: Vec<Window>,
    /// How many authorities signed.
    pub(super) authorities: usize,
}

/// How many writes there were, and how many of them were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    refused: usize,
}

/// A row of the table.
#[derive(Clone, Debug)]
struct Row {
    /// `None` for the time in which nothing but rotations went on.
    disturbance: Option<Disturbance>,
    times: usize,
    time: Duration,
    annotated: Count,
    others: Count,
}

/// What the soak showed.
pub(super) struct Summary {
    length: Duration,
    authorities: usize,
    rows: Vec<Row>,
    /// Annotated workloads that were stored bare.
    bare: Vec<String>,
    /// Unannotated workloads that were stored as something else, or refused though the API server was there.
    disturbed: Vec<String>,
    /// Annotated ones that were refused for no reason.
    unexplained: Vec<String>,
}

impl Summary {
    pub(super) fn of(soaked: &Soaked) -> Self {
        let mut summary = Self {
            length: soaked.length,
            authorities: soaked.authorities,
            rows: rows(soaked),
            bare: Vec::new(),
            disturbed: Vec::new(),
            unexplained: Vec::new(),
        };
        soaked.writes.iter().for_each(|write| summary.add(write, &soaked.windows));
        summary
    }

    fn add(&mut self, write: &Write, windows: &[Window]) {
        let mut window = windows.iter().find(|window| window.has(write));
        if let Outcome::Refused(cause, _) = write.outcome {
            // Two may follow each other so closely that a write was under way in both.
            window = windows.iter().find(|window| window.explains(write, cause)).or(window);
        }
        let disturbance = window.map(|window| window.disturbance);
        if let Some(row) = self.rows.iter_mut().find(|row| row.disturbance == disturbance) {
            let count = if write.annotated { &mut row.annotated } else { &mut row.others };
            count.all += 1;
            count.refused += usize::from(matches!(write.outcome, Outcome::Refused(..)));
        }
        let wrong = if write.annotated { &mut self.bare } else { &mut self.disturbed };
        match &write.outcome {
            Outcome::Stored => {}
            Outcome::Wrong(how) => wrong.push(how.clone()),
            Outcome::Refused(cause, _) if window.is_some_and(|window| window.explains(write, *cause)) => {}
            Outcome::Refused(cause, text) => {
                let when = disturbance.map_or("rotations alone", Disturbance::title);
                let text = format!("after {:.1} s ({when}), {cause:?}: {text}", write.began.as_secs_f64());
                if write.annotated { self.unexplained.push(text) } else { self.disturbed.push(text) }
            }
        }
    }

    /// The table and what it comes to, as Markdown.
    fn markdown(&self) -> String {
        let total = |count: fn(&Row) -> Count| {
            self.rows
                .iter()
                .map(count)
                .fold(Count::default(), |sum, one| Count { all: sum.all + one.all, refused: sum.refused + one.refused })
        };
        let (annotated, others) = (total(|row| row.annotated), total(|row| row.others));
        let mut text = format!(
            "In {:.0} minutes {} annotated and {} other workloads were written, while {} authorities signed one after the other. \
             Stored bare: {}. Unannotated ones disturbed: {}. Reviews refused: {}, of which unexplained: {}.\n\n{HEAD}",
            self.length.as_secs_f64() / 60.0,
            annotated.all,
            others.all,
            self.authorities,
            self.bare.len(),
            self.disturbed.len(),
            annotated.refused,
            self.unexplained.len(),
        );
        for Row { disturbance, times, time, annotated, others } in &self.rows {
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} s | {} | {} | {} | {} | {} |",
                disturbance.map_or("rotations alone", Disturbance::title),
                disturbance.map_or("-".to_owned(), |_| times.to_string()),
                time.as_secs_f64(),
                annotated.all,
                annotated.refused,
                others.all,
                others.refused,
                disturbance.map_or("no reason: none may be", Disturbance::reason),
            );
        }
        text
    }

    /// Prints the table, and writes it beside what cargo builds.
    pub(super) fn write(&self) -> Result<()> {
        let text = self.markdown();
        say(&text);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("soak");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = folder.join("table.md");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Fails when anything was disturbed, bare, or refused for no reason, or when the soak showed nothing.
    pub(super) fn judge(&self) -> Result<()> {
        for (what, texts) in [
            ("annotated workloads were stored bare", &self.bare),
            ("writes of workloads without annotations were disturbed", &self.disturbed),
            ("reviews were refused for no reason", &self.unexplained),
        ] {
            let shown = &texts[..texts.len().min(SHOWN)];
            ensure!(texts.is_empty(), "{} {what}: {shown:#?}", texts.len());
        }
        let least = self.length.as_secs() / AUTHORITY.as_secs();
        ensure!(self.authorities as u64 >= least, "only {} authorities signed", self.authorities);
        let alone = self.rows.iter().find(|row| row.disturbance.is_none());
        let written = alone.is_some_and(|row| row.annotated.all > 0 && row.others.all > 0);
        ensure!(written, "nothing was written while certificates alone were replaced");
        Ok(())
    }
}

/// The rows, without counts.
fn rows(soaked: &Soaked) -> Vec<Row> {
    let of = |wanted: Disturbance| soaked.windows.iter().filter(move |window| window.disturbance == wanted);
    let row = |disturbance, times, time| Row {
        disturbance,
        times,
        time,
        annotated: Count::default(),
        others: Count::default(),
    };
    let time = |windows: &mut dyn Iterator<Item = &Window>| -> Duration {
        windows.map(|window| window.until.saturating_sub(window.from)).sum()
    };
    let disturbed = time(&mut soaked.windows.iter());
    let alone = row(None, 0, soaked.length.saturating_sub(disturbed));
    let others = Disturbance::ALL.map(|one| row(Some(one), of(one).count(), time(&mut of(one))));
    [alone].into_iter().chain(others.into_iter().filter(|row| row.times > 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::outcome::Cause;

    fn write(annotated: bool, second: u64, outcome: Outcome) -> Write {
        let (began, ended) = (Duration::from_secs(second), Duration::from_millis(second * 1000 + 200));
        Write { annotated, began, ended, outcome }
    }

    fn summary(writes: Vec<Write>) -> Summary {
        let at = Duration::from_secs;
        let windows = vec![
            Window { disturbance: Disturbance::ReplicaKilled, from: at(10), until: at(20) },
            Window { disturbance: Disturbance::ApiServerRestarted, from: at(20), until: at(50) },
        ];
        Summary::of(&Soaked { length: Duration::from_mins(2), writes, windows, authorities: 2 })
    }

    #[test]
    fn refusals_that_had_to_be_fail_nothing() {
        let refused = |cause| Outcome::Refused(cause, "no".to_owned());
        let summary = summary(vec![
            write(true, 1, Outcome::Stored),
            write(false, 1, Outcome::Stored),
            write(true, 12, refused(Cause::NoAnswer)),
            // In both windows, and explained by the second.
            write(false, 20, refused(Cause::ApiServer)),
            write(true, 30, refused(Cause::Webhook)),
        ]);
        summary.judge().unwrap();
        let text = summary.markdown();
        for row in [
            "| rotations alone | - | 80 s | 1 | 0 | 1 | 0 |",
            "| a replica killed (SIGKILL) | 1 | 10 s | 1 | 1 | 0 | 0 |",
            "| API server killed and started again | 1 | 30 s | 1 | 1 | 1 | 1 |",
            "Reviews refused: 2, of which unexplained: 0.",
        ] {
            assert!(text.contains(row), "no `{row}` in {text}");
        }
        assert!(!text.contains("Secret"), "{text}");
    }

    #[test]
    fn what_must_never_be_fails() {
        let wrong = || Outcome::Wrong("it is bare".to_owned());
        let refused = || Outcome::Refused(Cause::NoAnswer, "no answer".to_owned());
        for (writes, message) in [
            (vec![write(true, 30, wrong())], "1 annotated workloads were stored bare"),
            (vec![write(false, 30, wrong())], "1 writes of workloads without annotations were disturbed"),
            (vec![write(false, 30, refused())], "1 writes of workloads without annotations were disturbed"),
            (vec![write(true, 5, refused())], "1 reviews were refused for no reason"),
            (vec![write(true, 30, Outcome::Stored)], "nothing was written while certificates alone were replaced"),
        ] {
            let error = summary(writes).judge().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
