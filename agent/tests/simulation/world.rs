//! The world: three machines, a Lease and what is under way, on one virtual time. Steps through it; the rest is in its siblings.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use fastrand::Rng;
use leader_agent::{
    elector::{Elector, Event, Reply, Role, Settings},
    lease::record::{self, Inherited, Record},
    names,
    timing::LATENESS_WINDOW,
};
use serde_json::{Value, json};

use crate::{
    fault::{Away, Fault, Initial, Plan},
    machine::{Comeback, Machine, Process, Seen, identity},
    store::Store,
};

/// What a watch or a read shows.
#[derive(Clone, Debug)]
pub(crate) enum View {
    Present(Record),
    Absent(Option<u64>),
}

/// What happens next, to one machine.
#[derive(Debug)]
pub(crate) enum What {
    Start,
    Wake(u64),
    Guard(u64),
    Dead,
    Resume,
    Patience,
    CheckEnd,
    AppExits(u64),
    AppGone(u64),
    Prepared(u64),
    WriteArrives(u64, Value),
    WriteAnswered(u64, Reply),
    WriteTimeout(u64),
    ReadArrives(u64, Duration),
    ReadAnswered(u64, Duration, Option<View>),
    ReadTimeout(u64),
    Connect,
    ListArrives(Duration),
    ListAnswered(u64, Duration, View),
    Watched(u64, View),
    Fault(Fault),
}

struct Entry {
    at: Duration,
    number: u64,
    machine: usize,
    life: u32,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(crate) struct World {
    pub now: Duration,
    pub store: Store,
    pub machines: Vec<Machine>,
    pub random: Rng,
    /// The API server's state: away until then, and how.
    pub away: (Duration, Away),
    pub noise_until: Duration,
    /// Since when everything is well.
    pub calm: Option<Duration>,
    /// Whether messages take any time but a fixed one, and the kill chain its worst.
    pub steady: bool,
    pub slow_kills: bool,
    /// What passes between the reading of two clocks, in a steady world.
    pub hiccup: Duration,
    pub numbers: u64,
    /// How many apps were started.
    pub starts: u32,
    pub last_start: Duration,
    /// The newest fencing token that an app was given.
    pub token: u64,
    /// Requests that reached the API server.
    pub requests: u32,
    /// The longest time for which a machine that was late may stay away.
    pub recovery: Duration,
    /// Nothing may change any more.
    pub quiet: bool,
    pub broken: Option<String>,
    queue: BinaryHeap<Reverse<Entry>>,
    story: Option<String>,
}

impl World {
    /// A world that begins as `plan` says. Its story is kept if `told`.
    pub(crate) fn new(plan: &Plan, seed: u64, told: bool) -> Self {
        let machines =
            (0..3).map(|n| Machine::new(plan.clocks[n].clone(), plan.timings[n], plan.tempers[n].clone())).collect();
        let mut world = Self {
            now: Duration::ZERO,
            store: Store::default(),
            machines,
            random: Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            away: (Duration::ZERO, Away::Silent),
            noise_until: Duration::ZERO,
            calm: None,
            steady: plan.steady,
            slow_kills: plan.slow_kills,
            hiccup: Duration::ZERO,
            numbers: 0,
            starts: 0,
            last_start: Duration::ZERO,
            token: 0,
            requests: 0,
            recovery: Duration::ZERO,
            quiet: false,
            broken: None,
            queue: BinaryHeap::new(),
            story: told.then(String::new),
        };
        world.begin_with(plan.initial);
        for (machine, after) in (0..3).zip([0, 10, 20]) {
            let delay = if plan.steady { Duration::from_millis(after) } else { world.some_time(50) };
            world.schedule(delay, machine, What::Start);
        }
        for (at, fault) in &plan.faults {
            world.schedule(*at, 0, What::Fault(*fault));
        }
        world.schedule(plan.calm, 0, What::Fault(Fault::Calm));
        world
    }

    fn begin_with(&mut self, initial: Initial) {
        if initial == Initial::Absent {
            return;
        }
        self.store.put(record::unheld("billing", "shop", 5, &Inherited::default()));
        self.store.edit(|object| match initial {
            Initial::Absent | Initial::Unheld => {}
            Initial::Held => object["spec"]["holderIdentity"] = json!("ghost"),
            Initial::Released => {
                let proof = "uid1/ghost/0/2026-11-18T11:06:40.120000Z";
                object["metadata"]["annotations"] = json!({ (names::RELEASED): proof });
            }
        });
    }

    /// Goes on until `until`, or until a rule is broken or `done` says so.
    pub(crate) fn run(&mut self, until: Duration, mut done: impl FnMut(&Self) -> bool) {
        while self.broken.is_none() && !done(self) {
            if self.queue.peek().is_none_or(|Reverse(next)| next.at > until) {
                self.now = self.now.max(until);
                break;
            }
            if let Some(Reverse(entry)) = self.queue.pop() {
                self.now = entry.at;
                self.happen(entry);
            }
        }
    }

    fn happen(&mut self, Entry { machine, life, what, .. }: Entry) {
        let n = machine;
        match what {
            What::WriteArrives(attempt, body) => return self.write_arrives(n, life, attempt, body),
            What::ReadArrives(read, sent) => return self.read_arrives(n, life, read, sent),
            What::Fault(fault) => return self.apply(fault),
            What::Start => return self.start(n),
            _ => {}
        }
        if self.machines[n].life != life {
            return;
        }
        match what {
            What::Wake(generation) => self.wake(n, generation),
            What::Guard(generation) => self.guard_fires(n, generation),
            What::Dead => self.dead(n),
            What::Resume => self.resume(n),
            What::Patience => self.kill_container(n),
            What::CheckEnd => self.check_end(n),
            What::AppExits(app) => self.app_exits(n, app),
            What::AppGone(app) => self.app_gone(n, app),
            What::Prepared(app) => self.prepared(n, app),
            What::WriteAnswered(attempt, reply) => self.write_ended(n, attempt, reply),
            What::WriteTimeout(attempt) => self.write_ended(n, attempt, Reply::Unknown),
            What::ReadAnswered(read, sent, view) => self.read_ended(n, read, sent, view),
            What::ReadTimeout(read) => self.read_ended(n, read, Duration::ZERO, None),
            What::Connect => self.connect(n),
            What::ListArrives(sent) => self.list_arrives(n, sent),
            What::ListAnswered(stream, sent, view) => self.list_answered(n, stream, sent, view),
            What::Watched(stream, view) => self.watched(n, stream, view),
            What::WriteArrives(..) | What::ReadArrives(..) | What::Fault(_) | What::Start => {}
        }
    }

    /// Lets `what` happen to machine `n` after `delay`, if its process then still lives.
    pub(crate) fn schedule(&mut self, delay: Duration, machine: usize, what: What) {
        self.schedule_at(self.now + delay, machine, what);
    }

    pub(crate) fn schedule_at(&mut self, at: Duration, machine: usize, what: What) {
        let life = self.machines[machine].life;
        self.numbers += 1;
        let entry = Entry { at: at.max(self.now), number: self.numbers, machine, life, what };
        self.queue.push(Reverse(entry));
    }

    fn start(&mut self, n: usize) {
        let random = self.random.u64(..);
        let machine = &mut self.machines[n];
        if machine.process.is_some() {
            return;
        }
        machine.life += 1;
        match machine.comeback {
            Comeback::SameDisk => {}
            Comeback::LostDisk => machine.disk = None,
            Comeback::NewPod => {
                machine.disk = None;
                machine.pod += 1;
            }
        }
        machine.comeback = Comeback::SameDisk;
        machine.stream = None;
        let settings = Settings {
            name: "billing".into(),
            namespace: "shop".into(),
            identity: identity(n, machine.pod),
            timing: machine.timing,
            seed: random,
            preparation: machine.temper.preparation,
            reclaim: machine.disk.clone(),
        };
        machine.process = Some(Process {
            elector: Elector::new(settings),
            paused: false,
            inbox: VecDeque::new(),
            armed: None,
            guard: 0,
            wake: 0,
            due: None,
            reading: None,
            writing: Vec::new(),
            over: false,
            asked_to_end: None,
            killed: None,
            seen: Seen::default(),
            sent: Vec::new(),
            stored: None,
            timeouts: (Duration::ZERO, 0),
        });
        self.tell(n, || "starts".into());
        self.schedule(Duration::ZERO, n, What::Connect);
        self.settle(n);
    }

    /// Everything of the container has ended.
    fn dead(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        machine.app = None;
        machine.process = None;
        machine.stream = None;
        // Nothing that was meant for this life reaches the next one.
        machine.life += 1;
        let back_after = machine.back_after;
        machine.back_after = Duration::from_millis(300);
        self.tell(n, || "is dead, and everything of it".into());
        self.schedule(back_after, n, What::Start);
    }

    /// The process got an event, or keeps it while it is paused.
    pub(crate) fn feed(&mut self, n: usize, event: Event) {
        let reading = self.reading(n);
        let me = identity(n, self.machines[n].pod);
        let Some(process) = self.machines[n].acting() else { return };
        if process.paused {
            process.inbox.push_back(event);
            return;
        }
        let leads = process.elector.role() == Role::Leader;
        if let Event::Seen(record, _) | Event::Replied { reply: Reply::Written(record), .. } = &event {
            process.seen.hold = record.annotation(names::HOLD).is_some();
            if record.resource_version > process.seen.newest {
                process.seen.newest = record.resource_version;
                process.seen.ousted = leads && record.holder.as_ref().is_some_and(|holder| *holder != me);
            }
        }
        let late = if let Event::Late(late) = event { late } else { Duration::ZERO };
        process.elector.handle(event, reading);
        let timing = self.machines[n].timing;
        if !timing.has_room(timing.margin_with(late)) {
            self.recovery = LATENESS_WINDOW + timing.lease() * 2;
        }
        self.settle(n);
    }

    /// Whose app has a living process.
    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|&n| self.machines[n].app.is_some()).collect()
    }

    /// A rule is broken.
    pub(crate) fn fail(&mut self, n: usize, what: String) {
        self.tell(n, || format!("BROKEN: {what}"));
        if self.broken.is_none() {
            self.broken = Some(what);
        }
    }

    /// A line of the story.
    pub(crate) fn tell(&mut self, n: usize, line: impl FnOnce() -> String) {
        let (now, pod) = (self.now.as_secs_f64(), self.machines[n].pod);
        if let Some(story) = &mut self.story {
            let who = identity(n, pod);
            let _ = writeln!(story, "{now:11.6}  {:5} {}", who.split('_').next().unwrap_or_default(), line());
        }
    }

    /// A line about the Lease.
    pub(crate) fn tell_of_lease(&mut self, line: impl FnOnce() -> String) {
        let now = self.now.as_secs_f64();
        if let Some(story) = &mut self.story {
            let _ = writeln!(story, "{now:11.6}  ----- {}", line());
        }
    }

    /// What happened, line by line.
    pub(crate) fn story(&self) -> &str {
        self.story.as_deref().unwrap_or_default()
    }

    /// Up to `millis` milliseconds; the middle of it in a steady world.
    pub(crate) fn some_time(&mut self, millis: u64) -> Duration {
        let most = millis * 1000;
        Duration::from_micros(if self.steady { most / 2 } else { self.random.u64(..=most) })
    }
}
