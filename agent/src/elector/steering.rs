//! Leadership given away although the lease is not in danger: because a person asks for it, or because the app is not ready and a
//! standby answers that it would take over. Leaves the stop to [`super::leading`], and the taking to [`super::standby`].
//!
//! A leader whose app is not ready asks by an annotation in its renewal, and a standby answers by one of its own, with
//! compare-and-swap. So a standby that exists is one that reads this Lease and can write it, at this moment; no controller has to be
//! alive, and nobody needs a further right.

use std::time::Duration;

use super::{
    Elector, Phase, StopReason,
    leading::Leading,
    sighting::Sighting,
    standby::{may_acquire, may_keep},
};
use crate::{
    clock::Now,
    lease::record::Record,
    mutant::{self, Mutant},
    timing::UNREADY_PAUSE,
};

/// How it stands with the readiness of a leader's app.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    /// Since when the app is not ready.
    unready_since: Option<Duration>,
    /// A successor is asked for with each renewal.
    pub(super) asks: bool,
}

impl Elector {
    /// The app's readiness probe passes, or fails, from now on.
    pub(super) fn readiness(&mut self, ready: bool, now: Now) {
        let Phase::Leading(leading) = &mut self.phase else { return };
        let since = &mut leading.readiness.unready_since;
        *since = if ready { None } else { since.or(Some(now.boot)) };
    }

    /// Why the holder of this term must stop leading, by what stands in the Lease.
    pub(super) fn reason_to_give_way(&self, record: &Record) -> Option<StopReason> {
        let Phase::Leading(leading) = &self.phase else { return None };
        let asks = leading.readiness.asks;
        let answered = record.successor().is_some() && may_give_away(record);
        let succeeded = asks && (answered || mutant::is(Mutant::UnreadyWithoutSuccessor));
        reason_to_end(record).or_else(|| succeeded.then_some(StopReason::Unready))
    }

    /// From when on a successor is asked for.
    fn asks_from(&self, leading: &Leading) -> Option<Duration> {
        let patience = self.settings.unhealthy_step_down?;
        let patience = if mutant::is(Mutant::UnreadyAtOnce) { Duration::ZERO } else { patience };
        let due = leading.readiness.unready_since? + patience;
        let last = self.sighting.as_ref().and_then(Sighting::given_up_at);
        let last = last.filter(|_| !mutant::is(Mutant::UnreadyAgainAndAgain));
        Some(last.map_or(due, |last| due.max(last + UNREADY_PAUSE)))
    }

    /// When [`Self::ask_for_successor_if_due`] will have something to do.
    pub(super) fn successor_timeout(&self, leading: &Leading) -> Option<Duration> {
        let waits = leading.stop_reason().is_none() && !leading.readiness.asks;
        waits.then(|| self.asks_from(leading)).flatten()
    }

    /// Begins to ask for a successor, or asks no longer: the app is ready again.
    pub(super) fn ask_for_successor_if_due(&mut self, now: Now) {
        let Phase::Leading(leading) = &self.phase else { return };
        // Once it stops, the answer has to stay where it is for the release.
        if leading.stop_reason().is_some() {
            return;
        }
        let asks = self.asks_from(leading).is_some_and(|from| now.boot >= from);
        let Phase::Leading(leading) = &mut self.phase else { return };
        if leading.readiness.asks != asks {
            leading.readiness.asks = asks;
            leading.renew_at(now.boot);
        }
    }

    /// Whether this standby would take over from a holder that asks for a successor.
    pub(super) fn would_succeed(&self, record: &Record) -> bool {
        record.wants_successor()
            && record.successor().is_none()
            && record.holder.as_deref() != Some(self.settings.identity.as_str())
            && may_acquire(record)
            && self.settings.timing.has_room(self.margin)
    }

    /// Says in the Lease that this standby would take over.
    pub(super) fn answer(&mut self, record: &Record, now: Now) {
        self.write(record.answered(&self.settings.identity), None, Some(record.resource_version), now);
        // Another one was faster, or the holder renewed: it asks for a while.
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.unhurried = true;
        }
    }
}

/// Why whoever holds this Lease must stop leading, by what a person wrote into it.
pub(super) fn reason_to_end(record: &Record) -> Option<StopReason> {
    if !may_keep(record) {
        return Some(StopReason::Hold);
    }
    let asked = record.is_asked_to_step_down() && may_give_away(record) && !mutant::is(Mutant::StepDownIgnored);
    asked.then_some(StopReason::StepDown)
}

/// Whether leadership can go to another one: while nobody may acquire, what is asked for waits.
fn may_give_away(record: &Record) -> bool {
    may_acquire(record) || mutant::is(Mutant::GivenAwayToNobody)
}
