//! The judgement: which writers were alive at the same time, by their own stamps.
//!
//! All stamps are of the machine's boot clock, in nanoseconds.

use serde::{Deserialize, Serialize};

/// One process of a writer, from its first stamp to its last. Its helpers count as the same run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who it is.
    #[serde(flatten)]
    pub writer: Writer,
    /// Its first stamp.
    pub first: u64,
    /// Its last stamp.
    pub last: u64,
}

/// What tells one run of a writer from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Writer {
    /// The pod's name.
    pub pod: String,
    /// The fencing token of the term; absent in a pod that is not elected.
    pub token: Option<u64>,
    /// When the process started, by its own boot clock.
    pub started: u64,
}

impl Writer {
    /// Whether an election was won before this run started.
    pub fn elected(&self) -> bool {
        self.token.is_some()
    }
}

/// Two runs that were alive at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The run that started writing earlier.
    pub earlier: Writer,
    /// The run that started writing before the other had ended.
    pub later: Writer,
    /// The first moment at which both were alive.
    pub from: u64,
    /// The last moment at which both were alive.
    pub until: u64,
}

/// Every overlap of some runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlaps {
    /// Two elected runs: what must never be.
    pub elected: Vec<Overlap>,
    /// Two runs of which at least one was not elected: the harm that election ends.
    pub unelected: Vec<Overlap>,
}

/// Finds every pair of runs that share a moment; a shared stamp is a shared moment.
pub fn overlaps(runs: &[Run]) -> Overlaps {
    let mut ordered: Vec<&Run> = runs.iter().collect();
    ordered.sort_by_key(|run| (run.first, run.last));
    let mut found = Overlaps::default();
    for (index, earlier) in ordered.iter().enumerate() {
        for later in ordered[index + 1..].iter().take_while(|later| later.first <= earlier.last) {
            let overlap = Overlap {
                earlier: earlier.writer.clone(),
                later: later.writer.clone(),
                from: later.first,
                until: earlier.last.min(later.last),
            };
            if earlier.writer.elected() && later.writer.elected() {
                found.elected.push(overlap);
            } else {
                found.unelected.push(overlap);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pod: &str, token: Option<u64>, first: u64, last: u64) -> Run {
        Run { writer: Writer { pod: pod.to_owned(), token, started: first }, first, last }
    }

    #[test]
    fn runs_one_after_the_other_do_not_overlap() {
        let found = overlaps(&[run("b", Some(2), 11, 20), run("a", Some(1), 1, 10)]);
        assert_eq!(found, Overlaps::default());
    }

    #[test]
    fn a_shared_stamp_is_an_overlap() {
        let found = overlaps(&[run("a", Some(1), 1, 10), run("b", Some(2), 10, 20)]);
        assert_eq!(found.elected.len(), 1);
        assert_eq!((found.elected[0].from, found.elected[0].until), (10, 10));
    }

    #[test]
    fn a_run_inside_another_lasts_as_long_as_the_inner_one() {
        let found = overlaps(&[run("inner", Some(2), 5, 6), run("outer", Some(1), 1, 10)]);
        assert_eq!(found.elected[0].earlier.pod, "outer");
        assert_eq!((found.elected[0].from, found.elected[0].until), (5, 6));
    }

    #[test]
    fn a_long_run_is_found_beside_every_one_that_follows() {
        let found = overlaps(&[run("a", Some(1), 1, 100), run("b", Some(2), 2, 3), run("c", Some(3), 50, 60)]);
        let pairs: Vec<_> = found.elected.iter().map(|o| (o.earlier.pod.as_str(), o.later.pod.as_str())).collect();
        assert_eq!(pairs, [("a", "b"), ("a", "c")]);
    }

    #[test]
    fn a_pair_with_one_unelected_run_is_no_overlap_of_elected_ones() {
        let found = overlaps(&[run("a", None, 1, 10), run("b", Some(2), 5, 20), run("c", None, 8, 9)]);
        assert_eq!(found.elected, []);
        assert_eq!(found.unelected.len(), 3);
    }

    #[test]
    fn two_runs_of_one_pod_are_two() {
        let found = overlaps(&[run("a", Some(1), 1, 10), run("a", Some(1), 9, 20)]);
        assert_eq!(found.elected.len(), 1);
    }
}
