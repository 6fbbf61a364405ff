//! What the leader's agent and its followers say to each other: one line of JSON each.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The socket, in the folder that they share.
const SOCKET: &str = "follow.sock";
/// No line is longer.
pub(super) const LONGEST: usize = 4096;

/// Where the leader's agent listens.
pub(super) fn socket(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}

/// What a follower shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Run, or go on.
    Run,
    /// Ask what runs to stop.
    Stop,
    /// Kill what runs.
    Kill,
}

/// The leader's word. Each one moves the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub what: What,
    /// The fencing token of the term that this is about.
    pub token: u64,
    /// When everything of the follower is dead unless another order comes, in nanoseconds on the boot clock.
    deadline: u64,
    /// When others may run what this follower runs, unless another order comes, in the same way.
    end: u64,
}

impl Order {
    /// An order with this deadline, in a term with this end.
    pub fn new(what: What, token: u64, deadline: Duration, end: Duration) -> Self {
        // Some centuries after the machine's start.
        let nanos = |moment: Duration| u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX);
        Self { what, token, deadline: nanos(deadline), end: nanos(end) }
    }

    /// The deadline on the boot clock.
    pub fn deadline(&self) -> Duration {
        Duration::from_nanos(self.deadline)
    }

    /// The end of the term on the boot clock.
    pub fn end(&self) -> Duration {
        Duration::from_nanos(self.end)
    }
}

/// A follower's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// The first on every connection.
    Hello {
        /// The follower's container.
        name: String,
        /// Nothing that ran in this container before runs any more.
        clean: bool,
    },
    /// Nothing is left of what ran in this term.
    Gone {
        /// The fencing token of the term.
        token: u64,
    },
}

/// A word as it is sent.
pub(super) fn line(word: &impl Serialize) -> Vec<u8> {
    // Texts, numbers and names always make JSON.
    let mut line = serde_json::to_vec(word).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_one_line(sent: &[u8]) -> bool {
        sent.iter().position(|byte| *byte == b'\n') == Some(sent.len() - 1)
    }

    #[test]
    fn words_come_back_whole_and_in_one_line() {
        let order = Order::new(What::Stop, 4711, Duration::new(12, 345_678_901), Duration::new(13, 1));
        let sent = line(&order);
        assert!(sent.len() < LONGEST && is_one_line(&sent));
        let read: Order = serde_json::from_slice(&sent).unwrap();
        assert_eq!((read, read.deadline(), read.end()), (order, Duration::new(12, 345_678_901), Duration::new(13, 1)));
        for report in [Report::Hello { name: "side\ncar".into(), clean: true }, Report::Gone { token: 1 }] {
            let sent = line(&report);
            assert!(is_one_line(&sent));
            assert_eq!(serde_json::from_slice::<Report>(&sent).unwrap(), report);
        }
    }
}
