//! One state of the small world: two candidates, a Lease, what is under way, and the faults that may still come.

use std::{
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use leader_agent::{
    clock::Now,
    elector::{Action, Elector, Event, Reply, Role, Settings, Source, StopReason},
    lease::record::{Record, Term},
    names,
    timing::{KILL_CHAIN, TIMER, Timing},
};
use serde_json::{Value, json};

/// From KILL to the last process gone.
const KILLED_IN: Duration = Duration::from_millis(50);
/// Before this nothing happened.
pub(crate) const START: Duration = Duration::from_secs(100);

/// What is on its way.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    Write { attempt: u64, body: Value },
    Read { sent: Duration },
    Replied { attempt: u64, reply: Reply },
    Answer { sent: Duration, view: Option<Record> },
    Watched { view: Result<Record, u64> },
}

/// A message of one candidate, to or from the server.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub node: usize,
    pub load: Load,
    /// Late: it comes at any later moment, or never.
    pub held: bool,
}

/// One candidate with its app and its guard.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub elector: Elector,
    pub paused: bool,
    /// When the last process of its app is gone; `Some(Duration::MAX)` while nothing ends it.
    pub app: Option<Duration>,
    /// When everything of it is dead.
    pub dead_at: Option<Duration>,
    pub dead: bool,
    /// Its container starts again when everything of it is dead.
    pub comes_back: bool,
    armed: Option<Duration>,
    disk: Option<Term>,
    writing: Option<(u64, Duration)>,
    reading: Option<Duration>,
    sent: Vec<Duration>,
    stored: Option<Duration>,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct State {
    pub now: Duration,
    pub lease: Option<Record>,
    version: u64,
    objects: u64,
    pub nodes: Vec<Node>,
    pub messages: Vec<Message>,
    pub faults_left: u8,
    /// How many apps were started.
    pub starts: u32,
    pub recreated: bool,
    pub killed_by_guard: bool,
    /// An app was stopped because a person asked.
    pub given_away: bool,
    /// A controller has freed a Lease.
    pub freed: bool,
    pub broken: Option<&'static str>,
}

/// As the checker compares them: by what they print.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        /// What the state prints goes into the hash as it comes.
        struct Into<'a, H>(&'a mut H);
        impl<H: Hasher> fmt::Write for Into<'_, H> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        write!(Into(hasher), "{self:?}").expect("a hasher takes everything");
    }
}

fn settings(node: usize, timing: Timing, reclaim: Option<Term>) -> Settings {
    Settings {
        name: "billing".into(),
        namespace: "shop".into(),
        identity: ["ann", "ben"][node].into(),
        timing,
        seed: 1,
        preparation: Duration::ZERO,
        stop_time: Duration::ZERO,
        reclaim,
        born_under_turning_on: false,
        yields: false,
        unhealthy_step_down: None,
    }
}

impl Node {
    fn new(node: usize, timing: Timing, reclaim: Option<Term>) -> Self {
        Self {
            elector: Elector::new(settings(node, timing, reclaim.clone())),
            paused: false,
            app: None,
            dead_at: None,
            dead: false,
            comes_back: false,
            armed: None,
            disk: reclaim,
            writing: None,
            reading: None,
            sent: Vec::new(),
            stored: None,
        }
    }

    fn acts(&self) -> bool {
        !self.dead && self.dead_at.is_none()
    }
}

impl State {
    /// Both have just seen a Lease that was released, and nothing else has happened.
    pub(crate) fn new(timing: Timing, faults: u8) -> Self {
        let mut state = Self {
            now: START,
            lease: None,
            version: 0,
            objects: 0,
            nodes: (0..2).map(|node| Node::new(node, timing, None)).collect(),
            messages: Vec::new(),
            faults_left: faults,
            starts: 0,
            recreated: false,
            killed_by_guard: false,
            given_away: false,
            freed: false,
            broken: None,
        };
        state.keep(json!({
            "metadata": { "annotations": { (names::RELEASED): "uid1/ghost/0/2026-11-18T11:06:40.120000Z" } }, "spec": {}
        }));
        state.messages.clear();
        for node in 0..2 {
            state.look(node, timing);
        }
        state
    }

    pub(crate) fn clock(&self) -> Now {
        let wall = Timestamp::from_second(1_795_000_000).expect("a time of this century") + self.now;
        Now { boot: self.now, raw: self.now, wall }
    }

    /// Node `n`'s watch begins with a list.
    fn look(&mut self, n: usize, timing: Timing) {
        let source = Source::Read { sent: self.now };
        let event = match &self.lease {
            Some(record) => Event::Seen(record.clone(), source),
            None => Event::Absent { version: None, source },
        };
        self.feed(n, event, timing);
    }

    /// Hands `event` to node `n` and carries out what follows.
    pub(crate) fn feed(&mut self, n: usize, event: Event, timing: Timing) {
        let clock = self.clock();
        if self.nodes[n].acts() {
            self.nodes[n].elector.handle(event, clock);
            self.settle(n, timing);
        }
    }

    pub(crate) fn settle(&mut self, n: usize, timing: Timing) {
        let (now, clock) = (self.now, self.clock());
        while self.nodes[n].acts()
            && let Some(action) = self.nodes[n].elector.poll()
        {
            let node = &mut self.nodes[n];
            match action {
                Action::Read => {
                    node.reading = Some(now);
                    self.send(n, Load::Read { sent: now });
                }
                Action::Write { attempt, body } => {
                    node.writing = Some((attempt, now));
                    node.sent.push(now);
                    self.send(n, Load::Write { attempt, body });
                }
                Action::Arm(deadline) => {
                    node.armed = Some(deadline);
                    let allowed = node.stored.map(|sent| sent + timing.lease().saturating_sub(timing.margin()));
                    if allowed.is_none_or(|allowed| deadline > allowed) {
                        self.broken = Some("a deadline is later than what is stored allows");
                    }
                }
                Action::Start { .. } => {
                    let armed = node.armed.is_some();
                    node.app = Some(Duration::MAX);
                    self.starts += 1;
                    if !armed {
                        self.broken = Some("an app started without a deadline");
                    }
                    if self.nodes.iter().filter(|node| node.app.is_some()).count() > 1 {
                        self.broken = Some("two apps");
                    }
                }
                // The app ignores its stop signal: the worst case.
                Action::Stop(reason) => {
                    self.given_away |= reason == StopReason::StepDown;
                    if node.app.is_none() {
                        node.elector.handle(Event::AppGone, clock);
                    }
                }
                Action::Prepare(_) => {}
                Action::Kill => node.app = node.app.map(|at| at.min(now + KILLED_IN)),
                Action::Disarm => node.armed = None,
                Action::StoreTerm(term) => node.disk = Some(term),
                Action::ForgetTerm => node.disk = None,
                Action::Die(_) | Action::End => node.dead_at = Some(now + KILL_CHAIN),
            }
        }
    }

    fn send(&mut self, node: usize, load: Load) {
        self.messages.push(Message { node, load, held: false });
    }

    /// Message `index` arrives.
    pub(crate) fn deliver(&mut self, index: usize, timing: Timing) {
        let Message { node: n, load, .. } = self.messages.remove(index);
        match load {
            Load::Write { attempt, body } => {
                let reply = self.put(n, attempt, body).map_or(Reply::Conflict, Reply::Written);
                self.send(n, Load::Replied { attempt, reply });
            }
            Load::Read { sent } => {
                let view = self.lease.clone();
                self.send(n, Load::Answer { sent, view });
            }
            Load::Replied { attempt, reply } => {
                if self.nodes[n].writing.take_if(|(number, _)| *number == attempt).is_some() {
                    self.feed(n, Event::Replied { attempt, reply }, timing);
                }
            }
            Load::Answer { sent, view } => {
                if self.nodes[n].reading.take_if(|began| *began == sent).is_some() {
                    let source = Source::Read { sent };
                    let event =
                        view.map_or(Event::Absent { version: None, source }, |record| Event::Seen(record, source));
                    self.feed(n, event, timing);
                    self.feed(n, Event::ReadEnded { answered: true }, timing);
                }
            }
            Load::Watched { view } => {
                let event = match view {
                    Ok(record) => Event::Seen(record, Source::Watch),
                    Err(version) => Event::Absent { version: Some(version), source: Source::Watch },
                };
                self.feed(n, event, timing);
            }
        }
    }

    /// A PUT by node `n`.
    fn put(&mut self, n: usize, attempt: u64, body: Value) -> Option<Record> {
        let metadata = &body["metadata"];
        let (version, uid) = (metadata["resourceVersion"].as_str(), metadata["uid"].as_str());
        match &self.lease {
            None if uid.is_some() => return None,
            Some(record)
                if version != Some(record.resource_version.to_string().as_str())
                    || uid.is_some_and(|uid| uid != record.uid) =>
            {
                return None;
            }
            _ => {}
        }
        let name = ["ann", "ben"][n];
        let before = self.lease.as_ref().and_then(|record| record.holder.clone());
        self.recreated |= self.lease.is_none() && body["spec"]["holderIdentity"] == name;
        let record = self.keep(body);
        if record.holder.as_deref() == Some(name) {
            let sent = usize::try_from(attempt).ok().and_then(|index| self.nodes[n].sent.get(index)).copied();
            self.nodes[n].stored = self.nodes[n].stored.max(sent);
        }
        let lives = |node: usize| self.nodes[node].app.is_some();
        let other = 1 - n;
        if record.is_free() && (lives(0) || lives(1)) {
            self.broken = Some("a release is stored while an app lives");
        } else if before.as_deref() == Some(["ann", "ben"][other]) && lives(other) {
            self.broken = Some("a write over the record of another whose app lives");
        }
        Some(record)
    }

    /// Stores what is given, and tells who watches.
    pub(crate) fn keep(&mut self, mut object: Value) -> Record {
        self.version += 1;
        if let Some(old) = &self.lease {
            object["metadata"]["uid"] = json!(old.uid);
        } else {
            self.objects += 1;
            object["metadata"]["uid"] = json!(format!("uid{}", self.objects));
        }
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let record = Record::parse(object).expect("a stored object has uid and version");
        self.lease = Some(record.clone());
        self.tell_all(&Ok(record.clone()));
        record
    }

    fn tell_all(&mut self, view: &Result<Record, u64>) {
        for n in 0..self.nodes.len() {
            if self.nodes[n].acts() {
                self.send(n, Load::Watched { view: view.clone() });
            }
        }
    }

    pub(crate) fn delete(&mut self) {
        if self.lease.take().is_some() {
            self.version += 1;
            self.tell_all(&Err(self.version));
        }
    }

    /// The process of node `n` is gone at once; its app follows within the kill chain.
    pub(crate) fn crash(&mut self, n: usize, comes_back: bool) {
        self.nodes[n].dead_at = Some(self.now + KILL_CHAIN);
        self.nodes[n].comes_back = comes_back;
    }

    /// Everything of node `n` is dead, and its container starts again with what is on its disk.
    fn restart(&mut self, n: usize, timing: Timing) {
        let disk = self.nodes[n].disk.clone();
        self.messages.retain(|message| message.node != n || matches!(message.load, Load::Write { .. }) && message.held);
        self.nodes[n] = Node::new(n, timing, disk);
        self.look(n, timing);
    }

    /// When something happens next by itself.
    pub(crate) fn next_time(&self, timing: Timing) -> Option<Duration> {
        let clock = self.clock();
        let patience = timing.request_timeout();
        let of = |node: &Node| {
            let own = (node.acts() && !node.paused)
                .then(|| {
                    [
                        node.elector.next_timeout(clock),
                        node.writing.map(|(_, sent)| sent + patience),
                        node.reading.map(|sent| sent + patience),
                    ]
                    .into_iter()
                    .flatten()
                    .min()
                })
                .flatten();
            let guard = node.armed.filter(|_| node.acts()).map(|armed| armed + TIMER);
            let gone = node.app.filter(|&at| at < Duration::MAX && node.acts());
            [own, guard, gone, node.dead_at.filter(|_| !node.dead)].into_iter().flatten().min()
        };
        self.nodes.iter().filter_map(of).min().map(|at| at.max(self.now))
    }

    /// Time passes until the next thing that happens by itself, and that happens.
    pub(crate) fn pass(&mut self, timing: Timing) {
        let Some(at) = self.next_time(timing) else { return };
        self.now = at;
        let patience = timing.request_timeout();
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            if !node.dead && node.dead_at.is_some_and(|dead_at| dead_at <= at) {
                (node.dead, node.app, node.armed) = (true, None, None);
                if node.comes_back {
                    self.restart(n, timing);
                }
            }
            let node = &mut self.nodes[n];
            if node.acts() && node.armed.is_some_and(|armed| armed + TIMER <= at) {
                node.dead_at = Some(at + KILL_CHAIN);
                self.killed_by_guard = true;
            }
            let node = &mut self.nodes[n];
            if !node.acts() {
                continue;
            }
            if node.app.is_some_and(|gone| gone <= at) {
                node.app = None;
                if !node.paused {
                    self.feed(n, Event::AppExited, timing);
                    self.feed(n, Event::AppGone, timing);
                }
            }
            if self.nodes[n].paused {
                continue;
            }
            self.give_up(n, at, patience, timing);
            let clock = self.clock();
            if self.nodes[n].acts() && self.nodes[n].elector.next_timeout(clock).is_some_and(|due| due <= at) {
                self.nodes[n].elector.handle_timeout(clock);
                self.settle(n, timing);
            }
        }
    }

    /// Requests that took too long are given up; what was sent may yet arrive.
    fn give_up(&mut self, n: usize, at: Duration, patience: Duration, timing: Timing) {
        if let Some((attempt, _)) = self.nodes[n].writing.take_if(|(_, sent)| *sent + patience <= at) {
            self.feed(n, Event::Replied { attempt, reply: Reply::Unknown }, timing);
        }
        if self.nodes[n].reading.take_if(|sent| *sent + patience <= at).is_some() {
            self.feed(n, Event::ReadEnded { answered: false }, timing);
        }
    }

    /// A paused process goes on.
    pub(crate) fn resume(&mut self, n: usize, timing: Timing) {
        let (clock, patience) = (self.clock(), timing.request_timeout());
        let node = &mut self.nodes[n];
        node.paused = false;
        if node.elector.role() == Role::Leader && node.app.is_none() {
            self.feed(n, Event::AppExited, timing);
            self.feed(n, Event::AppGone, timing);
        }
        self.give_up(n, self.now, patience, timing);
        if self.nodes[n].acts() {
            self.nodes[n].elector.handle_timeout(clock);
            self.settle(n, timing);
        }
    }
}
