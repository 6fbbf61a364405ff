//! The controller that frees the Lease of a holder whose container has ended, and the kubelet that says so, late.
//!
//! What it goes by is the webhook's (`controller::fail_over`); here are its rules in short, with everything that can go wrong around them:
//! it is held up between its steps, the kubelet reports late, and containers start again and take their term up.

use std::{rc::Rc, time::Duration};

use jiff::Timestamp;
use leader_agent::{
    lease::record::{Record, Term, micro_time},
    names,
};
use serde_json::{Value, json};

use crate::{network::shown, queue::What, world::World};

/// One step of the controller.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Begins to look.
    Look,
    /// The Lease was read, and now the pod is.
    Lease(Rc<Record>),
    /// The holder has ended: the swap arrives.
    Swap(Rc<Record>),
}

/// Which rule the controller goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    All,
    /// The swap is for whatever the Lease has become since it was read: a mistake.
    Blind,
    /// When the agent of this term was started is not compared with the end of the container: a mistake.
    AnyStart,
}

/// What the API server says of a container: how it ended, while it is not said to run.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    identity: String,
    /// In whole seconds, rounded down, by the node's clock.
    at: i64,
}

impl World {
    /// Lets the controller look soon.
    pub(crate) fn look_soon(&mut self) {
        let pause = self.some_time(1500);
        self.schedule(pause, 0, What::Frees(Step::Look));
    }

    pub(crate) fn controller_acts(&mut self, step: Step) {
        let Some(rules) = self.frees else { return };
        let held_up = if self.random.u8(..4) == 0 { self.some_time(4000) } else { self.some_time(30) };
        let next = match step {
            Step::Look => {
                self.look_soon();
                let record = self.store.record().cloned().map(Rc::new);
                match record.filter(|record| record.holder.is_some()) {
                    Some(record) => Step::Lease(record),
                    None => return,
                }
            }
            Step::Lease(record) => match self.reported(&record) {
                Some(ended) if proves(&ended, &record, rules) => Step::Swap(record),
                _ => return,
            },
            Step::Swap(_) if rules == Rules::Blind => {
                let now = self.store.record().cloned();
                return now.into_iter().for_each(|record| self.free(&record));
            }
            Step::Swap(record) => return self.free(&record),
        };
        self.schedule(held_up, 0, What::Frees(next));
    }

    /// What is said of the end of the container that holds the Lease.
    fn reported(&self, record: &Record) -> Option<Ended> {
        let holder = record.holder.as_deref()?;
        let machine = self.machines.iter().find(|machine| machine.identity == holder)?;
        machine.reported.clone().filter(|ended| ended.identity == holder)
    }

    fn free(&mut self, record: &Record) {
        let (Some(holder), Some(acquire_time)) = (record.holder.as_deref(), record.acquire_time) else { return };
        let term = Term { uid: record.uid.clone(), transitions: record.transitions, acquire_time };
        let body = record.released(holder, &term, acquire_time);
        let Some(freed) = self.store.put(body) else { return };
        self.tell_of_lease(|| format!("the controller frees it: {}", shown(&freed)));
        self.freed += 1;
        let alive = self.alive();
        if !alive.is_empty() {
            self.fail(0, format!("the controller freed the Lease while the app of {alive:?} lives"));
        }
        self.changed(freed, None);
    }

    /// The kubelet will say that the container of machine `n` has ended, or runs: in this order, and late.
    pub(crate) fn report(&mut self, n: usize, ended: bool) {
        if self.frees.is_none() {
            return;
        }
        let late = if self.random.u8(..5) == 0 { self.some_time(8000) } else { self.some_time(200) };
        let machine = &mut self.machines[n];
        machine.report_at = machine.report_at.max(self.now + late);
        let at = machine.report_at;
        let state = ended.then(|| Ended {
            identity: machine.identity.clone(),
            at: wall(self.now, machine.clocks.wall_offset).as_second(),
        });
        self.schedule_at(at, n, What::Reported(state));
    }

    /// What every write of a holder says beside the term, as the campaign does.
    pub(crate) fn sign(&self, n: usize, body: &mut Value) {
        let machine = &self.machines[n];
        if body["spec"]["holderIdentity"] == machine.identity.as_str() {
            let started = wall(machine.started, machine.started_offset);
            let value = format!("{} {}", micro_time(started), machine.identity);
            body["metadata"]["annotations"][names::AGENT_STARTED] = json!(value);
        }
    }
}

/// A node's clock.
fn wall(at: Duration, offset: i64) -> Timestamp {
    let micros =
        1_795_000_000_000_000 + i64::try_from(at.as_micros()).expect("a short simulation") + offset * 1_000_000;
    Timestamp::from_microsecond(micros).expect("a time of this century")
}

/// Whether the end of the container is that of the process which wrote this term last.
fn proves(ended: &Ended, record: &Record, rules: Rules) -> bool {
    let started = || {
        let (at, whose) = record.annotation(names::AGENT_STARTED)?.split_once(' ')?;
        at.parse::<Timestamp>().ok().filter(|_| whose == ended.identity)
    };
    let is_before = rules == Rules::AnyStart || started().is_some_and(|at| at.as_second() < ended.at);
    let is_its = record.holder.as_deref() == Some(ended.identity.as_str());
    is_before
        && is_its
        && record.renew_time.is_some_and(|renewed| renewed.as_second() <= ended.at || rules == Rules::AnyStart)
}
