//! The subcommand `observe`: campaigns, and says by a status file whether it leads. It runs nothing and stops nobody.
//!
//! For programs that ask who leads. It informs and does not exclude: a program that does not look in time goes on. The file is gone
//! before the Lease is released, and before the deadline where no renewal succeeds; where the agent alone was killed the stub removes it.

mod settings;

use tokio::sync::mpsc;
use tracing::{info, warn};

pub use self::settings::{ObserveArguments, ObserveSettings};
use crate::{
    api::{publisher::Publisher, routes::Api, status::Candidate},
    campaign::{Campaign, Demand},
    elector::{Event, Settings, StopReason},
    guard::{Guard, Signals},
    lease::{client::LeaseClient, credentials},
    names,
    probes::server::Server,
    run::RunError,
    slices::{Slices, endpoint::Aim, place::Place},
    status_file::StatusFile,
    stop_signal::StopSignal,
};

/// The exit code of an end that was asked for.
const ORDERLY: u8 = 0;

/// Campaigns, and keeps the status file, until a signal. Returns the code to end with.
///
/// # Errors
/// Only before the campaign begins: the caller ends with code 2.
pub async fn observe(settings: ObserveSettings, guard: Guard) -> Result<(Guard, u8), RunError> {
    let config = credentials::named(settings.kubeconfig.as_deref(), settings.credentials_dir.as_deref()).await?;
    let mut signals = Signals::new(&guard).map_err(RunError::Signals)?;
    let server = Server::bind(settings.port, None)?;
    let file = StatusFile::new(&settings.status_file, &settings.name)?;
    for note in guard.notes() {
        warn!("{note}");
    }
    let namespace = settings.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let candidate = Candidate { id: settings.id.to_string(), namespace, identity: settings.identity };
    let publisher = Publisher::new(&candidate, Some(file));
    // There are no probes here to ask about.
    let (asks, _) = mpsc::channel(1);
    let api = Api::new(candidate.clone(), publisher.subscribe(), publisher.metrics().clone(), asks);
    server.serve(move |origin, request| api.clone().respond(origin, request));
    let client = LeaseClient::new(config, &candidate.namespace, &settings.id, settings.timing.request_timeout());
    let place = || Place::find(&candidate.namespace, &candidate.identity, settings.credentials_dir.as_deref(), None);
    let place = settings.is_injected.then(place).flatten();
    let slices = Slices::new(client.another(), candidate.namespace.clone(), place);
    let elector = Settings {
        name: candidate.id,
        namespace: candidate.namespace,
        identity: candidate.identity,
        timing: settings.timing,
        seed: fastrand::u64(..),
        preparation: std::time::Duration::ZERO,
        stop_time: std::time::Duration::ZERO,
        reclaim: None,
        born_under_turning_on: settings.born_under_turning_on,
        yields: settings.yields,
        unhealthy_step_down: None,
    };
    let mut campaign = Campaign::new(client, elector, None);
    campaign.count_in(publisher.metrics().clone());
    if !settings.is_injected {
        campaign.without_labels();
    }
    let mut observer = Observer { campaign, publisher, slices, guard, leads: false, withdraws: false };
    loop {
        if observer.carry_out() {
            return Ok((observer.guard, ORDERLY));
        }
        let wake = observer.campaign.wake();
        tokio::select! {
            biased;
            signal = signals.next() => observer.signalled(signal),
            gone = observer.publisher.withdrawn(), if observer.withdraws => observer.withdrawn(gone),
            () = observer.campaign.turn(wake) => {}
            () = observer.slices.turn() => {}
        }
        observer.campaign.time_passed(wake);
    }
}

struct Observer {
    campaign: Campaign,
    publisher: Publisher,
    /// Where traffic to the leader is sent.
    slices: Slices,
    guard: Guard,
    /// Between a start and the moment at which nothing says any more that this candidate leads.
    leads: bool,
    /// The status file shall go.
    withdraws: bool,
}

impl Observer {
    /// Does what the election asks for; whether it is over.
    fn carry_out(&mut self) -> bool {
        while let Some(demand) = self.campaign.poll() {
            match demand {
                Demand::Arm(deadline) => {
                    if let Err(error) = self.guard.arm(deadline) {
                        self.guard.die(&error.to_string());
                    }
                }
                Demand::Start { token } => {
                    info!(token, "leading");
                    self.leads = true;
                    self.publisher.app_started(token);
                }
                // Asked for only by who has something to prepare.
                Demand::Prepare(_) => self.campaign.handle(Event::Prepared),
                Demand::Stop(reason) => self.stop(reason),
                // Nothing runs, and the file is on its way.
                Demand::Kill => {}
                Demand::Disarm => {
                    if let Err(error) = self.guard.disarm() {
                        self.guard.die(&error.to_string());
                    }
                }
                Demand::Die(loss) => {
                    self.publisher.dies();
                    self.guard.die(&loss.to_string());
                }
                Demand::End => return true,
            }
        }
        self.publisher.refresh(self.campaign.elector());
        self.slices.named(self.campaign.elector().annotation(names::SLICES));
        // The app's readiness is the kubelet's to know: a pod that leads gets the traffic.
        self.slices.aim(if self.leads && !self.withdraws { Aim::Ready } else { Aim::Out });
        false
    }

    fn stop(&mut self, reason: StopReason) {
        if reason != StopReason::Shutdown {
            warn!(%reason, "leadership ends");
        }
        self.publisher.app_stops(reason);
        self.withdraws = self.leads;
    }

    /// Nothing says any more that this candidate leads: what stands for the app here is gone.
    fn withdrawn(&mut self, gone: std::io::Result<()>) {
        if let Err(error) = gone {
            self.guard.die(&format!("cannot remove the status file: {error}"));
        }
        (self.leads, self.withdraws) = (false, false);
        self.campaign.handle(Event::AppExited);
        self.campaign.handle(Event::AppGone);
    }

    fn signalled(&mut self, signal: std::io::Result<i32>) {
        match signal {
            Ok(signal) if StopSignal::TERM.is_meant_by(signal) => {
                info!(signal, "asked to end");
                self.campaign.handle(Event::Shutdown);
            }
            Ok(_) => {}
            Err(error) => self.guard.die(&format!("cannot receive signals: {error}")),
        }
    }
}
