//! The end of a term: giving the Lease back once the app is gone, so that the next one need not wait.

use std::time::Duration;

use super::{Action, Elector, Phase, StopReason, sighting::Sighting, standby::Standby};
use crate::{
    clock::Now,
    lease::record::Term,
    mutant::{self, Mutant},
    timing::GIVEN_AWAY_WAIT,
};

/// A term whose app is gone, until its release is known.
#[derive(Clone, Debug)]
pub(super) struct Releasing {
    term: Term,
    reason: StopReason,
    /// After this others may take the Lease anyway.
    until: Duration,
    /// A release proof of this term is on its way or stored.
    written: bool,
}

impl Releasing {
    pub(super) fn until(&self) -> Duration {
        self.until
    }
}

impl Elector {
    /// No process of the app is left, or there never was one: gives the Lease back.
    pub(super) fn begin_release(&mut self, now: Now) {
        let Phase::Leading(leading) = &self.phase else { return };
        let (term, reason, until) = leading.end(self.settings.timing.lease());
        self.phase = Phase::Releasing(Releasing { term, reason, until, written: false });
        self.seen_while_releasing(now);
    }

    pub(super) fn seen_while_releasing(&mut self, now: Now) {
        let stored = self
            .sighting
            .as_ref()
            .and_then(Sighting::record)
            .and_then(|record| self.stored_attempt(record).map(|(held, _)| (held.term, record.uid.clone())));
        let Phase::Releasing(releasing) = &mut self.phase else { return };
        if let Some((mut term, uid)) = stored {
            // A renewal that was on its way when the app ended: the term is still this one.
            term.uid = uid;
            releasing.term = term;
        }
        let Some(record) = self.sighting.as_ref().and_then(Sighting::record) else {
            self.released(false, now);
            return;
        };
        let foreign = record.holder.is_some() && mutant::is(Mutant::ForeignReleased);
        if !record.is_of(&releasing.term, &self.settings.identity) && !foreign {
            let given_back = releasing.written && record.is_free();
            self.released(given_back, now);
        }
    }

    pub(super) fn advance_releasing(&mut self, now: Now) {
        let Phase::Releasing(releasing) = &self.phase else { return };
        if now.boot >= releasing.until {
            self.released(false, now);
            return;
        }
        if self.read_if_wanted(now) || now.boot < self.not_before {
            return;
        }
        let Phase::Releasing(releasing) = &mut self.phase else { return };
        let Some(record) = self.sighting.as_ref().and_then(Sighting::record).cloned() else { return };
        releasing.written = true;
        let (term, reason) = (releasing.term.clone(), releasing.reason);
        let stamp = self.stamp(now);
        let identity = &self.settings.identity;
        let body = match reason {
            StopReason::Unready => record.given_up(identity, &term, stamp),
            _ => record.released(identity, &term, stamp),
        };
        self.write(body, None, Some(record.resource_version), now);
    }

    /// The term is over: ended by its release, or taken by somebody else, or nobody needs to be told any more.
    pub(super) fn released(&mut self, given_back: bool, now: Now) {
        let Phase::Releasing(releasing) = &self.phase else { return };
        let pause = match releasing.reason {
            // The cause lasts: another machine is the better place.
            StopReason::NoRoom | StopReason::ClockSkew => self.settings.timing.lease(),
            reason if reason.gives_away() && mutant::is(Mutant::TakesBackAtOnce) => Duration::ZERO,
            reason if reason.gives_away() => GIVEN_AWAY_WAIT,
            _ => self.settings.timing.pause(),
        };
        if given_back {
            self.actions.push_back(Action::ForgetTerm);
        }
        let gave_away = releasing.reason.gives_away();
        self.phase = Phase::Standby(Standby::after_step_down(now.boot + pause, gave_away));
        self.attempts.clear();
        self.no_read_wanted();
    }
}
