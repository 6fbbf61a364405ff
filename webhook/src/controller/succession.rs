//! Succession: of the pods of a `ReplicaSet` the leader's is removed last, so that a rolling update or a scale-down moves leadership once.
//!
//! Without it a `ReplicaSet` that shrinks takes any pod, the leader's too, while others of the old template are left to lead after it.
//! The controller puts [`COST`] on the leader's pod and takes it off when another one leads. What a person or another program has put
//! there is theirs, and stays. It is advice: pods that are not ready go before it, and other kinds of workloads know nothing of it.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Context, Error, Key, Requeue, fail_over::proof::Holder, view::PodFacts};
use crate::{review::KUBE_SYSTEM, turning_on::owner};

/// What a `ReplicaSet` looks at when it has to remove pods: those with a lower cost go first, and absent is 0.
pub const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The cost of a leader's pod. By this value it is known as ours; there is room above it (the greatest is 2147483647) for
/// who wants another pod to stay even longer.
const OURS: &str = "1000000000";
/// The pause after somebody else has written the pod.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a `ReplicaSet` controls a pod.
pub fn is_of_replica_set(pod: &Pod) -> bool {
    owner(pod).is_some_and(|owner| owner.kind == "ReplicaSet")
}

/// What is to be done about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    pod: String,
    uid: String,
    /// It leads: it costs [`OURS`]. Else it does not any more.
    leads: bool,
}

impl Step {
    /// Whether it still has to be done, by what the pod says now.
    fn is_due(&self, cost: Option<&str>) -> bool {
        if self.leads { cost.is_none() } else { cost == Some(OURS) }
    }
}

/// What is to be done, the leader's pod first. While nobody leads, nothing is: the next leader may be the same. The cluster's own pods,
/// which are never injected, are left alone whatever their labels say.
fn plan(namespace: &str, holder: Option<Holder<'_>>, pods: &[Arc<PodFacts>]) -> Vec<Step> {
    let Some(holder) = holder.filter(|_| namespace != KUBE_SYSTEM) else { return Vec::new() };
    let step = |pod: &Arc<PodFacts>| {
        let leads = pod.name == holder.pod && pod.uid == holder.uid;
        let step = Step { pod: pod.name.clone(), uid: pod.uid.clone(), leads };
        let counts = pod.is_of_replica_set && !pod.has_ended && !pod.is_being_deleted;
        (counts && step.is_due(pod.deletion_cost.as_deref())).then_some(step)
    };
    let mut steps: Vec<Step> = pods.iter().filter_map(step).collect();
    steps.sort_by_key(|step| !step.leads);
    steps
}

pub(super) async fn reconcile(context: &Context, key: &Key) -> Result<Requeue, Error> {
    let lease = context.view.lease(key);
    let steps = plan(&key.namespace, lease.as_deref().and_then(Holder::of), &context.view.pods(key));
    let mut requeue = Requeue::OnChange;
    for step in steps {
        if !carry_out(context, &key.namespace, &step).await? {
            requeue = requeue.sooner(Requeue::After(AGAIN));
        }
    }
    Ok(requeue)
}

/// Writes a pod's cost, unless somebody else has meanwhile; whether that is settled.
async fn carry_out(context: &Context, namespace: &str, step: &Step) -> Result<bool, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let place = format!("{namespace}/{}", step.pod);
    let pod = pods.get_metadata_opt(&step.pod).await.map_err(Error::request(format!("reading pod {place}")))?;
    let Some(pod) = pod.filter(|pod| pod.uid().as_deref() == Some(&step.uid)) else { return Ok(true) };
    if !step.is_due(pod.annotations().get(COST).map(String::as_str)) {
        return Ok(true);
    }
    let patch = json!({ "metadata": {
        "uid": step.uid,
        "resourceVersion": pod.resource_version(),
        "annotations": { (COST): step.leads.then_some(OURS) },
    } });
    let parameters = PatchParams { field_manager: Some("leader-webhook".to_owned()), ..PatchParams::default() };
    match pods.patch_metadata(&step.pod, &parameters, &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(Error::request(format!("writing the deletion cost of pod {place}"))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::Account;

    fn pod(name: &str, cost: Option<&str>) -> PodFacts {
        PodFacts {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            created: None,
            account: Account::Keep("default".to_owned()),
            is_being_deleted: false,
            has_ended: false,
            is_injected: true,
            ended_containers: Vec::new(),
            is_of_replica_set: true,
            deletion_cost: cost.map(str::to_owned),
            addresses: Vec::new(),
        }
    }

    fn planned(holder: &str, pods: Vec<PodFacts>) -> Vec<(String, bool)> {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        plan("shop", Holder::parse(holder), &pods).into_iter().map(|step| (step.pod, step.leads)).collect()
    }

    #[test]
    fn pods_of_the_cluster_are_left_alone() {
        let pods = [Arc::new(pod("one", None)), Arc::new(pod("two", Some(OURS)))];
        let holder = Holder::parse("one_uid-of-one_app");
        assert_eq!(plan("kube-system", holder, &pods), []);
        assert_eq!(plan("shop", holder, &pods).len(), 2);
    }

    #[test]
    fn the_leaders_pod_costs_more_and_no_other_does() {
        let (one, two) = ("one_uid-of-one_app", "two_uid-of-two_app");
        let (first, second) = (("one".to_owned(), true), ("two".to_owned(), true));
        assert_eq!(planned(one, vec![pod("one", None), pod("two", None)]), [first]);
        assert_eq!(planned(one, vec![pod("one", Some(OURS)), pod("two", None)]), []);
        let moved = planned(two, vec![pod("one", Some(OURS)), pod("two", None)]);
        assert_eq!(moved, [second, ("one".to_owned(), false)], "the leader's pod first");
        // Nobody leads, or nobody that is a pod.
        for nobody in ["", "laptop"] {
            assert_eq!(planned(nobody, vec![pod("one", Some(OURS)), pod("two", None)]), []);
        }
        assert_eq!(planned("one_another-uid_app", vec![pod("one", None)]), []);
    }

    #[test]
    fn what_others_say_a_pod_costs_stays() {
        for theirs in ["0", "-5", "100", "2147483647", ""] {
            let pods = || vec![pod("one", Some(theirs)), pod("two", Some(theirs))];
            assert_eq!(planned("one_uid-of-one_app", pods()), [], "{theirs}");
            assert_eq!(planned("two_uid-of-two_app", pods()), [], "{theirs}");
        }
    }

    #[test]
    fn only_pods_of_replica_sets_that_live_count() {
        let leads = "one_uid-of-one_app";
        for gone in [
            PodFacts { is_of_replica_set: false, ..pod("one", None) },
            PodFacts { is_being_deleted: true, ..pod("one", None) },
            PodFacts { has_ended: true, ..pod("one", None) },
        ] {
            assert_eq!(planned(leads, vec![gone]), []);
        }
    }

    #[test]
    fn the_cost_is_one_that_a_replica_set_reads() {
        let cost: i32 = OURS.parse().unwrap();
        assert!(cost > 0 && cost < i32::MAX);
    }
}
