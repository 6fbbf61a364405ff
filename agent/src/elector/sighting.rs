//! What a candidate has seen of the Lease, and when it may take it. Pure; the two clocks come in as arguments.

use std::time::Duration;

use super::Source;
use crate::{
    clock::Now,
    lease::record::{Inherited, Record},
    names,
};

/// Longer than this nobody waits, whatever a record says.
const LONGEST_WAIT: Duration = Duration::from_secs(names::MAX_LEASE_SECONDS);

/// The newest state of the Lease, and since when it stands unchanged.
#[derive(Debug)]
pub(super) struct Sighting {
    record: Record,
    /// The newest resourceVersion known, that of a deletion included.
    version: u64,
    absent: bool,
    /// When the fields that a holder renews were first seen as they are: both clocks, because either may be slow.
    since: Now,
    /// When the newest state was received.
    received: Duration,
    /// The longest duration seen in this term, or since the Lease was lost.
    longest: Duration,
    /// The server's memory went back in time (a restored etcd): a release proof in it proves nothing.
    restored: bool,
}

/// What became of one observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// Older than what is known: it came late.
    Stale,
    /// Taken over.
    Taken,
}

impl Sighting {
    pub(super) fn new(record: Record, now: Now) -> Self {
        let longest = record.duration.unwrap_or_default();
        let version = record.resource_version;
        Self { record, version, absent: false, since: now, received: now.boot, longest, restored: false }
    }

    /// The newest record, `None` while the Lease is absent.
    pub(super) fn record(&self) -> Option<&Record> {
        (!self.absent).then_some(&self.record)
    }

    /// What a Lease that comes back must carry over.
    pub(super) fn inherited(&self) -> Inherited {
        Inherited { turning_on: self.record.annotation(names::TURNING_ON).map(str::to_owned) }
    }

    /// The Lease was not there; `version` is that of its deletion, where a watch told it.
    pub(super) fn lost(&mut self, version: Option<u64>, source: Source, now: Now) -> Update {
        let late = version.map_or_else(|| self.is_late(source), |version| version < self.version);
        if late {
            return Update::Stale;
        }
        self.absent = true;
        self.version = self.version.max(version.unwrap_or_default());
        self.received = now.boot;
        Update::Taken
    }

    /// The Lease was seen as `record`.
    pub(super) fn update(&mut self, record: Record, source: Source, now: Now) -> Update {
        let lower = record.resource_version < self.version;
        if (lower || (self.absent && record.resource_version == self.version)) && self.is_late(source) {
            return Update::Stale;
        }
        let same_object = record.uid == self.record.uid;
        if same_object && record.resource_version == self.record.resource_version && !self.absent {
            return Update::Taken;
        }
        // Resource versions count for the whole server, so a lower one under another uid is a restored server as well.
        let went_back = lower || (same_object && record.transitions < self.record.transitions);
        let taken_over = record.is_free()
            || (same_object
                && record.transitions > self.record.transitions
                && record.holder.is_some()
                && record.holder != self.record.holder);
        let duration = record.duration.unwrap_or_default();
        self.longest = if taken_over && !went_back { duration } else { self.longest.max(duration) };
        if went_back {
            self.restored = true;
        } else if taken_over && record.holder.is_some() {
            self.restored = false;
        }
        if !same_object || self.absent || went_back || key(&record) != key(&self.record) {
            self.since = now;
        }
        self.version = record.resource_version;
        self.record = record;
        self.absent = false;
        self.received = now.boot;
        Update::Taken
    }

    /// Whether a candidate whose own lease lasts `own` may take this Lease now.
    pub(super) fn is_free(&self, own: Duration, now: Now) -> bool {
        !self.absent && (self.is_released() || self.remaining(own, now).is_zero())
    }

    /// Whether the last holder gave it back by a proof that can be believed.
    fn is_released(&self) -> bool {
        !self.restored && self.record.is_free()
    }

    /// How much of the wait is left: the full wait must pass on both clocks.
    pub(super) fn remaining(&self, own: Duration, now: Now) -> Duration {
        let wait = self.longest.max(own).min(LONGEST_WAIT);
        let passed = now.boot.saturating_sub(self.since.boot).min(now.raw.saturating_sub(self.since.raw));
        wait.saturating_sub(passed)
    }

    /// The duration that a Lease made anew should carry, so that candidates which saw nothing wait long enough.
    pub(super) fn longest(&self, own: Duration) -> Duration {
        self.longest.max(own).min(LONGEST_WAIT)
    }

    /// An observation that may be older than the newest: an event of the watch, or a read sent before that came in.
    fn is_late(&self, source: Source) -> bool {
        match source {
            Source::Watch => true,
            Source::Read { sent } => sent < self.received,
        }
    }
}

/// L starts again when one of these changes, and only then: edits of metadata must not feed a dead leader.
fn key(record: &Record) -> impl PartialEq + '_ {
    (
        record.uid.as_str(),
        record.holder.as_deref(),
        record.acquire_time,
        record.renew_time,
        record.transitions,
        record.duration,
    )
}
