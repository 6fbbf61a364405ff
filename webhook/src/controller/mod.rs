//! The controller: what goes on beside the reviews. It keeps the objects of every id in repair, collects those of ids that nobody
//! names any more, unbinds accounts that no pod uses, ends `leader.io/turning-on`, frees Leases whose holder has ended, keeps leaders' pods
//! from being removed first, and tells about leadership.
//!
//! One replica works, elected with the agent's own library; the others stand by. Watches fill a [`view`], changes of it put ids into a
//! [`queue`], and each id is [reconciled](reconcile) by itself. The view only tells where to look and when: whatever cannot be taken back
//! is done after a live read, and guarded by uid and resourceVersion. So two controllers at once would do no harm.

pub mod account;
mod adopted;
pub mod backoff;
pub mod bound;
pub mod collect;
mod cut_off;
pub mod fail_over;
pub mod leadership;
mod named;
pub mod queue;
mod reconcile;
pub mod repair;
mod services;
pub mod succession;
pub mod turning_on;
pub mod view;
mod watch;

use std::{convert::Infallible, fmt, pin::pin, sync::Arc, time::Duration};

use kube::{Client, Config};
use leader_agent::{
    election::{Election, Outcome},
    id::LeaderId,
};
use tokio::sync::watch::Receiver;

use self::{queue::Queue, view::View};
use crate::{access::AccessError, api_error, events::Recorder, metrics::Metrics};

/// The Lease by which one replica is elected, in the webhook's namespace.
pub const LEASE: &str = "leader-webhook-controller";
/// The pause after an election that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// How this process takes part.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The webhook's namespace: the Lease is there.
    pub namespace: String,
    /// What stands in the Lease while this process works; unique to it.
    pub identity: String,
    /// How the election reaches the API server: it has connections of its own.
    pub config: Config,
}

/// An id in its namespace: what is reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The id.
    pub id: LeaderId,
}

impl Key {
    /// The key of an id that came as text; `None` where that is no id.
    pub fn parse(namespace: &str, id: &str) -> Option<Self> {
        Some(Self { namespace: namespace.to_owned(), id: id.parse().ok()? })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.id)
    }
}

/// What reconciling works with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// For requests.
    pub client: Client,
    /// The cluster as the watches tell it. Never the reason for what cannot be taken back.
    pub view: Arc<View>,
    /// For Events.
    pub recorder: Recorder,
    /// For what is counted.
    pub metrics: Arc<Metrics>,
    /// The secret that private agent images are pulled with (`--agent-pull-secret`).
    pub agent_pull_secret: Option<String>,
    /// Whose pods are waited for while election is turned on.
    pub turning_on: Arc<turning_on::Trackers>,
}

impl Context {
    /// A context with an empty view.
    pub fn new(client: Client, recorder: Recorder, metrics: Arc<Metrics>, agent_pull_secret: Option<String>) -> Self {
        Self { client, view: Arc::default(), recorder, metrics, agent_pull_secret, turning_on: Arc::default() }
    }
}

/// When an id has to be looked at again, if nothing changes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requeue {
    /// After this long.
    After(Duration),
    /// At the next change.
    OnChange,
}

impl Requeue {
    /// The sooner of both.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        self.min(other)
    }
}

/// Why an id could not be reconciled. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its objects.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A request failed.
    #[error("{what} failed: {}", api_error::reason(source))]
    Request {
        /// What was tried, e.g. `listing the pods of namespace shop`.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The API server did not answer, or there is too much of it.
    #[error("it was not done within {0:?}")]
    Timeout(Duration),
}

impl Error {
    /// For `map_err`: the error of a request that tried `what`.
    pub fn request(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Request { what, source: Box::new(source) }
    }
}

/// Takes part in the election, and works while this replica leads, until `stop` is true. When it returns, the Lease is released.
///
/// There is no timer that kills the process where it blocks: what the controller writes is guarded by resourceVersion, so that two at
/// once do no harm, and a webhook that is killed answers no reviews.
pub async fn run(settings: Settings, context: Context, mut stop: Receiver<bool>) {
    loop {
        let election = Election::new(LEASE)
            .namespace(settings.namespace.clone())
            .identity(settings.identity.clone())
            .config(settings.config.clone())
            .dangerously_without_kill_timer()
            .on_new_leader(|identity| tracing::info!(identity, "the controller's leader"));
        let handle = election.stop_handle();
        // Each term begins with a view of its own: what an earlier one saw may be long past.
        let lead = |_| work(Context { view: Arc::default(), turning_on: Arc::default(), ..context.clone() });
        let mut campaign = pin!(election.run(lead));
        let outcome = tokio::select! {
            outcome = &mut campaign => outcome,
            () = stopped(&mut stop) => {
                handle.stop();
                campaign.await
            }
        };
        match outcome {
            Ok(Outcome::Stopped) => return,
            Ok(Outcome::Finished(never)) => match never {},
            Err(error) => tracing::warn!(%error, "the controller's election; it begins again"),
        }
        if tokio::time::timeout(PAUSE, stopped(&mut stop)).await.is_ok() {
            return;
        }
    }
}

/// Waits until `stop` is true, or whoever says so is gone.
async fn stopped(stop: &mut Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The controller's work, as long as it leads: until it is dropped.
pub async fn work(context: Context) -> Infallible {
    tracing::info!("the controller works in this replica");
    let _leading = Leading::new(&context.metrics);
    reconcile::run(&context, Queue::default()).await
}

/// Says in the metrics that this replica leads, for as long as it is there.
struct Leading(Arc<Metrics>);

impl Leading {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.set_leading(true);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.set_leading(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_one_counts() {
        let (soon, later) = (Requeue::After(Duration::from_secs(1)), Requeue::After(Duration::from_secs(2)));
        assert_eq!(later.sooner(soon), soon);
        assert_eq!(Requeue::OnChange.sooner(later), later);
        assert_eq!(Requeue::OnChange.sooner(Requeue::OnChange), Requeue::OnChange);
    }

    #[test]
    fn what_is_no_id_has_no_key() {
        assert_eq!(Key::parse("shop", "billing").unwrap().to_string(), "shop/billing");
        assert_eq!(Key::parse("shop", "Billing"), None);
        assert_eq!(Key::parse("shop", ""), None);
    }
}
