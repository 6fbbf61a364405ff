//! What the run loop, the stub and the kubelet do on each machine. The rules that an action can break are in [`crate::rules`],
//! except for those of the app's start.

use std::time::Duration;

use leader_agent::{
    clock::Now,
    elector::{Action, Event, StopReason},
};

use crate::{machine::App, queue::What, world::World};

/// More timeouts than this in a second, without an event between them, are a busy loop.
const MANY_TIMEOUTS: u32 = 60;

impl World {
    /// What machine `n` reads from its clocks now. Between the two it may lose the processor for a moment.
    pub(crate) fn reading(&mut self, n: usize) -> Now {
        let between = match self.random.u8(..) {
            _ if self.steady => self.hiccup,
            0 => self.some_time(4),
            _ => Duration::from_micros(self.random.u64(..30)),
        };
        self.machines[n].clocks.read(self.now, between)
    }

    /// Carries out what the elector of machine `n` wants, and arranges its next timeout.
    pub(crate) fn settle(&mut self, n: usize) {
        let mut rounds = 0;
        loop {
            while let Some(process) = self.machines[n].acting()
                && let Some(action) = process.elector.poll()
            {
                self.carry_out(n, action);
            }
            let now = self.reading(n);
            let Some(process) = self.machines[n].acting() else { return };
            let due = process.elector.next_timeout(now);
            match due {
                Some(at) if at <= now.boot => {
                    rounds += 1;
                    process.elector.handle_timeout(now);
                    if rounds > 8 {
                        return self.fail(n, format!("a busy loop: the timeout at {at:?} never does anything"));
                    }
                }
                due => {
                    if process.due != due {
                        process.due = due;
                        process.wake += 1;
                        if let Some(at) = due {
                            let generation = process.wake;
                            let at = self.machines[n].clocks.when(at);
                            self.schedule_at(at, n, What::Wake(generation));
                        }
                    }
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, n: usize, action: Action) {
        let renews = matches!(action, Action::Write { .. } | Action::Arm(_)) && self.machines[n].app.is_some();
        if self.quiet && !renews {
            self.fail(n, format!("in a quiet world: {action:?}"));
        }
        if let Action::Start { .. } = action
            && self.machines[n].process.as_ref().is_some_and(|process| process.seen.hold)
        {
            self.fail(n, "started its app although it has seen the hold");
        }
        match action {
            Action::Read => self.send_read(n),
            Action::Write { attempt, body } => {
                self.check_write(n, &body);
                self.send_write(n, attempt, body);
            }
            Action::Arm(deadline) => self.arm(n, deadline),
            Action::Start { token } => self.start_app(n, token),
            Action::Prepare(reason) => self.prepare_app(n, reason),
            Action::Stop(reason) => self.stop_app(n, reason),
            Action::Kill => {
                self.tell(n, || "kills its app".into());
                let now = self.now;
                if let Some(process) = self.machines[n].acting() {
                    process.killed = Some(now);
                }
                self.kill_app(n);
            }
            Action::Disarm => {
                if self.machines[n].app.is_some() {
                    self.fail(n, "disarmed while a process of the app lives");
                }
                if let Some(process) = self.machines[n].acting() {
                    process.armed = None;
                    process.guard += 1;
                }
            }
            Action::StoreTerm(term) => self.machines[n].disk = Some(term),
            Action::ForgetTerm => self.machines[n].disk = None,
            Action::Die(loss) => {
                self.check_death(n, loss);
                self.tell(n, || format!("dies: {loss}"));
                self.end_agent(n);
            }
            Action::End => {
                self.tell(n, || "ends".into());
                if self.machines[n].app.is_some() {
                    self.fail(n, "ended while a process of the app lives");
                }
                self.end_agent(n);
            }
        }
    }

    /// The agent does nothing any more; what is left of its container dies within the kill chain.
    pub(crate) fn end_agent(&mut self, n: usize) {
        let chain = self.up_to(self.worst_kill(n));
        if let Some(process) = self.machines[n].acting() {
            process.over = true;
            let chain = if self.machines[n].app.is_some() { chain } else { Duration::from_millis(1) };
            self.schedule(chain, n, What::Dead);
        }
    }

    /// A part of the time that the margin allows for, or all of it.
    pub(crate) fn up_to(&mut self, worst: Duration) -> Duration {
        if self.slow_kills { worst } else { crate::plan::part(&mut self.random, worst) }
    }

    fn arm(&mut self, n: usize, deadline: Duration) {
        let late = self.up_to(self.worst_timer(n));
        let latest = self.latest_deadline(n);
        let machine = &mut self.machines[n];
        let at = machine.clocks.when(deadline) + late;
        let Some(process) = machine.acting() else { return };
        process.armed = Some(deadline);
        process.guard += 1;
        let generation = process.guard;
        self.schedule_at(at, n, What::Guard(generation));
        if latest.is_none_or(|latest| deadline > latest) {
            self.fail(n, format!("a deadline later than what is stored allows: {deadline:?} instead of {latest:?}"));
        }
    }

    pub(crate) fn guard_fires(&mut self, n: usize, generation: u64) {
        if self.machines[n].process.as_ref().is_some_and(|process| process.guard == generation) {
            self.check_deadline(n);
            self.tell(n, || "is killed by its guard".into());
            let chain = self.up_to(self.worst_kill(n));
            // Until then the agent may still act.
            self.schedule(chain, n, What::Dead);
        }
    }

    fn start_app(&mut self, n: usize, token: u64) {
        let alive = self.alive();
        let boot = self.machines[n].clocks.boot(self.now);
        self.tell(n, || format!("STARTS ITS APP with token {token}"));
        let armed = self.machines[n].process.as_ref().and_then(|process| process.armed);
        if armed.is_none_or(|armed| armed <= boot) {
            self.fail(n, format!("started its app with the guard at {armed:?}, at {boot:?}"));
        }
        if !alive.is_empty() {
            self.fail_promise(n, format!("TWO APPS: {n} starts while that of {alive:?} lives"));
        }
        if token <= self.token {
            self.fail(n, format!("the fencing token {token} is not above {}", self.token));
        }
        self.token = token;
        self.machines[n].token = token;
        self.count_rival_overlap();
        self.starts += 1;
        self.numbers += 1;
        self.last_start = self.now;
        let number = self.numbers;
        self.machines[n].app =
            Some(App { number, prepared: false, asked_to_stop: false, first_process: true, planned_since: None });
        if let Some(process) = self.machines[n].acting() {
            (process.unready_since, process.gives_away, process.gave_away) = (None, false, None);
        }
    }

    fn prepare_app(&mut self, n: usize, reason: StopReason) {
        self.tell(n, || format!("prepares its app for a stop: {reason}"));
        self.check_giving_away(n, reason);
        let boot = self.machines[n].clocks.boot(self.now);
        let temper = self.machines[n].temper.clone();
        let Some(app) = &mut self.machines[n].app else { return };
        app.planned_since = Some(boot);
        if std::mem::replace(&mut app.prepared, true) || app.asked_to_stop || temper.preparation.is_zero() {
            return self.fail(n, "prepared an app twice, or one that is already stopping, or without time for it");
        }
        let number = app.number;
        if let Some(after) = temper.prepared_in {
            self.schedule(after, n, What::Prepared(number));
        }
    }

    /// The preparation of the app is done.
    pub(crate) fn prepared(&mut self, n: usize, number: u64) {
        if self.machines[n].app.as_ref().is_some_and(|app| app.number == number) {
            self.feed(n, Event::Prepared);
        }
    }

    fn stop_app(&mut self, n: usize, reason: StopReason) {
        self.tell(n, || format!("stops its app: {reason}"));
        let machine = &self.machines[n];
        let prepared = machine.temper.preparation.is_zero() || machine.app.as_ref().is_none_or(|app| app.prepared);
        let can_wait =
            matches!(reason, StopReason::Hold | StopReason::AppFailed | StopReason::StepDown | StopReason::Unready);
        if can_wait && !prepared {
            self.fail(n, "stopped an app without preparing it, although there was time");
        }
        let boot = self.machines[n].clocks.boot(self.now);
        if let Some(app) = &mut self.machines[n].app {
            app.planned_since = if can_wait { app.planned_since.or(Some(boot)) } else { None };
        }
        if self.machines[n].app.as_ref().is_none_or(|app| !app.prepared) {
            self.check_giving_away(n, reason);
        }
        if let Some(process) = self.machines[n].acting() {
            process.gives_away = matches!(reason, StopReason::StepDown | StopReason::Unready);
        }
        let clocks = &self.machines[n].clocks;
        if reason == StopReason::ClockSkew && clocks.boot_rate.abs_diff(clocks.raw_rate) < 40_000 {
            self.fail(n, "saw a clock skew that is none");
        }
        if self.machines[n].app.is_none() {
            let left = self.machines[n].beside_until.saturating_sub(self.now);
            self.schedule(left, n, What::NothingLeft);
        } else if reason != StopReason::Shutdown {
            let time = if can_wait { self.machines[n].temper.stop_time } else { Duration::ZERO };
            self.expect_gone(n, time, "its stop began");
            self.signal_app(n);
        }
    }

    /// The stop signal reaches the app's first process.
    pub(crate) fn signal_app(&mut self, n: usize) {
        let temper = self.machines[n].temper.clone();
        if let Some(app) = &mut self.machines[n].app
            && !std::mem::replace(&mut app.asked_to_stop, true)
            && let Some(after) = temper.stops_in
        {
            let number = app.number;
            self.schedule(after, n, What::AppExits(number));
        }
    }

    fn kill_app(&mut self, n: usize) {
        let machine = &self.machines[n];
        let (after, boot) = (machine.temper.killed_in, machine.clocks.boot(self.now));
        let in_time = |app: &App| app.planned_since.is_none_or(|since| boot >= since + machine.temper.stop_time);
        if machine.app.as_ref().is_some_and(|app| app.first_process && !in_time(app)) {
            self.fail(n, "killed an app that was to have more time, although the lease was renewed");
        }
        if let Some(number) = self.machines[n].app.as_ref().map(|app| app.number) {
            self.schedule(after, n, What::AppGone(number));
        }
    }

    /// The app's first process ends.
    pub(crate) fn app_exits(&mut self, n: usize, number: u64) {
        let orphans = self.machines[n].temper.leaves_orphans;
        let Some(app) = self.machines[n].app.as_mut().filter(|app| app.number == number && app.first_process) else {
            return;
        };
        app.first_process = false;
        self.tell(n, || "its app's first process ends".into());
        self.expect_gone(n, Duration::ZERO, "its first process ended");
        self.feed(n, Event::AppExited);
        if !orphans {
            self.app_gone(n, number);
        }
    }

    /// The last process of the app is gone.
    pub(crate) fn app_gone(&mut self, n: usize, number: u64) {
        let machine = &mut self.machines[n];
        let Some(app) = machine.app.take_if(|app| app.number == number) else { return };
        machine.gone_since = self.now;
        self.tell(n, || "its app is gone".into());
        if app.first_process {
            self.feed(n, Event::AppExited);
        }
        self.feed(n, Event::AppGone);
    }

    pub(crate) fn wake(&mut self, n: usize, generation: u64) {
        let reading = self.reading(n);
        let second = Duration::from_secs(self.now.as_secs());
        let Some(process) = self.machines[n].acting() else { return };
        if process.paused || process.wake != generation {
            return;
        }
        process.due = None;
        if process.timeouts.0 != second {
            process.timeouts = (second, 0);
        }
        process.timeouts.1 += 1;
        let many = process.timeouts.1 > MANY_TIMEOUTS;
        process.elector.handle_timeout(reading);
        self.settle(n);
        if many {
            self.fail(n, format!("a busy loop: {MANY_TIMEOUTS} timeouts in a second"));
        }
    }

    pub(crate) fn resume(&mut self, n: usize) {
        let reading = self.reading(n);
        let (now, timer_first) = (self.now, self.random.bool());
        let Some(process) = self.machines[n].acting() else { return };
        process.paused = false;
        process.disturbed = now;
        let late = process.due.map(|due| reading.boot.saturating_sub(due)).filter(|late| !late.is_zero());
        let events = std::mem::take(&mut process.inbox);
        self.tell(n, || "goes on".into());
        if let (Some(late), true) = (late, timer_first) {
            self.feed(n, Event::Late(late));
        }
        for event in events {
            self.feed(n, event);
        }
        if let (Some(late), false) = (late, timer_first) {
            self.feed(n, Event::Late(late));
        }
        self.settle(n);
    }

    /// The kubelet has lost its patience.
    pub(crate) fn kill_container(&mut self, n: usize) {
        if self.machines[n].acting().is_some() {
            self.tell(n, || "is killed by the kubelet".into());
            self.end_agent(n);
        }
    }

    /// Whoever was asked to end and has no app must end soon.
    pub(crate) fn check_end(&mut self, n: usize) {
        let now = self.now;
        let machine = &mut self.machines[n];
        let (gone, bound) = (machine.gone_since, machine.timing.lease() + Duration::from_secs(6));
        let has_app = machine.app.is_some();
        let Some(process) = machine.acting() else { return };
        let Some(asked) = process.asked_to_end else { return };
        if process.paused || has_app || now < asked.max(gone) + bound {
            return self.schedule(Duration::from_secs(3), n, What::CheckEnd);
        }
        self.fail(n, format!("did not end within {bound:?}"));
    }
}
