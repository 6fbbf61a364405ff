//! A candidate that waits for the Lease and takes it. Leaves to [`super::leading`] what follows.

use std::time::Duration;

use super::{
    Action, Elector, Phase, Settings, StopReason,
    leading::Leading,
    requests::{Held, Reading},
    sighting::Sighting,
    steering::reason_to_end,
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
    /// Until one of them has.
    until_another_leads: bool,
}

impl Standby {
    pub(super) fn new(reclaim: Option<Term>) -> Self {
        Self { reclaim, not_before: Duration::ZERO, until_another_leads: false }
    }

    /// `gave_away` says that the term ended for another candidate to lead.
    pub(super) fn after_step_down(not_before: Duration, gave_away: bool) -> Self {
        Self { reclaim: None, not_before, until_another_leads: gave_away }
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
        if let Phase::Standby(standby) = &mut self.phase
            && standby.until_another_leads
            && record.holder.as_ref().is_some_and(|holder| *holder != self.settings.identity)
        {
            standby.not_before = Duration::ZERO;
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
        let (name, namespace) = (&self.settings.name, &self.settings.namespace);
        let Some(sighting) = &self.sighting else {
            if self.never_seen_absent {
                let turning_on = self.settings.born_under_turning_on.then(|| names::TURNING_ON_UNKNOWN.to_owned());
                let inherited = Inherited { turning_on, hold: None };
                let body = record::unheld(name, namespace, self.settings.timing.lease_seconds(), &inherited);
                self.create(body, now);
            }
            return;
        };
        let Some(record) = sighting.record() else {
            let longest = sighting.longest(self.settings.timing.lease());
            let seconds = i32::try_from(longest.as_secs()).unwrap_or(i32::MAX);
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
        let free = now.boot >= standby.not_before && (sighting.is_free(&self.settings, now) || insists);
        if reclaimed.is_none() && !(may_acquire(record) && free) {
            if now.boot >= standby.not_before && self.would_succeed(record) {
                let record = record.clone();
                self.answer(&record, now);
            }
            return;
        }
        let record = record.clone();
        let stamp = self.stamp(now);
        let (identity, seconds) = (&self.settings.identity, self.settings.timing.lease_seconds());
        let (term, body) = if let Some(term) = reclaimed {
            // What was asked of this term still is.
            (term.clone(), record.held(identity, &term, stamp, seconds))
        } else {
            let term = record.next_term(stamp);
            let body = record.acquired(identity, &term, stamp, seconds);
            (term, body)
        };
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
        let reclaims = standby.reclaim.is_some() && may_keep(record);
        if !reclaims && !may_acquire(record) {
            return None;
        }
        if self.would_succeed(record) {
            return Some(soonest);
        }
        let free_in = if reclaims { Duration::ZERO } else { sighting.free_in(&self.settings, now) };
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
        let reclaimed = matches!(&self.phase, Phase::Standby(standby) if standby.reclaim.is_some());
        let mut leading = Leading::new(&held, sent, &self.settings);
        self.attempts.clear();
        self.in_flight = None;
        self.not_before = Duration::ZERO;
        self.no_read_wanted();
        self.actions.push_back(Action::StoreTerm(held.term));
        let deadline = leading.deadline(self.margin);
        let too_late = now.boot + self.settings.timing.grace() >= deadline;
        let record = self.sighting.as_ref().and_then(Sighting::record);
        let held_back = record.and_then(reason_to_end);
        let ends = match held_back {
            None if self.closing => Some(StopReason::Shutdown),
            None if too_late => Some(StopReason::RunningOut),
            reason => reason,
        };
        let asks_first = reclaimed && !mutant::is(Mutant::ReclaimReleasedUnasked);
        match ends {
            // Nothing is left of the app, but perhaps of what was told to run beside it: only the caller knows.
            Some(reason) if asks_first => leading.ask_whether_gone(reason, now),
            Some(reason) => leading.ask_to_stop(reason, now),
            None => {}
        }
        leading.set_armed(deadline);
        self.phase = Phase::Leading(Box::new(leading));
        if let Some(reason) = ends.filter(|_| asks_first) {
            self.actions.extend([Action::Arm(deadline), Action::Stop(reason)]);
        } else if ends.is_some() {
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
pub(super) fn may_acquire(record: &Record) -> bool {
    let turning_on = record.annotation(names::TURNING_ON).is_some() && !mutant::is(Mutant::TurningOnIgnored);
    may_keep(record) && !turning_on
}

/// Whether a holder may go on.
pub(super) fn may_keep(record: &Record) -> bool {
    record.annotation(names::HOLD).is_none() || mutant::is(Mutant::HoldIgnored)
}
