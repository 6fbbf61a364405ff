//! One candidate at work: carries out the elector's reads and writes, watches the Lease, keeps the term file and the log.
//!
//! What runs while it leads, and how that is stopped and killed, is left to the caller: [`Campaign::poll`] says when. Whatever
//! happens is handed to the elector in the order in which it is seen here, on one thread.

mod told;

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::info;

use self::told::Told;
use crate::{
    clock::Now,
    cpu,
    elector::{Action, Elector, Event, Loss, Role, Settings, Source, StopReason},
    lease::{
        client::LeaseClient,
        record::{annotate, micro_time},
        watch::watch,
    },
    metrics::Metrics,
    names,
    term_file::TermFile,
};

/// Observations that wait to be handled; more make the watch wait.
const OBSERVATIONS: usize = 16;
/// A campaign looks at its own timer, and at the CPU limit, this often.
const TICK: Duration = Duration::from_secs(1);

/// What a request brought: events, and what an operator should know of it.
struct Answer {
    events: Vec<Event>,
    complaint: Option<String>,
}

type Request = Pin<Box<dyn Future<Output = Answer>>>;

/// What the caller shall do with what runs while this candidate leads: the rest of the elector's [`Action`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Set the deadline, on the boot clock, at which everything dies.
    Arm(Duration),
    /// Start the app.
    Start {
        /// The fencing token: the resourceVersion of the acquiring write.
        token: u64,
    },
    /// Prepare the app, which still runs, for a stop: [`Event::Prepared`] says that it is.
    Prepare(StopReason),
    /// Ask the app to stop. For [`StopReason::Shutdown`] it has been asked already.
    Stop(StopReason),
    /// Kill the whole app, again and again until it is gone.
    Kill,
    /// Take the deadline away: nothing is left that it guards against.
    Disarm,
    /// End everything at once. Nothing more is asked for after this.
    Die(Loss),
    /// Nothing is held any more: end.
    End,
}

/// One candidate of one Lease, with its connections.
pub struct Campaign {
    elector: Elector,
    client: Rc<LeaseClient>,
    requests: FuturesUnordered<Request>,
    observations: mpsc::Receiver<Event>,
    watching: Pin<Box<dyn Future<Output = ()>>>,
    term_file: Option<TermFile>,
    metrics: Option<Arc<Metrics>>,
    /// A Lease that is created gets no labels.
    unlabelled: bool,
    /// This candidate, as it holds a Lease.
    identity: String,
    /// Since when this process is a candidate.
    started: Timestamp,
    told: Told,
    /// The CPU limit is below one core, or cannot be read.
    starved: bool,
    /// When the CPU limit is looked at next.
    tick: Instant,
}

impl Campaign {
    /// A candidate that has seen nothing yet. Nothing is sent before the first [`Self::turn`].
    pub fn new(client: LeaseClient, settings: Settings, term_file: Option<TermFile>) -> Self {
        let timing = settings.timing;
        let lease = format!("{}/{}", settings.namespace, settings.name);
        info!(lease, identity = settings.identity, lease_duration = ?timing.lease(), margin = ?timing.margin(), "standing by");
        let client = Rc::new(client);
        let identity = settings.identity.clone();
        let (sender, observations) = mpsc::channel(OBSERVATIONS);
        let watched = Rc::clone(&client);
        Self {
            elector: Elector::new(settings),
            client,
            requests: FuturesUnordered::new(),
            observations,
            watching: Box::pin(async move { watch(&watched, timing.silence(), sender).await }),
            term_file,
            metrics: None,
            unlabelled: false,
            identity,
            started: Timestamp::now(),
            told: Told::default(),
            starved: timing.is_starved(),
            tick: Instant::now() + TICK,
        }
    }

    /// Has renewals counted in `metrics`.
    pub fn count_in(&mut self, metrics: Arc<Metrics>) {
        self.metrics = Some(metrics);
    }

    /// Leaves the labels off a Lease that has to be created: by them a cluster's controller finds the Leases of its workloads, and
    /// collects those that no workload names.
    pub fn without_labels(&mut self) {
        self.unlabelled = true;
    }

    /// Where the election stands.
    pub fn elector(&self) -> &Elector {
        &self.elector
    }

    /// Something happened, now.
    pub fn handle(&mut self, event: Event) {
        self.elector.handle(event, Now::read());
    }

    /// What the caller shall do next, in this order; `None` when everything is done. Then the log has been told of the state.
    pub fn poll(&mut self) -> Option<Demand> {
        while let Some(action) = self.elector.poll() {
            return Some(match action {
                Action::Read => {
                    self.read();
                    continue;
                }
                Action::Write { attempt, body } => {
                    self.write(attempt, body);
                    continue;
                }
                Action::StoreTerm(term) => {
                    if let Some(file) = &self.term_file {
                        file.store(term);
                    }
                    continue;
                }
                Action::ForgetTerm => {
                    info!("released the Lease");
                    if let Some(file) = &self.term_file {
                        file.forget();
                    }
                    continue;
                }
                Action::Arm(deadline) => Demand::Arm(deadline),
                Action::Start { token } => Demand::Start { token },
                Action::Prepare(reason) => Demand::Prepare(reason),
                Action::Stop(reason) => Demand::Stop(reason),
                Action::Kill => Demand::Kill,
                Action::Disarm => Demand::Disarm,
                Action::Die(loss) => Demand::Die(loss),
                Action::End => Demand::End,
            });
        }
        self.told.state(&self.elector);
        None
    }

    /// When [`Self::turn`] comes back even if nothing happens.
    pub fn wake(&self) -> Instant {
        let now = Now::read();
        let due = self.elector.next_timeout(now).map(|due| Instant::now() + due.saturating_sub(now.boot));
        due.map_or(self.tick, |due| due.min(self.tick))
    }

    /// Waits for the API server, until `wake` at most, and hands on what it brings. Nothing is lost when the future is dropped.
    /// After it, or whatever else the caller waited for meanwhile, comes [`Self::time_passed`].
    pub async fn turn(&mut self, wake: Instant) {
        tokio::select! {
            biased;
            Some(answer) = self.requests.next() => self.answered(answer),
            Some(event) = self.observations.recv() => self.handle(event),
            () = &mut self.watching => {}
            () = sleep_until(wake) => {}
        }
    }

    /// Does what is due. Once `wake` has passed it also counts how late that is.
    pub fn time_passed(&mut self, wake: Instant) {
        let now = Instant::now();
        if now < wake {
            return;
        }
        if now >= self.tick {
            self.tick = now + TICK;
            let starved = cpu::is_starved();
            if starved != self.starved {
                self.starved = starved;
                self.handle(Event::Starved(starved));
            }
        }
        self.handle(Event::Late(now - wake));
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

    fn write(&mut self, attempt: u64, mut body: serde_json::Value) {
        if self.unlabelled
            && let Some(metadata) = body["metadata"].as_object_mut()
            && !metadata.contains_key("resourceVersion")
        {
            metadata.remove("labels");
        }
        if body["spec"]["holderIdentity"] == self.identity.as_str() {
            // Another process of the same container has the same identity: who sees one of them end has to know which.
            let value = format!("{} {}", micro_time(self.started), self.identity);
            annotate(&mut body, names::AGENT_STARTED, value);
        }
        let client = Rc::clone(&self.client);
        let metrics = self.metrics.clone().filter(|_| self.elector.role() == Role::Leader);
        self.requests.push(Box::pin(async move {
            let sent = Instant::now();
            let (reply, error) = client.write(&body).await;
            if let Some(metrics) = metrics {
                metrics.count_renewal(&reply, sent.elapsed());
            }
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
            self.handle(event);
        }
    }
}
