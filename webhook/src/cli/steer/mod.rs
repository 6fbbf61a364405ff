//! Steering by people: who leads is given away, given to a pod, kept from all, and let go on.
//!
//! A request is an annotation of the Lease, so that whoever may edit the Lease may steer, and nobody else; it is stored by
//! compare-and-swap and carried out by the agents alone. Beside it stands who asked ([`audit`]). What becomes of it is [`outcome`]'s to
//! judge, and what the command line makes of all that is in [`command`].

mod audit;
pub(super) mod command;
mod lease;
mod outcome;
mod target;

use std::time::Duration;

use kube::Client;
use leader_agent::{id::LeaderId, names};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use self::{
    lease::Seen,
    outcome::{Goal, Stage, late, stage},
};
pub(super) use self::{lease::term, outcome::Outcome};
use super::{
    api,
    dns::PodName,
    status::{self, pod_of},
};
use crate::{api_error, steered::Steered, turning_on};

/// How often the Lease is looked at while the outcome is waited for. Nothing but the right to read it is needed for that.
const LOOK: Duration = Duration::from_millis(200);
/// How long an app, its hooks and an election may take at least beside the Lease's own time, where nobody says how long to wait. It is
/// the grace period of a pod that states none, too.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a write begins again because the leader renewed its Lease in between.
const RACES: u32 = 10;

/// How long the outcome is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all.
    No,
    /// Twice as long as the Lease lasts, and the leader's grace period, or half a minute where that is shorter or not known.
    Default,
    /// At most so long.
    AtMost(Duration),
}

impl Wait {
    fn limit(self, lease: &Seen, grace: Option<Duration>) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::Default => Some(PATIENCE.max(grace.unwrap_or_default()) + Duration::from_secs(2 * lease.lasts())),
            Self::AtMost(limit) => Some(limit),
        }
    }
}

/// Which election, as whom, and how patiently.
pub(super) struct Steering<'a> {
    /// As the person who asks.
    pub(super) client: &'a Client,
    /// Where.
    pub(super) namespace: &'a str,
    /// Which.
    pub(super) id: &'a LeaderId,
    /// How long the outcome is waited for.
    pub(super) wait: Wait,
    /// Is told what happens on the way, a line at a time.
    pub(super) tell: &'a (dyn Fn(String) + Sync),
}

/// Why nothing was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// A request failed.
    #[error("{what} failed: {}", api_error::reason(source))]
    Request {
        /// What was tried.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Nobody takes part under this id.
    #[error(
        "there is no Lease {namespace}/{id}: is that the id, and the namespace (-n)? `kubectl leader status -A` lists them"
    )]
    NoLease {
        /// The namespace.
        namespace: String,
        /// The id.
        id: LeaderId,
    },
    /// There is no leadership to give away.
    #[error("nobody leads `{id}`, so that nothing can be given away{hint}")]
    NobodyLeads {
        /// The id.
        id: LeaderId,
        /// What to do about it, where that is known.
        hint: String,
    },
    /// The Lease was not written by an agent.
    #[error(
        "Lease {namespace}/{id} does not say when {holder} acquired it: its holder is no agent of leader, and takes no requests"
    )]
    NoTerm {
        /// The namespace.
        namespace: String,
        /// The id.
        id: LeaderId,
        /// Who holds it.
        holder: String,
    },
    /// Nobody may take over.
    #[error(
        "nobody may take over from {holder} while `{id}` is being turned on: nothing was asked. `kubectl leader status {id}` says whom it waits for"
    )]
    NobodyMayTakeOver {
        /// The id.
        id: LeaderId,
        /// Who leads.
        holder: String,
    },
    /// Leadership cannot be given to this pod.
    #[error("pod {pod} is no standby of `{id}`: {why}")]
    NoStandby {
        /// The pod.
        pod: String,
        /// The id.
        id: LeaderId,
        /// Why not.
        why: String,
    },
    /// Leadership moved before the request was stored.
    #[error("{before} does not lead `{id}` any more, but {now} does: nothing was asked")]
    Moved {
        /// The id.
        id: LeaderId,
        /// Who led.
        before: String,
        /// Who leads, or `nobody`.
        now: String,
    },
    /// Others kept writing the Lease.
    #[error("the Lease was changed by others {RACES} times in a row: try again")]
    Race,
    /// An election that is being turned on does not go on.
    #[error(transparent)]
    TurningOn(#[from] turning_on::ResumeError),
}

impl Steering<'_> {
    /// Asks the leader to give leadership away, to whoever takes it.
    pub(super) async fn step_down(&self) -> Result<Outcome, SteerError> {
        let lease = self.read().await?;
        let holder = self.holder(&lease)?.to_owned();
        if !self.has_standby().await {
            (self.tell)(format!("no other pod of `{}` stands by: {} may lead again", self.id, pod_of(&holder)));
        }
        let asked = format!("step-down of {} (term {})", pod_of(&holder), lease.transitions());
        self.give_away(lease, &holder, None, &asked, Goal::Another).await
    }

    /// Asks the leader to give leadership to a pod.
    pub(super) async fn transfer(&self, pod: &PodName) -> Result<Outcome, SteerError> {
        let pod = pod.as_str();
        let lease = self.read().await?;
        let holder = self.holder(&lease)?.to_owned();
        let path = format!("{}/{pod}", api::path(api::CORE, Some(self.namespace), "pods"));
        let object = api::find(self.client, &path).await.map_err(failed(&format!("reading pod {pod}")))?;
        if let Some(why) = target::unfit(object.as_ref(), self.id.as_str(), &holder) {
            return Err(SteerError::NoStandby { pod: pod.to_owned(), id: self.id.clone(), why });
        }
        let asked = format!("transfer from {} (term {}) to {pod}", pod_of(&holder), lease.transitions());
        self.give_away(lease, &holder, Some(pod), &asked, Goal::Pod(pod.to_owned())).await
    }

    /// Keeps everyone from leading.
    pub(super) async fn hold(&self, reason: Option<&str>) -> Result<Outcome, SteerError> {
        let mut lease = self.read().await?;
        let what = reason.map_or_else(|| "hold".to_owned(), |reason| format!("hold: {reason}"));
        let by_me = self.by_me(&what).await?;
        for _ in 0..RACES {
            if let Some(stands) = lease.hold().filter(|stands| reason.is_none_or(|reason| reason == *stands)) {
                (self.tell)(format!("`{}` is on hold already: {stands}", self.id));
                return self.outcome(&lease, Goal::Nobody, "since this was asked").await;
            }
            let value = reason.map_or_else(|| format!("by {} at {}", by_me.by, by_me.at), str::to_owned);
            if self.swap(&lease, &by_me, [(names::HOLD, json!(value))]).await? {
                (self.tell)(format!(
                    "`{0}` is on hold; to end it: kubectl leader resume {0} -n {1}",
                    self.id, self.namespace
                ));
                return self.outcome(&lease, Goal::Nobody, "after the hold was set").await;
            }
            lease = self.read().await?;
        }
        Err(SteerError::Race)
    }

    /// Ends a hold, or else what keeps an election that is turned on from going on: never both at once, because who ends a hold does
    /// not say by that that lost pods have ended.
    pub(super) async fn resume(&self, beside_running_pods: bool) -> Result<Outcome, SteerError> {
        let mut lease = self.read().await?;
        if lease.hold().is_none() {
            let waits = lease.annotation(names::TURNING_ON).is_some();
            let text = turning_on::resume(self.client, self.namespace, self.id, beside_running_pods).await?;
            if !waits {
                let text =
                    format!("election `{}` waits for nobody: it is neither on hold nor being turned on", self.id);
                return Ok(Outcome::good(text));
            }
            for line in text.lines() {
                (self.tell)(line.to_owned());
            }
            return self.outcome(&lease, Goal::Somebody, "after it went on").await;
        }
        let by_me = self.by_me("resume").await?;
        for _ in 0..RACES {
            let Some(stood) = lease.hold() else {
                return Ok(Outcome::good(format!("somebody else has ended the hold of `{}`", self.id)));
            };
            if self.swap(&lease, &by_me, [(names::HOLD, Value::Null)]).await? {
                (self.tell)(format!("`{}` is not on hold any more; it was: {stood}", self.id));
                if lease.annotation(names::TURNING_ON).is_some() && lease.holder().is_none() {
                    let text = format!(
                        "nobody leads `{0}` yet, because it is being turned on: pods without the election may still run. \
                         kubectl leader status {0} says whom it waits for",
                        self.id
                    );
                    return Ok(Outcome::good(text));
                }
                return self.outcome(&lease, Goal::Somebody, "after the hold").await;
            }
            lease = self.read().await?;
        }
        Err(SteerError::Race)
    }

    /// Asks the holder of this very term. A renewal in between changes nothing; another term does.
    async fn give_away(
        &self,
        mut lease: Seen,
        holder: &str,
        to: Option<&str>,
        asked: &str,
        goal: Goal,
    ) -> Result<Outcome, SteerError> {
        let by_me = self.by_me(asked).await?;
        let no_term = || SteerError::NoTerm {
            namespace: self.namespace.to_owned(),
            id: self.id.clone(),
            holder: holder.to_owned(),
        };
        let term = lease.term().ok_or_else(no_term)?;
        for _ in 0..RACES {
            if lease.annotation(names::TURNING_ON).is_some() {
                let holder = pod_of(holder).to_owned();
                return Err(SteerError::NobodyMayTakeOver { id: self.id.clone(), holder });
            }
            let mut annotations = vec![(names::STEP_DOWN, json!(term))];
            annotations.extend(to.map(|pod| (names::TRANSFER_TO, json!(pod))));
            if self.swap(&lease, &by_me, annotations).await? {
                let whom = to.map_or_else(|| "away".to_owned(), |pod| format!("to {pod}"));
                (self.tell)(format!("{} is asked to give leadership of `{}` {whom}", pod_of(holder), self.id));
                return self.outcome(&lease, goal, "after it was asked").await;
            }
            lease = self.read().await?;
            if lease.term().as_ref() != Some(&term) {
                let now = lease.holder().map_or("nobody", pod_of).to_owned();
                return Err(SteerError::Moved { id: self.id.clone(), before: pod_of(holder).to_owned(), now });
            }
        }
        Err(SteerError::Race)
    }

    /// Waits for the outcome of what stands on the Lease since `before` was read.
    async fn outcome(&self, before: &Seen, goal: Goal, since: &str) -> Result<Outcome, SteerError> {
        let grace = if self.wait == Wait::Default { self.grace(before).await } else { None };
        let Some(limit) = self.wait.limit(before, grace) else {
            return Ok(Outcome::good(format!("kubectl leader status {} shows what comes of it", self.id)));
        };
        let began = Instant::now();
        let (mut last, mut stopped) = (Stage::Unchanged, false);
        loop {
            match Seen::read(self.client, self.namespace, self.id).await {
                Ok(now) => last = stage(before, now.as_ref()),
                // The API server may be away for a moment.
                Err(error) if began.elapsed() >= limit => return Err(failed("reading the Lease")(error)),
                Err(_) => {}
            }
            let after = format!("{:.1} s {since}", began.elapsed().as_secs_f64());
            if let Some(outcome) = goal.outcome(self.id.as_str(), before, &last, &after) {
                return Ok(outcome);
            }
            if last == Stage::Nobody && !stopped {
                stopped = true;
                let who = before.holder().map_or("the leader", pod_of);
                (self.tell)(format!("{who} does not lead `{}` any more, {after}", self.id));
            }
            if began.elapsed() >= limit {
                return Ok(late(self.id.as_str(), before, &last, &format!("{} s", limit.as_secs())));
            }
            sleep(LOOK).await;
        }
    }

    /// How long the holder's app may take to stop, where that may be read.
    async fn grace(&self, lease: &Seen) -> Option<Duration> {
        let path = format!("{}/{}", api::path(api::CORE, Some(self.namespace), "pods"), pod_of(lease.holder()?));
        let pod = api::find(self.client, &path).await.ok()??;
        pod["spec"]["terminationGracePeriodSeconds"].as_u64().map(Duration::from_secs)
    }

    async fn read(&self) -> Result<Seen, SteerError> {
        let what = format!("reading Lease {}/{}", self.namespace, self.id);
        let lease = Seen::read(self.client, self.namespace, self.id).await.map_err(failed(&what))?;
        lease.ok_or_else(|| SteerError::NoLease { namespace: self.namespace.to_owned(), id: self.id.clone() })
    }

    /// Stores a request, and who asks, with the Lease that was read; whether it was still that one.
    async fn swap(
        &self,
        lease: &Seen,
        by_me: &Steered,
        request: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<bool, SteerError> {
        let mut annotations: Map<String, Value> =
            request.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        annotations.insert(names::STEERED.to_owned(), json!(by_me.to_annotation()));
        let what = format!("writing Lease {}/{}", self.namespace, self.id);
        lease.swap(self.client, self.namespace, annotations).await.map_err(failed(&what))
    }

    async fn by_me(&self, what: &str) -> Result<Steered, SteerError> {
        audit::by_me(self.client, what).await.map_err(failed("asking the API server for the time"))
    }

    fn holder<'a>(&self, lease: &'a Seen) -> Result<&'a str, SteerError> {
        let hint = || match (lease.hold(), lease.annotation(names::TURNING_ON)) {
            (Some(_), _) => format!(": it is on hold, which `kubectl leader resume {}` ends", self.id),
            (None, Some(_)) => ": it is being turned on".to_owned(),
            (None, None) => String::new(),
        };
        lease.holder().ok_or_else(|| SteerError::NobodyLeads { id: self.id.clone(), hint: hint() })
    }

    /// Whether somebody would take over. Who may not read pods is not told.
    async fn has_standby(&self) -> bool {
        let election = status::look_at(self.client, self.namespace, self.id).await;
        election.ok().flatten().is_none_or(|election| election.standbys.iter().any(|standby| standby.ready))
    }
}

/// What a request that fails is told as.
fn failed(what: &str) -> impl FnOnce(kube::Error) -> SteerError + use<> {
    let what = what.to_owned();
    move |source| SteerError::Request { what, source: Box::new(source) }
}

#[cfg(test)]
mod tests;
