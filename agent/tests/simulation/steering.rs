//! What people and the app's readiness ask of the machines, and the rules for what follows from that.

use std::time::Duration;

use leader_agent::{
    elector::{Event, Role, StopReason},
    lease::record::{Record, micro_time},
    names,
    timing::{GIVEN_AWAY_WAIT, GONE_AFTER_KILL, PREFERENCE_WAIT, TRANSFER_WAIT},
};
use serde_json::Value;

use crate::{fault::Edit, machine::Machine, queue::What, world::World};

/// What a check may come late by.
const SLACK: Duration = Duration::from_millis(500);
/// A candidate's clock is at most this much too fast, in hundredths, where nobody's life depends on it.
const FAST_CLOCK: u32 = 10;

/// The annotation that `edit` sets on the Lease `object`, and its value.
pub(crate) fn steering(edit: Edit, object: &Value, machines: &[Machine]) -> Option<(&'static str, String)> {
    match edit {
        Edit::StepDown(by) => {
            let (metadata, spec) = (&object["metadata"], &object["spec"]);
            let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
            let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0) + i64::from(by);
            let (uid, acquired) = (metadata["uid"].as_str()?, spec["acquireTime"].as_str()?);
            Some((names::STEP_DOWN, format!("{uid}/{holder}/{transitions}/{acquired}")))
        }
        Edit::TransferTo(machine) => {
            let named = machine.map_or("gone", |n| machines[n].name());
            Some((names::TRANSFER_TO, named.to_owned()))
        }
        _ => None,
    }
}

impl World {
    /// The app of machine `n` is ready again.
    pub(crate) fn ready_again(&mut self, n: usize, number: u64) {
        if self.machines[n].app.as_ref().is_some_and(|app| app.number == number) {
            self.feed(n, Event::Ready(true));
        }
    }

    /// Process `n` is told whether its app is ready.
    pub(crate) fn note_ready(&mut self, n: usize, ready: bool) {
        let boot = self.machines[n].clocks.boot(self.now);
        if let Some(process) = self.machines[n].acting() {
            process.unready_since = if ready { None } else { process.unready_since.or(Some(boot)) };
        }
    }

    /// Process `n` is shown what its term is asked for: then its app must be gone in the end.
    pub(crate) fn note_steering(&mut self, n: usize, record: &Record) {
        let kill = self.worst_kill(n);
        let machine = &mut self.machines[n];
        let timing = machine.timing;
        let longest = machine.temper.preparation + timing.grace() + machine.temper.stop_time;
        let mine = record.holder.as_deref() == Some(machine.identity.as_str());
        let is_about_it = |key: &str| {
            record.annotation(key).zip(record.acquire_time).is_some_and(|(named, acquired)| {
                let holder = record.holder.as_deref().unwrap_or_default();
                mine && named == format!("{}/{holder}/{}/{}", record.uid, record.transitions, micro_time(acquired))
            })
        };
        let app = machine.app.as_ref().map(|app| app.number);
        let Some(process) = machine.acting() else { return };
        if record.holder.is_some() && !mine {
            // Somebody may have written it in: it has gone first all the same.
            process.gave_away = None;
        }
        let asked = is_about_it(names::STEP_DOWN) && !process.seen.turning_on;
        // An app that its kubelet has asked to end has the time that the kubelet gives it.
        let stays = process.elector.role() == Role::Leader && !process.elector.is_closing();
        let is_new = asked && !process.seen.asked && stays;
        process.seen.asked = asked;
        process.seen.succeeded = is_about_it(names::SUCCESSOR_WANTED) && record.annotation(names::SUCCESSOR).is_some();
        if let (true, Some(app)) = (is_new, app) {
            let within = (longest + timing.lease() * 2 + GONE_AFTER_KILL) * 11 / 10 + kill + SLACK;
            self.schedule(within, n, What::CheckGone(app, "it was asked to give leadership away"));
        }
    }

    /// Machine `n` begins to stop its app for `reason`.
    pub(crate) fn check_giving_away(&mut self, n: usize, reason: StopReason) {
        let boot = self.machines[n].clocks.boot(self.now);
        let patience = self.patience.unwrap_or(Duration::MAX);
        let Some(process) = self.machines[n].acting() else { return };
        let unready = process.unready_since.map_or(Duration::ZERO, |since| boot.saturating_sub(since));
        let broken = match reason {
            StopReason::StepDown | StopReason::Unready if process.seen.turning_on => {
                "gives leadership away although nobody may take it"
            }
            StopReason::StepDown if !process.seen.asked => "gives leadership away although its term was not asked to",
            StopReason::Unready if !process.seen.succeeded => "gives leadership away although nobody would take it",
            StopReason::Unready if unready < patience.saturating_sub(SLACK) => {
                "gives leadership away although its app was ready a moment ago"
            }
            _ => return,
        };
        self.fail(n, broken);
    }

    /// A write of machine `n` that changes whose term it is, or that releases it, is stored: whoever has a better right to a released
    /// Lease goes first.
    pub(crate) fn check_courtesy(&mut self, n: usize, before: &Record, record: &Record) {
        let now = self.now;
        let machine = &mut self.machines[n];
        let (me, yields) = (machine.identity.clone(), machine.yields);
        let Some(process) = machine.acting() else { return };
        if record.is_free() && process.gives_away && before.holder.as_deref() == Some(me.as_str()) {
            process.gave_away = Some(now);
        }
        let gave_away = process.gave_away;
        if record.holder.as_deref() == Some(me.as_str()) && before.holder.as_deref() != Some(me.as_str()) {
            // What was asked of the term before says nothing of this one, which may end before an app is started in it.
            process.gives_away = false;
            // Once another one leads, it has gone first.
            let others = self.machines.iter_mut().enumerate().filter(|(other, _)| *other != n);
            others.filter_map(|(_, machine)| machine.acting()).for_each(|process| process.gave_away = None);
        }
        if record.holder.as_deref() != Some(me.as_str()) || !before.is_free() {
            return;
        }
        let named = |record: &Record| record.annotation(names::TRANSFER_TO).map(str::to_owned);
        // One that was named later is waited for from then on; who has not seen that need not.
        let Some(release) = self.history.iter().find(|stored| stored.counts_like(before)) else { return };
        let meant = before.is_meant_for(&me).filter(|_| named(&release.record) == named(before));
        let waited = now.saturating_sub(release.at) * (100 + FAST_CLOCK) / 100;
        let transfer = if meant == Some(false) { TRANSFER_WAIT } else { Duration::ZERO };
        let place = if yields && before.is_meant_for(&me) != Some(true) { PREFERENCE_WAIT } else { Duration::ZERO };
        if waited < transfer {
            self.fail(n, "took at once what was released for another one");
        } else if waited < transfer + place {
            self.fail(n, "did not let those in the preferred place go first");
        } else if gave_away.is_some_and(|at| now.saturating_sub(at) * (100 + FAST_CLOCK) / 100 < GIVEN_AWAY_WAIT) {
            self.fail(n, "took back at once what it had given away");
        }
    }
}
