//! What a probe is answered with: decided from the stage of this candidate and the time, without a clock and without I/O.
//!
//! The kubelet began to ask when the container started, long before the app of a new leader did. So what the kubelet does at the
//! start of a container is done here at the start of the app, in its order: the `postStart` hook, the startup probe, and only then
//! liveness and readiness, after their initial delays. Sources: `doProbe` in `pkg/kubelet/prober/worker.go`; that probes wait for
//! `postStart`, `startContainer` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`.

use std::time::Duration;

use super::{
    Kind, Outcome,
    spec::{Probe, Probes},
};

/// A readiness request is held back no longer than this until the Lease was read.
const LONGEST_HOLD: Duration = Duration::from_secs(4);
/// An answer is given this much before the kubelet gives up waiting for it.
const BEFORE_TIMEOUT: Duration = Duration::from_millis(200);
/// The timeout of the readiness probe that injection adds where the user has none.
const ADDED_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nobody is ready to lead, or to follow, before the Lease was read.
const NOT_READ: &str = "the agent has not read its Lease yet: its log says why";
/// Why a pod is not ready whose app may well be.
const NOT_LEADING: &str = "mode ready: this pod does not lead";

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, for this reason.
    Pass(&'static str),
    /// It fails, for this reason.
    Fail(&'static str),
    /// Ask again when something changed, and at this moment at the latest.
    Wait(Duration),
    /// The user's probe has to be carried out.
    CarryOut,
}

/// What the agent has to begin by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The postStart hook.
    PostStart,
    /// The startup probe, once.
    Startup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Standby,
    PostStart {
        started: Duration,
        begun: bool,
    },
    Startup {
        started: Duration,
        due: Duration,
        under_way: bool,
        failures: u32,
    },
    Running {
        started: Duration,
    },
    /// The app runs whoever leads, from the start of the container on.
    Everywhere {
        leads: bool,
    },
}

/// The gate of one candidate. Moments are on any clock that does not go back.
#[derive(Debug)]
pub struct Gate {
    probes: Probes,
    has_post_start: bool,
    lease_seen: bool,
    stage: Stage,
    /// The app is stopping, or is prepared for that, or will be because its start has failed: nothing new is begun.
    stopping: bool,
}

impl Gate {
    /// A standby that has seen nothing yet.
    pub fn new(probes: Probes, has_post_start: bool) -> Self {
        Self { probes, has_post_start, lease_seen: false, stage: Stage::Standby, stopping: false }
    }

    /// For an app that runs in every pod, of which only the leader's is ready. The kubelet has seen it start, and asks everything but
    /// readiness by itself.
    pub fn everywhere(probes: Probes) -> Self {
        Self { stage: Stage::Everywhere { leads: false }, ..Self::new(probes, false) }
    }

    /// Whether this candidate leads, where the app runs in every pod.
    pub fn leads(&mut self, leads: bool) {
        if matches!(self.stage, Stage::Everywhere { .. }) {
            self.stage = Stage::Everywhere { leads };
        }
    }

    /// The Lease was read: true from then on, whatever becomes of the API server.
    pub fn lease_seen(&mut self) {
        self.lease_seen = true;
    }

    /// The app was started.
    pub fn app_started(&mut self, now: Duration) {
        self.stopping = false;
        self.stage = Stage::PostStart { started: now, begun: false };
    }

    /// The app is being stopped, or prepared for that.
    pub fn app_stops(&mut self) {
        self.stopping = true;
    }

    /// Nothing of the app is left.
    pub fn app_gone(&mut self) {
        self.stage = match self.stage {
            Stage::Everywhere { .. } => Stage::Everywhere { leads: false },
            _ => Stage::Standby,
        };
    }

    /// What to begin now. The caller reports its end with [`Self::ended`].
    pub fn poll(&mut self, now: Duration) -> Option<Task> {
        if self.stopping {
            return None;
        }
        match &mut self.stage {
            Stage::PostStart { started, begun: false } if !self.has_post_start => {
                let started = *started;
                self.begin_startup(started, now);
                self.poll(now)
            }
            Stage::PostStart { begun, .. } if !*begun => {
                *begun = true;
                Some(Task::PostStart)
            }
            Stage::Startup { due, under_way, .. } if !*under_way && *due <= now => {
                let period = self.probes.startup.as_ref()?.period;
                *under_way = true;
                // A ticker: what it would have said during a long probe it says once, right after.
                let passed = now.saturating_sub(*due).as_nanos() / period.as_nanos().max(1);
                *due += period * u32::try_from(passed + 1).unwrap_or(u32::MAX);
                Some(Task::Startup)
            }
            _ => None,
        }
    }

    /// When to call [`Self::poll`]; `None` when only an event can change anything.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.stage {
            _ if self.stopping => None,
            Stage::PostStart { started, begun: false } => Some(started),
            Stage::Startup { due, under_way: false, .. } => Some(due),
            _ => None,
        }
    }

    /// A task ended. `Err` when the app's start has failed for good, and why. What fails because the app stops is no such failure.
    pub fn ended(&mut self, task: Task, outcome: &Outcome, now: Duration) -> Result<(), String> {
        match (task, &mut self.stage) {
            (Task::PostStart, Stage::PostStart { started, begun: true }) => {
                let started = *started;
                match outcome {
                    Outcome::Success | Outcome::Warning(_) => self.begin_startup(started, now),
                    Outcome::Failure(_) | Outcome::Unknown(_) if self.stopping => {}
                    Outcome::Failure(reason) | Outcome::Unknown(reason) => {
                        self.stopping = true;
                        return Err(format!("the postStart hook failed: {reason}"));
                    }
                }
            }
            (Task::Startup, Stage::Startup { started, under_way, failures, .. }) => {
                *under_way = false;
                match outcome {
                    Outcome::Success | Outcome::Warning(_) => self.stage = Stage::Running { started: *started },
                    Outcome::Unknown(_) => {}
                    Outcome::Failure(_) if self.stopping => {}
                    Outcome::Failure(reason) => {
                        *failures += 1;
                        let most = self.probes.startup.as_ref().map_or(1, |probe| probe.failure_threshold);
                        if *failures >= most {
                            self.stopping = true;
                            return Err(format!("the startup probe failed {failures} times, at last: {reason}"));
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Answers a request that came in at `asked`.
    pub fn ask(&self, kind: Kind, asked: Duration, now: Duration) -> Verdict {
        match (self.stage, kind) {
            (Stage::Standby, Kind::Readiness) if !self.lease_seen => {
                let until = asked + self.longest_hold();
                if now < until { Verdict::Wait(until) } else { Verdict::Fail(NOT_READ) }
            }
            (Stage::Standby, _) => Verdict::Pass("standing by"),
            (Stage::Everywhere { leads: false }, Kind::Readiness) => Verdict::Fail(NOT_LEADING),
            // The kubelet has waited for what comes before readiness, initialDelaySeconds too.
            (Stage::Everywhere { leads: true }, Kind::Readiness) if self.probe(kind).is_some() => Verdict::CarryOut,
            (Stage::Everywhere { leads: true }, _) => Verdict::Pass("leading"),
            (Stage::Everywhere { leads: false }, _) => Verdict::Pass("the application runs in every pod"),
            (_, Kind::Startup) => Verdict::Pass("leading: the agent asks the startup probe by itself"),
            (Stage::PostStart { .. }, Kind::Liveness) => Verdict::Pass("leading: the postStart hook comes first"),
            (Stage::PostStart { .. }, Kind::Readiness) => Verdict::Fail("the postStart hook has not passed yet"),
            (Stage::Startup { .. }, Kind::Liveness) => Verdict::Pass("leading: the startup probe comes first"),
            (Stage::Startup { .. }, Kind::Readiness) => Verdict::Fail("the startup probe has not passed yet"),
            // What the kubelet does while it stops a container.
            (Stage::Running { .. }, Kind::Liveness) if self.stopping => Verdict::Pass("the application is stopping"),
            (Stage::Running { started }, kind) => match self.probe(kind) {
                None => Verdict::Pass("leading"),
                Some(probe) if now >= started + probe.initial_delay => Verdict::CarryOut,
                Some(_) if kind == Kind::Liveness => Verdict::Pass("leading: initialDelaySeconds are not over"),
                Some(_) => Verdict::Fail("initialDelaySeconds are not over"),
            },
        }
    }

    /// The user's probe.
    pub fn probe(&self, kind: Kind) -> Option<&Probe> {
        match kind {
            Kind::Liveness => self.probes.liveness.as_ref(),
            Kind::Readiness => self.probes.readiness.as_ref(),
            Kind::Startup => self.probes.startup.as_ref(),
        }
    }

    fn begin_startup(&mut self, started: Duration, now: Duration) {
        self.stage = match &self.probes.startup {
            None => Stage::Running { started },
            Some(probe) => {
                let due = now.max(started + probe.initial_delay);
                Stage::Startup { started, due, under_way: false, failures: 0 }
            }
        };
    }

    fn longest_hold(&self) -> Duration {
        let timeout = self.probes.readiness.as_ref().map_or(ADDED_TIMEOUT, |probe| probe.timeout);
        timeout.saturating_sub(BEFORE_TIMEOUT).min(LONGEST_HOLD)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn probe(initial_delay: u64, period: u64, failure_threshold: u32, timeout: u64) -> Probe {
        let value = json!({ "exec": {}, "initialDelaySeconds": initial_delay, "periodSeconds": period,
            "failureThreshold": failure_threshold, "timeoutSeconds": timeout });
        serde_json::from_value(value).unwrap()
    }

    fn all() -> Probes {
        Probes {
            liveness: Some(probe(3, 1, 3, 1)),
            readiness: Some(probe(5, 1, 3, 1)),
            startup: Some(probe(2, 4, 3, 1)),
        }
    }

    fn at(seconds: u32) -> Duration {
        SECOND * (100 + seconds)
    }

    fn ask(gate: &Gate, seconds: u32) -> [Verdict; 3] {
        Kind::ALL.map(|kind| gate.ask(kind, at(seconds), at(seconds)))
    }

    fn passes(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Pass(_))
    }

    fn fails(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Fail(_))
    }

    #[test]
    fn a_standby_is_ready_once_it_has_read_its_lease() {
        for (readiness, hold) in [(None, 4000), (Some(probe(0, 1, 1, 1)), 800), (Some(probe(0, 1, 1, 60)), 4000)] {
            let mut gate = Gate::new(Probes { readiness, ..all() }, true);
            let [liveness, waiting, startup] = ask(&gate, 0);
            assert!(passes(liveness) && passes(startup));
            let until = at(0) + Duration::from_millis(hold);
            assert_eq!(waiting, Verdict::Wait(until));
            assert!(fails(gate.ask(Kind::Readiness, at(0), until)));
            gate.lease_seen();
            assert!(ask(&gate, 1).into_iter().all(passes));
        }
    }

    #[test]
    fn a_promotion_is_the_start_of_a_container() {
        let mut gate = Gate::new(all(), true);
        gate.lease_seen();
        gate.app_started(at(0));
        assert_eq!(
            (gate.next_timeout(), gate.poll(at(0)), gate.poll(at(0))),
            (Some(at(0)), Some(Task::PostStart), None)
        );
        let [liveness, readiness, startup] = ask(&gate, 1);
        assert!(passes(liveness) && fails(readiness) && passes(startup));

        gate.ended(Task::PostStart, &Outcome::Success, at(1)).unwrap();
        assert_eq!((gate.poll(at(1)), gate.next_timeout()), (None, Some(at(2))));
        assert_eq!((gate.poll(at(2)), gate.poll(at(2))), (Some(Task::Startup), None));
        let [liveness, readiness, startup] = ask(&gate, 2);
        assert!(passes(liveness) && fails(readiness) && passes(startup));

        gate.ended(Task::Startup, &Outcome::Failure("no".into()), at(2)).unwrap();
        assert_eq!(gate.next_timeout(), Some(at(6)));
        assert_eq!(gate.poll(at(6)), Some(Task::Startup));
        gate.ended(Task::Startup, &Outcome::Success, at(6)).unwrap();
        // The initial delays count from the app's start.
        let [liveness, readiness, startup] = ask(&gate, 6);
        assert!(liveness == Verdict::CarryOut && readiness == Verdict::CarryOut && passes(startup));

        gate.app_stops();
        let [liveness, readiness, _] = ask(&gate, 7);
        assert!(passes(liveness) && readiness == Verdict::CarryOut);
        gate.app_gone();
        assert!(ask(&gate, 8).into_iter().all(passes));
    }

    #[test]
    fn where_the_app_runs_everywhere_only_the_leader_is_ready_and_the_users_probe_counts_there() {
        for readiness in [None, Some(probe(99, 1, 1, 1))] {
            let of_leader = if readiness.is_some() { Verdict::CarryOut } else { Verdict::Pass("leading") };
            let mut gate = Gate::everywhere(Probes { readiness, ..all() });
            // Whether the Lease was read makes nobody ready.
            for seen in [false, true] {
                if seen {
                    gate.lease_seen();
                }
                let [liveness, readiness, startup] = ask(&gate, 0);
                assert!(passes(liveness) && fails(readiness) && passes(startup));
            }
            gate.leads(true);
            let [liveness, readiness, startup] = ask(&gate, 0);
            assert!(passes(liveness) && readiness == of_leader && passes(startup));
            assert_eq!((gate.poll(at(9)), gate.next_timeout()), (None, None), "the kubelet does that");
            gate.leads(false);
            assert!(fails(ask(&gate, 1)[1]));
            gate.leads(true);
            gate.app_gone();
            assert!(fails(ask(&gate, 2)[1]), "whose app has ended is not ready");
        }
        let mut gate = Gate::new(all(), false);
        gate.lease_seen();
        gate.leads(true);
        assert!(passes(ask(&gate, 0)[1]), "a standby of the other mode is none of this");
    }

    #[test]
    fn initial_delays_count_from_the_start_of_the_app() {
        let mut gate = Gate::new(Probes { startup: None, ..all() }, false);
        gate.app_started(at(0));
        assert_eq!((gate.poll(at(0)), gate.next_timeout()), (None, None));
        let [liveness, readiness, _] = ask(&gate, 2);
        assert!(passes(liveness) && fails(readiness));
        let [liveness, readiness, _] = ask(&gate, 3);
        assert!(liveness == Verdict::CarryOut && fails(readiness));
        let [_, readiness, _] = ask(&gate, 5);
        assert_eq!(readiness, Verdict::CarryOut);
        let mut gate = Gate::new(Probes::default(), false);
        gate.app_started(at(0));
        assert_eq!(gate.poll(at(0)), None);
        assert!(ask(&gate, 0).into_iter().all(passes));
    }

    #[test]
    fn a_start_that_fails_is_over_and_another_one_begins_anew() {
        let mut gate = Gate::new(all(), true);
        gate.app_started(at(0));
        assert_eq!(gate.poll(at(0)), Some(Task::PostStart));
        let error = gate.ended(Task::PostStart, &Outcome::Unknown("not found".into()), at(0)).unwrap_err();
        assert_eq!(error, "the postStart hook failed: not found");
        assert_eq!((gate.poll(at(9)), gate.next_timeout()), (None, None));
        let [liveness, readiness, _] = ask(&gate, 9);
        assert!(passes(liveness) && fails(readiness));
        gate.app_gone();
        gate.app_started(at(10));
        assert_eq!(gate.poll(at(10)), Some(Task::PostStart));
    }

    #[test]
    fn what_fails_while_the_app_stops_is_no_failed_start() {
        let mut gate = Gate::new(all(), true);
        gate.app_started(at(0));
        assert_eq!(gate.poll(at(0)), Some(Task::PostStart));
        gate.app_stops();
        // Killed with the app that ended.
        assert_eq!(gate.ended(Task::PostStart, &Outcome::Failure("exit code 137".into()), at(1)), Ok(()));

        let mut gate = Gate::new(Probes { startup: Some(probe(0, 1, 1, 1)), ..all() }, false);
        gate.app_started(at(0));
        assert_eq!(gate.poll(at(0)), Some(Task::Startup));
        gate.app_stops();
        assert_eq!(gate.ended(Task::Startup, &Outcome::Failure("refused".into()), at(1)), Ok(()));
        let [liveness, readiness, startup] = ask(&gate, 1);
        assert!(passes(liveness) && fails(readiness) && passes(startup));
    }

    #[test]
    fn a_ticker_says_once_what_it_missed() {
        let mut gate = Gate::new(Probes { startup: Some(probe(0, 1, 99, 9)), ..all() }, false);
        gate.app_started(at(0));
        let failed = Outcome::Failure(String::new());
        for (begins, ends) in [(0, 0), (1, 4), (4, 4), (5, 5)] {
            assert_eq!(gate.poll(at(begins)), Some(Task::Startup), "at {begins}");
            gate.ended(Task::Startup, &failed, at(ends)).unwrap();
        }
        assert_eq!(gate.next_timeout(), Some(at(6)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Seen,
        Started,
        Stops,
        Gone,
        Ended(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..5000_u64).prop_map(Step::Wait),
            1 => Just(Step::Seen),
            1 => Just(Step::Started),
            1 => Just(Step::Stops),
            1 => Just(Step::Gone),
            4 => (0..4_u8).prop_map(Step::Ended),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn the_rules_hold_whatever_happens(
            steps in steps(),
            post_start in any::<bool>(),
            startup in prop::option::of((0..5_u64, 1..4_u64, 1..4_u32)),
            delays in (0..5_u64, 0..5_u64),
            has in (any::<bool>(), any::<bool>()),
        ) {
            let probes = Probes {
                liveness: has.0.then(|| probe(delays.0, 1, 3, 1)),
                readiness: has.1.then(|| probe(delays.1, 1, 3, 2)),
                startup: startup.map(|(delay, period, threshold)| probe(delay, period, threshold, 1)),
            };
            let mut gate = Gate::new(probes.clone(), post_start);
            let (mut now, mut seen) = (at(0), false);
            // What is true of the app: since when it runs, which task is under way, what has passed.
            let mut app: Option<Duration> = None;
            let (mut task, mut stopping) = (None, false);
            let (mut hooked, mut up, mut failures, mut last_startup) = (false, false, 0, None);
            for step in steps {
                match step {
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                    Step::Seen => { gate.lease_seen(); seen = true; }
                    Step::Started if app.is_none() => {
                        gate.app_started(now);
                        app = Some(now);
                        (task, stopping, hooked, up, failures, last_startup) =
                            (None, false, !post_start, false, 0, None);
                    }
                    Step::Stops if app.is_some() => { gate.app_stops(); stopping = true; }
                    Step::Gone if app.is_some() => { gate.app_gone(); app = None; task = None; }
                    Step::Ended(how) => if let Some(ended) = task.take() {
                        let outcome = match how {
                            0 => Outcome::Success,
                            1 => Outcome::Warning("w".into()),
                            2 => Outcome::Failure("f".into()),
                            _ => Outcome::Unknown("u".into()),
                        };
                        let passed = how < 2;
                        let result = gate.ended(ended, &outcome, now);
                        let for_good = match ended {
                            Task::PostStart => { hooked = passed; !passed && !stopping }
                            Task::Startup => {
                                up = passed;
                                failures += u32::from(how == 2 && !stopping);
                                how == 2 && !stopping && failures >= startup.map_or(0, |(_, _, threshold)| threshold)
                            }
                        };
                        prop_assert_eq!(result.is_err(), for_good);
                        stopping |= for_good;
                    },
                    _ => {}
                }
                if let Some(begun) = gate.poll(now) {
                    prop_assert!(app.is_some() && !stopping && task.is_none(), "{:?} at the wrong time", begun);
                    match begun {
                        Task::PostStart => prop_assert!(post_start && !hooked),
                        Task::Startup => {
                            let (delay, _, _) = startup.expect("one that the user has");
                            prop_assert!(hooked && !up);
                            prop_assert!(now >= app.expect("an app") + SECOND * u32::try_from(delay).unwrap());
                            prop_assert!(last_startup < Some(now), "twice at one moment");
                            last_startup = Some(now);
                        }
                    }
                    task = Some(begun);
                }
                prop_assert_eq!(gate.poll(now), None);
                // Nothing that is due is left to an event that may never come.
                prop_assert!(gate.next_timeout().is_none_or(|due| due > now));

                let [liveness, readiness, startup_asked] = Kind::ALL.map(|kind| gate.ask(kind, now, now));
                prop_assert!(passes(startup_asked), "the kubelet never restarts for a startup probe");
                prop_assert!(passes(liveness) || liveness == Verdict::CarryOut, "only the app itself fails liveness");
                match app {
                    None => {
                        prop_assert!(passes(liveness));
                        prop_assert_eq!(passes(readiness), seen);
                    }
                    Some(started) => {
                        let started_up = hooked && (up || startup.is_none());
                        if started_up {
                            let over = |delay: u64| now >= started + Duration::from_secs(delay);
                            prop_assert_eq!(liveness == Verdict::CarryOut, has.0 && over(delays.0) && !stopping);
                            prop_assert_eq!(readiness == Verdict::CarryOut, has.1 && over(delays.1));
                            prop_assert_eq!(passes(readiness), !has.1);
                        } else {
                            prop_assert!(passes(liveness) && fails(readiness));
                        }
                    }
                }
            }
        }
    }
}
