//! The agent at work: runs the app while its [`Campaign`] leads, with real signals, processes and probes.
//!
//! One task on one thread: whatever happens is handed to the elector in the order in which it is seen here.

use std::{ffi::OsString, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    api::{publisher::Publisher, routes::Api, status::Candidate},
    app::{App, AppEvent, SignalError},
    campaign::{Campaign, Demand},
    elector::{Event, Settings, StopReason},
    follow::leader::{Followers, FollowersError},
    guard::{Guard, Signals},
    lease::{client::LeaseClient, credentials},
    names::{self, env},
    probes::{
        connect::Target,
        interface::Order,
        prober::Prober,
        routes,
        server::{Server, ServerError},
    },
    settings::RunSettings,
    slices::{Slices, place::Place},
    status_file::{StatusFile, StatusFileError},
    term_file::{self, TermFile},
};

/// The pause between two walks that kill, while something is left.
const KILL_PAUSE: Duration = Duration::from_millis(2);
/// The exit code when the app was never started and the end was asked for.
const ORDERLY: u8 = 0;
/// The exit code when the app did not start as it should, and said nothing by its own.
const APP_FAILED: u8 = 1;

/// Why a run ended before it began.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No credentials for the API server.
    #[error(transparent)]
    Credentials(#[from] credentials::CredentialsError),
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The kubelet cannot be answered.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Followers cannot be told anything.
    #[error(transparent)]
    Followers(#[from] FollowersError),
    /// The status file cannot be kept.
    #[error(transparent)]
    StatusFile(#[from] StatusFileError),
}

/// Campaigns, and runs the command while leading, until a signal or the command's end. Returns the code to end with.
///
/// # Errors
/// Only before the campaign begins: the caller ends with code 2.
pub async fn run(settings: RunSettings, guard: Guard) -> Result<(Guard, u8), RunError> {
    let config = credentials::named(settings.kubeconfig.as_deref(), settings.credentials_dir.as_deref()).await?;
    let mut signals = Signals::new(&guard).map_err(RunError::Signals)?;
    let server = Server::bind(settings.port, settings.state_dir.as_deref())?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let timing = settings.timing;
    let client = LeaseClient::new(config, &namespace, &settings.id, timing.request_timeout());
    let place =
        || Place::find(&namespace, &settings.identity, settings.credentials_dir.as_deref(), settings.pod_ip.as_deref());
    let slices = Slices::new(client.another(), namespace.clone(), settings.reclaims.then(place).flatten());
    for note in guard.notes() {
        warn!("{note}");
    }
    // Only a PID namespace of its own proves, by this process's existence, that the former one and its app are gone.
    let reclaim_dir =
        settings.state_dir.as_deref().filter(|_| settings.reclaims && guard.has_lock() && guard.is_private_namespace());
    let candidate = Settings {
        name: settings.id.to_string(),
        namespace,
        identity: settings.identity.clone(),
        timing,
        seed: fastrand::u64(..),
        preparation: settings.hooks.pre_stop.as_ref().map_or(Duration::ZERO, |_| settings.termination_grace),
        stop_time: settings.termination_grace,
        reclaim: reclaim_dir.and_then(term_file::read),
        born_under_turning_on: settings.born_under_turning_on,
        yields: settings.yields,
        unhealthy_step_down: settings.unhealthy_step_down,
    };
    let named = Candidate {
        id: candidate.name.clone(),
        namespace: candidate.namespace.clone(),
        identity: candidate.identity.clone(),
    };
    let status_file = settings.status_file.as_deref().map(|path| StatusFile::new(path, &settings.name)).transpose()?;
    let followers = Followers::new(settings.follow.clone(), settings.state_dir.as_deref(), timing.lease())?;
    let publisher = Publisher::new(&named, status_file);
    let mut campaign = Campaign::new(client, candidate, reclaim_dir.and_then(open_term_file));
    campaign.count_in(Arc::clone(publisher.metrics()));
    let (asks, questions) = mpsc::channel(routes::QUESTIONS);
    let api = Api::new(named, publisher.subscribe(), Arc::clone(publisher.metrics()), asks);
    server.serve(move |origin, request| api.clone().respond(origin, request));
    let mut run = Run {
        prober: Prober::new(
            settings.probes.clone(),
            settings.hooks.clone(),
            Target::new(settings.pod_ip.clone()),
            settings.termination_grace,
            questions,
        ),
        publisher,
        campaign,
        slices,
        followers,
        guard,
        app: None,
        app_is_gone: false,
        exits_at: None,
        withdrawing: false,
        next_kill: None,
        insist_at: None,
        code: ORDERLY,
        app_failed: false,
        settings,
    };
    loop {
        if let Some(code) = run.carry_out() {
            return Ok((run.guard, code));
        }
        let wake = run.campaign.wake();
        tokio::select! {
            biased;
            signal = signals.next() => run.signalled(signal),
            event = next_app_event(&mut run.app) => run.app_event(event),
            () = until(run.next_kill), if run.next_kill.is_some() => run.kill(),
            () = until(run.insist_at), if run.insist_at.is_some() => run.insist(),
            () = until(run.exits_at), if run.exits_at.is_some() => run.exited(),
            done = run.publisher.withdrawn(), if run.withdrawing => run.withdrawn(done),
            () = run.campaign.turn(wake) => {}
            () = run.followers.turn() => run.followers_turned(),
            () = run.slices.turn() => {}
            // Last: an app that answers without end uses up all that tokio lets a task do in one go, the clock's part as well.
            () = run.prober.turn() => {}
        }
        run.campaign.time_passed(wake);
    }
}

struct Run {
    settings: RunSettings,
    campaign: Campaign,
    guard: Guard,
    app: Option<App>,
    /// Nothing of the app is left, and a file may still say that this candidate leads: nothing is done before it is gone, the Lease's
    /// release least of all. A disk that hangs is waited for until the deadline, which is still in force.
    withdrawing: bool,
    /// While everything is being killed in place: when what is left is killed again.
    next_kill: Option<Instant>,
    /// Nothing of the app is left, and perhaps something of its followers.
    app_is_gone: bool,
    /// The app's first process has ended by itself, and until then its followers may do so as well.
    exits_at: Option<Instant>,
    /// When an app that was asked to end by a signal other than the kubelet's is asked with that one.
    insist_at: Option<Instant>,
    code: u8,
    /// The app's start has failed for good.
    app_failed: bool,
    prober: Prober,
    publisher: Publisher,
    /// Where traffic to the leader is sent.
    slices: Slices,
    /// What runs and stops with the app.
    followers: Followers,
}

impl Run {
    /// Does all that the elector and the probes ask for; the code when the elector asks to end.
    fn carry_out(&mut self) -> Option<u8> {
        if self.campaign.elector().has_seen_lease() {
            self.prober.lease_seen();
        }
        if self.withdrawing {
            return None;
        }
        loop {
            if let Some(code) = self.carry_out_demands() {
                return Some(code);
            }
            match self.prober.order() {
                Some(order) => self.carry_out_order(order),
                None => break,
            }
        }
        self.publisher.refresh(self.campaign.elector());
        self.slices.named(self.campaign.elector().annotation(names::SLICES));
        self.prober.follow_readiness(self.slices.are_there());
        self.slices.aim(self.prober.traffic());
        None
    }

    fn carry_out_order(&mut self, order: Order) {
        match order {
            Order::Exec { job, command } => {
                let started = match &mut self.app {
                    Some(app) => app.start_beside(&self.guard, &command),
                    None => return,
                };
                self.prober.exec_started(job, started);
            }
            Order::AppFailed => {
                self.app_failed = true;
                self.campaign.handle(Event::AppFailed);
            }
            Order::Ready(ready) => self.campaign.handle(Event::Ready(ready)),
            Order::Prepared => self.campaign.handle(Event::Prepared),
        }
    }

    /// What the election asks for; the code when it asks to end.
    fn carry_out_demands(&mut self) -> Option<u8> {
        // Once a file may say more than is true, what follows waits for it.
        while !self.withdrawing
            && let Some(demand) = self.campaign.poll()
        {
            match demand {
                Demand::Arm(deadline) => {
                    if let Err(error) = self.guard.arm(deadline) {
                        self.guard.die(&error.to_string());
                    }
                    self.followers.arm(deadline, self.campaign.elector().margin());
                }
                Demand::Start { token } => self.start(token),
                Demand::Prepare(reason) => {
                    info!(%reason, "preparing the application for its stop");
                    self.prober.prepare();
                }
                Demand::Stop(reason) => self.stop(reason),
                Demand::Kill => self.kill(),
                Demand::Disarm => {
                    if let Err(error) = self.guard.disarm() {
                        self.guard.die(&error.to_string());
                    }
                }
                Demand::Die(loss) => {
                    self.publisher.dies();
                    self.guard.die(&loss.to_string())
                }
                Demand::End => return Some(if self.app_failed { self.code.max(APP_FAILED) } else { self.code }),
            }
        }
        None
    }

    fn start(&mut self, token: u64) {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let environment = [
            pair(env::FENCING_TOKEN, &token.to_string()),
            pair(env::ID, self.settings.id.as_str()),
            pair(env::IDENTITY, &self.settings.identity),
        ];
        info!(token, "leading: starting the application");
        match App::start(&self.guard, &self.settings.command, &environment) {
            Ok(app) => {
                self.app = Some(app);
                self.prober.app_started();
                self.publisher.app_started(token);
                self.followers.run(token);
            }
            Err(error) => {
                error!(%error, "cannot start the application");
                self.code = error.exit_code();
                self.app_is_gone = true;
                self.exited();
            }
        }
    }

    fn stop(&mut self, reason: StopReason) {
        self.prober.app_stops();
        self.publisher.app_stops(reason);
        self.followers.stop();
        if reason != StopReason::Shutdown {
            warn!(%reason, "stopping the application");
            self.signal_app(self.settings.stop_signal.number());
        }
        if self.app.is_none() {
            // Nothing was started in a term that an earlier process held. What that one told the followers may still count.
            self.app_is_gone = true;
            self.all_gone();
        }
    }

    fn kill(&mut self) {
        self.followers.kill();
        if self.exits_at.is_some() {
            self.exited();
        }
        let Some(app) = &mut self.app else { return };
        if let Err(error) = app.kill_all() {
            self.guard.die(&error.to_string());
        }
        self.next_kill = Some(Instant::now() + KILL_PAUSE);
    }

    /// A person or a program asked, whom no kubelet follows with KILL, and the app took it for something else: a Java program prints its
    /// threads at QUIT. Leadership that has been taken back must not stay with an app that goes on.
    fn insist(&mut self) {
        self.insist_at = None;
        warn!(signal = %self.settings.stop_signal, "the application goes on: sending it its stop signal");
        self.signal_app(self.settings.stop_signal.number());
    }

    fn signal_app(&mut self, signal: i32) {
        match self.app.as_ref().map(|app| app.signal(signal)) {
            // Whom the agent may not signal it may not kill either.
            Some(Err(error @ SignalError::Refused { .. })) => self.guard.die(&error.to_string()),
            Some(Ok(()) | Err(SignalError::Ended { .. })) | None => {}
        }
    }

    fn signalled(&mut self, signal: io::Result<i32>) {
        let signal = match signal {
            Ok(signal) => signal,
            Err(error) => self.guard.die(&format!("cannot receive signals: {error}")),
        };
        self.signal_app(signal);
        if self.settings.stop_signal.is_meant_by(signal) {
            info!(signal, "asked to end");
            self.campaign.handle(Event::Shutdown);
            let is_other = signal != self.settings.stop_signal.number();
            // From the first on: who sends QUIT again and again must not put it off.
            self.insist_at =
                is_other.then(|| self.insist_at.unwrap_or(Instant::now() + self.settings.termination_grace));
        }
    }

    fn app_event(&mut self, event: io::Result<AppEvent>) {
        match event {
            Ok(AppEvent::NotStarted(error)) => {
                error!(%error, "cannot start the application");
                self.app_exited(error.exit_code());
            }
            Ok(AppEvent::Exited { code }) => {
                info!(code, "the application ended");
                self.app_exited(code);
            }
            Ok(AppEvent::Gone) => {
                self.app = None;
                self.prober.app_gone();
                (self.next_kill, self.insist_at) = (None, None);
                self.app_is_gone = true;
                self.all_gone();
            }
            Err(error) => self.guard.die(&format!("cannot wait for the application's processes: {error}")),
        }
    }

    /// The app's first process has ended. What it leaves behind is killed once its followers have had their time to stop.
    fn app_exited(&mut self, code: u8) {
        self.prober.app_stops();
        self.publisher.app_stops(StopReason::AppExited);
        self.code = code;
        if self.followers.are_idle() {
            return self.campaign.handle(Event::AppExited);
        }
        self.followers.stop();
        // The kubelet gives every container of a pod the same time.
        let (elector, grace) = (self.campaign.elector(), self.settings.timing.grace());
        let time = match elector.stop_reason() {
            _ if elector.is_closing() => self.settings.termination_grace,
            Some(reason) if reason.is_planned() => self.settings.termination_grace.max(grace),
            _ => grace,
        };
        self.exits_at = Some(Instant::now() + time);
    }

    fn exited(&mut self) {
        self.exits_at = None;
        self.campaign.handle(Event::AppExited);
        self.all_gone();
    }

    /// A follower has said something, or its time is over.
    fn followers_turned(&mut self) {
        if self.exits_at.is_some() && self.followers.are_idle() {
            self.exited();
        } else {
            self.all_gone();
        }
    }

    /// Hands on that nothing of the app is left, and nothing of its followers.
    fn all_gone(&mut self) {
        if !self.app_is_gone || self.exits_at.is_some() || !self.followers.are_idle() {
            return;
        }
        self.app_is_gone = false;
        self.followers.end();
        if !self.campaign.elector().is_closing() {
            // It was stopped in place: how it ended is not how this process will.
            self.code = ORDERLY;
        }
        self.withdrawing = !self.publisher.is_withdrawn();
        self.campaign.handle(Event::AppGone);
    }

    /// Nothing says any more that this candidate leads, unless the file could not be removed.
    fn withdrawn(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            // Last words may come too late.
            error!(%error, "cannot remove the status file: the Lease is not released");
            self.guard.die("cannot remove the status file");
        }
        self.withdrawing = false;
    }
}

/// Comes back at that moment; at once, where none is given.
async fn until(moment: Option<Instant>) {
    sleep_until(moment.unwrap_or_else(Instant::now)).await;
}

/// The app's next event; never, while there is no app.
async fn next_app_event(app: &mut Option<App>) -> io::Result<AppEvent> {
    match app {
        Some(app) => app.next_event().await,
        None => std::future::pending().await,
    }
}

fn open_term_file(folder: &Path) -> Option<TermFile> {
    TermFile::new(folder.to_owned())
        .inspect_err(
            |error| warn!(%error, "no thread for the term file: a restart of this container waits the whole lease"),
        )
        .ok()
}
