//! The agent at work: carries out what the elector decides, with the real clock, API server, signals and processes.
//!
//! One task on one thread: whatever happens is handed to the elector in the order in which it is seen here.

mod told;

use std::{ffi::OsString, future::Future, path::Path, pin::Pin, pin::pin, rc::Rc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use self::told::Told;
use crate::{
    app::{App, AppEvent, SignalError},
    clock::Now,
    cpu,
    elector::{Action, Elector, Event, Settings, Source, StopReason},
    guard::{Guard, Signals},
    lease::{client::LeaseClient, credentials, watch::watch},
    names::env,
    probes::{
        connect::Target,
        interface::Order,
        prober::Prober,
        routes,
        server::{Server, ServerError},
    },
    settings::RunSettings,
    term_file::{self, TermFile},
};

/// The pause between two walks that kill, while something is left.
const KILL_PAUSE: Duration = Duration::from_millis(2);
/// Observations that wait to be handled; more make the watch wait.
const OBSERVATIONS: usize = 16;
/// The exit code when the app was never started and the end was asked for.
const ORDERLY: u8 = 0;
/// The exit code when the app did not start as it should, and said nothing by its own.
const APP_FAILED: u8 = 1;

/// The agent looks at its own timer, and at the CPU limit, this often.
const TICK: Duration = Duration::from_secs(1);

/// What a request brought: events, and what an operator should know of it.
struct Answer {
    events: Vec<Event>,
    complaint: Option<String>,
}

type Request = Pin<Box<dyn Future<Output = Answer>>>;

/// Why a run ended before it began.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No credentials for the API server.
    #[error(transparent)]
    Credentials(#[from] credentials::CredentialsError),
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The kubelet cannot be answered.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Campaigns, and runs the command while leading, until a signal or the command's end. Returns the code to end with.
///
/// # Errors
/// Only before the campaign begins: the caller ends with code 2.
pub async fn run(settings: RunSettings, guard: Guard) -> Result<(Guard, u8), RunError> {
    let config = credentials::find(settings.credentials_dir.as_deref()).await?;
    let mut signals = Signals::new(&guard).map_err(RunError::Signals)?;
    let server = Server::bind(settings.port, settings.state_dir.as_deref())?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let timing = settings.timing;
    let client = Rc::new(LeaseClient::new(config, &namespace, &settings.id, timing.request_timeout()));
    for note in guard.notes() {
        warn!("{note}");
    }
    // Only a PID namespace of its own proves, by this process's existence, that the former one and its app are gone.
    let reclaim_dir =
        settings.state_dir.as_deref().filter(|_| settings.reclaims && guard.has_lock() && guard.is_private_namespace());
    let elector = Elector::new(Settings {
        name: settings.id.to_string(),
        namespace: namespace.clone(),
        identity: settings.identity.clone(),
        timing,
        seed: fastrand::u64(..),
        preparation: settings.hooks.pre_stop.as_ref().map_or(Duration::ZERO, |_| settings.termination_grace),
        reclaim: reclaim_dir.and_then(term_file::read),
    });
    info!(lease = %format!("{namespace}/{}", settings.id), identity = settings.identity, lease_duration = ?timing.lease(), margin = ?timing.margin(), "standing by");

    let (sender, mut observations) = mpsc::channel(OBSERVATIONS);
    let watched = Rc::clone(&client);
    let mut watching = pin!(watch(&watched, timing.lease(), sender));
    let (asks, questions) = mpsc::channel(routes::QUESTIONS);
    server.serve(move |origin, request| routes::respond(asks.clone(), origin, request));
    let mut run = Run {
        prober: Prober::new(
            settings.probes.clone(),
            settings.hooks.clone(),
            Target::new(settings.pod_ip.clone()),
            settings.termination_grace,
            questions,
        ),
        term_file: reclaim_dir.and_then(open_term_file),
        elector,
        guard,
        client,
        requests: FuturesUnordered::new(),
        app: None,
        killing: false,
        code: ORDERLY,
        app_failed: false,
        told: Told::default(),
        starved: timing.is_starved(),
        tick: Instant::now() + TICK,
        settings,
    };
    loop {
        if let Some(code) = run.carry_out() {
            return Ok((run.guard, code));
        }
        let now = Now::read();
        let due = run.elector.next_timeout(now).map(|due| Instant::now() + due.saturating_sub(now.boot));
        let wake = due.map_or(run.tick, |due| due.min(run.tick));
        tokio::select! {
            biased;
            signal = signals.next() => run.signalled(signal),
            event = next_app_event(&mut run.app) => run.app_event(event),
            () = sleep(KILL_PAUSE), if run.killing => run.kill(),
            Some(answer) = run.requests.next() => run.answered(answer),
            Some(event) = observations.recv() => run.elector.handle(event, Now::read()),
            () = &mut watching => {}
            () = sleep_until(wake) => {}
            // Last: an app that answers without end uses up all that tokio lets a task do in one go, the clock's part as well.
            () = run.prober.turn() => {}
        }
        run.time_passed(wake);
    }
}

struct Run {
    settings: RunSettings,
    elector: Elector,
    guard: Guard,
    client: Rc<LeaseClient>,
    requests: FuturesUnordered<Request>,
    app: Option<App>,
    killing: bool,
    code: u8,
    /// The app's start has failed for good.
    app_failed: bool,
    prober: Prober,
    term_file: Option<TermFile>,
    told: Told,
    /// The CPU limit is below one core, or cannot be read.
    starved: bool,
    /// When the agent looks at its own timer next.
    tick: Instant,
}

impl Run {
    /// Does all that the elector and the probes ask for; the code when the elector asks to end.
    fn carry_out(&mut self) -> Option<u8> {
        if self.elector.has_seen_lease() {
            self.prober.lease_seen();
        }
        loop {
            if let Some(code) = self.carry_out_actions() {
                return Some(code);
            }
            match self.prober.order() {
                Some(order) => self.carry_out_order(order),
                None => break,
            }
        }
        self.told.state(&self.elector);
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
                self.elector.handle(Event::AppFailed, Now::read());
            }
            Order::Prepared => self.elector.handle(Event::Prepared, Now::read()),
        }
    }

    /// What the elector asks for; the code when it asks to end.
    fn carry_out_actions(&mut self) -> Option<u8> {
        while let Some(action) = self.elector.poll() {
            match action {
                Action::Read => self.read(),
                Action::Write { attempt, body } => self.write(attempt, body),
                Action::Arm(deadline) => {
                    if let Err(error) = self.guard.arm(deadline) {
                        self.guard.die(&error.to_string());
                    }
                }
                Action::Start { token } => self.start(token),
                Action::Prepare(reason) => {
                    info!(%reason, "preparing the application for its stop");
                    self.prober.prepare();
                }
                Action::Stop(reason) => self.stop(reason),
                Action::Kill => {
                    self.killing = self.app.is_some();
                    self.kill();
                }
                Action::Disarm => {
                    if let Err(error) = self.guard.disarm() {
                        self.guard.die(&error.to_string());
                    }
                }
                Action::StoreTerm(term) => {
                    if let Some(file) = &self.term_file {
                        file.store(term);
                    }
                }
                Action::ForgetTerm => {
                    info!("released the Lease");
                    if let Some(file) = &self.term_file {
                        file.forget();
                    }
                }
                Action::Die(loss) => self.guard.die(&loss.to_string()),
                Action::End => return Some(if self.app_failed { self.code.max(APP_FAILED) } else { self.code }),
            }
        }
        None
    }

    fn read(&mut self) {
        let client = Rc::clone(&self.client);
        let sent = Now::read().boot;
        self.requests.push(Box::pin(async move {
            let source = Source::Read { sent };
            let seen = match client.read().await {
                Ok(Some(record)) => Event::Seen(record, source),
                Ok(None) => Event::Absent { version: None, source },
                Err(error) => {
                    let complaint = Some(format!("cannot read the Lease: {error}"));
                    return Answer { events: vec![Event::ReadEnded { answered: false }], complaint };
                }
            };
            Answer { events: vec![seen, Event::ReadEnded { answered: true }], complaint: None }
        }));
    }

    fn write(&mut self, attempt: u64, body: serde_json::Value) {
        let client = Rc::clone(&self.client);
        self.requests.push(Box::pin(async move {
            let (reply, error) = client.write(&body).await;
            // Losing a race is no news.
            let complaint =
                error.filter(|error| !error.is_lost_race()).map(|error| format!("cannot write the Lease: {error}"));
            Answer { events: vec![Event::Replied { attempt, reply }], complaint }
        }));
    }

    fn answered(&mut self, answer: Answer) {
        let Answer { events, complaint } = answer;
        self.told.complaint(complaint);
        for event in events {
            self.elector.handle(event, Now::read());
        }
    }

    /// After each turn of the loop: how late was it, against the moment it meant to wake at?
    fn time_passed(&mut self, wake: Instant) {
        let now = Instant::now();
        if now < wake {
            return;
        }
        if now >= self.tick {
            self.tick = now + TICK;
            let starved = cpu::is_starved();
            if starved != self.starved {
                self.starved = starved;
                self.elector.handle(Event::Starved(starved), Now::read());
            }
        }
        self.elector.handle(Event::Late(now - wake), Now::read());
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
            }
            Err(error) => {
                error!(%error, "cannot start the application");
                self.code = error.exit_code();
                let now = Now::read();
                self.elector.handle(Event::AppExited, now);
                self.elector.handle(Event::AppGone, now);
            }
        }
    }

    fn stop(&mut self, reason: StopReason) {
        self.prober.app_stops();
        if reason != StopReason::Shutdown {
            warn!(%reason, "stopping the application");
            self.signal_app(self.settings.stop_signal.number());
        }
    }

    fn kill(&mut self) {
        if let Some(app) = &mut self.app
            && let Err(error) = app.kill_all()
        {
            self.guard.die(&error.to_string());
        }
    }

    fn signal_app(&mut self, signal: i32) {
        match self.app.as_ref().map(|app| app.signal(signal)) {
            // Whom the agent may not signal it may not kill either.
            Some(Err(error @ SignalError::Refused { .. })) => self.guard.die(&error.to_string()),
            Some(Ok(()) | Err(SignalError::Ended { .. })) | None => {}
        }
    }

    fn signalled(&mut self, signal: std::io::Result<i32>) {
        let signal = match signal {
            Ok(signal) => signal,
            Err(error) => self.guard.die(&format!("cannot receive signals: {error}")),
        };
        self.signal_app(signal);
        if self.settings.stop_signal.is_meant_by(signal) {
            info!(signal, "asked to end");
            self.elector.handle(Event::Shutdown, Now::read());
        }
    }

    fn app_event(&mut self, event: std::io::Result<AppEvent>) {
        let event = match event {
            Ok(AppEvent::NotStarted(error)) => {
                self.prober.app_stops();
                error!(%error, "cannot start the application");
                self.code = error.exit_code();
                Event::AppExited
            }
            Ok(AppEvent::Exited { code }) => {
                self.prober.app_stops();
                info!(code, "the application ended");
                self.code = code;
                Event::AppExited
            }
            Ok(AppEvent::Gone) => {
                self.app = None;
                self.prober.app_gone();
                self.killing = false;
                if !self.elector.is_closing() {
                    // It was stopped in place: how it ended is not how this process will.
                    self.code = ORDERLY;
                }
                Event::AppGone
            }
            Err(error) => self.guard.die(&format!("cannot wait for the application's processes: {error}")),
        };
        self.elector.handle(event, Now::read());
    }
}

/// The app's next event; never, while there is no app.
async fn next_app_event(app: &mut Option<App>) -> std::io::Result<AppEvent> {
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
