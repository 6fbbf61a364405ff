//! A candidate that waits for the Lease and takes it. Leaves to [`super::leading`] what follows.

use std::time::Duration;

use super::{
    Action, Elector, Phase, Settings,
    leading::Leading,
    requests::{Held, Reading},
    sighting::Sighting,
};
use crate::{
    clock::Now,
    lease::record::{self, Inherited, Record, Term},
    mutant::{self, Mutant},
    names,
};

/// What only a waiting candidate knows.
#[derive(Clone, Debug)]
pub(super) struct Standby {
    /// The term of a former process of this container, until the first look at the Lease.
    reclaim: Option<Term>,
    /// A candidate that just stepped down lets others go first.
    not_before: Duration,
}

impl Standby {
    pub(super) fn new(reclaim: Option<Term>) -> Self {
        Self { reclaim, not_before: Duration::ZERO }
    }

    pub(super) fn after_step_down(not_before: Duration) -> Self {
        Self { reclaim: None, not_before }
    }
}

impl Elector {
    pub(super) fn seen_on_standby(&mut self, now: Now) {
        let Some(record) = self.sighting.as_ref().and_then(Sighting::record) else { return };
        if let Some((mut held, sent)) = self.stored_attempt(record) {
            held.term.uid.clone_from(&record.uid);
            let token = record.resource_version;
            self.lead(held, token, sent, now);
            return;
        }
        if mutant::is(Mutant::LeadsOnOwnName) {
            let record = record.clone();
            return self.lead_by_name(&record, now);
        }
        if let Phase::Standby(standby) = &mut self.phase
            && !mutant::is(Mutant::ReclaimNotCompared)
            && standby.reclaim.as_ref().is_some_and(|term| !record.is_of(term, &self.settings.identity))
        {
            standby.reclaim = None;
        }
        if !mutant::is(Mutant::ResendsAfterConflict) {
            self.forget_outdated_attempts();
        }
    }

    pub(super) fn advance_standby(&mut self, now: Now) {
        if self.closing && self.in_flight.is_none() {
            self.phase = Phase::Ended;
            self.actions.push_back(Action::End);
            return;
        }
        if self.closing || self.read_if_wanted(now) || now.boot < self.not_before {
            return;
        }
        let Phase::Standby(standby) = &self.phase else { return };
        let own = self.settings.timing.lease();
        let (name, namespace) = (&self.settings.name, &self.settings.namespace);
        let Some(sighting) = &self.sighting else {
            if self.never_seen_absent {
                let body = record::unheld(name, namespace, self.settings.timing.lease_seconds(), &Inherited::default());
                self.create(body, now);
            }
            return;
        };
        let Some(record) = sighting.record() else {
            let seconds = i32::try_from(sighting.longest(own).as_secs()).unwrap_or(i32::MAX);
            let body = record::unheld(name, namespace, seconds, &sighting.inherited());
            if mutant::is(Mutant::StandbyCreatesHeld) {
                return self.create_held(now);
            }
            self.create(body, now);
            return;
        };
        if !self.settings.timing.has_room(self.margin) {
            return;
        }
        let reclaimed = standby.reclaim.clone().filter(|_| may_keep(record));
        let insists = mutant::is(Mutant::ResendsAfterConflict) && !self.attempts.is_empty();
        let free = now.boot >= standby.not_before && (sighting.is_free(own, now) || insists);
        if reclaimed.is_none() && !(may_acquire(record) && free) {
            return;
        }
        let record = record.clone();
        let stamp = self.stamp(now);
        let term = reclaimed.unwrap_or_else(|| record.next_term(stamp));
        let body = record.held(&self.settings.identity, &term, stamp, self.settings.timing.lease_seconds());
        self.write(body, Some(Held { term, renew_time: stamp }), Some(record.resource_version), now);
        // When this fails without a clear answer, the next try does not follow at once: the others try as well.
        self.not_before = now.boot + self.settings.timing.pause();
    }

    pub(super) fn standby_timeout(&self, standby: &Standby, now: Now) -> Option<Duration> {
        if self.in_flight.is_some() || self.read == Reading::UnderWay || self.closing {
            return None;
        }
        let soonest = standby.not_before.max(self.not_before);
        let Some(sighting) = &self.sighting else { return self.never_seen_absent.then_some(self.not_before) };
        let Some(record) = sighting.record() else { return Some(self.not_before) };
        let own = self.settings.timing.lease();
        let reclaims = standby.reclaim.is_some() && may_keep(record);
        if !reclaims && !may_acquire(record) {
            return None;
        }
        let free_in =
            if reclaims || sighting.is_free(own, now) { Duration::ZERO } else { sighting.remaining(own, now) };
        let room =
            if self.settings.timing.has_room(self.margin) { Duration::ZERO } else { self.settings.timing.lease() };
        Some((now.boot + free_in.max(room)).max(soonest))
    }

    /// Makes a Lease that nobody holds: only a wait, or its holder, can follow.
    fn create(&mut self, body: serde_json::Value, now: Now) {
        self.write(body, None, None, now);
        self.not_before = now.boot + self.settings.timing.pause();
    }

    /// Makes a Lease that this standby holds: a mistake.
    fn create_held(&mut self, now: Now) {
        let stamp = self.stamp(now);
        let term = Term { uid: String::new(), transitions: 0, acquire_time: stamp };
        let Settings { name, namespace, identity, timing, .. } = &self.settings;
        let seconds = timing.lease_seconds();
        let body = record::recreated(name, namespace, identity, &term, stamp, seconds, &Inherited::default());
        self.write(body, Some(Held { term, renew_time: stamp }), None, now);
        self.not_before = now.boot + self.settings.timing.pause();
    }

    /// Takes the holder's name for leadership: a mistake.
    pub(super) fn lead_by_name(&mut self, record: &Record, now: Now) {
        let mine = record.holder.as_deref() == Some(self.settings.identity.as_str());
        let (Phase::Standby(_), true, Some(acquire_time), Some(renew_time)) =
            (&self.phase, mine, record.acquire_time, record.renew_time)
        else {
            return;
        };
        let term = Term { uid: record.uid.clone(), transitions: record.transitions, acquire_time };
        self.lead(Held { term, renew_time }, record.resource_version, now, now);
    }

    /// The acquiring write, sent at `sent`, is known to be stored.
    pub(super) fn lead(&mut self, held: Held, token: u64, sent: Now, now: Now) {
        let sent = if mutant::is(Mutant::DeadlineFromReply) { now } else { sent };
        let mut leading = Leading::new(&held, sent, &self.settings.timing);
        self.attempts.clear();
        self.in_flight = None;
        self.not_before = Duration::ZERO;
        self.no_read_wanted();
        self.actions.push_back(Action::StoreTerm(held.term));
        let deadline = leading.deadline(self.margin);
        let too_late = now.boot + self.settings.timing.grace() >= deadline;
        let held_back = self.sighting.as_ref().and_then(Sighting::record).is_some_and(|record| !may_keep(record));
        leading.set_armed(deadline);
        self.phase = Phase::Leading(Box::new(leading));
        if self.closing || too_late || held_back {
            self.begin_release(now);
        } else if mutant::is(Mutant::StartsUnarmed) {
            self.actions.extend([Action::Start { token }, Action::Arm(deadline)]);
        } else {
            self.actions.push_back(Action::Arm(deadline));
            self.actions.push_back(Action::Start { token });
        }
    }
}

/// Whether anybody may become the holder.
fn may_acquire(record: &Record) -> bool {
    let turning_on = record.annotation(names::TURNING_ON).is_some() && !mutant::is(Mutant::TurningOnIgnored);
    may_keep(record) && !turning_on
}

/// Whether a holder may go on.
pub(super) fn may_keep(record: &Record) -> bool {
    record.annotation(names::HOLD).is_none() || mutant::is(Mutant::HoldIgnored)
}
