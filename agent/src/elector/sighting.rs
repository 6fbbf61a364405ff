//! What a candidate has seen of the Lease, and when it may take it. Pure; the two clocks come in as arguments.

use std::time::Duration;

use jiff::Timestamp;

use super::{Settings, Source, standby::may_acquire};
use crate::{
    clock::Now,
    lease::record::{Inherited, Record},
    mutant::{self, Mutant},
    names,
    timing::{PREFERENCE_WAIT, TRANSFER_WAIT},
};

/// Longer than this nobody waits, whatever a record says.
const LONGEST_WAIT: Duration = Duration::from_secs(names::MAX_LEASE_SECONDS);

/// The newest state of the Lease, and since when it stands unchanged.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    record: Record,
    /// The newest resourceVersion known, that of a deletion included.
    version: u64,
    absent: bool,
    /// When the fields that a holder renews were first seen as they are: both clocks, because either may be slow.
    since: Now,
    /// When it was first seen that these candidates may take the Lease, or may not: from then on some leave it to others.
    opened: Duration,
    /// What the Lease says of the last term that was given away because the app was not ready, and when it was first seen to say so.
    given_up: Option<(String, Duration)>,
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
        let given_up = record.annotation(names::GIVEN_UP).map(|term| (term.to_owned(), now.boot));
        Self {
            record,
            version,
            absent: false,
            since: now,
            opened: now.boot,
            given_up,
            received: now.boot,
            longest,
            restored: false,
        }
    }

    /// When leadership was seen to have been given away because the app was not ready; nobody's clock but this machine's counts.
    pub(super) fn given_up_at(&self) -> Option<Duration> {
        self.given_up.as_ref().map(|&(_, at)| at)
    }

    /// The newest record, `None` while the Lease is absent.
    pub(super) fn record(&self) -> Option<&Record> {
        (!self.absent).then_some(&self.record)
    }

    /// What a Lease that comes back must carry over.
    pub(super) fn inherited(&self) -> Inherited {
        let value = |key: &str| self.record.annotation(key).map(str::to_owned);
        let hold = value(names::HOLD).filter(|_| !mutant::is(Mutant::HoldForgotten));
        Inherited { turning_on: value(names::TURNING_ON), hold }
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
        let forgets = (taken_over && !went_back) || mutant::is(Mutant::WaitsNewestDuration);
        self.longest = if forgets { duration } else { self.longest.max(duration) };
        if went_back && !mutant::is(Mutant::RestoredIsFree) {
            self.restored = true;
        } else if taken_over && record.holder.is_some() {
            self.restored = false;
        }
        let another = !same_object && !mutant::is(Mutant::NewObjectContinuesWait);
        if !same_object || key(&record) != key(&self.record) || opening(&record) != opening(&self.record) {
            self.opened = now.boot;
        }
        let given_up = record.annotation(names::GIVEN_UP);
        if given_up != self.given_up.as_ref().map(|(term, _)| term.as_str()) {
            self.given_up = given_up.map(|term| (term.to_owned(), now.boot));
        }
        if another || self.absent || went_back || key(&record) != key(&self.record) {
            self.since = since(source, now);
        } else if mutant::is(Mutant::SwapsFirstVersion) {
            return Update::Taken;
        }
        self.version = record.resource_version;
        self.record = record;
        self.absent = false;
        self.received = now.boot;
        Update::Taken
    }

    /// Whether `candidate` may take this Lease now.
    pub(super) fn is_free(&self, candidate: &Settings, now: Now) -> bool {
        !self.absent && self.free_in(candidate, now).is_zero()
    }

    /// After what time `candidate` may take this Lease, unless it changes.
    pub(super) fn free_in(&self, candidate: &Settings, now: Now) -> Duration {
        let meant = self.record.is_meant_for(&candidate.identity);
        let empty = self.record.holder.is_none()
            && (mutant::is(Mutant::EmptyIsFree) || (mutant::is(Mutant::TransferWithoutProof) && meant == Some(true)));
        if !empty && !self.is_released() {
            return self.remaining(candidate, now);
        }
        // Others may have a better right to a released Lease, for a moment from when it can be taken.
        let transfer = match meant {
            Some(false) if mutant::is(Mutant::TransferHasNoEnd) => LONGEST_WAIT,
            Some(false) if !mutant::is(Mutant::TransferIgnored) => TRANSFER_WAIT,
            _ => Duration::ZERO,
        };
        let yields = candidate.yields && meant != Some(true) && !mutant::is(Mutant::PreferenceIgnored);
        let place = if yields { PREFERENCE_WAIT } else { Duration::ZERO };
        (transfer + place).saturating_sub(now.boot.saturating_sub(self.opened))
    }

    /// Whether the last holder gave it back by a proof that can be believed.
    fn is_released(&self) -> bool {
        !self.restored && self.record.is_free()
    }

    /// How much of the wait for a Lease that is not released is left: the full wait must pass on both clocks.
    fn remaining(&self, candidate: &Settings, now: Now) -> Duration {
        let own = candidate.timing.lease();
        let wait = if mutant::is(Mutant::WaitsOwnDuration) {
            own
        } else if mutant::is(Mutant::WaitsRecordDuration) {
            self.longest
        } else if mutant::is(Mutant::PreferenceShortensWait) && !candidate.yields {
            self.longest.max(own) * 3 / 4
        } else {
            self.longest.max(own).min(LONGEST_WAIT)
        };
        let on_boot = now.boot.saturating_sub(self.since.boot);
        let passed = if mutant::is(Mutant::WaitsOnOneClock) {
            on_boot
        } else if mutant::is(Mutant::TrustsRenewTime) {
            since_renewal(&self.record, now)
        } else {
            on_boot.min(now.raw.saturating_sub(self.since.raw))
        };
        wait.saturating_sub(passed)
    }

    /// The duration that a Lease made anew should carry, so that candidates which saw nothing wait long enough.
    pub(super) fn longest(&self, own: Duration) -> Duration {
        self.longest.max(own).min(LONGEST_WAIT)
    }

    /// An observation that may be older than the newest: an event of the watch, or a read sent before that came in.
    fn is_late(&self, source: Source) -> bool {
        match source {
            _ if mutant::is(Mutant::StaleIsNews) => false,
            Source::Watch => true,
            Source::Read { sent } => sent < self.received,
        }
    }
}

/// From when a change counts that `source` showed at `now`: from its receipt, because it may be as new as that.
fn since(source: Source, now: Now) -> Now {
    match source {
        Source::Read { sent } if mutant::is(Mutant::WaitsFromSending) => {
            let ago = now.boot.saturating_sub(sent);
            Now { boot: sent, raw: now.raw.saturating_sub(ago), wall: now.wall }
        }
        _ => now,
    }
}

/// How old a renewal is by the wall clocks of its writer and of this machine: a mistake.
fn since_renewal(record: &Record, now: Now) -> Duration {
    let renewed = record.renew_time.map_or(i64::MIN, Timestamp::as_millisecond);
    Duration::from_millis(u64::try_from(now.wall.as_millisecond().saturating_sub(renewed)).unwrap_or_default())
}

/// By what it is decided who may take a released Lease first, beside [`key`].
fn opening(record: &Record) -> impl PartialEq + '_ {
    (record.is_free(), may_acquire(record), record.annotation(names::TRANSFER_TO))
}

/// L starts again when one of these changes, and only then: edits of metadata must not feed a dead leader.
fn key(record: &Record) -> impl PartialEq + '_ {
    (
        mutant::is(Mutant::MetadataFeeds).then_some(record.resource_version),
        record.holder.as_deref(),
        record.acquire_time,
        record.renew_time,
        record.transitions,
        record.duration,
    )
}
