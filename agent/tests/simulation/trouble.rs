//! Applies faults to the world.

use std::time::Duration;

use leader_agent::{elector::Event, lease::record::micro_time, names};
use serde_json::{Value, json};

use crate::{
    fault::{Edit, Fault, Who},
    machine::Link,
    network::shown,
    queue::{View, What},
    steering::steering,
    world::World,
};

impl World {
    fn find(&self, who: Who) -> usize {
        let holder = || {
            let holder = self.store.record()?.holder.as_deref()?;
            self.machines.iter().position(|machine| machine.identity == holder)
        };
        match who {
            Who::Machine(n) => n,
            Who::Leader => self.alive().first().copied().or_else(holder).unwrap_or(0),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each fault")]
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
                    let chain = if at_once { Duration::ZERO } else { self.up_to(self.worst_kill(n)) };
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
            Fault::Replace { copy } => self.replace(copy),
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
            Fault::Unready { who, lasts } => {
                let n = self.find(who);
                let Some(number) = self.machines[n].app.as_ref().map(|app| app.number) else { return };
                self.tell(n, || format!("its app is not ready for {lasts:?}"));
                self.schedule(lasts, n, What::ReadyAgain(number));
                self.feed(n, Event::Ready(false));
            }
            Fault::WallJump { who, seconds } => {
                let n = self.find(who);
                self.machines[n].clocks.wall_offset += seconds;
            }
            Fault::Late { who, by } => {
                let n = self.find(who);
                self.slow_down(n, by);
                self.feed(n, Event::Late(by));
            }
            Fault::Starved { who, on } => {
                let n = self.find(who);
                if on {
                    self.starve(n);
                }
                self.feed(n, Event::Starved(on));
            }
            Fault::SlowWatch { who, by, lasts } => {
                let n = self.find(who);
                let link = &mut self.machines[n].link;
                (link.slow_watch_until, link.slow_watch_by) = (now + lasts, by);
            }
            Fault::RivalCut { lasts } => {
                if let Some(rival) = &mut self.rival {
                    rival.no_requests_until = now + lasts;
                }
            }
            Fault::RivalCrash => self.rival_crashes(),
            Fault::RivalReleases => self.rival_releases(),
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
        // A candidate that remembers them may yet write them back with a Lease made anew.
        for edit in [Edit::TurningOn(false), Edit::Hold(false)] {
            self.schedule(Duration::from_secs(8), 0, What::Fault(Fault::Edit(edit)));
        }
        for n in 0..self.machines.len() {
            if self.machines[n].acting().is_some_and(|process| process.paused) {
                self.resume(n);
            }
            self.feed(n, Event::Starved(false));
            self.feed(n, Event::Ready(true));
        }
        if let Some(rival) = &mut self.rival {
            rival.no_requests_until = self.now;
        }
    }

    /// The Lease makes way for another object of its name.
    fn replace(&mut self, copy: bool) {
        let Some(mut object) = self.store.object().cloned() else { return };
        if let Some(version) = self.store.delete() {
            self.publish(&View::Absent(Some(version)));
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|key, _| {
                matches!(key.as_str(), "name" | "namespace" | "labels") || (copy && key == "annotations")
            });
        }
        if !copy {
            object["spec"] = json!({});
        }
        if let Some(record) = self.store.put(object) {
            self.tell_of_lease(|| format!("replaced: {}", shown(&record)));
            self.changed(record, None);
        }
    }

    fn edit(&mut self, edit: Edit) {
        let stamp = |day: Option<i32>, random: &mut fastrand::Rng| {
            day.map_or(Value::Null, |day| {
                let micros = 1_795_000_000_000_000 + i64::from(day) * 86_400_000_000 + random.i64(0..1_000_000_000);
                json!(micro_time(jiff::Timestamp::from_microsecond(micros).expect("a time of this century")))
            })
        };
        let annotate = |object: &mut Value, key: &str, value: Option<&str>| {
            if !object["metadata"]["annotations"].is_object() {
                object["metadata"]["annotations"] = json!({});
            }
            if let Some(value) = value {
                object["metadata"]["annotations"][key] = json!(value);
            } else if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.remove(key);
            }
        };
        let label = self.random.u32(..).to_string();
        let random = &mut self.random;
        let machines = &self.machines;
        let record = self.store.edit(|object| {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            let steered = steering(edit, object, machines);
            let spec = &mut object["spec"];
            match edit {
                Edit::Empty => spec["holderIdentity"] = json!(""),
                Edit::Stranger => spec["holderIdentity"] = json!("stranger"),
                Edit::HandedTo(n) => spec["holderIdentity"] = json!(machines[n].identity),
                Edit::Duration(seconds) => spec["leaseDurationSeconds"] = json!(seconds),
                Edit::RenewTime(day) => spec["renewTime"] = stamp(day, random),
                Edit::AcquireTime(day) => spec["acquireTime"] = stamp(day, random),
                Edit::Transitions(by) => {
                    spec["leaseTransitions"] =
                        json!((spec["leaseTransitions"].as_i64().unwrap_or(0) + i64::from(by)).min(i32::MAX.into()));
                }
                Edit::MostTransitions => spec["leaseTransitions"] = json!(i32::MAX),
                Edit::NoSpec => *spec = json!({}),
                Edit::Label => object["metadata"]["labels"]["touched"] = json!(label),
                // No edit ever leads to these transitions.
                Edit::OldProof => {
                    let proof = format!("{uid}/ghost/-1000/2026-11-18T11:06:40.120000Z");
                    annotate(object, names::RELEASED, Some(&proof));
                }
                Edit::ForeignProof => {
                    let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0);
                    let proof = format!("another-uid/ghost/{transitions}/2026-11-18T11:06:40.120000Z");
                    annotate(object, names::RELEASED, Some(&proof));
                }
                Edit::NoAnnotations => object["metadata"]["annotations"] = json!({}),
                Edit::Hold(on) => annotate(object, names::HOLD, on.then_some("x")),
                Edit::TurningOn(on) => annotate(object, names::TURNING_ON, on.then_some("x")),
                Edit::StepDown(_) | Edit::TransferTo(_) => {
                    if let Some((key, value)) = steered {
                        annotate(object, key, Some(&value));
                    }
                }
            }
        });
        if let Some(record) = record {
            self.tell_of_lease(|| format!("edited: {}", shown(&record)));
            self.changed(record, None);
        }
    }
}
