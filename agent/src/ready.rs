//! The mode `ready`: the app runs from the start of the container to its end, and only the leader is ready.
//!
//! It informs and does not exclude: nothing is stopped when leadership is lost. So no deadline is armed, and where [`crate::run`] would end
//! everything, the candidate alone begins anew. The status file is gone before the Lease is released, as in [`crate::observe`]: where it
//! stays, the Lease is not released but left to run out, so that a disk that fails keeps nobody from leading for ever.

use std::{ffi::OsString, io, sync::Arc, time::Duration};

use kube::Config;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    api::{publisher::Publisher, routes::Api, status::Candidate},
    app::{App, AppEvent, SignalError},
    campaign::{Campaign, Demand},
    elector::{Event, Loss, Settings, StopReason},
    guard::{Guard, Signals},
    lease::{client::LeaseClient, credentials},
    names::{self, env},
    probes::{connect::Target, interface::Order, prober::Prober, routes, server::Server},
    run::RunError,
    settings::RunSettings,
    slices::{Slices, place::Place},
    status_file::StatusFile,
};

/// The pause between two walks that kill, while something is left.
const KILL_PAUSE: Duration = Duration::from_millis(2);

/// Runs the command, and campaigns beside it, until a signal or the command's end. Returns the code to end with.
///
/// # Errors
/// Only before the command was started: the caller ends with code 2.
pub async fn ready(settings: RunSettings, guard: Guard) -> Result<(Guard, u8), RunError> {
    let config = credentials::named(settings.kubeconfig.as_deref(), settings.credentials_dir.as_deref()).await?;
    let mut signals = Signals::new(&guard).map_err(RunError::Signals)?;
    let server = Server::bind(settings.port, settings.state_dir.as_deref())?;
    let status_file = settings.status_file.as_deref().map(|path| StatusFile::new(path, &settings.name)).transpose()?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let candidate = Candidate { id: settings.id.to_string(), namespace, identity: settings.identity.clone() };
    let publisher = Publisher::new(&candidate, status_file);
    let (asks, questions) = mpsc::channel(routes::QUESTIONS);
    let api = Api::new(candidate.clone(), publisher.subscribe(), Arc::clone(publisher.metrics()), asks);
    server.serve(move |origin, request| api.clone().respond(origin, request));
    let prober = Prober::everywhere(settings.probes.clone(), Target::new(settings.pod_ip.clone()), questions);
    let campaign = campaign(&config, &candidate, &settings, &publisher);
    let (namespace, timeout) = (candidate.namespace.clone(), settings.timing.request_timeout());
    let address = settings.pod_ip.as_deref();
    let place = || Place::find(&namespace, &settings.identity, settings.credentials_dir.as_deref(), address);
    let place = settings.reclaims.then(place).flatten();
    let client = LeaseClient::new(config.clone(), &namespace, &settings.id, timeout);
    let slices = Slices::new(client, namespace, place);
    let mut ready = Ready {
        app: None,
        prober,
        publisher,
        campaign,
        slices,
        guard,
        config,
        candidate,
        settings,
        leads: false,
        withdraws: false,
        gives_up_at: None,
        next_kill: None,
        insist_at: None,
        code: 0,
        is_over: false,
    };
    ready.start();
    loop {
        ready.carry_out();
        if ready.is_over && ready.app.is_none() {
            return Ok((ready.guard, ready.code));
        }
        let wake = ready.campaign.wake();
        tokio::select! {
            biased;
            signal = signals.next() => ready.signalled(signal),
            event = next_app_event(&mut ready.app) => ready.app_event(event),
            () = until(ready.next_kill), if ready.next_kill.is_some() => ready.kill(),
            () = until(ready.insist_at), if ready.insist_at.is_some() => ready.insist(),
            gone = ready.publisher.withdrawn(), if ready.withdraws => ready.withdrawn(gone),
            () = until(ready.gives_up_at), if ready.withdraws => ready.give_up("its removal takes longer than the lease"),
            () = ready.campaign.turn(wake), if !ready.is_over => {}
            () = ready.slices.turn() => {}
            () = ready.prober.turn() => {}
        }
        if !ready.is_over {
            ready.campaign.time_passed(wake);
        }
    }
}

/// A candidate that has seen nothing yet.
fn campaign(config: &Config, candidate: &Candidate, settings: &RunSettings, publisher: &Publisher) -> Campaign {
    let timing = settings.timing;
    let client = LeaseClient::new(config.clone(), &candidate.namespace, &settings.id, timing.request_timeout());
    let elector = Settings {
        name: candidate.id.clone(),
        namespace: candidate.namespace.clone(),
        identity: candidate.identity.clone(),
        timing,
        seed: fastrand::u64(..),
        preparation: Duration::ZERO,
        stop_time: Duration::ZERO,
        reclaim: None,
        born_under_turning_on: settings.born_under_turning_on,
        yields: settings.yields,
        unhealthy_step_down: settings.unhealthy_step_down,
    };
    let mut campaign = Campaign::new(client, elector, None);
    campaign.count_in(Arc::clone(publisher.metrics()));
    campaign
}

struct Ready {
    settings: RunSettings,
    config: Config,
    candidate: Candidate,
    campaign: Campaign,
    guard: Guard,
    /// From the start to the moment at which nothing of it is left.
    app: Option<App>,
    prober: Prober,
    publisher: Publisher,
    /// Where traffic to the leader is sent.
    slices: Slices,
    /// Between a start and the moment at which nothing says any more that this candidate leads.
    leads: bool,
    /// The status file shall go.
    withdraws: bool,
    /// When that is waited for no longer.
    gives_up_at: Option<Instant>,
    /// The app's first process has ended: when what is left is killed again.
    next_kill: Option<Instant>,
    /// When an app that was asked to end by a signal other than the kubelet's is asked with that one.
    insist_at: Option<Instant>,
    code: u8,
    /// This candidate holds nothing, and never will again.
    is_over: bool,
}

impl Ready {
    fn start(&mut self) {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let mut environment =
            vec![pair(env::ID, self.settings.id.as_str()), pair(env::IDENTITY, &self.settings.identity)];
        if let Some(path) = &self.settings.status_file {
            environment.push((env::STATUS_FILE.into(), path.clone().into_os_string()));
        }
        info!("starting the application: it runs whoever leads");
        match App::start_unbound(&self.guard, &self.settings.command, &environment) {
            Ok(app) => self.app = Some(app),
            Err(error) => {
                error!(%error, "cannot start the application");
                self.code = error.exit_code();
                self.is_over = true;
            }
        }
    }

    /// Does what election and probes ask for.
    fn carry_out(&mut self) {
        while let Some(order) = self.prober.order() {
            match (order, &mut self.app) {
                (Order::Exec { job, command }, Some(app)) => {
                    let started = app.start_beside(&self.guard, &command);
                    self.prober.exec_started(job, started);
                }
                (Order::Ready(ready), _) => self.campaign.handle(Event::Ready(ready)),
                // Asked for only by who has a start or a stop of the app to carry out, which the kubelet does here.
                (Order::AppFailed | Order::Prepared | Order::Exec { .. }, _) => {}
            }
        }
        if self.is_over {
            return;
        }
        while let Some(demand) = self.campaign.poll() {
            match demand {
                Demand::Start { token } => {
                    info!(token, "leading");
                    self.leads = true;
                    self.publisher.app_started(token);
                    self.prober.leads(true);
                }
                Demand::Prepare(_) => self.campaign.handle(Event::Prepared),
                Demand::Stop(reason) => self.stop(reason),
                // Nothing is bound to the deadline, and nothing that runs is to be killed.
                Demand::Arm(_) | Demand::Disarm | Demand::Kill => {}
                Demand::Die(loss) => self.begin_anew(loss),
                Demand::End => {
                    self.is_over = true;
                    break;
                }
            }
        }
        self.publisher.refresh(self.campaign.elector());
        self.slices.named(self.campaign.elector().annotation(names::SLICES));
        self.prober.follow_readiness(self.slices.are_there());
        self.slices.aim(self.prober.traffic());
    }

    /// Leadership ends, and the app goes on.
    fn stop(&mut self, reason: StopReason) {
        if reason != StopReason::Shutdown {
            warn!(%reason, "leadership ends");
        }
        self.publisher.app_stops(reason);
        self.prober.leads(false);
        self.withdraws = self.leads;
        self.gives_up_at = Some(Instant::now() + self.settings.timing.lease());
    }

    /// Nothing says any more that this candidate leads.
    fn withdrawn(&mut self, gone: io::Result<()>) {
        match gone {
            Ok(()) => {
                (self.leads, self.withdraws) = (false, false);
                self.campaign.handle(Event::AppExited);
                self.campaign.handle(Event::AppGone);
            }
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    /// The status file may go on to say that this candidate leads. Nobody else shall say so for as long as the lease lasts, and not for ever.
    fn give_up(&mut self, error: &str) {
        error!(error, "cannot remove the status file: the Lease is not released, and runs out");
        self.stand_by_anew();
    }

    /// What would end everything in the mode `run`: here the candidate alone ends, without another write of its term.
    fn begin_anew(&mut self, loss: Loss) {
        warn!(%loss, "leadership is lost");
        self.stand_by_anew();
    }

    fn stand_by_anew(&mut self) {
        self.publisher.dies();
        self.prober.leads(false);
        (self.leads, self.withdraws) = (false, false);
        if self.app.is_none() || self.next_kill.is_some() || self.campaign.elector().is_closing() {
            self.is_over = true;
        } else {
            self.campaign = campaign(&self.config, &self.candidate, &self.settings, &self.publisher);
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
            self.insist_at =
                is_other.then(|| self.insist_at.unwrap_or(Instant::now() + self.settings.termination_grace));
        }
    }

    /// An app that goes on after a person has asked it to end would never lead again.
    fn insist(&mut self) {
        self.insist_at = None;
        warn!(signal = %self.settings.stop_signal, "the application goes on: sending it its stop signal");
        self.signal_app(self.settings.stop_signal.number());
    }

    fn signal_app(&mut self, signal: i32) {
        if let Some(Err(error @ SignalError::Refused { .. })) = self.app.as_ref().map(|app| app.signal(signal)) {
            self.guard.die(&error.to_string());
        }
    }

    fn kill(&mut self) {
        let Some(app) = &mut self.app else { return };
        if let Err(error) = app.kill_all() {
            self.guard.die(&error.to_string());
        }
        self.next_kill = Some(Instant::now() + KILL_PAUSE);
    }

    fn app_event(&mut self, event: io::Result<AppEvent>) {
        match event {
            Ok(AppEvent::NotStarted(error)) => {
                error!(%error, "cannot start the application");
                self.ended(error.exit_code());
            }
            Ok(AppEvent::Exited { code }) => {
                info!(code, "the application ended");
                self.ended(code);
            }
            Ok(AppEvent::Gone) => {
                self.app = None;
                self.prober.app_gone();
                (self.next_kill, self.insist_at) = (None, None);
            }
            Err(error) => self.guard.die(&format!("cannot wait for the application's processes: {error}")),
        }
    }

    /// The app's first process ended, and with it the container: what it leaves behind dies, and leadership is given away.
    fn ended(&mut self, code: u8) {
        self.code = code;
        self.insist_at = None;
        self.prober.leads(false);
        self.campaign.handle(Event::Shutdown);
        self.kill();
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
