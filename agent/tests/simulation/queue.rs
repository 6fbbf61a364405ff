//! What is going to happen, in the order of its time. Nothing of it knows what it means.

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc, time::Duration};

use leader_agent::{elector::Reply, lease::record::Record};
use serde_json::Value;

use crate::{fault::Fault, freeing, rival::Step};

/// What a watch or a read shows.
#[derive(Clone, Debug)]
pub(crate) enum View {
    Present(Rc<Record>),
    Absent(Option<u64>),
}

/// What happens next, to one machine.
#[derive(Debug)]
pub(crate) enum What {
    Start,
    Wake(u64),
    Guard(u64),
    Dead,
    Resume,
    Patience,
    CheckEnd,
    CheckGone(u64, &'static str),
    AppExits(u64),
    AppGone(u64),
    NothingLeft,
    Prepared(u64),
    ReadyAgain(u64),
    WriteArrives(u64, Value),
    WriteAnswered(u64, Reply),
    WriteTimeout(u64),
    ReadArrives(u64, Duration),
    ReadAnswered(u64, Duration, Option<View>),
    ReadTimeout(u64),
    Connect,
    ListArrives(Duration),
    ListAnswered(u64, Duration, View),
    Watched(u64, View),
    Fault(Fault),
    Rival(Step),
    Frees(freeing::Step),
    Reported(Option<freeing::Ended>),
}

/// One thing that happens, to one life of one machine.
pub(crate) struct Entry {
    pub at: Duration,
    pub number: u64,
    pub machine: usize,
    pub life: u32,
    pub what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// All that is going to happen.
#[derive(Default)]
pub(crate) struct Queue(BinaryHeap<Reverse<Entry>>);

impl Queue {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.0.push(Reverse(entry));
    }

    /// The next one, if it is not after `until`.
    pub(crate) fn pop_until(&mut self, until: Duration) -> Option<Entry> {
        self.0.peek().filter(|Reverse(next)| next.at <= until)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }
}
