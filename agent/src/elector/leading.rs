//! A term: renewing it, and stopping the app in time. Leaves what follows to [`super::releasing`].

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Action, Elector, Loss, Phase, Settings, StopReason, requests::Held, sighting::Sighting, steering::Readiness,
};
use crate::{
    clock::Now,
    lease::{
        record::{self, Record, Term},
        steering::ask_for_successor,
    },
    mutant::{self, Mutant},
    timing::{GONE_AFTER_KILL, MAX_CLOCK_SKEW, RETRY},
};

/// A term with an app that may be alive.
#[derive(Clone, Debug)]
pub(super) struct Leading {
    term: Term,
    /// When the last write that is known to be stored was sent.
    sent: Now,
    /// L as that write says, shortened where the boot clock was seen to be slow, or was not yet compared.
    lease: Duration,
    /// When the boot clock was last compared with the raw one, or will be compared from.
    compared: Now,
    /// The deadline that the caller was told last.
    armed: Option<Duration>,
    /// The renewTime of the last write that is known to be stored.
    renew_time: Timestamp,
    next_renewal: Duration,
    stop: Option<Stop>,
    grace: Duration,
    stop_time: Duration,
    pub(super) readiness: Readiness,
}

/// A stop that has begun.
#[derive(Clone, Debug)]
struct Stop {
    reason: StopReason,
    began: Duration,
    /// Until when the app may be prepared; `None` once it was asked to stop.
    prepare_until: Option<Duration>,
    /// When KILL follows, or followed; `None` while the app is prepared, or the kubelet itself ends the pod.
    kill_at: Option<Duration>,
    killed: bool,
}

impl Leading {
    pub(super) fn new(held: &Held, sent: Now, settings: &Settings) -> Self {
        let timing = &settings.timing;
        Self {
            term: held.term.clone(),
            renew_time: held.renew_time,
            sent,
            // Until the first renewal tells, the boot clock may be as slow as is let pass.
            lease: timing.lease().mul_f64(if mutant::is(Mutant::ClocksNotCompared) {
                1.0
            } else {
                1.0 - MAX_CLOCK_SKEW
            }),
            compared: sent,
            armed: None,
            next_renewal: sent.boot + timing.renew_period(),
            stop: None,
            readiness: Readiness::default(),
            grace: if mutant::is(Mutant::NoStopSignal) { Duration::ZERO } else { timing.grace() },
            stop_time: settings.stop_time,
        }
    }

    /// When everything is dead unless a renewal succeeds, on the boot clock.
    pub(super) fn deadline(&self, margin: Duration) -> Duration {
        let margin = if mutant::is(Mutant::NoMargin) { Duration::ZERO } else { margin };
        self.sent.boot + self.lease.saturating_sub(margin)
    }

    /// Counts from the renewTime by the wall clock: a mistake.
    fn count_by_wall_clock(&mut self, now: Now) {
        let age = now.wall.as_millisecond() - self.renew_time.as_millisecond() + 1;
        let millis = Duration::from_millis(age.unsigned_abs());
        self.sent.boot = if age > 0 { now.boot.saturating_sub(millis) } else { now.boot + millis };
    }

    /// The term as it stands at its end: why it ended, and until when nobody else takes the Lease.
    pub(super) fn end(&self, lease: Duration) -> (Term, StopReason, Duration) {
        let reason = self.stop.as_ref().map_or(StopReason::Shutdown, |stop| stop.reason);
        (self.term.clone(), reason, self.sent.boot + lease)
    }

    /// After a renewal that came when the app was already stopping because the lease ran out: KILL moves with the deadline. It
    /// moves by one lease at most, or an app that ignores its stop signal would be kept alive by the renewals.
    fn allow_more_time(&mut self, margin: Duration, lease: Duration) {
        let latest = self.deadline(margin).saturating_sub(GONE_AFTER_KILL);
        if let Some(Stop { reason: StopReason::RunningOut, began, kill_at: Some(at), killed: false, .. }) =
            &mut self.stop
        {
            *at = (*at).max(latest.min(*began + lease));
        }
    }

    /// Why the app is being stopped, if it is.
    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        self.stop.as_ref().map(|stop| stop.reason)
    }

    /// The app is asked to stop from now on.
    pub(super) fn ask_to_stop(&mut self, reason: StopReason, now: Now) {
        let began = self.stop.as_ref().map_or(now.boot, |stop| stop.began);
        let soon = now.boot + self.grace;
        let has_time = if mutant::is(Mutant::PlannedStopHurried) {
            false
        } else {
            reason.is_planned() || mutant::is(Mutant::LostLeaseLeisurely)
        };
        let kill_at = match reason {
            StopReason::Shutdown => None,
            _ if has_time => Some(soon.max(began + self.stop_time)),
            _ => Some(soon),
        };
        self.stop = Some(Stop { reason, began: now.boot, prepare_until: None, kill_at, killed: false });
    }

    /// No app was started in this term by this process: there is nothing to kill, and what an earlier one left behind is waited for
    /// without a limit of its own.
    pub(super) fn ask_whether_gone(&mut self, reason: StopReason, now: Now) {
        self.stop = Some(Stop { reason, began: now.boot, prepare_until: None, kill_at: None, killed: false });
    }

    /// The caller is told of `deadline` by whoever calls this.
    pub(super) fn set_armed(&mut self, deadline: Duration) {
        self.armed = Some(deadline);
    }

    pub(super) fn next_renewal(&self) -> Duration {
        self.next_renewal
    }

    /// The next renewal follows at `at`, if it was not due before.
    pub(super) fn renew_at(&mut self, at: Duration) {
        self.next_renewal = self.next_renewal.min(at);
    }

    pub(super) fn next_timeout(&self, margin: Duration) -> Duration {
        let deadline = self.deadline(margin);
        let latest_stop = deadline.saturating_sub(self.grace);
        match &self.stop {
            None => latest_stop,
            Some(Stop { prepare_until: Some(until), .. }) => latest_stop.min(*until),
            Some(Stop { kill_at: Some(at), killed: true, .. }) => deadline.min(*at + GONE_AFTER_KILL),
            Some(Stop { kill_at: Some(at), .. }) => deadline.min(*at),
            Some(Stop { kill_at: None, .. }) => deadline,
        }
    }
}

impl Elector {
    pub(super) fn seen_while_leading(&mut self, now: Now) {
        let Some(record) = self.sighting.as_ref().and_then(Sighting::record).cloned() else { return };
        if let Some((mut held, sent)) = self.stored_attempt(&record) {
            held.term.uid.clone_from(&record.uid);
            self.renewed(held, sent, now);
        }
        let lease = self.settings.timing.lease();
        let Phase::Leading(leading) = &mut self.phase else { return };
        if record.is_of(&leading.term, &self.settings.identity) {
            if record.renew_time != Some(leading.renew_time) || record.duration != Some(lease) {
                // Somebody edited what the others count from: soon they shall count from a renewal again.
                leading.renew_at(now.boot.max(leading.sent.boot + RETRY));
            }
            self.forget_outdated_attempts();
        } else if record.holder.is_some() || record.is_free() {
            // A proof that this process did not write frees the Lease for others as well.
            self.ousted(now);
            return;
        } else {
            // Emptied or made anew without a proof: everybody else waits L from here, so there is time to take it back.
            leading.renew_at(now.boot);
        }
        if let Some(reason) = self.reason_to_give_way(&record) {
            self.begin_stop(reason, now);
        }
    }

    /// Another one leads, or may lead at any moment.
    fn ousted(&mut self, now: Now) {
        let margin = self.margin;
        let Phase::Leading(leading) = &mut self.phase else { return };
        if mutant::is(Mutant::ForeignOverwritten) {
            return leading.renew_at(now.boot);
        }
        if mutant::is(Mutant::ForeignStopsGently) || mutant::is(Mutant::ForeignReleased) {
            leading.next_renewal = leading.deadline(margin);
            self.begin_stop(StopReason::RunningOut, now);
            return;
        }
        self.die(Loss::Foreign);
    }

    /// The write with this number is stored, whatever the Lease looks like by now.
    pub(super) fn confirm(&mut self, number: u64, record: &Record, now: Now) {
        let stored = self.stored_attempt(record);
        let sent = self.attempts.iter().find(|attempt| attempt.number == number).map(|attempt| attempt.sent);
        if let (Some((mut held, sent)), true) =
            (stored.filter(|(_, at)| Some(*at) == sent), matches!(self.phase, Phase::Leading(_)))
        {
            held.term.uid.clone_from(&record.uid);
            self.renewed(held, sent, now);
        }
    }

    pub(super) fn renewed(&mut self, held: Held, sent: Now, now: Now) {
        let sent = if mutant::is(Mutant::DeadlineFromReply) { now } else { sent };
        let lease = self.settings.timing.lease();
        let renew_period = self.settings.timing.renew_period();
        let Phase::Leading(leading) = &mut self.phase else { return };
        if leading.term != held.term {
            leading.term = held.term.clone();
            self.actions.push_back(Action::StoreTerm(held.term));
        }
        if sent.boot <= leading.sent.boot {
            return;
        }
        leading.sent = sent;
        leading.renew_time = held.renew_time;
        leading.next_renewal = sent.boot + renew_period;
        leading.allow_more_time(self.margin, lease);
        if mutant::is(Mutant::SuccessTakesStopBack) {
            leading.stop.take_if(|stop| stop.reason == StopReason::RunningOut);
        }
        // Over a shorter time, a moment between the reading of the two clocks would look like a clock that is off.
        if sent.boot < leading.compared.boot + renew_period / 2 {
            return;
        }
        let rate = clock_rate(leading.compared, sent);
        leading.compared = sent;
        leading.lease = lease.mul_f64(if mutant::is(Mutant::ClocksNotCompared) { 1.0 } else { rate.min(1.0) });
        if (rate - 1.0).abs() > MAX_CLOCK_SKEW && !mutant::is(Mutant::SkewTolerated) {
            self.begin_stop(StopReason::ClockSkew, now);
        }
    }

    pub(super) fn advance_leading(&mut self, now: Now) {
        let margin = self.margin;
        let Phase::Leading(leading) = &mut self.phase else { return };
        if mutant::is(Mutant::DeadlineByWallClock) {
            leading.count_by_wall_clock(now);
        }
        let deadline = leading.deadline(margin);
        if now.boot >= deadline {
            self.die(Loss::Deadline);
            return;
        }
        if leading.armed != Some(deadline) {
            self.actions.push_back(Action::Arm(deadline));
            leading.armed = Some(deadline);
        }
        let prepare_until = leading.stop.as_ref().map(|stop| stop.prepare_until);
        if prepare_until != Some(None) {
            if now.boot >= deadline.saturating_sub(leading.grace) {
                self.begin_stop(StopReason::RunningOut, now);
            } else if !self.settings.timing.has_room(margin) {
                self.begin_stop(StopReason::NoRoom, now);
            } else if prepare_until.flatten().is_some_and(|until| now.boot >= until) {
                self.prepared(now);
            }
        }
        self.ask_for_successor_if_due(now);
        let Phase::Leading(leading) = &mut self.phase else { return };
        if let Some(stop) = &mut leading.stop
            && let Some(at) = stop.kill_at
        {
            if !stop.killed && now.boot >= at {
                stop.killed = true;
                // After a pause this is later than it was due, and what was killed gets its time to go all the same.
                stop.kill_at = Some(now.boot);
                self.actions.push_back(Action::Kill);
            } else if stop.killed && now.boot >= at + GONE_AFTER_KILL {
                if !mutant::is(Mutant::OutlivingTolerated) {
                    self.die(Loss::NotGone);
                    return;
                }
                stop.kill_at = Some(now.boot);
            }
        }
        let due = leading.next_renewal;
        if !self.read_if_wanted(now) && now.boot >= due.max(self.not_before) {
            self.renew(now);
        }
    }

    fn renew(&mut self, now: Now) {
        let stamp = self.stamp(now);
        let Phase::Leading(leading) = &mut self.phase else { return };
        leading.next_renewal = now.boot + self.settings.timing.renew_period();
        if mutant::is(Mutant::StopEndsRenewals) && leading.stop.is_some() {
            return;
        }
        let mut term = leading.term.clone();
        let (identity, seconds) = (&self.settings.identity, self.settings.timing.lease_seconds());
        let Some(sighting) = &self.sighting else { return };
        let (body, base) = match sighting.record() {
            None => {
                let (name, namespace) = (&self.settings.name, &self.settings.namespace);
                term.uid.clear();
                (record::recreated(name, namespace, identity, &term, stamp, seconds, &sighting.inherited()), None)
            }
            Some(record) => {
                if record.holder.is_none() {
                    term.uid.clone_from(&record.uid);
                    term.transitions = term.transitions.max(record.transitions);
                }
                let mut body = record.held(identity, &term, stamp, seconds);
                ask_for_successor(&mut body, leading.readiness.asks.then(|| term.name(identity)));
                (body, Some(record.resource_version))
            }
        };
        self.write(body, Some(Held { term, renew_time: stamp }), base, now);
    }

    /// Begins to stop the app, or to prepare it for that. A reason that lets nobody wait cuts the preparation for another short.
    pub(super) fn begin_stop(&mut self, reason: StopReason, now: Now) {
        let preparation = self.settings.preparation;
        let prepares = reason.is_planned() && !preparation.is_zero();
        let Phase::Leading(leading) = &mut self.phase else { return };
        match &leading.stop {
            Some(stop) if stop.prepare_until.is_none() || reason.is_planned() => return,
            _ => {}
        }
        if prepares {
            let prepare_until = Some(now.boot + preparation);
            leading.stop = Some(Stop { reason, began: now.boot, prepare_until, kill_at: None, killed: false });
            self.actions.push_back(Action::Prepare(reason));
        } else {
            leading.ask_to_stop(reason, now);
            self.actions.push_back(Action::Stop(reason));
        }
        if mutant::is(Mutant::ReleasesAtStop) {
            self.begin_release(now);
        }
    }

    /// The app is prepared for its stop, or there is no more time for that.
    pub(super) fn prepared(&mut self, now: Now) {
        let Phase::Leading(leading) = &mut self.phase else { return };
        let Some(Stop { reason, prepare_until: Some(_), .. }) = leading.stop else { return };
        leading.ask_to_stop(reason, now);
        self.actions.push_back(Action::Stop(reason));
    }

    /// The app runs, and leadership is no use to it: others may have better luck.
    pub(super) fn app_failed(&mut self, now: Now) {
        if matches!(self.phase, Phase::Leading(_)) {
            self.closing = true;
            self.begin_stop(StopReason::AppFailed, now);
        }
    }

    pub(super) fn app_exited(&mut self, now: Now) {
        let Phase::Leading(leading) = &mut self.phase else { return };
        let stop = leading.stop.get_or_insert(Stop {
            reason: StopReason::AppExited,
            began: now.boot,
            prepare_until: None,
            kill_at: None,
            killed: false,
        });
        stop.prepare_until = None;
        if stop.reason == StopReason::AppExited {
            self.closing = true;
        }
        // What the first process leaves behind dies with it, as in a container of its own.
        if !stop.killed && !mutant::is(Mutant::OrphansLive) {
            stop.kill_at = Some(now.boot);
        }
        if mutant::is(Mutant::DisarmsAtExit) {
            self.actions.push_back(Action::Disarm);
        }
        if mutant::is(Mutant::ReleasesAtExit) {
            self.begin_release(now);
        }
    }

    pub(super) fn app_gone(&mut self, now: Now) {
        if matches!(self.phase, Phase::Leading(_)) {
            self.actions.push_back(Action::Disarm);
            self.begin_release(now);
        }
    }
}

/// How fast the boot clock went from `earlier` to `later`, compared with the raw one.
fn clock_rate(earlier: Now, later: Now) -> f64 {
    let raw = later.raw.saturating_sub(earlier.raw).as_secs_f64();
    if raw > 0.0 { later.boot.saturating_sub(earlier.boot).as_secs_f64() / raw } else { f64::INFINITY }
}
