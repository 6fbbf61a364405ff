//! The world: machines, a Lease and what is under way, on one virtual time. Steps through it; the rest is in its siblings.

use std::{collections::VecDeque, fmt::Write as _, rc::Rc, time::Duration};

use fastrand::Rng;
use leader_agent::{
    elector::{Elector, Event, Reply, Settings},
    lease::record::{self, Inherited, Record},
    names,
};
use serde_json::json;

use crate::{
    fault::{Away, Fault, Initial},
    freeing::Rules,
    machine::{Comeback, Machine, Process, Seen},
    plan::Plan,
    queue::{Entry, Queue, View, What},
    rival::{Rival, Step},
    store::Store,
};

/// One state in which the Lease was.
pub(crate) struct Stored {
    pub record: Rc<Record>,
    /// The machine that wrote it; `None` for an edit, or a rival.
    pub author: Option<usize>,
    pub at: Duration,
}

impl Stored {
    /// Whether others count from the same moment for both states.
    pub(crate) fn counts_like(&self, other: &Record) -> bool {
        counts_like(&self.record, other)
    }
}

/// Whether others count from the same moment for both states.
pub(crate) fn counts_like(record: &Record, other: &Record) -> bool {
    (&record.uid, &record.holder, record.transitions) == (&other.uid, &other.holder, other.transitions)
        && (record.acquire_time, record.renew_time, record.duration)
            == (other.acquire_time, other.renew_time, other.duration)
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct World {
    pub now: Duration,
    pub store: Store,
    /// All that was stored, oldest first.
    pub history: Vec<Stored>,
    pub machines: Vec<Machine>,
    pub rival: Option<Rival>,
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
    /// How many steps the world took.
    pub steps: u64,
    /// How often an app of ours and the rival's ran at the same time.
    pub rival_overlaps: u32,
    /// The longest time for which a machine that was late may stay away.
    pub recovery: Duration,
    /// Nothing may change any more.
    pub quiet: bool,
    /// Only two apps at a time count as broken.
    pub only_promise: bool,
    /// After how long of not being ready leadership is given away.
    pub patience: Option<Duration>,
    /// How a controller frees Leases, if one does.
    pub frees: Option<Rules>,
    /// How many Leases it has freed.
    pub freed: u32,
    pub broken: Option<String>,
    queue: Queue,
    story: Option<String>,
}

impl World {
    /// A world that begins as `plan` says. Its story is kept if `told`.
    pub(crate) fn new(plan: &Plan, seed: u64, told: bool) -> Self {
        let count = plan.timings.len();
        let machines = (0..count)
            .map(|n| {
                let later = plan.later_timings.get(n).copied().unwrap_or(plan.timings[n]);
                Machine::new(n, plan.clocks[n].clone(), (plan.timings[n], later), plan.tempers[n].clone())
            })
            .collect();
        let mut world = Self {
            now: Duration::ZERO,
            store: Store::default(),
            history: Vec::new(),
            machines,
            rival: plan.rival.map(Rival::new),
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
            steps: 0,
            rival_overlaps: 0,
            recovery: Duration::ZERO,
            quiet: false,
            only_promise: false,
            patience: plan.patience,
            frees: plan.frees,
            freed: 0,
            broken: None,
            queue: Queue::default(),
            story: told.then(String::new),
        };
        for (machine, yields) in world.machines.iter_mut().zip(&plan.yields) {
            machine.yields = *yields;
        }
        world.begin_with(plan.initial);
        for machine in 0..count {
            let after = 10 * u64::try_from(machine).expect("few machines");
            let delay = if plan.steady { Duration::from_millis(after) } else { world.some_time(50) };
            world.schedule(delay, machine, What::Start);
        }
        if world.rival.is_some() {
            let delay = world.some_time(2000);
            world.schedule(delay, 0, What::Rival(Step::Try(0)));
        }
        if world.frees.is_some() {
            world.look_soon();
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
        if let Some(record) = self.store.record() {
            self.history.push(Stored { record: Rc::new(record.clone()), author: None, at: self.now });
        }
    }

    /// Goes on until `until`, or until a rule is broken or `done` says so.
    pub(crate) fn run(&mut self, until: Duration, mut done: impl FnMut(&Self) -> bool) {
        while self.broken.is_none() && !done(self) {
            let Some(entry) = self.queue.pop_until(until) else {
                self.now = self.now.max(until);
                break;
            };
            self.now = entry.at;
            self.steps += 1;
            self.happen(entry);
        }
    }

    fn happen(&mut self, Entry { machine, life, what, .. }: Entry) {
        let n = machine;
        match what {
            What::WriteArrives(attempt, body) => return self.write_arrives(n, life, attempt, body),
            What::ReadArrives(read, sent) => return self.read_arrives(n, life, read, sent),
            What::Fault(fault) => return self.apply(fault),
            What::Rival(step) => return self.rival_acts(step),
            What::Frees(step) => return self.controller_acts(step),
            What::Reported(ended) => {
                self.machines[n].reported = ended;
                return;
            }
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
            What::CheckGone(app, why) => self.check_gone(n, app, why),
            What::AppExits(app) => self.app_exits(n, app),
            What::AppGone(app) => self.app_gone(n, app),
            What::NothingLeft => self.feed(n, Event::AppGone),
            What::Prepared(app) => self.prepared(n, app),
            What::ReadyAgain(app) => self.ready_again(n, app),
            What::WriteAnswered(attempt, reply) => self.write_ended(n, attempt, reply),
            What::WriteTimeout(attempt) => self.write_timed_out(n, attempt),
            What::ReadAnswered(read, sent, view) => self.read_ended(n, read, sent, view),
            What::ReadTimeout(read) => self.read_ended(n, read, Duration::ZERO, None),
            What::Connect => self.connect(n),
            What::ListArrives(sent) => self.list_arrives(n, sent),
            What::ListAnswered(stream, sent, view) => self.list_answered(n, stream, sent, view),
            What::Watched(stream, view) => self.watched(n, stream, view),
            What::WriteArrives(..)
            | What::ReadArrives(..)
            | What::Fault(_)
            | What::Rival(_)
            | What::Frees(_)
            | What::Reported(_)
            | What::Start => {}
        }
    }

    /// Lets `what` happen to machine `n` after `delay`, if its process then still lives.
    pub(crate) fn schedule(&mut self, delay: Duration, machine: usize, what: What) {
        self.schedule_at(self.now + delay, machine, what);
    }

    pub(crate) fn schedule_at(&mut self, at: Duration, machine: usize, what: What) {
        let life = self.machines[machine].life;
        self.numbers += 1;
        self.queue.push(Entry { at: at.max(self.now), number: self.numbers, machine, life, what });
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
            Comeback::NewPod => machine.replace_pod(),
        }
        machine.comeback = Comeback::SameDisk;
        machine.stream = None;
        let settings = Settings {
            name: "billing".into(),
            namespace: "shop".into(),
            identity: machine.identity.clone(),
            timing: machine.timing,
            seed: random,
            preparation: machine.temper.preparation,
            stop_time: machine.temper.stop_time,
            reclaim: machine.disk.clone(),
            born_under_turning_on: false,
            yields: machine.yields,
            unhealthy_step_down: self.patience,
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
            disturbed: Duration::ZERO,
            late: (Duration::ZERO, Duration::ZERO),
            starved: false,
            unready_since: None,
            gives_away: false,
            gave_away: None,
        });
        self.machines[n].started = self.now;
        self.machines[n].started_offset = self.machines[n].clocks.wall_offset;
        self.report(n, false);
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
        self.report(n, true);
        self.tell(n, || "is dead, and everything of it".into());
        self.schedule(back_after, n, What::Start);
    }

    /// The process got an event, or keeps it while it is paused.
    pub(crate) fn feed(&mut self, n: usize, event: Event) {
        let reading = self.reading(n);
        let Some(process) = self.machines[n].acting() else { return };
        if process.paused {
            process.inbox.push_back(event);
            return;
        }
        match &event {
            Event::Seen(record, _) | Event::Replied { reply: Reply::Written(record), .. } => self.note_seen(n, record),
            Event::Absent { version: Some(version), .. } => {
                process.seen.newest = process.seen.newest.max(*version);
            }
            Event::Late(late) => self.note_late(n, *late),
            Event::Starved(starved) => self.note_starved(n, *starved),
            Event::Ready(ready) => self.note_ready(n, *ready),
            _ => {}
        }
        let Some(process) = self.machines[n].acting() else { return };
        process.elector.handle(event, reading);
        self.settle(n);
    }

    /// Whose app has a living process.
    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|&n| self.machines[n].app.is_some()).collect()
    }

    pub(crate) fn is_led(&self) -> bool {
        self.machines.iter().any(|machine| machine.app.is_some())
    }

    /// A rule is broken.
    pub(crate) fn fail(&mut self, n: usize, what: impl Into<String>) {
        if !self.only_promise {
            self.fail_promise(n, what);
        }
    }

    /// The promise is broken.
    pub(crate) fn fail_promise(&mut self, n: usize, what: impl Into<String>) {
        let what = what.into();
        self.tell(n, || format!("BROKEN: {what}"));
        if self.broken.is_none() {
            self.broken = Some(what);
        }
    }

    /// A line of the story.
    pub(crate) fn tell(&mut self, n: usize, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let _ = writeln!(story, "{:11.6}  {:5} {}", self.now.as_secs_f64(), self.machines[n].name(), line());
        }
    }

    /// A line about the Lease.
    pub(crate) fn tell_of_lease(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let _ = writeln!(story, "{:11.6}  ----- {}", self.now.as_secs_f64(), line());
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

    /// The Lease changed: whoever watches it is told.
    pub(crate) fn changed(&mut self, record: Record, author: Option<usize>) {
        let record = Rc::new(record);
        self.history.push(Stored { record: Rc::clone(&record), author, at: self.now });
        self.publish(&View::Present(record));
    }
}
