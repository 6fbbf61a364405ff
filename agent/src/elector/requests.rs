//! What is sent and not yet answered, or may be stored without an answer. Leaves to the phases what to send and when.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{Action, Elector, Phase, Reply, Source, sighting::Sighting};
use crate::{
    clock::Now,
    lease::record::{Record, Term, whole_microseconds},
    mutant::{self, Mutant},
    timing::RETRY,
};

/// So many writes whose fate is unknown are remembered: far more than one lease has room for.
const ATTEMPTS: usize = 64;

/// One write that acquires or renews, and may be stored.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) number: u64,
    pub(super) sent: Now,
    pub(super) held: Held,
    /// The resourceVersion without which it cannot be stored; `None` for a creation.
    pub(super) base: Option<u64>,
}

/// The write whose reply is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) number: u64,
    pub(super) sent: Duration,
    /// After a conflict the next try can wait.
    pub(super) unhurried: bool,
}

/// Whether the Lease has to be looked at before anything else is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    No,
    Wanted,
    UnderWay,
}

/// What a write that acquires or renews says.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) term: Term,
    pub(super) renew_time: Timestamp,
}

impl Elector {
    pub(super) fn read_ended(&mut self, answered: bool, now: Now) {
        self.read = if answered { Reading::No } else { Reading::Wanted };
        if !answered {
            self.retry_later(now);
        }
    }

    pub(super) fn replied(&mut self, number: u64, reply: Reply, now: Now) {
        let Some(InFlight { sent, unhurried, .. }) = self.in_flight.take_if(|in_flight| in_flight.number == number)
        else {
            if let (Reply::Written(record), true) = (reply, mutant::is(Mutant::LateReplyRevives)) {
                self.lead_by_name(&record, now);
            }
            return;
        };
        if self.takes_for_stored(&reply) {
            self.believe(number, now);
        }
        match reply {
            Reply::Written(record) => {
                self.confirm(number, &record, now);
                self.seen(record, Source::Read { sent }, now);
            }
            Reply::Conflict => {
                self.read = Reading::Wanted;
                if unhurried {
                    // A creation, say, refused though the Lease was not there a moment ago: a server that goes on like this, because
                    // the namespace is gone, is not asked in a loop.
                    self.retry_later(now);
                }
                if let Phase::Leading(leading) = &mut self.phase {
                    leading.renew_at(now.boot + RETRY);
                }
            }
            Reply::Refused => {
                self.attempts.retain(|attempt| attempt.number != number);
                self.retry_later(now);
                if let Phase::Leading(leading) = &mut self.phase {
                    leading.renew_at(now.boot);
                }
            }
            Reply::Unknown => {
                if now.boot.saturating_sub(sent) < RETRY {
                    self.retry_later(now);
                }
                match &mut self.phase {
                    Phase::Leading(leading) => leading.renew_at(now.boot),
                    _ => self.read = Reading::Wanted,
                }
            }
        }
    }

    /// Asks for a read where one is wanted and allowed now; whether it was asked for, or is under way.
    pub(super) fn read_if_wanted(&mut self, now: Now) -> bool {
        if self.in_flight.is_some() {
            return true;
        }
        if self.read == Reading::Wanted && now.boot >= self.not_before {
            self.read = Reading::UnderWay;
            self.actions.push_back(Action::Read);
        }
        self.read != Reading::No
    }

    /// What a read could tell is known.
    pub(super) fn no_read_wanted(&mut self) {
        if self.read == Reading::Wanted {
            self.read = Reading::No;
        }
    }

    /// Whether this reply is taken for a success, without being one: a mistake.
    fn takes_for_stored(&self, reply: &Reply) -> bool {
        match (&self.phase, reply) {
            (Phase::Leading(_), Reply::Unknown) => mutant::is(Mutant::UnknownMovesDeadline),
            (Phase::Leading(_), Reply::Conflict) => mutant::is(Mutant::ConflictIsSuccess),
            (Phase::Standby(_), Reply::Unknown) => mutant::is(Mutant::LeadsOnUnknown),
            _ => false,
        }
    }

    /// Goes on as if the write with this number were known to be stored.
    fn believe(&mut self, number: u64, now: Now) {
        let Some(attempt) = self.attempts.iter().find(|attempt| attempt.number == number) else { return };
        let (held, sent, token) = (attempt.held.clone(), attempt.sent, attempt.base.unwrap_or_default() + 1);
        match self.phase {
            Phase::Leading(_) => self.renewed(held, sent, now),
            _ => self.lead(held, token, sent, now),
        }
    }

    pub(super) fn write(&mut self, mut body: Value, held: Option<Held>, base: Option<u64>, now: Now) {
        if mutant::is(Mutant::UpdateWithoutUid) {
            body["metadata"]["uid"].take();
        }
        if mutant::is(Mutant::BlindWrite) {
            body["metadata"]["resourceVersion"].take();
        }
        let number = self.next_attempt;
        self.next_attempt += 1;
        self.in_flight = Some(InFlight { number, sent: now.boot, unhurried: base.is_none() });
        // Only what holds the Lease has to be known again when it is seen.
        self.attempts.extend(held.map(|held| Attempt { number, sent: now, held, base }));
        // One that is forgotten is not known again when it is seen: that costs a wait, and never safety.
        self.attempts.drain(..self.attempts.len().saturating_sub(ATTEMPTS));
        self.actions.push_back(Action::Write { attempt: number, body });
    }

    /// A wall-clock time for a write, as a `MicroTime` holds it, different from all that this process wrote before.
    pub(super) fn stamp(&mut self, now: Now) -> Timestamp {
        let after_last = Timestamp::from_microsecond(self.last_stamp.as_microsecond() + 1).unwrap_or(Timestamp::MAX);
        self.last_stamp = whole_microseconds(now.wall).max(after_last);
        self.last_stamp
    }

    pub(super) fn retry_later(&mut self, now: Now) {
        let jitter = 0.8 + 0.4 * self.random.f64();
        self.not_before = self.not_before.max(now.boot + RETRY.mul_f64(jitter));
    }

    /// The attempt that `record` shows to be stored.
    pub(super) fn stored_attempt(&self, record: &Record) -> Option<(Held, Now)> {
        self.attempts.iter().find_map(|attempt| {
            let held = &attempt.held;
            let uid = held.term.uid.is_empty() || held.term.uid == record.uid;
            let same = record.holder.as_deref() == Some(self.settings.identity.as_str())
                && record.transitions == held.term.transitions
                && record.acquire_time == Some(held.term.acquire_time)
                && (record.renew_time == Some(held.renew_time) || mutant::is(Mutant::RenewTimeNotCompared));
            (uid && same).then(|| (held.clone(), attempt.sent))
        })
    }

    /// Forgets attempts that can no longer be stored, or be seen to have been: the Lease has moved on without them.
    ///
    /// A leader keeps the one that is under way, because its success counts even where the Lease has changed since. A standby does
    /// not: what looks like its write from then on is somebody's edit, and another candidate may have written the same microsecond.
    pub(super) fn forget_outdated_attempts(&mut self) {
        let newest = self.sighting.as_ref().and_then(Sighting::record).map(|record| record.resource_version);
        let leads = matches!(self.phase, Phase::Leading(_));
        let in_flight = self.in_flight.filter(|_| leads).map(|in_flight| in_flight.number);
        self.attempts.retain(|attempt| {
            Some(attempt.number) == in_flight
                || attempt.base.is_none_or(|base| newest.is_none_or(|newest| base >= newest))
        });
    }
}
