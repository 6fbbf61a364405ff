//! Repair: the objects of an id that is named are there and as they should be.
//!
//! What is amiss is seen in the view, so that an id in order costs no request; what is done about it is decided again by live reads
//! ([`crate::access`]).

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::ObjectReference};

use super::{
    Context, Error, Key, Requeue,
    reconcile::Memory,
    turning_on,
    view::{PodFacts, WorkloadFacts},
};
use crate::{
    access::{self, Done, Existing, Inherited},
    events::{self, EventType, reason},
    inject::{Account, Election},
};

/// How long a missing Lease is left to the agents, where there are any: its holder brings it back in its own term, which is better than
/// an empty one, and standbys make it with what they saw of it. A few request timeouts.
const AGENTS_FIRST: Duration = Duration::from_secs(10);

/// How long something must look amiss before it is looked at: what a review has just made reaches the view by several watches, one
/// after the other.
const SETTLE: Duration = Duration::from_millis(500);

/// The accounts under which pods of an id run, or will.
///
/// Pods that are injected one by one bring theirs along: their own reviews make what they need.
pub fn accounts(workloads: &[Arc<WorkloadFacts>], pods: &[Arc<PodFacts>]) -> BTreeSet<Account> {
    let of_workloads = workloads.iter().filter_map(|workload| workload.account.clone());
    let living = pods.iter().filter(|pod| pod.is_injected && !pod.has_ended);
    of_workloads.chain(living.map(|pod| pod.account.clone())).collect()
}

/// Whether so much time has passed since something was seen, or when to look again.
fn has_passed(time: Duration, since: Instant, now: Instant) -> Result<(), Duration> {
    match time.saturating_sub(now.saturating_duration_since(since)) {
        Duration::ZERO => Ok(()),
        left => Err(left),
    }
}

pub(super) async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
    let view = &context.view;
    let (workloads, pods) = (view.workloads(key), view.pods(key));
    let (lease, account) = (view.lease(key), view.account(key));
    let (role, binding) = (view.role(key), view.binding(key));
    let existing = Existing {
        lease: lease.as_deref(),
        account: account.as_deref(),
        role: role.as_deref(),
        binding: binding.as_deref(),
    };
    let default = view.default_account(&key.namespace);
    let secret = context.agent_pull_secret.as_deref();
    let inherited = Inherited::of(default.as_deref(), secret);
    let has_agents = pods.iter().any(|pod| pod.is_injected && !pod.has_ended);
    let mut requeue = Requeue::OnChange;
    let mut with_lease = true;
    let now = Instant::now();
    if let Some(lost) = memory.lease_lost
        && let Err(wait) = has_passed(AGENTS_FIRST, lost, now)
        && has_agents
    {
        (with_lease, requeue) = (false, Requeue::After(wait));
    }
    let turning_on = turning_on::of_lost_lease(view, key);
    let (mut amiss_since, mut failed) = (None, None);
    for account in accounts(&workloads, &pods) {
        let election = Election {
            id: key.id.clone(),
            account,
            injected_afresh: false,
            container: String::new(),
            live_before: true,
            granted_before: false,
        };
        let mut amiss = access::amiss(&election, &key.namespace, &inherited, &existing);
        amiss.retain(|place| with_lease || !place.is_lease());
        if amiss.is_empty() {
            continue;
        }
        let since = memory.amiss.unwrap_or(now);
        if let Err(wait) = has_passed(SETTLE, since, now) {
            (amiss_since, requeue) = (Some(since), requeue.sooner(Requeue::After(wait)));
            continue;
        }
        let about = subjects(&workloads, lease.as_deref());
        let repair =
            access::repair(&context.client, &key.namespace, &election, secret, with_lease, turning_on.as_deref());
        match repair.await {
            Ok(done) => {
                for note in repaired(&done) {
                    tell(context, &about, EventType::Normal, reason::REPAIRED, &note);
                }
            }
            // With the namespace everything else goes, too.
            Err(error) if error.is_of_a_namespace_that_ends() => return Ok(Requeue::OnChange),
            Err(error) => {
                if error.is_refusal() {
                    let note = format!("leader election `{}`: {error}", key.id);
                    tell(context, &about, EventType::Warning, reason::NOT_REPAIRED, &note);
                }
                // Pods under other accounts need theirs all the same.
                (amiss_since, failed) = (Some(since), failed.or(Some(error)));
            }
        }
    }
    memory.amiss = amiss_since;
    failed.map_or(Ok(requeue), |error| Err(error.into()))
}

/// Whom an Event about an id's objects is for: the workloads that name it, else its Lease.
pub(super) fn subjects(workloads: &[Arc<WorkloadFacts>], lease: Option<&Lease>) -> Vec<ObjectReference> {
    if workloads.is_empty() {
        lease.map(events::reference).into_iter().collect()
    } else {
        workloads.iter().map(|workload| workload.reference.clone()).collect()
    }
}

pub(super) fn tell(context: &Context, about: &[ObjectReference], type_: EventType, reason: &str, note: &str) {
    for object in about {
        context.recorder.publish(object, type_, reason, note);
    }
}

/// What was done, for the people of the workload.
fn repaired(done: &[Done]) -> Vec<String> {
    let said = |Done { action, place }: &Done| match *action {
        "repairing" => format!("{place} was not as leader election needs it, and was put right"),
        "re-creating" => format!("{place} had another role, and was made again"),
        _ => format!("{place} was missing, and was made"),
    };
    done.iter().map(said).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::controller::view::Part;

    fn workload(account: Option<Account>) -> Arc<WorkloadFacts> {
        Arc::new(WorkloadFacts {
            reference: ObjectReference::default(),
            part: Part::Injected,
            account,
            lease_duration: None,
            is_being_deleted: false,
            labels: BTreeMap::new(),
            governing: None,
            runs_on_leader: true,
        })
    }

    fn pod(account: Account, has_ended: bool, is_injected: bool) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            name: "billing-1".to_owned(),
            uid: "u1".to_owned(),
            created: None,
            account,
            is_being_deleted: true,
            has_ended,
            is_injected,
            ended_containers: Vec::new(),
            is_of_replica_set: false,
            deletion_cost: None,
            addresses: Vec::new(),
        })
    }

    #[test]
    fn whose_rights_are_kept() {
        let (dedicated, kept) = (Account::Dedicated("leader-billing".to_owned()), Account::Keep("robot".to_owned()));
        let other = Account::Keep("other".to_owned());
        // Terminating pods of a deleted workload still shut down.
        let terminating = pod(kept.clone(), false, true);
        let all = accounts(&[workload(Some(dedicated.clone())), workload(None)], &[terminating]);
        assert_eq!(all, BTreeSet::from([dedicated, kept]));
        // What has ended, or only carries the label, needs nothing.
        assert!(accounts(&[], &[pod(other.clone(), true, true), pod(other, false, false)]).is_empty());
    }

    #[test]
    fn what_has_passed() {
        let now = Instant::now();
        assert_eq!(has_passed(AGENTS_FIRST, now, now), Err(AGENTS_FIRST));
        assert_eq!(has_passed(AGENTS_FIRST, now, now + AGENTS_FIRST / 2), Err(AGENTS_FIRST / 2));
        assert_eq!(has_passed(AGENTS_FIRST, now, now + AGENTS_FIRST), Ok(()));
    }
}
