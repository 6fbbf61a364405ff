//! The ledger itself: takes entries, numbers them without gaps, remembers every writer. No I/O, no clock.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::overlap::{Overlaps, Run, Writer, overlaps};
use crate::report::{Report, RunReport};
use crate::wire::{Entry, Hello};

/// How many of the latest entries are kept word for word: a keeper may stand for days and must not grow.
const KEPT_ENTRIES: usize = 1000;

/// Every entry's sum, and the latest entries.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: u64,
    highest_number: u64,
    highest_token: u64,
    runs: BTreeMap<Writer, Account>,
    latest: VecDeque<Kept>,
}

/// An entry as the ledger holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its place in the ledger, gap-free from 1.
    pub place: u64,
    /// The writer's pod.
    pub pod: String,
    /// The writer's fencing token.
    pub token: Option<u64>,
    /// The writer's number and times.
    #[serde(flatten)]
    pub entry: Entry,
    /// When the keeper received it, by the boot clock, in nanoseconds.
    pub received: u64,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Appended, with the number that was due.
    Kept,
    /// Appended, with a number that was given before: another writer is at work.
    GivenTwice,
    /// Appended, with a number that leaves some out.
    Gap,
    /// Not appended: a newer term has begun, so the writer is late.
    Refused,
    /// Not appended: the writer itself has opened a newer connection.
    Stale,
}

/// A connection of a writer, as the ledger knows it.
#[derive(Clone, Debug)]
pub struct Seat {
    writer: Writer,
    connection: u64,
}

#[derive(Debug, Default)]
struct Account {
    connections: u64,
    last: u64,
    first_wall: u64,
    last_received: u64,
    entries: u64,
    given_twice: u64,
    gaps: u64,
    refused: u64,
}

impl Ledger {
    /// Begins a connection at `received` by the boot clock, in nanoseconds: from now on older tokens, and older
    /// connections of this writer, are refused. Gives the number that is due.
    pub fn open(&mut self, hello: &Hello, received: u64) -> (Seat, u64) {
        let writer = hello.writer.clone();
        self.highest_token = self.highest_token.max(writer.token.unwrap_or(0));
        let account =
            self.runs.entry(writer.clone()).or_insert_with(|| Account { first_wall: hello.wall, ..Account::default() });
        account.connections += 1;
        account.seen(hello.boot, received);
        (Seat { writer, connection: account.connections }, self.highest_number + 1)
    }

    /// Takes an entry that was received at `received` by the boot clock, in nanoseconds.
    pub fn append(&mut self, seat: &Seat, entry: Entry, received: u64) -> Outcome {
        let account = self.runs.entry(seat.writer.clone()).or_default();
        // Whatever becomes of the entry, its writer was alive when it wrote it.
        account.seen(entry.boot, received);
        if account.connections != seat.connection {
            return Outcome::Stale;
        }
        if seat.writer.token.is_some_and(|token| token < self.highest_token) {
            account.refused += 1;
            return Outcome::Refused;
        }
        account.entries += 1;
        let due = self.highest_number + 1;
        let outcome = match entry.number.cmp(&due) {
            std::cmp::Ordering::Less => {
                account.given_twice += 1;
                Outcome::GivenTwice
            }
            std::cmp::Ordering::Equal => Outcome::Kept,
            std::cmp::Ordering::Greater => {
                account.gaps += 1;
                Outcome::Gap
            }
        };
        self.highest_number = self.highest_number.max(entry.number);
        self.entries += 1;
        if self.latest.len() == KEPT_ENTRIES {
            self.latest.pop_front();
        }
        let Writer { pod, token, .. } = seat.writer.clone();
        self.latest.push_back(Kept { place: self.entries, pod, token, entry, received });
        outcome
    }

    /// The latest entries, oldest first.
    pub fn latest(&self) -> impl Iterator<Item = &Kept> {
        self.latest.iter()
    }

    /// Everything that was seen, every writer in the order of its first stamp; `now` by the boot clock, in nanoseconds.
    pub fn report(&self, now: u64) -> Report {
        let mut runs: Vec<RunReport> = self
            .runs
            .iter()
            .map(|(writer, account)| RunReport {
                run: Run { writer: writer.clone(), first: writer.started, last: account.last },
                first_wall: account.first_wall,
                last_received: account.last_received,
                entries: account.entries,
                given_twice: account.given_twice,
                gaps: account.gaps,
                refused: account.refused,
            })
            .collect();
        runs.sort_by_key(|report| report.run.first);
        let spans: Vec<Run> = runs.iter().map(|report| report.run.clone()).collect();
        let Overlaps { elected, unelected } = overlaps(&spans);
        Report { now, entries: self.entries, next: self.highest_number + 1, runs, elected, unelected }
    }
}

impl Account {
    fn seen(&mut self, written: u64, received: u64) {
        self.last = self.last.max(written);
        self.last_received = self.last_received.max(received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(pod: &str, token: Option<u64>, boot: u64) -> Hello {
        let writer = Writer { pod: pod.to_owned(), token, started: boot - 1 };
        Hello { writer, boot, wall: boot }
    }

    fn entry(number: u64, boot: u64) -> Entry {
        Entry { number, boot, wall: boot }
    }

    #[test]
    fn one_writer_continues_where_another_ended() {
        let mut ledger = Ledger::default();
        let (first, next) = ledger.open(&hello("a", Some(10), 99), 99);
        assert_eq!(next, 1);
        assert_eq!(ledger.append(&first, entry(1, 100), 101), Outcome::Kept);
        assert_eq!(ledger.append(&first, entry(2, 110), 111), Outcome::Kept);
        let (second, next) = ledger.open(&hello("b", Some(20), 115), 115);
        assert_eq!(next, 3);
        assert_eq!(ledger.append(&second, entry(3, 120), 121), Outcome::Kept);
        let report = ledger.report(130);
        assert_eq!((report.entries, report.next), (3, 4));
        assert_eq!(report.elected, []);
        assert_eq!((report.runs[0].run.first, report.runs[0].run.last), (98, 110));
    }

    #[test]
    fn two_writers_without_tokens_give_numbers_twice() {
        let mut ledger = Ledger::default();
        let (a, _) = ledger.open(&hello("a", None, 90), 90);
        let (b, _) = ledger.open(&hello("b", None, 91), 91);
        assert_eq!(ledger.append(&a, entry(1, 100), 100), Outcome::Kept);
        assert_eq!(ledger.append(&b, entry(1, 101), 101), Outcome::GivenTwice);
        assert_eq!(ledger.append(&a, entry(2, 102), 102), Outcome::Kept);
        let report = ledger.report(110);
        assert_eq!(report.unelected.len(), 1);
        assert_eq!(report.runs[1].given_twice, 1);
    }

    #[test]
    fn a_late_entry_of_an_older_term_is_refused_and_still_seen() {
        let mut ledger = Ledger::default();
        let (old, _) = ledger.open(&hello("a", Some(10), 90), 90);
        assert_eq!(ledger.append(&old, entry(1, 100), 100), Outcome::Kept);
        let (_, next) = ledger.open(&hello("b", Some(20), 104), 104);
        assert_eq!(ledger.append(&old, entry(2, 105), 130), Outcome::Refused);
        assert_eq!(next, 2);
        let report = ledger.report(140);
        assert_eq!(report.entries, 1);
        assert_eq!((report.runs[0].refused, report.runs[0].run.last), (1, 105));
        assert_eq!(report.elected.len(), 1);
    }

    #[test]
    fn what_is_left_in_an_older_connection_of_the_same_writer_is_not_appended() {
        let mut ledger = Ledger::default();
        let again = hello("a", None, 90);
        let (old, _) = ledger.open(&again, 90);
        let (new, _) = ledger.open(&again, 140);
        assert_eq!(ledger.append(&old, entry(1, 100), 200), Outcome::Stale);
        assert_eq!(ledger.append(&new, entry(1, 150), 201), Outcome::Kept);
        assert_eq!(ledger.report(210).entries, 1);
    }

    #[test]
    fn a_number_left_out_is_told() {
        let mut ledger = Ledger::default();
        let (seat, _) = ledger.open(&hello("a", None, 90), 90);
        assert_eq!(ledger.append(&seat, entry(3, 100), 100), Outcome::Gap);
        assert_eq!(ledger.report(101).runs[0].gaps, 1);
    }

    #[test]
    fn only_the_latest_entries_are_kept() {
        let mut ledger = Ledger::default();
        let (seat, _) = ledger.open(&hello("a", None, 1), 1);
        for number in 1..=KEPT_ENTRIES as u64 + 5 {
            ledger.append(&seat, entry(number, number), number);
        }
        assert_eq!(ledger.latest().count(), KEPT_ENTRIES);
        assert_eq!(ledger.latest().next().unwrap().place, 6);
    }

    #[test]
    fn a_writer_that_only_said_hello_was_alive() {
        let mut ledger = Ledger::default();
        ledger.open(&hello("a", Some(1), 90), 91);
        ledger.open(&hello("b", Some(2), 80), 92);
        assert_eq!(ledger.report(100).elected, []);
        ledger.open(&hello("c", Some(3), 90), 93);
        assert_eq!(ledger.report(100).elected.len(), 1);
    }
}
