//! Messages between the machines and the API server, and how they get lost. Checks the rules that a stored write can break.

use std::{rc::Rc, time::Duration};

use leader_agent::{
    elector::{Event, Reply, Source},
    lease::record::Record,
    names,
};
use serde_json::Value;

use crate::{
    fault::Away,
    machine::Stream,
    queue::{View, What},
    world::World,
};

/// Most messages take up to this many milliseconds.
const DELAY: u64 = 12;

/// What becomes of a request.
enum Fate {
    Arrives,
    /// The caller learns at once that it failed.
    Fails(Reply),
    /// The caller learns nothing.
    Lost,
}

impl World {
    fn delay(&mut self, n: usize) -> Duration {
        let link = &self.machines[n].link;
        let slow = if self.now < link.slow_until { link.slow_by } else { Duration::ZERO };
        slow + if self.steady { Duration::from_millis(1) } else { self.some_time(DELAY) }
    }

    /// What becomes of a request that machine `n` sends now.
    fn fate(&mut self, n: usize) -> Fate {
        if self.now < self.machines[n].link.no_requests_until || self.unlucky() {
            return Fate::Lost;
        }
        match self.away.1 {
            _ if self.now >= self.away.0 => Fate::Arrives,
            Away::Silent => Fate::Lost,
            Away::Refuses => Fate::Fails(Reply::Refused),
            Away::Breaks => Fate::Fails(Reply::Unknown),
        }
    }

    fn unlucky(&mut self) -> bool {
        self.now < self.noise_until && self.random.u8(..4) == 0
    }

    fn reply_passes(&mut self, n: usize) -> bool {
        self.now >= self.machines[n].link.no_replies_until && !self.unlucky()
    }

    pub(crate) fn send_write(&mut self, n: usize, attempt: u64, mut body: Value) {
        self.sign(n, &mut body);
        self.tell(n, || format!("sends write {attempt}: {}", brief(&body)));
        let machine = &mut self.machines[n];
        let boot = machine.clocks.boot(self.now);
        let timeout = machine.clocks.when(boot + machine.timing.request_timeout());
        let lease = machine.timing.lease();
        if let Some(process) = machine.acting() {
            process.writing.push(attempt);
            process.sent.push(boot);
        }
        self.schedule_at(timeout, n, What::WriteTimeout(attempt));
        let delay = self.delay(n);
        match self.fate(n) {
            Fate::Arrives => {
                if self.unlucky() {
                    // Something on the way sends it once more.
                    let again = delay + self.some_time(DELAY * 100);
                    self.schedule(again, n, What::WriteArrives(attempt, body.clone()));
                }
                self.schedule(delay, n, What::WriteArrives(attempt, body));
            }
            Fate::Fails(reply) => self.schedule(delay, n, What::WriteAnswered(attempt, reply)),
            Fate::Lost => {
                // A proxy may keep it and deliver it long after the caller gave it up.
                if self.calm.is_none() && !self.steady && self.random.u8(..3) == 0 {
                    let late = crate::plan::part(&mut self.random, lease * 2);
                    self.schedule(late, n, What::WriteArrives(attempt, body));
                }
            }
        }
    }

    pub(crate) fn write_arrives(&mut self, n: usize, life: u32, attempt: u64, body: Value) {
        self.requests += 1;
        let before = self.store.record().cloned();
        let reply = match self.store.put(body) {
            Some(record) => {
                self.stored(n, life, attempt, before.as_ref(), &record);
                Reply::Written(record)
            }
            None => Reply::Conflict,
        };
        if self.machines[n].life != life {
            return;
        }
        let lost = self.machines[n].link.lose_replies > 0 && matches!(reply, Reply::Written(_));
        if lost {
            self.machines[n].link.lose_replies -= 1;
        }
        if !lost && self.reply_passes(n) {
            let delay = self.delay(n);
            if self.unlucky() {
                let again = delay + self.some_time(DELAY * 100);
                self.schedule(again, n, What::WriteAnswered(attempt, reply.clone()));
            }
            self.schedule(delay, n, What::WriteAnswered(attempt, reply));
        } else {
            self.tell(n, || format!("will not get the reply to write {attempt}"));
        }
    }

    /// A candidate's write is stored.
    fn stored(&mut self, n: usize, life: u32, attempt: u64, before: Option<&Record>, record: &Record) {
        self.tell_of_lease(|| format!("write {attempt} stored: {}", shown(record)));
        let machine = &mut self.machines[n];
        if record.holder.as_ref() == Some(&machine.identity)
            && machine.life == life
            && let Some(process) = machine.process.as_mut()
        {
            let sent = usize::try_from(attempt).ok().and_then(|attempt| process.sent.get(attempt)).copied();
            process.stored = process.stored.max(sent);
        }
        self.check_stored(n, before, record);
        self.changed(record.clone(), Some(n));
    }

    pub(crate) fn write_timed_out(&mut self, n: usize, attempt: u64) {
        if self.machines[n].acting().is_some_and(|process| process.writing.contains(&attempt)) {
            self.write_ended(n, attempt, Reply::Unknown);
        }
    }

    pub(crate) fn write_ended(&mut self, n: usize, attempt: u64, reply: Reply) {
        let Some(process) = self.machines[n].acting() else { return };
        // A reply may come twice, or after the caller gave up: it is handed on all the same.
        process.writing.retain(|&number| number != attempt);
        self.tell(n, || {
            let reply = match &reply {
                Reply::Written(_) => "written",
                Reply::Conflict => "conflict",
                Reply::Refused => "refused",
                Reply::Unknown => "unknown",
            };
            format!("learns of write {attempt}: {reply}")
        });
        self.feed(n, Event::Replied { attempt, reply });
    }

    pub(crate) fn send_read(&mut self, n: usize) {
        self.numbers += 1;
        let read = self.numbers;
        let machine = &mut self.machines[n];
        let sent = machine.clocks.boot(self.now);
        let timeout = machine.clocks.when(sent + machine.timing.request_timeout());
        let Some(process) = machine.acting() else { return };
        if process.reading.replace(read).is_some() {
            return self.fail(n, "two reads at a time");
        }
        self.tell(n, || "reads".into());
        self.schedule_at(timeout, n, What::ReadTimeout(read));
        let delay = self.delay(n);
        match self.fate(n) {
            Fate::Arrives => self.schedule(delay, n, What::ReadArrives(read, sent)),
            Fate::Fails(_) => self.schedule(delay, n, What::ReadAnswered(read, sent, None)),
            Fate::Lost => {}
        }
    }

    pub(crate) fn read_arrives(&mut self, n: usize, life: u32, read: u64, sent: Duration) {
        self.requests += 1;
        let view = self.view();
        if self.machines[n].life == life && self.reply_passes(n) {
            let delay = self.delay(n);
            self.schedule(delay, n, What::ReadAnswered(read, sent, Some(view)));
        }
    }

    pub(crate) fn read_ended(&mut self, n: usize, read: u64, sent: Duration, view: Option<View>) {
        let Some(process) = self.machines[n].acting() else { return };
        if process.reading.take_if(|reading| *reading == read).is_none() {
            return;
        }
        let answered = view.is_some();
        if let Some(view) = view {
            self.show(n, view, Source::Read { sent });
        } else {
            self.tell(n, || "gets no answer to its read".into());
        }
        self.feed(n, Event::ReadEnded { answered });
    }

    /// What a quorum read answers.
    pub(crate) fn view(&self) -> View {
        match (self.store.record(), self.history.last()) {
            (Some(record), Some(last)) if last.record.resource_version == record.resource_version => {
                View::Present(Rc::clone(&last.record))
            }
            (Some(record), _) => View::Present(Rc::new(record.clone())),
            (None, _) => View::Absent(None),
        }
    }

    fn show(&mut self, n: usize, view: View, source: Source) {
        let by = if matches!(source, Source::Watch) { "watch" } else { "read" };
        match view {
            View::Present(record) => {
                self.tell(n, || format!("sees by {by}: {}", shown(&record)));
                self.feed(n, Event::Seen((*record).clone(), source));
            }
            View::Absent(version) => {
                self.tell(n, || format!("sees by {by}: no Lease"));
                self.feed(n, Event::Absent { version, source });
            }
        }
    }

    /// The watch of machine `n` begins with a list.
    pub(crate) fn connect(&mut self, n: usize) {
        if self.machines[n].acting().is_none() || self.machines[n].stream.is_some() {
            return;
        }
        let sent = self.machines[n].clocks.boot(self.now);
        let delay = self.delay(n);
        if self.now >= self.machines[n].link.no_watch_until && matches!(self.fate(n), Fate::Arrives) {
            self.schedule(delay, n, What::ListArrives(sent));
        } else {
            let retry = Duration::from_millis(400) + self.some_time(800);
            self.schedule(retry, n, What::Connect);
        }
    }

    pub(crate) fn list_arrives(&mut self, n: usize, sent: Duration) {
        self.requests += 1;
        if !self.reply_passes(n) {
            let retry = Duration::from_millis(400) + self.some_time(800);
            return self.schedule(retry, n, What::Connect);
        }
        self.numbers += 1;
        let at = self.now + self.delay(n);
        let stream = self.numbers;
        self.machines[n].stream = Some(Stream { number: stream, last_delivery: at });
        let view = self.view();
        self.schedule_at(at, n, What::ListAnswered(stream, sent, view));
    }

    pub(crate) fn list_answered(&mut self, n: usize, stream: u64, sent: Duration, view: View) {
        if self.machines[n].stream.as_ref().is_some_and(|open| open.number == stream) {
            self.show(n, view, Source::Read { sent });
            self.replay(n, stream);
        }
    }

    /// A watch that begins anew may bring what was seen before.
    fn replay(&mut self, n: usize, stream: u64) {
        if self.calm.is_some() || self.steady || self.random.u8(..4) > 0 {
            return;
        }
        let back = self.random.usize(..4);
        if let Some(view) = self.history.iter().rev().nth(back).map(|stored| View::Present(Rc::clone(&stored.record))) {
            let delay = self.delay(n);
            self.schedule(delay, n, What::Watched(stream, view));
        }
    }

    /// Tells every watch of a change.
    pub(crate) fn publish(&mut self, view: &View) {
        for n in 0..self.machines.len() {
            let delay = self.delay(n);
            let passes = self.reply_passes(n) && self.now >= self.away.0;
            let (now, machine) = (self.now, &mut self.machines[n]);
            let slow = if now < machine.link.slow_watch_until { machine.link.slow_watch_by } else { Duration::ZERO };
            let delay = delay + slow;
            let Some(stream) = &mut machine.stream else { continue };
            if passes {
                stream.last_delivery = stream.last_delivery.max(now + delay);
                let (at, number) = (stream.last_delivery, stream.number);
                self.schedule_at(at, n, What::Watched(number, view.clone()));
            } else {
                // What a broken stream has lost, only a new list shows.
                machine.stream = None;
                let retry = Duration::from_millis(100) + self.some_time(2000);
                self.schedule(retry, n, What::Connect);
            }
        }
    }

    pub(crate) fn watched(&mut self, n: usize, stream: u64, view: View) {
        if self.machines[n].stream.as_ref().is_some_and(|open| open.number == stream) {
            self.show(n, view, Source::Watch);
        }
    }
}

/// A record in a few words.
pub(crate) fn shown(record: &Record) -> String {
    format!(
        "{} v{} holder {:?} transitions {} duration {:?}{}{}{}",
        record.uid,
        record.resource_version,
        record.holder.as_deref().unwrap_or_default().split('_').next().unwrap_or_default(),
        record.transitions,
        record.duration.unwrap_or_default(),
        if record.is_free() { " released" } else { "" },
        if record.annotation(names::HOLD).is_some() { " hold" } else { "" },
        if record.annotation(names::TURNING_ON).is_some() { " turning-on" } else { "" },
    ) + &asked(record)
}

/// What a record asks for.
fn asked(record: &Record) -> String {
    let of = |key: &str, word: &str| record.annotation(key).map(|value| format!(" {word} {value}")).unwrap_or_default();
    [
        of(names::STEP_DOWN, "step down"),
        of(names::TRANSFER_TO, "for"),
        of(names::SUCCESSOR_WANTED, "wants a successor"),
        of(names::SUCCESSOR, "successor"),
    ]
    .concat()
}

fn brief(body: &Value) -> String {
    let base = body["metadata"]["resourceVersion"].as_str().unwrap_or("new");
    let holder = body["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let proof = if body["metadata"]["annotations"][names::RELEASED].is_null() { "" } else { " with a proof" };
    format!("on v{base}, holder {:?}{proof}", holder.split('_').next().unwrap_or_default())
}
