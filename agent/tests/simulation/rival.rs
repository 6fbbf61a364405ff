//! A candidate of another program, as client-go's leader election behaves: it takes an empty Lease at once, counts from what it
//! observed, and stops late. What it does to us must break no rule of ours; its own overlaps are counted, not forbidden.

use std::{rc::Rc, time::Duration};

use jiff::Timestamp;
use leader_agent::lease::record::{Record, micro_time};
use serde_json::{Value, json};

use crate::{
    network::shown,
    queue::{View, What},
    world::World,
};

const IDENTITY: &str = "gopher_another-program";

/// One step of the rival. Those of a former life carry another number.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Try(u32),
    Asked(u32),
    Answered(u32, View),
    Written(Value),
    Done(u32, bool),
    Ends(u32),
}

/// The rival. Its proportions are those of the usual 15 s, 10 s and 2 s.
pub(crate) struct Rival {
    lease: Duration,
    life: u32,
    seen: Option<(Rc<Record>, Duration)>,
    /// When its last renewal succeeded, while it leads.
    leads_since: Option<Duration>,
    pub app: bool,
    pub no_requests_until: Duration,
}

impl Rival {
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, life: 0, seen: None, leads_since: None, app: false, no_requests_until: Duration::ZERO }
    }

    /// Whether another holder's time is over by what was observed.
    fn may_take(&mut self, record: &Rc<Record>, now: Duration) -> bool {
        let key = |record: &Record| (record.holder.clone(), record.renew_time, record.acquire_time, record.transitions);
        let observed = match &self.seen {
            Some((seen, at)) if key(seen) == key(record) => *at,
            _ => now,
        };
        self.seen = Some((Rc::clone(record), observed));
        let mine = record.holder.as_deref() == Some(IDENTITY);
        mine || record.holder.is_none() || observed + record.duration.unwrap_or_default() < now
    }
}

impl World {
    pub(crate) fn rival_acts(&mut self, step: Step) {
        let (now, life) = (self.now, self.rival.as_ref().map_or(0, |rival| rival.life));
        match step {
            Step::Try(number) if number == life => self.rival_tries(),
            Step::Asked(number) if number == life => {
                let view = self.view();
                self.rival_later(|life| Step::Answered(life, view));
            }
            Step::Answered(number, view) if number == life => self.rival_answered(&view),
            // What was sent may arrive after its sender's end.
            Step::Written(body) => {
                let stored = self.store.put(body);
                let good = stored.is_some();
                if let Some(record) = stored {
                    self.tell_of_lease(|| format!("the rival's write is stored: {}", shown(&record)));
                    self.changed(record, None);
                }
                self.rival_later(|life| Step::Done(life, good));
            }
            Step::Done(number, good) if number == life && good => {
                let Some(rival) = &mut self.rival else { return };
                rival.leads_since = Some(now);
                if !std::mem::replace(&mut rival.app, true) {
                    self.tell_of_lease(|| "the rival STARTS ITS APP".into());
                    self.count_rival_overlap();
                }
            }
            Step::Ends(number) if number == life => {
                if let Some(rival) = &mut self.rival {
                    rival.app = false;
                }
            }
            _ => {}
        }
    }

    fn rival_tries(&mut self) {
        let now = self.now;
        let Some(rival) = &mut self.rival else { return };
        let (retry, deadline) = (rival.lease * 2 / 15, rival.lease * 2 / 3);
        if rival.leads_since.is_some_and(|since| now > since + deadline) {
            // It gives up, and its app ends some time later.
            rival.leads_since = None;
            let after = self.some_time(3000);
            self.tell_of_lease(|| "the rival gives up".into());
            self.rival_after(after, Step::Ends);
        }
        let pause = retry + self.some_time(u64::try_from(retry.as_millis()).expect("short") / 5);
        self.rival_after(pause, Step::Try);
        self.rival_later(Step::Asked);
    }

    fn rival_answered(&mut self, view: &View) {
        let now = self.now;
        let stamp = Timestamp::from_microsecond(1_795_000_000_000_000 + i64::try_from(now.as_micros()).expect("short"));
        let stamp = micro_time(stamp.expect("a time of this century"));
        let Some(rival) = &mut self.rival else { return };
        let seconds = rival.lease.as_secs();
        let spec = |acquired: &Value, transitions: i32| {
            json!({ "holderIdentity": IDENTITY, "leaseDurationSeconds": seconds, "acquireTime": acquired, "renewTime": stamp,
                    "leaseTransitions": transitions })
        };
        let body = match view {
            View::Absent(_) => {
                json!({ "metadata": { "name": "billing", "namespace": "shop" }, "spec": spec(&json!(stamp), 0) })
            }
            View::Present(record) => {
                if !rival.may_take(record, now) {
                    return;
                }
                let Some(mut object) = self.store.object().cloned() else { return };
                object["metadata"]["resourceVersion"] = json!(record.resource_version.to_string());
                object["metadata"]["uid"] = json!(record.uid);
                let mine = record.holder.as_deref() == Some(IDENTITY);
                let acquired = if mine { object["spec"]["acquireTime"].clone() } else { json!(stamp) };
                object["spec"] = spec(&acquired, record.transitions.saturating_add(i32::from(!mine)));
                object
            }
        };
        self.rival_later(|_| Step::Written(body));
    }

    /// It gives the Lease back the way client-go does: without a proof, and as soon as it likes.
    pub(crate) fn rival_releases(&mut self) {
        let Some(rival) = &mut self.rival else { return };
        rival.leads_since = None;
        let record = self.store.edit(|object| {
            if object["spec"]["holderIdentity"] == IDENTITY {
                object["spec"]["holderIdentity"] = json!("");
                object["spec"]["leaseDurationSeconds"] = json!(1);
            }
        });
        if let Some(record) = record {
            self.tell_of_lease(|| format!("the rival releases: {}", shown(&record)));
            self.changed(record, None);
        }
        let after = self.some_time(1000);
        self.rival_after(after, Step::Ends);
    }

    pub(crate) fn rival_crashes(&mut self) {
        let after = self.some_time(5000);
        let Some(rival) = &mut self.rival else { return };
        rival.life += 1;
        (rival.app, rival.leads_since, rival.seen) = (false, None, None);
        self.rival_after(after, Step::Try);
    }

    /// Apps of ours and of the rival at the same time: its limit, not ours.
    pub(crate) fn count_rival_overlap(&mut self) {
        if self.is_led() && self.rival.as_ref().is_some_and(|rival| rival.app) {
            self.rival_overlaps += 1;
        }
    }

    /// Sends, or answers: lost while it is cut off or the server is away.
    fn rival_later(&mut self, step: impl FnOnce(u32) -> Step) {
        let lost = self.now < self.away.0 || self.rival.as_ref().is_none_or(|rival| self.now < rival.no_requests_until);
        let delay = self.some_time(12);
        if !lost {
            self.rival_after(delay, step);
        }
    }

    fn rival_after(&mut self, delay: Duration, step: impl FnOnce(u32) -> Step) {
        if let Some(life) = self.rival.as_ref().map(|rival| rival.life) {
            self.schedule(delay, 0, What::Rival(step(life)));
        }
    }
}
