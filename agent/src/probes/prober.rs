//! Answers the kubelet's probes and hooks: asks the [`Gate`], has carried out what it says, and tells whoever waits.
//!
//! Part of the run loop's task. What needs the app itself or the elector is an [`Order`] to the run loop.

use std::{collections::VecDeque, ffi::OsString, mem, time::Duration};

use futures::{
    StreamExt,
    future::{FutureExt, LocalBoxFuture},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use super::{
    Kind, Outcome,
    connect::{Target, tcp},
    gate::{Gate, Task, Verdict},
    grpc, http,
    interface::{Answer, Ask, Job, Order, Question},
    readiness::Readiness,
    spec::{Handler, Hooks, Probes},
};
use crate::{
    app::{Exec, ExecEnd, StartError},
    clock,
    slices::endpoint::Aim,
};

/// A result that is not older than this answers a request as well: whoever asks all the time must not start a program each time.
/// The kubelet asks once a second at most.
const FRESH: Duration = Duration::from_millis(500);

/// The probes and hooks of one candidate.
#[derive(Debug)]
pub struct Prober {
    gate: Gate,
    hooks: Hooks,
    target: Target,
    /// The kubelet waits no longer for a preStop hook.
    termination_grace: Duration,
    asks: mpsc::Receiver<Ask>,
    /// Requests that wait for the Lease to be read.
    held: Vec<Ask>,
    liveness: Slot,
    readiness: Slot,
    startup: Slot,
    /// Whether the app is ready, for traffic that follows the leader.
    own_look: Readiness,
    pre_stop: PreStop,
    jobs: FuturesUnordered<LocalBoxFuture<'static, (Job, Outcome)>>,
    orders: VecDeque<Order>,
}

/// One probe, carried out at most once at a time.
#[derive(Debug, Default)]
struct Slot {
    under_way: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
    last: Option<(Duration, Answer)>,
    /// What the log said last.
    told: Option<bool>,
}

/// The preStop hook, which runs once for each app.
#[derive(Debug)]
enum PreStop {
    /// There is no app, or it was asked to stop.
    Over,
    Ready,
    UnderWay {
        waiting: Vec<oneshot::Sender<Answer>>,
        /// The elector waits for it, too.
        prepares: bool,
    },
    Done(Answer),
}

impl Prober {
    /// For a standby. `asks` brings the questions, `target` is where handlers connect to.
    pub fn new(
        probes: Probes,
        hooks: Hooks,
        target: Target,
        termination_grace: Duration,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            gate: Gate::new(probes, hooks.post_start.is_some()),
            hooks,
            target,
            termination_grace,
            asks,
            held: Vec::new(),
            liveness: Slot::default(),
            readiness: Slot::default(),
            startup: Slot::default(),
            own_look: Readiness::default(),
            pre_stop: PreStop::Over,
            jobs: FuturesUnordered::new(),
            orders: VecDeque::new(),
        }
    }

    /// For an app that runs in every pod, of which only the leader's is ready.
    pub fn everywhere(probes: Probes, target: Target, asks: mpsc::Receiver<Ask>) -> Self {
        let gate = Gate::everywhere(probes.clone());
        Self { gate, ..Self::new(probes, Hooks::default(), target, Duration::ZERO, asks) }
    }

    /// Whether this candidate leads, where the app runs in every pod.
    pub fn leads(&mut self, leads: bool) {
        self.gate.leads(leads);
        // Each term is told anew whether the app is ready.
        self.readiness.told = None;
        self.own_look.begin(clock::boot());
        // No hook is the agent's here: this is when traffic may come.
        self.pre_stop = if leads { PreStop::Ready } else { PreStop::Over };
        self.advance();
    }

    /// Whether anybody wants to know if the app is ready, beside the kubelet: then it is asked without waiting for that one.
    pub fn follow_readiness(&mut self, wanted: bool) {
        self.own_look.want(wanted);
    }

    /// What the app is for traffic: nothing from the moment on at which it is stopped, or prepared for that.
    pub fn traffic(&self) -> Aim {
        match self.pre_stop {
            PreStop::Ready if self.own_look.is_ready() => Aim::Ready,
            PreStop::Ready => Aim::Started,
            PreStop::Over | PreStop::UnderWay { .. } | PreStop::Done(_) => Aim::Out,
        }
    }

    /// What the run loop has to do; `None` when everything is done.
    pub fn order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Waits for the next question, result or moment, and does what follows. Nothing is lost when the future is dropped.
    pub async fn turn(&mut self) {
        let now = clock::boot();
        let held = self.held.iter().filter_map(|ask| match (ask.question, ask.asked) {
            (Question::Probe(kind), asked) => match self.gate.ask(kind, asked, now) {
                Verdict::Wait(until) => Some(until),
                _ => Some(now),
            },
            (Question::PreStop, _) => None,
        });
        let due = held.chain(self.gate.next_timeout()).chain(self.own_look_due()).min();
        let pause = async {
            match due {
                Some(due) => sleep(due.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ask) = self.asks.recv() => self.asked(ask),
            Some((job, outcome)) = self.jobs.next() => self.done(job, outcome),
            () = pause => {}
        }
        self.advance();
    }

    /// This agent has read its Lease.
    pub fn lease_seen(&mut self) {
        self.gate.lease_seen();
        self.advance();
    }

    /// The app was started.
    pub fn app_started(&mut self) {
        let now = clock::boot();
        self.gate.app_started(now);
        self.own_look.begin(now);
        self.pre_stop = PreStop::Ready;
        self.advance();
    }

    /// The app shall be prepared for a stop: [`Order::Prepared`] follows.
    pub fn prepare(&mut self) {
        match &mut self.pre_stop {
            PreStop::UnderWay { prepares, .. } => *prepares = true,
            PreStop::Ready if self.hooks.pre_stop.is_some() => {
                info!("running the preStop hook");
                // As in a container that the kubelet stops: what the hook does to the app is nothing to restart it for.
                self.gate.app_stops();
                self.pre_stop = PreStop::UnderWay { waiting: Vec::new(), prepares: true };
                self.begin(Job::PreStop);
            }
            PreStop::Over | PreStop::Ready | PreStop::Done(_) => self.orders.push_back(Order::Prepared),
        }
    }

    /// The app is asked to stop, or has ended by itself. A hook that is under way goes on for as long as the app is there.
    pub fn app_stops(&mut self) {
        self.gate.app_stops();
        if matches!(self.pre_stop, PreStop::Ready) {
            self.pre_stop = PreStop::Over;
        }
    }

    /// Nothing of the app is left, and nothing that ran beside it.
    pub fn app_gone(&mut self) {
        self.gate.app_gone();
        self.jobs.clear();
        self.orders.clear();
        if let PreStop::UnderWay { waiting, .. } = mem::replace(&mut self.pre_stop, PreStop::Over) {
            send(waiting, &Answer::new(false, "the application ended before the preStop hook did"));
        }
        let now = clock::boot();
        self.own_look.begin(now);
        for kind in Kind::ALL {
            let slot = mem::take(self.slot(kind));
            for reply in slot.waiting {
                self.asked(Ask { question: Question::Probe(kind), asked: now, reply });
            }
        }
    }

    /// What became of an [`Order::Exec`].
    pub fn exec_started(&mut self, job: Job, started: Result<Exec, StartError>) {
        match started {
            Ok(exec) => {
                let run = async move {
                    match exec.end().await {
                        Ok(ExecEnd { code: 0, .. }) => Outcome::Success,
                        Ok(ExecEnd { code, output }) => {
                            Outcome::Failure(format!("exit code {code}: {}", line(&output)))
                        }
                        Err(error) => Outcome::Unknown(error.to_string()),
                    }
                };
                self.carry_out(job, run);
            }
            Err(error) => self.done(job, Outcome::Unknown(error.to_string())),
        }
        self.advance();
    }

    fn slot(&mut self, kind: Kind) -> &mut Slot {
        match kind {
            Kind::Liveness => &mut self.liveness,
            Kind::Readiness => &mut self.readiness,
            Kind::Startup => &mut self.startup,
        }
    }

    /// Begins what is due, and looks again at who waits.
    fn advance(&mut self) {
        while let Some(task) = self.gate.poll(clock::boot()) {
            self.begin(match task {
                Task::PostStart => Job::PostStart,
                Task::Startup => Job::Probe(Kind::Startup),
            });
        }
        for ask in mem::take(&mut self.held) {
            self.asked(ask);
        }
        self.look();
    }

    /// When the app's readiness is asked for without the kubelet.
    fn own_look_due(&self) -> Option<Duration> {
        self.own_look.due().filter(|_| matches!(self.pre_stop, PreStop::Ready))
    }

    /// Asks for the app's readiness where it is time.
    fn look(&mut self) {
        let now = clock::boot();
        if self.own_look_due().is_none_or(|due| due > now) {
            return;
        }
        let verdict = self.gate.ask(Kind::Readiness, now, now);
        let probe = self.gate.probe(Kind::Readiness);
        match verdict {
            Verdict::Pass(_) => self.own_look.answered(true, probe, now),
            Verdict::Fail(_) | Verdict::Wait(_) => self.own_look.too_early(now),
            Verdict::CarryOut => {
                self.own_look.asked(probe, now);
                if !mem::replace(&mut self.readiness.under_way, true) {
                    self.begin(Job::Probe(Kind::Readiness));
                }
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask.question {
            Question::Probe(kind) => self.asked_probe(kind, ask),
            Question::PreStop => self.asked_pre_stop(ask.reply),
        }
    }

    fn asked_probe(&mut self, kind: Kind, ask: Ask) {
        if ask.reply.is_closed() {
            return;
        }
        let now = clock::boot();
        let answer = match self.gate.ask(kind, ask.asked, now) {
            Verdict::Pass(reason) => Answer::new(true, reason),
            Verdict::Fail(reason) => Answer::new(false, reason),
            Verdict::Wait(_) => return self.held.push(ask),
            Verdict::CarryOut => {
                let slot = self.slot(kind);
                match &slot.last {
                    Some((at, answer)) if now.saturating_sub(*at) < FRESH => answer.clone(),
                    _ => {
                        // Who asks and leaves, again and again, must not fill the memory during a long probe.
                        slot.waiting.retain(|reply| !reply.is_closed());
                        slot.waiting.push(ask.reply);
                        if !mem::replace(&mut slot.under_way, true) {
                            self.begin(Job::Probe(kind));
                        }
                        return;
                    }
                }
            }
        };
        let _ = ask.reply.send(answer);
    }

    fn asked_pre_stop(&mut self, reply: oneshot::Sender<Answer>) {
        let answer = match &mut self.pre_stop {
            PreStop::UnderWay { waiting, .. } => {
                // As with probes: who asks and leaves must not fill the memory.
                waiting.retain(|reply| !reply.is_closed());
                return waiting.push(reply);
            }
            PreStop::Ready if self.hooks.pre_stop.is_some() => {
                info!("asked to run the preStop hook");
                self.pre_stop = PreStop::UnderWay { waiting: vec![reply], prepares: false };
                return self.begin(Job::PreStop);
            }
            PreStop::Ready | PreStop::Over => Answer::new(true, "there is nothing to do"),
            PreStop::Done(answer) => answer.clone(),
        };
        let _ = reply.send(answer);
    }

    /// Has `job` carried out; [`Self::done`] follows.
    fn begin(&mut self, job: Job) {
        let handler = match job {
            Job::Probe(kind) => self.gate.probe(kind).map(|probe| &probe.handler),
            Job::PostStart => self.hooks.post_start.as_ref(),
            Job::PreStop => self.hooks.pre_stop.as_ref(),
        };
        let Some(handler) = handler.cloned() else { return self.done(job, Outcome::Success) };
        let (target, limit) = (self.target.clone(), self.limit(job));
        let purpose = if matches!(job, Job::Probe(_)) { http::Purpose::Probe } else { http::Purpose::Hook };
        match handler {
            Handler::Exec(exec) => {
                let command = exec.command.into_iter().map(OsString::from).collect();
                self.orders.push_back(Order::Exec { job, command });
            }
            Handler::HttpGet(get) => self.carry_out(job, async move { http::get(&get, &target, purpose).await }),
            Handler::TcpSocket(socket) if purpose == http::Purpose::Probe => {
                self.carry_out(job, async move { tcp(&socket, &target).await });
            }
            Handler::Grpc(grpc) if purpose == http::Purpose::Probe => {
                let limit = limit.unwrap_or_default();
                self.carry_out(job, async move { grpc::check(&grpc, &target, limit).await });
            }
            Handler::Sleep(pause) => self.carry_out(job, async move {
                sleep(Duration::from_secs(pause.seconds.into())).await;
                Outcome::Success
            }),
            Handler::TcpSocket(_) | Handler::Grpc(_) => {
                let reason = "a hook can only be exec, httpGet or sleep, for the kubelet as well";
                self.done(job, Outcome::Failure(reason.to_owned()));
            }
        }
    }

    /// How long `job` may take. The kubelet waits for a postStart hook for as long as it takes.
    fn limit(&self, job: Job) -> Option<Duration> {
        match job {
            Job::Probe(kind) => self.gate.probe(kind).map(|probe| probe.timeout),
            Job::PostStart => None,
            Job::PreStop => Some(self.termination_grace),
        }
    }

    fn carry_out(&mut self, job: Job, work: impl Future<Output = Outcome> + 'static) {
        let limit = self.limit(job);
        let limited = async move {
            match limit {
                None => work.await,
                Some(limit) => timeout(limit, work)
                    .await
                    .unwrap_or_else(|_| Outcome::Failure(format!("timeout: not done within {limit:?}"))),
            }
        };
        self.jobs.push(limited.map(move |outcome| (job, outcome)).boxed_local());
    }

    fn done(&mut self, job: Job, outcome: Outcome) {
        let now = clock::boot();
        match job {
            Job::Probe(Kind::Startup) => {
                self.tell(Kind::Startup, &Answer::of(None, outcome.clone()));
                self.task_ended(Task::Startup, &outcome, now);
            }
            Job::PostStart => self.task_ended(Task::PostStart, &outcome, now),
            Job::Probe(kind) => {
                let answer = Answer::of(Some(kind), outcome);
                self.tell(kind, &answer);
                if kind == Kind::Readiness {
                    self.own_look.answered(answer.passed, self.gate.probe(kind), now);
                }
                let slot = self.slot(kind);
                slot.under_way = false;
                send(mem::take(&mut slot.waiting), &answer);
                slot.last = Some((now, answer));
            }
            Job::PreStop => {
                let answer = Answer::of(None, outcome);
                if !answer.passed {
                    warn!(reason = answer.reason, "the preStop hook failed");
                }
                if let PreStop::UnderWay { waiting, prepares } =
                    mem::replace(&mut self.pre_stop, PreStop::Done(answer.clone()))
                {
                    send(waiting, &answer);
                    self.orders.extend(prepares.then_some(Order::Prepared));
                }
            }
        }
    }

    fn task_ended(&mut self, task: Task, outcome: &Outcome, now: Duration) {
        if let Err(reason) = self.gate.ended(task, outcome, now) {
            error!(reason, "the application did not start: giving leadership away");
            self.orders.push_back(Order::AppFailed);
        }
    }

    /// Logs a probe that fails, or passes again: once.
    fn tell(&mut self, kind: Kind, answer: &Answer) {
        let told = self.slot(kind).told.replace(answer.passed);
        if kind == Kind::Readiness && told != Some(answer.passed) {
            self.orders.push_back(Order::Ready(answer.passed));
        }
        let (probe, reason) = (kind.name(), answer.reason.as_str());
        match (told, answer.passed) {
            (None | Some(true), false) => warn!(probe, reason, "the application's probe fails"),
            (Some(false), true) => info!(probe, "the application's probe passes"),
            _ => {}
        }
    }
}

fn send(waiting: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for reply in waiting {
        let _ = reply.send(answer.clone());
    }
}

/// The beginning of a text, as one line.
fn line(text: &str) -> String {
    text.split_whitespace().flat_map(|word| [" ", word]).skip(1).flat_map(str::chars).take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn who_left_is_forgotten() {
        let (sender, asks) = mpsc::channel(1);
        let liveness = json!({ "exec": { "command": ["sleep", "600"] }, "timeoutSeconds": 600 });
        let stated = Probes { liveness: Some(serde_json::from_value(liveness).unwrap()), ..Probes::default() };
        let mut prober = Prober::new(stated, Hooks::default(), Target::new(None), Duration::ZERO, asks);
        for (kind, most) in [(Kind::Readiness, 1), (Kind::Liveness, 1)] {
            for _ in 0..100 {
                let (reply, answer) = oneshot::channel();
                let asked = clock::boot();
                sender.try_send(Ask { question: Question::Probe(kind), asked, reply }).unwrap();
                prober.turn().await;
                drop(answer);
            }
            let waiting = prober.held.len() + prober.liveness.waiting.len();
            assert!(waiting <= most, "{waiting} wait for {kind:?}");
            prober.app_started();
        }
    }
}
