//! Every order in which a leader's container, its kubelet, the controller and a standby can act within a few seconds, which are fewer than
//! L: never do two lead. And each rule left out, as a mistake that has to be found.
//!
//! [`prove`] decides here as it does at work. What surrounds it is modelled: an API server that stores one write after the other, an agent
//! that leads only after its write, a kubelet that reports when it likes.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use leader_agent::names;

use super::*;

/// An agent's start, the leader's first renewal: in milliseconds, around a full second.
const FIRST: i64 = 600;
/// So much time passes at once. Not a part of a second, in which ends are told.
const TICK: i64 = 400;
/// The story ends here.
const END: i64 = 2_600;
/// It begins at this second.
const BASE: i64 = 1_795_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// The write is bound to nothing.
    Unbound,
    /// What was written after the end is not compared.
    TimesIgnored,
    /// The last second is believed in without knowing who wrote then.
    LastSecondBelieved,
    /// The pod is read before the Lease.
    PodFirst,
}

/// What is taken for granted.
#[derive(Clone, Copy, Debug)]
struct Given {
    /// The kubelet reports at once; else at any time.
    prompt: bool,
    /// So much the wall clock is set back when the container ends.
    set_back: i64,
    /// Holders say since when they run.
    says_start: bool,
}

const LATE: Given = Given { prompt: false, set_back: 0, says_start: true };
const LATE_AND_SILENT: Given = Given { says_start: false, ..LATE };
const SET_BACK: Given = Given { prompt: true, set_back: 30_000, says_start: true };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Pod,
    Rival,
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stored {
    version: u32,
    holder: Who,
    renewed: i64,
    started: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Container {
    number: u32,
    started: i64,
    ended: Option<i64>,
    leads: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Look {
    Idle,
    AtLease(Stored),
    AtPod(Container),
    AtBoth(Stored, Container),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    now: i64,
    /// The wall clock is this much behind.
    behind: i64,
    lease: Stored,
    container: Container,
    reported: Container,
    look: Look,
    rival_leads: bool,
}

impl World {
    fn new() -> Self {
        let container = Container { number: 1, started: -5_000, ended: None, leads: true };
        let lease = Stored { version: 1, holder: Who::Pod, renewed: FIRST, started: -5_000 };
        Self { now: FIRST, behind: 0, lease, container, reported: container, look: Look::Idle, rival_leads: false }
    }

    fn wall(&self) -> i64 {
        self.now - self.behind
    }

    fn two_lead(&self) -> bool {
        self.rival_leads && self.container.leads && self.container.ended.is_none()
    }

    /// Everything that can happen next.
    fn next(&self, rules: &Rules) -> Vec<Self> {
        let &Rules { given, mistake, .. } = rules;
        let mut all = Vec::new();
        let mut can = |happens: bool, change: &dyn Fn(&mut Self)| {
            if happens {
                let mut world = *self;
                change(&mut world);
                if given.prompt {
                    world.reported = world.container;
                }
                all.push(world);
            }
        };
        let (lives, is_ours) = (self.container.ended.is_none(), self.lease.holder == Who::Pod);
        can(self.now < END, &|world| world.now += TICK);
        can(lives && self.container.leads && is_ours && self.lease.renewed != self.wall(), &|world| world.writes());
        can(lives, &|world| {
            world.container.ended = Some(world.wall());
            world.behind = given.set_back;
        });
        can(!lives && self.container.number < 3, &|world| {
            let number = world.container.number + 1;
            world.container = Container { number, started: world.wall(), ended: None, leads: false };
        });
        // It takes up its own term: after its write is stored, and not before.
        can(lives && !self.container.leads && is_ours, &|world| {
            world.writes();
            world.container.leads = true;
        });
        can(self.reported != self.container, &|world| world.reported = world.container);
        can(self.lease.holder == Who::Nobody, &|world| {
            world.lease = Stored { version: world.lease.version + 1, holder: Who::Rival, ..world.lease };
            world.rival_leads = true;
        });
        let pod_first = mistake == Mistake::PodFirst;
        match self.look {
            Look::Idle if pod_first => can(true, &|world| world.look = Look::AtPod(world.reported)),
            Look::Idle => can(true, &|world| world.look = Look::AtLease(world.lease)),
            Look::AtLease(lease) => can(true, &|world| world.look = Look::AtBoth(lease, world.reported)),
            Look::AtPod(pod) => can(true, &|world| world.look = Look::AtBoth(world.lease, pod)),
            Look::AtBoth(lease, pod) => can(true, &|world| {
                world.look = Look::Idle;
                let is_that = world.lease == lease || mistake == Mistake::Unbound;
                if is_that && rules.prove(lease, pod) {
                    world.lease = Stored { version: world.lease.version + 1, holder: Who::Nobody, ..world.lease };
                }
            }),
        }
        all
    }

    /// The container's agent writes that it holds the Lease.
    fn writes(&mut self) {
        let version = self.lease.version + 1;
        self.lease = Stored { version, holder: Who::Pod, renewed: self.wall(), started: self.container.started };
    }
}

/// What a world goes by.
struct Rules {
    given: Given,
    mistake: Mistake,
    /// What was judged already: worlds differ in much that decides nothing here.
    judged: RefCell<HashMap<(Stored, Container), bool>>,
}

impl Rules {
    fn prove(&self, lease: Stored, pod: Container) -> bool {
        let lease = Stored { version: 0, ..lease };
        let judge = || proves(lease, pod, self.given, self.mistake);
        *self.judged.borrow_mut().entry((lease, pod)).or_insert_with(judge)
    }
}

fn proves(lease: Stored, pod: Container, given: Given, mistake: Mistake) -> bool {
    if lease.holder != Who::Pod {
        return false;
    }
    let at = |milliseconds: i64| Timestamp::from_millisecond(BASE * 1_000 + milliseconds).unwrap();
    let second = |milliseconds: i64| Timestamp::from_second(BASE + milliseconds.div_euclid(1_000)).unwrap();
    let renewed = if mistake == Mistake::LastSecondBelieved { lease.renewed - 999 } else { lease.renewed };
    let said = given.says_start && mistake != Mistake::LastSecondBelieved;
    let identity = "billing-1_p1_app";
    let started = said.then(|| (names::AGENT_STARTED.to_owned(), json!(format!("{} {identity}", at(lease.started)))));
    let annotations: Map<String, Value> = started.into_iter().collect();
    let state = match pod.ended {
        Some(ended) => json!({ "terminated": { "exitCode": 137, "containerID": format!("containerd://{}", pod.number),
            "finishedAt": second(ended).to_string() } }),
        None => json!({ "running": {} }),
    };
    let record = json!({ "id": "billing", "container": "app" }).to_string();
    let lease = json!({
        "metadata": { "name": "billing", "uid": "u1", "annotations": annotations },
        "spec": { "holderIdentity": identity, "acquireTime": at(-60_000).to_string(), "renewTime": at(renewed).to_string() },
    });
    let pod = json!({
        "metadata": { "name": "billing-1", "uid": "p1", "annotations": { "leader.io/injected": record } },
        "spec": { "containers": [{ "name": "app", "command": ["/leader/agent"] }] },
        "status": { "containerStatuses": [{ "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": state }] },
    });
    match prove(&serde_json::from_value(lease).unwrap(), &serde_json::from_value(pod).unwrap()) {
        Ok(_) => true,
        Err(Unproven::Later { .. }) => mistake == Mistake::TimesIgnored,
        Err(_) => false,
    }
}

/// What was found in all worlds that can come about.
#[derive(Debug, Default)]
struct Found {
    two: Option<World>,
    /// Another one has led, with the first container's end for a reason: else nothing would be shown.
    moved: bool,
}

fn explore(given: Given, mistake: Mistake) -> Found {
    let (mut known, mut open) = (HashSet::from([World::new()]), vec![World::new()]);
    let mut found = Found::default();
    let rules = Rules { given, mistake, judged: RefCell::default() };
    while let Some(world) = open.pop() {
        found.moved |= world.rival_leads;
        if world.two_lead() {
            found.two = Some(world);
            break;
        }
        open.extend(world.next(&rules).into_iter().filter(|next| known.insert(*next)));
    }
    found
}

#[test]
fn in_no_order_do_two_lead() {
    for given in [LATE, LATE_AND_SILENT, SET_BACK] {
        let found = explore(given, Mistake::None);
        assert!(found.two.is_none(), "{given:?}: {:#?}", found.two);
        assert!(found.moved, "{given:?}: nobody ever took over");
    }
}

#[test]
fn every_mistake_is_found() {
    for (given, mistake) in [
        (LATE, Mistake::Unbound),
        (LATE, Mistake::TimesIgnored),
        (LATE, Mistake::LastSecondBelieved),
        // As long as clocks are right, times say as much as the order does.
        (SET_BACK, Mistake::PodFirst),
    ] {
        assert!(explore(given, mistake).two.is_some(), "{given:?}: {mistake:?} was not found");
    }
}
