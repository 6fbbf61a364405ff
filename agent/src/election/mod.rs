//! Leadership inside a Rust program: one call that campaigns for a Lease, and runs a future while it holds it.
//!
//! The same elector as that of the agent, with the same promise: while one program's future runs, no other candidate of ours
//! runs its own. It holds for what the future does itself, up to its last poll, and for what [`Leadership::spawn`] runs. It does not hold for
//! what outlives them: a task that was spawned otherwise, a thread, a child process (for programs there is `leader-agent run`), or a
//! request that somebody else still carries out: give those [`Leadership::token`] to check.
//!
//! ```no_run
//! use leader_agent::election::{Election, Outcome};
//!
//! # async fn example() -> Result<(), leader_agent::election::ElectionError> {
//! let outcome = Election::new("billing")
//!     .on_new_leader(|identity| println!("{identity} leads"))
//!     .run(|leadership| async move {
//!         println!("leading, with fencing token {}", leadership.token());
//!         // The work of the leader. It ends with this future, or is dropped where leadership ends first.
//!     })
//!     .await?;
//! assert!(matches!(outcome, Outcome::Finished(())));
//! # Ok(()) }
//! ```
//!
//! # How the future ends
//! The campaign runs on a thread of its own, so that nothing that the program does holds up a renewal. When leadership ends, the future
//! is told ([`Leadership::stopping`]), and dropped after [`Election::wind_down`], which is zero by default, and the Lease is released
//! once it is gone. A future is dropped between two polls: one that blocks its thread cannot be. **A process whose future is still
//! there at the deadline is killed** (SIGKILL, from a timer in the kernel, armed before the future is first polled): an application
//! that goes on without the Lease would be the second one. [`Election::dangerously_without_kill_timer`] turns that off.
//!
//! # Threads and runtimes
//! [`Election::run`] is polled by the caller's runtime, whichever it is; future and callbacks run there and need not be `Send`.
//! The connections to the API server belong to the campaign's thread, which is why a [`kube::Config`] can be given, and a client cannot.

mod candidate;
mod error;
mod health;
mod leadership;
mod timer;

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use self::{
    candidate::{Candidate, News},
    health::Check,
    leadership::{OnStarted, OnStopped},
    timer::ProcessTimer,
};
pub use self::{error::ElectionError, leadership::Leadership};
use crate::{
    cpu,
    elector::Settings,
    id::LeaderId,
    lease::{client::LeaseClient, credentials},
    timing::Timing,
};

/// Between the moment at which the future is dropped and the one at which the process is killed if it still is there. Dropping a
/// future that does not block takes the time until its runtime polls it: four times the worst that a busy machine was seen to take.
pub const CANCELLATION: Duration = Duration::from_secs(1);

/// How an election ended that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The future ended by itself, while leading; the Lease is released, or runs out where the API server could not be reached.
    Finished(T),
    /// [`StopHandle::stop`] was called; whatever was held is released, or runs out where the API server could not be reached.
    Stopped,
}

/// Called with the identity of who leads now.
type OnNewLeader = Box<dyn FnMut(&str) + Send>;

/// Ends an election from anywhere: [`Election::stop_handle`].
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<watch::Sender<bool>>);

impl StopHandle {
    /// Asks the election to end: the future is wound down and dropped, the Lease released, and then [`Election::run`] returns.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// Stops at the end of its scope, however that comes.
struct StopAtEnd(StopHandle);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// An election to take part in. Every method but [`Self::run`] sets one option.
#[must_use = "nothing happens before `run`"]
pub struct Election {
    name: String,
    namespace: Option<String>,
    identity: Option<String>,
    config: Option<kube::Config>,
    kubeconfig: Option<PathBuf>,
    lease_duration: Option<Duration>,
    wind_down: Duration,
    on_started: Option<OnStarted>,
    on_stopped: Option<OnStopped>,
    on_new_leader: Option<OnNewLeader>,
    health_port: Option<u16>,
    health_check: Option<Check>,
    kills: bool,
    stop: StopHandle,
}

impl fmt::Debug for Election {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Election")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Election {
    /// An election for the Lease `name`, a DNS label. The Lease is created where there is none.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: None,
            identity: None,
            config: None,
            kubeconfig: None,
            lease_duration: None,
            wind_down: Duration::ZERO,
            on_started: None,
            on_stopped: None,
            on_new_leader: None,
            health_port: None,
            health_check: None,
            kills: true,
            stop: StopHandle(Arc::new(watch::Sender::new(false))),
        }
    }

    /// The Lease's namespace. Without it: the pod's, or the kubeconfig's.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// What stands in the Lease while this program leads; unique to it. Without it: the environment's `POD_NAME`.
    pub fn identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// How to reach the API server. Without it: the pod's service account, outside a pod `KUBECONFIG` or `~/.kube/config`. Its own
    /// retries are turned off, and its connections are made anew after each request that got no answer.
    pub fn config(mut self, config: kube::Config) -> Self {
        self.config = Some(config);
        self
    }

    /// The kubeconfig to use, also in a pod. A [`Self::config`] comes first.
    pub fn kubeconfig(mut self, path: impl AsRef<Path>) -> Self {
        self.kubeconfig = Some(path.as_ref().to_owned());
        self
    }

    /// How long the Lease lasts without a renewal: whole seconds, 5 s to 1 h. Without it 15 s.
    pub fn lease_duration(mut self, duration: Duration) -> Self {
        self.lease_duration = Some(duration);
        self
    }

    /// How long the future may go on after [`Leadership::stopping`] before it is dropped. Without it, it is dropped at once.
    pub fn wind_down(mut self, duration: Duration) -> Self {
        self.wind_down = duration;
        self
    }

    /// Called when leadership begins, before the future is made. It counts as part of the future: it must not block for long.
    pub fn on_started(mut self, callback: impl FnMut(&Leadership) + Send + 'static) -> Self {
        self.on_started = Some(Box::new(callback));
        self
    }

    /// Called when the future is gone, before the Lease is released. It counts as part of the future: it must not block for long.
    pub fn on_stopped(mut self, callback: impl FnMut() + Send + 'static) -> Self {
        self.on_stopped = Some(Box::new(callback));
        self
    }

    /// Called when another candidate than the last one, this one included, is seen to hold the Lease.
    pub fn on_new_leader(mut self, callback: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_new_leader = Some(Box::new(callback));
        self
    }

    /// Answers HTTP on this port, for the kubelet's probes: `/livez` passes while the election's thread works and the
    /// [`Self::health_check`] passes, `/readyz` in addition only once the Lease was seen. A standby is ready.
    pub fn health_port(mut self, port: u16) -> Self {
        self.health_port = Some(port);
        self
    }

    /// Asked for each request to the [`Self::health_port`], on a thread where it may block; an error's text is the answer's.
    /// One that takes longer than a second has failed.
    pub fn health_check(mut self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.health_check = Some(Arc::new(check));
        self
    }

    /// Lets a future that blocks past the deadline live on, in this process, while another candidate leads: **two may lead**. Without
    /// this the process is killed.
    pub fn dangerously_without_kill_timer(mut self) -> Self {
        self.kills = false;
        self
    }

    /// What ends this election: to be taken before [`Self::run`], for a signal handler, say. Dropping the future of [`Self::run`] is a stop as
    /// well, but then nobody waits for the release: a process that ends right after it leaves the Lease to run out.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Takes part until the leader's future ended by itself, or somebody stopped the election. `lead` makes the future of each
    /// term: after a term that ended early, because the Lease could not be renewed, say, the election goes on, perhaps to another term.
    /// It has to be polled: a program that holds this future and does nothing with it is as good as one that blocks.
    ///
    /// # Errors
    /// When it cannot begin, and when leadership was lost by force ([`ElectionError::Lost`]). In each case no future is left.
    pub async fn run<L, F>(mut self, mut lead: L) -> Result<Outcome<F::Output>, ElectionError>
    where
        L: FnMut(Leadership) -> F,
        F: Future,
    {
        let stop = StopAtEnd(self.stop.clone());
        let (news, mut heard) = mpsc::unbounded_channel();
        self.start(news).await?;
        let mut finished = None;
        loop {
            match heard.recv().await {
                Some(News::Leader(identity)) => {
                    if let Some(callback) = &mut self.on_new_leader {
                        callback(&identity);
                    }
                }
                Some(News::Leading(term)) => {
                    let output = term.lead(&mut lead, self.on_started.as_mut(), self.on_stopped.as_mut()).await;
                    if output.is_some() {
                        finished = output;
                        stop.0.stop();
                    }
                }
                Some(News::Ended(result)) => {
                    return match (finished, result) {
                        (Some(output), _) => Ok(Outcome::Finished(output)),
                        (None, Ok(())) => Ok(Outcome::Stopped),
                        (None, Err(error)) => Err(error),
                    };
                }
                None => return Err(ElectionError::Panicked),
            }
        }
    }

    /// Checks the options and starts the thread that campaigns.
    async fn start(&mut self, news: mpsc::UnboundedSender<News>) -> Result<(), ElectionError> {
        let id: LeaderId = self.name.parse()?;
        let environment = || std::env::var("POD_NAME").ok();
        let identity = self.identity.take().or_else(environment).filter(|identity| !identity.is_empty());
        let identity = identity.ok_or(ElectionError::NoIdentity)?;
        let lease = self.lease_duration.unwrap_or(Timing::default().lease());
        let timing = Timing::new(lease, Some(self.wind_down.saturating_add(CANCELLATION)), cpu::is_starved())?;
        let config = match self.config.take() {
            Some(config) => credentials::checked(config)?,
            None => credentials::named(self.kubeconfig.as_deref(), None).await?,
        };
        let namespace = self.namespace.take().unwrap_or_else(|| config.default_namespace.clone());
        // A namespace's name follows the same rule as an id.
        if namespace.parse::<LeaderId>().is_err() {
            return Err(ElectionError::Namespace(namespace));
        }
        let timer = if self.kills { Some(ProcessTimer::new().map_err(ElectionError::Timer)?) } else { None };
        let settings = Settings {
            name: id.to_string(),
            namespace: namespace.clone(),
            identity: identity.clone(),
            timing,
            seed: fastrand::u64(..),
            preparation: Duration::ZERO,
            stop_time: Duration::ZERO,
            reclaim: None,
            born_under_turning_on: false,
            yields: false,
            unhealthy_step_down: None,
        };
        let health = self.health_port.map(|port| (port, self.health_check.take()));
        let (wind_down, stop) = (self.wind_down, self.stop.0.subscribe());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("leader-health")
            .build()
            .map_err(ElectionError::Thread)?;
        let work = move || {
            let result = runtime.block_on(async {
                let client = LeaseClient::new(config, &namespace, &id, timing.request_timeout());
                let seen = health::serve(health)?;
                Candidate::new(client, settings, wind_down, timer, seen, news.clone()).run(stop).await
            });
            // A hanging health check must not hold up the end.
            runtime.shutdown_background();
            // Who does not listen has dropped `run`, and with it the future.
            let _ = news.send(News::Ended(result));
        };
        thread::Builder::new().name("leader-election".to_owned()).spawn(work).map_err(ElectionError::Thread)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of a start that goes no further than the options.
    async fn refused(election: Election) -> String {
        let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let outcome = election.config(config).run(|_| async { panic!("it leads") }).await;
        outcome.map(|_: Outcome<()>| ()).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_before_anything_begins() {
        let election = || Election::new("billing").namespace("shop").identity("me");
        for (election, part) in [
            (Election::new("Billing").identity("me"), "\"Billing\""),
            (election().identity(""), "POD_NAME"),
            (election().namespace("a b"), "\"a b\""),
            (election().lease_duration(Duration::from_secs(4)), "out of range"),
            (election().wind_down(Duration::from_secs(30)), "too short"),
        ] {
            let error = refused(election).await;
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
