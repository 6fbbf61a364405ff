//! The election: who may run the app, decided from events and the time, without a clock and without I/O.
//!
//! The caller owns every socket, timer and process. It hands in what happened with [`Elector::handle`] and
//! [`Elector::handle_timeout`], carries out what [`Elector::poll`] gives, in its order, and comes back at
//! [`Elector::next_timeout`]. Simulation, tests and the real run loop drive this same code.
//!
//! What the caller owes: one [`Event::Replied`] for each [`Action::Write`], and one read event for each [`Action::Read`], both
//! within [`crate::timing::Timing::request_timeout`]; an [`Action::Arm`] is in force before the [`Action::Start`] behind it is carried out.

mod interface;
mod leading;
mod releasing;
mod requests;
mod sighting;
mod standby;
mod steering;

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;

pub use self::interface::{Action, Event, Loss, Obstacle, Reply, Role, Settings, Source, StopReason};
use self::{
    leading::Leading,
    releasing::Releasing,
    requests::{Attempt, InFlight, Reading},
    sighting::{Sighting, Update},
    standby::Standby,
};
use crate::{
    clock::Now,
    lease::record::Record,
    mutant::{self, Mutant},
    names,
    timing::Lateness,
};

#[derive(Clone, Debug)]
enum Phase {
    Standby(Standby),
    Leading(Box<Leading>),
    Releasing(Releasing),
    Ended,
}

/// One candidate of one Lease.
#[derive(Clone, Debug)]
pub struct Elector {
    settings: Settings,
    phase: Phase,
    sighting: Option<Sighting>,
    /// Nobody has been seen to create the Lease, and it is not there.
    never_seen_absent: bool,
    attempts: Vec<Attempt>,
    next_attempt: u64,
    in_flight: Option<InFlight>,
    read: Reading,
    /// No request is made before this.
    not_before: Duration,
    last_stamp: Timestamp,
    lateness: Lateness,
    margin: Duration,
    closing: bool,
    random: fastrand::Rng,
    actions: VecDeque<Action>,
}

impl Elector {
    /// A candidate that has seen nothing yet. It waits for the first observation: the caller starts to watch.
    pub fn new(settings: Settings) -> Self {
        Self {
            phase: Phase::Standby(Standby::new(settings.reclaim.clone())),
            sighting: None,
            never_seen_absent: false,
            attempts: Vec::new(),
            next_attempt: 0,
            in_flight: None,
            read: Reading::No,
            not_before: Duration::ZERO,
            last_stamp: Timestamp::UNIX_EPOCH,
            lateness: Lateness::default(),
            margin: settings.timing.margin(),
            closing: false,
            random: fastrand::Rng::with_seed(settings.seed),
            actions: VecDeque::new(),
            settings,
        }
    }

    /// What to do next; `None` when everything is done.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Where this candidate stands.
    pub fn role(&self) -> Role {
        match self.phase {
            Phase::Standby(_) => Role::Standby,
            Phase::Leading(_) => Role::Leader,
            Phase::Releasing(_) => Role::Releasing,
            Phase::Ended => Role::Ended,
        }
    }

    /// Whether this candidate has seen the Lease, however long ago.
    pub fn has_seen_lease(&self) -> bool {
        self.sighting.is_some()
    }

    /// The holder last seen.
    pub fn holder(&self) -> Option<&str> {
        self.sighting.as_ref()?.record()?.holder.as_deref()
    }

    /// The transitions of the Lease last seen.
    pub fn transitions(&self) -> Option<i32> {
        Some(self.sighting.as_ref()?.record()?.transitions)
    }

    /// The safety margin at present: that of the durations, or more on a machine whose timers are late.
    pub fn margin(&self) -> Duration {
        self.margin
    }

    /// Why the app is being stopped, if it is.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match &self.phase {
            Phase::Leading(leading) => leading.stop_reason(),
            _ => None,
        }
    }

    /// Whether this candidate will end rather than stand by again.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// An annotation of the Lease last seen; none where the Lease is not there.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.sighting.as_ref()?.record()?.annotation(key)
    }

    /// What keeps this standby from acquiring, beside a holder whose time is not over.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let record = self.sighting.as_ref()?.record()?;
        match self.phase {
            Phase::Standby(_) if record.annotation(names::HOLD).is_some() => Some(Obstacle::Hold),
            Phase::Standby(_) if record.annotation(names::TURNING_ON).is_some() => Some(Obstacle::TurningOn),
            Phase::Standby(_) if !self.settings.timing.has_room(self.margin) => Some(Obstacle::NoRoom),
            _ => None,
        }
    }

    /// When everything dies unless a renewal succeeds, on the boot clock; `None` unless leading.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Leading(leading) => Some(leading.deadline(self.margin)),
            _ => None,
        }
    }

    /// Something happened at `now`.
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Seen(record, source) => self.seen(record, source, now),
            Event::Absent { version, source } => self.absent(version, source, now),
            Event::ReadEnded { answered } => self.read_ended(answered, now),
            Event::Replied { attempt, reply } => self.replied(attempt, reply, now),
            Event::AppExited => self.app_exited(now),
            Event::AppFailed => self.app_failed(now),
            Event::Ready(ready) => self.readiness(ready, now),
            Event::Prepared => self.prepared(now),
            Event::AppGone => self.app_gone(now),
            Event::Shutdown => self.shutdown(now),
            Event::Late(_) if mutant::is(Mutant::LatenessIgnored) => {}
            Event::Starved(_) if mutant::is(Mutant::StarvationIgnored) => {}
            Event::Late(late) => self.lateness.add(now.boot, late),
            Event::Starved(starved) => self.settings.timing = self.settings.timing.with_starved(starved),
        }
        self.advance(now);
    }

    /// The time is `now`: does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.advance(now);
    }

    /// When to call [`Self::handle_timeout`], on the boot clock; `None` when only an event can change anything.
    pub fn next_timeout(&self, now: Now) -> Option<Duration> {
        let idle = self.in_flight.is_none() && self.read != Reading::UnderWay;
        let request = |due: Duration| idle.then(|| due.max(self.not_before));
        let read = if self.read == Reading::Wanted { request(Duration::ZERO) } else { None };
        let phase = match &self.phase {
            Phase::Standby(standby) => [self.standby_timeout(standby, now), None],
            Phase::Leading(leading) => {
                let own = [Some(leading.next_timeout(self.margin)), self.successor_timeout(leading)];
                [own.into_iter().flatten().min(), request(leading.next_renewal())]
            }
            Phase::Releasing(releasing) => [Some(releasing.until()), request(Duration::ZERO)],
            Phase::Ended => return None,
        };
        phase.into_iter().chain([read]).flatten().min()
    }

    fn advance(&mut self, now: Now) {
        let lateness = self.lateness.worst(now.boot);
        self.margin = self.settings.timing.margin_with(lateness);
        if matches!(self.phase, Phase::Leading(_)) {
            self.advance_leading(now);
        }
        if matches!(self.phase, Phase::Releasing(_)) {
            self.advance_releasing(now);
        }
        if matches!(self.phase, Phase::Standby(_)) {
            self.advance_standby(now);
        }
    }

    fn seen(&mut self, record: Record, source: Source, now: Now) {
        self.never_seen_absent = false;
        let update = match &mut self.sighting {
            Some(sighting) => sighting.update(record, source, now),
            none => {
                *none = Some(Sighting::new(record, now));
                Update::Taken
            }
        };
        if update == Update::Stale {
            return;
        }
        self.no_read_wanted();
        match self.phase {
            Phase::Standby(_) => self.seen_on_standby(now),
            Phase::Leading(_) => self.seen_while_leading(now),
            Phase::Releasing(_) => self.seen_while_releasing(now),
            Phase::Ended => {}
        }
    }

    fn absent(&mut self, version: Option<u64>, source: Source, now: Now) {
        match &mut self.sighting {
            Some(sighting) => {
                if sighting.lost(version, source, now) == Update::Stale {
                    return;
                }
            }
            None => self.never_seen_absent = true,
        }
        self.no_read_wanted();
        match &mut self.phase {
            Phase::Leading(leading) => leading.renew_at(now.boot),
            Phase::Releasing(_) => self.released(false, now),
            Phase::Standby(_) | Phase::Ended => {}
        }
    }

    fn shutdown(&mut self, now: Now) {
        self.closing = true;
        if matches!(self.phase, Phase::Leading(_)) {
            self.begin_stop(StopReason::Shutdown, now);
        }
    }

    fn die(&mut self, loss: Loss) {
        if mutant::is(Mutant::ForcedLossCampaigns) {
            self.actions.extend([Action::Kill, Action::Disarm]);
            self.phase = Phase::Standby(Standby::after_step_down(Duration::ZERO, false));
            return;
        }
        self.phase = Phase::Ended;
        self.actions.clear();
        self.actions.push_back(Action::Die(loss));
    }
}
