//! The rules that hold at every step, and what has to be noted to check them.

use std::time::Duration;

use leader_agent::{
    elector::{Loss, Role},
    lease::record::Record,
    names,
    timing::{GONE_AFTER_KILL, KILL_CHAIN, KILL_CHAIN_STARVED, LATENESS_FACTOR, LATENESS_WINDOW, TIMER},
};
use serde_json::Value;

use crate::{
    queue::What,
    world::{World, counts_like},
};

/// What a check may come late by: rounding, and the messages of the same moment.
const SLACK: Duration = Duration::from_millis(500);
/// A candidate's clocks are at most this much too fast, in thousandths; the other one of the two is at most 0.5% off.
const FAST_CLOCKS: u32 = 6;

impl World {
    /// Process `n` is shown a state of the Lease.
    pub(crate) fn note_seen(&mut self, n: usize, record: &Record) {
        let within = self.worst_kill(n) + SLACK;
        let machine = &mut self.machines[n];
        let app = machine.app.as_ref().map(|app| app.number);
        let other = record.holder.as_ref().is_some_and(|holder| *holder != machine.identity);
        let Some(process) = machine.acting() else { return };
        if record.resource_version <= process.seen.newest {
            return;
        }
        process.seen.newest = record.resource_version;
        process.seen.turning_on = record.annotation(names::TURNING_ON).is_some();
        process.seen.hold = record.annotation(names::HOLD).is_some();
        let leads = matches!(process.elector.role(), Role::Leader | Role::Releasing);
        process.seen.ousted = leads && other;
        self.note_steering(n, record);
        let Some(process) = self.machines[n].acting() else { return };
        if let (true, Some(app)) = (process.seen.ousted, app) {
            self.schedule(within, n, What::CheckGone(app, "its agent saw another holder"));
        }
    }

    /// Process `n` is told that its timers are late.
    pub(crate) fn note_late(&mut self, n: usize, late: Duration) {
        let now = self.now;
        let machine = &mut self.machines[n];
        let timing = machine.timing;
        if let Some(process) = machine.acting() {
            process.disturbed = now;
        }
        if !timing.has_room(timing.margin_with(late)) {
            self.recovery = LATENESS_WINDOW + timing.lease() * 2;
        }
    }

    /// From now on the timers of process `n` are late by as much as it is about to be told, and what it kills lives longer: if
    /// its margin can still grow by that before its deadline. A machine that is late for the first time at its deadline is a
    /// stated limit.
    pub(crate) fn slow_down(&mut self, n: usize, late: Duration) {
        let until = self.now + LATENESS_WINDOW / 2;
        let now = self.now;
        if self.bears(n, self.machines[n].timing.margin_with(late))
            && let Some(process) = self.machines[n].acting()
            && (late >= process.late.0 || now >= process.late.1)
        {
            process.late = (late, until);
        }
    }

    /// Process `n` is told that its processor is limited, or no longer.
    pub(crate) fn note_starved(&mut self, n: usize, starved: bool) {
        let now = self.now;
        if let Some(process) = self.machines[n].acting() {
            process.disturbed = now;
            process.starved &= starved;
        }
    }

    /// From now on what process `n` kills lives as long as under a CPU limit, of which it is about to be told: with the same
    /// limit as [`Self::slow_down`].
    pub(crate) fn starve(&mut self, n: usize) {
        let timing = self.machines[n].timing.with_starved(true);
        if self.bears(n, timing.margin())
            && let Some(process) = self.machines[n].acting()
        {
            process.starved = true;
        }
    }

    /// Whether the margin of process `n` can grow to `margin` before its deadline.
    fn bears(&mut self, n: usize, margin: Duration) -> bool {
        let machine = &mut self.machines[n];
        let (lease, boot) = (machine.timing.lease(), machine.clocks.boot(self.now));
        let Some(process) = machine.acting().filter(|process| !process.paused) else { return false };
        process.stored.is_none_or(|sent| boot < sent + lease.saturating_sub(margin.mul_f64(1.1)))
    }

    /// How late the guard of machine `n` may act, and how long what it kills may live: what the margin allows for, beside the
    /// rates of the clocks.
    fn worst_parts(&self, n: usize) -> (Duration, Duration) {
        let Some(process) = &self.machines[n].process else { return (TIMER, KILL_CHAIN) };
        let chain = if process.starved { KILL_CHAIN_STARVED } else { KILL_CHAIN };
        let late = self.lateness(n);
        let timer = TIMER.max(late);
        (timer, (TIMER + chain).max(late * (LATENESS_FACTOR - 1)).saturating_sub(timer))
    }

    /// How late the timers of machine `n` are, beyond what is usual.
    fn lateness(&self, n: usize) -> Duration {
        let late = self.machines[n].process.as_ref().filter(|process| self.now < process.late.1);
        late.map_or(Duration::ZERO, |process| process.late.0)
    }

    /// The latest deadline that the writes known to be stored allow machine `n`.
    pub(crate) fn latest_deadline(&self, n: usize) -> Option<Duration> {
        let timing = self.machines[n].timing;
        let process = self.machines[n].process.as_ref()?;
        let margin = timing.with_starved(process.starved).margin_with(self.lateness(n));
        Some(process.stored? + timing.lease().saturating_sub(margin))
    }

    pub(crate) fn worst_kill(&self, n: usize) -> Duration {
        self.worst_parts(n).1
    }

    pub(crate) fn worst_timer(&self, n: usize) -> Duration {
        self.worst_parts(n).0
    }

    /// An app whose stop has begun must be gone in the end, whatever it does: the time that this stop leaves it, its grace at least, one
    /// more lease at most by renewals, and KILL; or, where its agent is paused by then, the deadline.
    pub(crate) fn expect_gone(&mut self, n: usize, time: Duration, why: &'static str) {
        let timing = self.machines[n].timing;
        let within =
            (timing.grace().max(time) + timing.lease() * 2 + GONE_AFTER_KILL) * 11 / 10 + self.worst_kill(n) + SLACK;
        if let Some(app) = self.machines[n].app.as_ref().map(|app| app.number) {
            self.schedule(within, n, What::CheckGone(app, why));
        }
    }

    pub(crate) fn check_gone(&mut self, n: usize, app: u64, why: &'static str) {
        if self.machines[n].app.as_ref().is_some_and(|found| found.number == app) {
            self.fail(n, format!("its app still runs long after {why}"));
        }
    }

    /// Everything of machine `n` dies by its deadline now.
    pub(crate) fn check_deadline(&mut self, n: usize) {
        let longest = self.machines.iter().map(|machine| machine.timing.lease()).max().unwrap_or_default();
        let fair = self.calm.is_some_and(|calm| self.now > calm + longest * 11 / 10 + 4 * SLACK);
        let machine = &self.machines[n];
        let Some(process) = machine.process.as_ref().filter(|process| !process.over) else { return };
        let asked = machine.app.as_ref().is_none_or(|app| app.asked_to_stop);
        if fair {
            self.fail(n, "died by its deadline although nothing is wrong");
        } else if !asked && !process.paused && process.disturbed != self.now {
            self.fail(n, "died by its deadline without a stop signal before");
        }
    }

    /// The elector of machine `n` wants everything to die.
    pub(crate) fn check_death(&mut self, n: usize, loss: Loss) {
        let machine = &self.machines[n];
        let kill = machine.process.as_ref().and_then(|process| process.killed);
        match loss {
            Loss::NotGone if kill.is_none_or(|kill| self.now < kill + GONE_AFTER_KILL * 9 / 10) => {
                self.fail(n, "did not wait for the end of what it killed");
            }
            Loss::Deadline => self.check_deadline(n),
            Loss::Foreign if !self.store.restored => {
                let me = machine.identity.as_str();
                let ousted = self
                    .history
                    .iter()
                    .rev()
                    .take_while(|stored| stored.record.resource_version > machine.token)
                    .any(|stored| {
                        let other = stored.record.holder.as_deref().is_some_and(|holder| holder != me);
                        other || stored.record.is_free() || (stored.author.is_none() && stored.record.holder.is_some())
                    });
                if !ousted {
                    self.fail(n, "died for another holder although there was none");
                }
            }
            _ => {}
        }
    }

    /// Machine `n` sends a write.
    pub(crate) fn check_write(&mut self, n: usize, body: &Value) {
        let holder = body["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let creates = body["metadata"]["resourceVersion"].is_null() && body["metadata"]["uid"].is_null();
        let annotations = &body["metadata"]["annotations"];
        let acquires = !holder.is_empty() && body["spec"]["acquireTime"] == body["spec"]["renewTime"];
        let machine = &self.machines[n];
        let running = machine.app.is_some();
        // After a pause the agent may not yet have heard that its app is gone.
        let role = machine.process.as_ref().map_or(Role::Ended, |process| process.elector.role());
        let leads = role == Role::Leader;
        let answers = annotations[names::SUCCESSOR] == machine.identity.as_str();
        let on_hold = machine.process.as_ref().is_some_and(|process| process.seen.hold);
        let ousted = role != Role::Standby && machine.process.as_ref().is_some_and(|process| process.seen.ousted);
        let broken = if ousted {
            "wrote although it has seen a foreign holder in its term"
        } else if !creates && (body["metadata"]["uid"].is_null() || body["metadata"]["resourceVersion"].is_null()) {
            "an update without uid or resourceVersion"
        } else if creates && !holder.is_empty() && !leads {
            "created a Lease that it holds, without leading"
        } else if holder.is_empty() && annotations[names::RELEASED].is_string() && running && !creates {
            "released the Lease while a process of its app lives"
        } else if creates && annotations[names::RELEASED].is_string() {
            "created a Lease with a release proof"
        } else if !holder.is_empty() && holder != machine.identity && (role != Role::Standby || !answers) {
            "wrote another's name as the holder"
        } else if creates && annotations[names::HOLD].is_null() && on_hold {
            "made a lost Lease anew without the hold that it has seen"
        } else if acquires && !leads && annotations[names::TURNING_ON].is_string() {
            "acquires the Lease although election is being turned on"
        } else {
            return;
        };
        self.fail(n, broken);
    }

    /// A write of machine `n` is stored.
    pub(crate) fn check_stored(&mut self, n: usize, before: Option<&Record>, record: &Record) {
        let alive = self.alive();
        let mine = record.holder.as_deref() == Some(self.machines[n].identity.as_str());
        if record.is_free() && !alive.is_empty() {
            return self.fail(n, format!("a release is stored while the app of {alive:?} lives"));
        }
        if record.is_free() && self.machines[n].beside_until > self.now {
            return self.fail(n, "a release is stored while something runs beside the app that is gone");
        }
        let Some(before) = before else { return };
        // Whoever changes nothing that anybody counts from has touched nobody's term.
        if counts_like(before, record) {
            return;
        }
        self.check_courtesy(n, before, record);
        if mine && before.holder != record.holder && alive.iter().any(|&other| other != n) {
            return self.fail(n, format!("took the Lease while the app of {alive:?} lives"));
        }
        let owner = alive.iter().find(|&&other| Some(&self.machines[other].identity) == before.holder.as_ref());
        if owner.is_some_and(|&owner| owner != n) {
            return self.fail(n, format!("wrote over the record of {owner:?}, whose app lives"));
        }
        let acquired = mine && record.acquire_time == record.renew_time && !before.is_free();
        let since = self.history.iter().find(|stored| stored.counts_like(before)).map_or(self.now, |stored| stored.at);
        let waited = self.now.saturating_sub(since);
        let least = self.machines[n].timing.lease().max(before.duration.unwrap_or_default());
        if acquired && waited < least * (1000 - FAST_CLOCKS) / 1000 {
            self.fail(n, format!("took the Lease too soon: {waited:?} after its last change"));
        }
    }
}
