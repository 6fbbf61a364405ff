//! Applies faults to the world.

use std::time::Duration;

use leader_agent::{elector::Event, names};
use serde_json::{Value, json};

use crate::{
    driver::KILL_CHAIN,
    fault::{Edit, Fault, Who},
    machine::Link,
    network::shown,
    world::{View, What, World},
};

impl World {
    fn find(&self, who: Who) -> usize {
        let holder = || {
            let holder = self.store.record()?.holder.as_deref()?;
            (0..self.machines.len()).find(|&n| crate::machine::identity(n, self.machines[n].pod) == holder)
        };
        match who {
            Who::Machine(n) => n,
            Who::Leader => self.alive().first().copied().or_else(holder).unwrap_or(0),
        }
    }

    pub(crate) fn apply(&mut self, fault: Fault) {
        self.tell_of_lease(|| format!("fault: {fault:?}"));
        let now = self.now;
        match fault {
            Fault::Cut { who, requests, replies, lasts } => {
                let n = self.find(who);
                let link = &mut self.machines[n].link;
                if requests {
                    link.no_requests_until = link.no_requests_until.max(now + lasts);
                }
                if replies {
                    link.no_replies_until = link.no_replies_until.max(now + lasts);
                }
            }
            Fault::Outage { how, lasts } => self.away = (now + lasts, how),
            Fault::Slow { who, by, lasts } => {
                let n = self.find(who);
                let link = &mut self.machines[n].link;
                (link.slow_until, link.slow_by) = (now + lasts, by);
            }
            Fault::LoseReply { who, writes } => {
                let n = self.find(who);
                self.machines[n].link.lose_replies = writes;
            }
            Fault::Noise { lasts } => self.noise_until = now + lasts,
            Fault::Crash { who, comeback, back_after, at_once } => {
                let n = self.find(who);
                self.tell(n, || "crashes".into());
                let machine = &mut self.machines[n];
                machine.comeback = comeback;
                machine.back_after = back_after;
                if let Some(process) = machine.acting() {
                    process.over = true;
                    let chain = if at_once { Duration::ZERO } else { self.up_to(KILL_CHAIN) };
                    self.schedule(chain, n, What::Dead);
                }
            }
            Fault::Pause { who, lasts } => {
                let n = self.find(who);
                self.tell(n, || format!("is paused for {lasts:?}"));
                if let Some(process) = self.machines[n].acting() {
                    process.paused = true;
                    self.schedule(lasts, n, What::Resume);
                }
            }
            Fault::Delete => {
                if let Some(version) = self.store.delete() {
                    self.publish(&View::Absent(Some(version)));
                }
            }
            Fault::Edit(edit) => self.edit(edit),
            Fault::WatchGap { who, lasts } => {
                let n = self.find(who);
                let machine = &mut self.machines[n];
                machine.link.no_watch_until = now + lasts;
                if machine.stream.take().is_some() {
                    self.schedule(lasts, n, What::Connect);
                }
            }
            Fault::Shutdown { who, patience, comeback } => {
                let n = self.find(who);
                self.machines[n].comeback = comeback;
                let Some(process) = self.machines[n].acting() else { return };
                process.asked_to_end.get_or_insert(now);
                self.tell(n, || "is asked to end".into());
                self.schedule(patience, n, What::Patience);
                self.schedule(Duration::from_secs(3), n, What::CheckEnd);
                self.signal_app(n);
                self.feed(n, Event::Shutdown);
            }
            Fault::AppExit { who } => {
                let n = self.find(who);
                if let Some(number) = self.machines[n].app.as_ref().map(|app| app.number) {
                    self.app_exits(n, number);
                }
            }
            Fault::AppFails { who } => {
                let n = self.find(who);
                if self.machines[n].app.is_none() {
                    return;
                }
                self.tell(n, || "its app has failed to start".into());
                if let Some(process) = self.machines[n].acting() {
                    process.asked_to_end.get_or_insert(now);
                }
                self.schedule(Duration::from_secs(3), n, What::CheckEnd);
                self.feed(n, Event::AppFailed);
            }
            Fault::WallJump { who, seconds } => {
                let n = self.find(who);
                self.machines[n].clocks.wall_offset += seconds;
            }
            Fault::Late { who, by } => {
                let n = self.find(who);
                self.feed(n, Event::Late(by));
            }
            Fault::Calm => self.heal(),
        }
    }

    fn heal(&mut self) {
        self.calm = Some(self.now);
        self.away.0 = self.now;
        self.noise_until = self.now;
        for machine in &mut self.machines {
            machine.link = Link::default();
        }
        self.edit(Edit::Hold(false));
        self.edit(Edit::TurningOn(false));
        // A candidate that remembers it may yet write it back with a Lease made anew.
        self.schedule(Duration::from_secs(8), 0, What::Fault(Fault::Edit(Edit::TurningOn(false))));
        for n in 0..self.machines.len() {
            if self.machines[n].acting().is_some_and(|process| process.paused) {
                self.resume(n);
            }
        }
    }

    fn edit(&mut self, edit: Edit) {
        let stamp = format!("2026-11-19T00:00:00.{:06}Z", self.random.u32(..1_000_000));
        let annotate = |object: &mut Value, key: &str, on: bool| {
            if !object["metadata"]["annotations"].is_object() {
                object["metadata"]["annotations"] = json!({});
            }
            if on {
                object["metadata"]["annotations"][key] = json!("x");
            } else if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.remove(key);
            }
        };
        let label = self.random.u32(..).to_string();
        let record = self.store.edit(|object| {
            let spec = &mut object["spec"];
            match edit {
                Edit::Empty => spec["holderIdentity"] = json!(""),
                Edit::Stranger => spec["holderIdentity"] = json!("stranger"),
                Edit::Duration(seconds) => spec["leaseDurationSeconds"] = json!(seconds),
                Edit::RenewTime => spec["renewTime"] = json!(stamp),
                Edit::AcquireTime => spec["acquireTime"] = json!(stamp),
                Edit::Transitions(by) => {
                    spec["leaseTransitions"] = json!(spec["leaseTransitions"].as_i64().unwrap_or(0) + i64::from(by));
                }
                Edit::Label => object["metadata"]["labels"]["touched"] = json!(label),
                Edit::Hold(on) => annotate(object, names::HOLD, on),
                Edit::TurningOn(on) => annotate(object, names::TURNING_ON, on),
            }
        });
        if let Some(record) = record {
            self.tell_of_lease(|| format!("edited: {}", shown(&record)));
            self.publish(&View::Present(record));
        }
    }
}
