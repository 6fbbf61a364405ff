//! The keeper's report: for programs as JSON, for people as a table.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::overlap::{Overlap, Run, Writer};

/// Everything that the keeper saw. All times but the wall clock's are of the boot clock, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When the report was made.
    pub now: u64,
    /// How many entries the ledger has.
    pub entries: u64,
    /// The number that is due.
    pub next: u64,
    /// Every writer, in the order of its first stamp.
    pub runs: Vec<RunReport>,
    /// Elected writers that were alive at the same time.
    pub elected: Vec<Overlap>,
    /// Writers that were alive at the same time, at least one of them not elected.
    pub unelected: Vec<Overlap>,
}

/// What one run of a writer did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// Who wrote, and from when to when by its own stamps.
    #[serde(flatten)]
    pub run: Run,
    /// The first stamp by the writer's wall clock, in nanoseconds since 1970.
    pub first_wall: u64,
    /// When the keeper received the last entry.
    pub last_received: u64,
    /// How many entries were appended.
    pub entries: u64,
    /// How many of them had a number that was given before.
    pub given_twice: u64,
    /// How many of them left numbers out.
    pub gaps: u64,
    /// How many entries more were refused, because a newer term had begun.
    pub refused: u64,
}

impl Report {
    /// The runs whose last entry was received less than `within` nanoseconds before the report.
    pub fn writing(&self, within: u64) -> impl Iterator<Item = &RunReport> {
        self.runs.iter().filter(move |report| report.last_received.saturating_add(within) > self.now)
    }
}

/// A boot clock's time as seconds since `start`.
fn seconds(time: u64, start: u64) -> String {
    let milliseconds = time.saturating_sub(start) / 1_000_000;
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

fn token(writer: &Writer) -> String {
    writer.token.map_or_else(|| "none".to_owned(), |token| token.to_string())
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.runs.first().map_or(self.now, |report| report.run.first);
        writeln!(
            formatter,
            "{} entries in {} s, the next number is {}",
            self.entries,
            seconds(self.now, start),
            self.next
        )?;
        let pods = self.runs.iter().map(|report| report.run.writer.pod.len());
        let width = pods.chain(["WRITER".len()]).max().unwrap_or_default();
        writeln!(
            formatter,
            "{:width$}  {:>8}  {:>9}  {:>9}  {:>7}  {:>11}  {:>4}  {:>7}",
            "WRITER", "TOKEN", "FROM (s)", "TO (s)", "ENTRIES", "GIVEN TWICE", "GAPS", "REFUSED"
        )?;
        for report in &self.runs {
            let Run { writer, first, last } = &report.run;
            writeln!(
                formatter,
                "{:width$}  {:>8}  {:>9}  {:>9}  {:>7}  {:>11}  {:>4}  {:>7}",
                writer.pod,
                token(writer),
                seconds(*first, start),
                seconds(*last, start),
                report.entries,
                report.given_twice,
                report.gaps,
                report.refused
            )?;
        }
        writeln!(formatter, "overlaps of elected writers: {}", self.elected.len())?;
        for overlap in &self.elected {
            writeln!(
                formatter,
                "  {} (token {}) and {} (token {}): from {} s to {} s",
                overlap.earlier.pod,
                token(&overlap.earlier),
                overlap.later.pod,
                token(&overlap.later),
                seconds(overlap.from, start),
                seconds(overlap.until, start)
            )?;
        }
        writeln!(formatter, "overlaps with writers that are not elected: {}", self.unelected.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let writer = |pod: &str, token| Writer { pod: pod.to_owned(), token, started: 0 };
        let run = |writer, first, last| RunReport {
            run: Run { writer, first, last },
            first_wall: 0,
            last_received: last,
            entries: 1,
            given_twice: 0,
            gaps: 0,
            refused: 0,
        };
        let overlap = Overlap {
            earlier: writer("writer-1", Some(10)),
            later: writer("writer-2", Some(20)),
            from: 3_000_000_000,
            until: 3_250_000_000,
        };
        Report {
            now: 4_000_000_000,
            entries: 2,
            next: 3,
            runs: vec![
                run(writer("writer-1", Some(10)), 1_000_000_000, 3_250_000_000),
                run(writer("writer-2", Some(20)), 3_000_000_000, 3_990_000_000),
            ],
            elected: vec![overlap],
            unelected: vec![],
        }
    }

    #[test]
    fn the_table_names_every_writer_and_every_overlap() {
        let text = report().to_string();
        assert!(text.contains("2 entries in 3.000 s, the next number is 3"), "{text}");
        assert!(text.contains("writer-1        10      0.000      2.250        1"), "{text}");
        assert!(text.contains("  writer-1 (token 10) and writer-2 (token 20): from 2.000 s to 2.250 s"), "{text}");
    }

    #[test]
    fn only_who_was_heard_of_lately_is_writing() {
        let report = report();
        let writing: Vec<_> = report.writing(100_000_000).map(|run| run.run.writer.pod.as_str()).collect();
        assert_eq!(writing, ["writer-2"]);
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let report = report();
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#""pod":"writer-1","token":10,"started":0,"first":1000000000"#), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
