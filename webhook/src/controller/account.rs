//! A service account that was made again: its pods' tokens are worthless until the kubelet renews them.
//!
//! A token is bound to the account's uid, and the kubelet renews it at 80% of its life, whoever asks for it sooner: with tokens of
//! 600 s that is 8 minutes after it was issued. Which pods are concerned shows in the times alone: those from before the account. That one
//! of them authenticates again shows in the Lease, when it renews as the holder: nobody else can write its name there. That all do is
//! certain when the last old token has ended.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ServiceAccount};
use kube::ResourceExt;
use leader_agent::names::TOKEN_SECONDS;

use super::{
    Context, Key, Requeue,
    reconcile::Memory,
    repair::{subjects, tell},
    view::PodFacts,
};
use crate::events::EventType;

/// Pods cannot authenticate because their account was made again.
pub const LOST: &str = "AccountRecreated";
/// They can again.
pub const REGAINED: &str = "AccountUsable";
/// The API server believes a token that it has just checked for 10 s without another look (`TokenSuccessCacheTTL` in k8s.io/apiserver,
/// pkg/server/options/authentication.go, and kubernetes pkg/kubeapiserver/options): a renewal sooner than this after the account's
/// creation says nothing. The rest is for clocks that differ.
const CACHED: Duration = Duration::from_secs(20);
/// How often it is looked whether they can.
const LOOK: Duration = Duration::from_secs(5);

/// Pods that cannot authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The account's name.
    pub account: String,
    /// When it was made again.
    pub since: Timestamp,
    /// When the last old token ends.
    pub until: Timestamp,
    /// The names of the pods that are not known to authenticate.
    pub pods: Vec<String>,
}

impl Gap {
    /// The pods of an account that cannot authenticate at `now`; `None` when there is none.
    pub fn of(account: &ServiceAccount, pods: &[Arc<PodFacts>], lease: Option<&Lease>, now: Timestamp) -> Option<Self> {
        let name = account.name_any();
        let since = account.metadata.creation_timestamp.as_ref()?.0;
        let until = since + Duration::from_secs(TOKEN_SECONDS.into());
        if now >= until {
            return None;
        }
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).is_some_and(|time| time.0 >= since + CACHED);
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|_| renewed).unwrap_or_default();
        let is_from_before = |pod: &&Arc<PodFacts>| {
            pod.is_injected
                && !pod.has_ended
                && pod.account.name() == name
                && pod.created.is_some_and(|created| created < since)
                && !holder.starts_with(&format!("{}_{}_", pod.name, pod.uid))
        };
        let pods: Vec<String> = pods.iter().filter(is_from_before).map(|pod| pod.name.clone()).collect();
        (!pods.is_empty()).then_some(Self { account: name, since, until, pods })
    }

    /// What it means and what can be done, for a person.
    pub fn note(&self) -> String {
        let Self { account, since, until, pods } = self;
        format!(
            "service account {account} was made again at {since}: pods from before ({}) cannot authenticate until the kubelet renews \
             their tokens, by {until} at the latest. Until then they cannot lead; deleting these pods makes it sooner",
            pods.join(", ")
        )
    }
}

/// The gap that was told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    since: Timestamp,
}

/// Tells about a gap when it begins and when it ends.
pub(super) fn reconcile(context: &Context, key: &Key, memory: &mut Memory, now: Timestamp) -> Requeue {
    let view = &context.view;
    let lease = view.lease(key);
    let gap = view.account(key).and_then(|account| Gap::of(&account, &view.pods(key), lease.as_deref(), now));
    let about = || subjects(&view.workloads(key), lease.as_deref());
    match (gap, &memory.gap) {
        (Some(gap), told) => {
            if told.as_ref().is_none_or(|told| told.since != gap.since) {
                tracing::warn!(%key, account = gap.account, pods = ?gap.pods, until = %gap.until, "an account was made again");
                tell(context, &about(), EventType::Warning, LOST, &gap.note());
                memory.gap = Some(Told { since: gap.since });
            }
            Requeue::After(LOOK)
        }
        (None, Some(_)) => {
            let note =
                format!("leader election `{}`: its pods authenticate with the account that was made again", key.id);
            tell(context, &about(), EventType::Normal, REGAINED, &note);
            memory.gap = None;
            Requeue::OnChange
        }
        (None, None) => Requeue::OnChange,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inject::Account;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).unwrap()
    }

    fn account() -> ServiceAccount {
        let metadata = json!({ "name": "leader-billing", "creationTimestamp": at(100).to_string() });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn pod(name: &str, created: i64) -> PodFacts {
        PodFacts {
            name: name.to_owned(),
            uid: "u".to_owned(),
            created: Some(at(created)),
            account: Account::Dedicated("leader-billing".to_owned()),
            is_being_deleted: false,
            has_ended: false,
            is_injected: true,
            ended_containers: Vec::new(),
            is_of_replica_set: false,
            deletion_cost: None,
            addresses: Vec::new(),
        }
    }

    fn lease(holder: &str, renewed: i64) -> Lease {
        let spec = json!({ "holderIdentity": holder, "renewTime": format!("{:.6}", at(renewed)) });
        serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap()
    }

    fn gap(pods: Vec<PodFacts>, lease: Option<&Lease>, now: i64) -> Option<Vec<String>> {
        let pods: Vec<Arc<PodFacts>> = pods.into_iter().map(Arc::new).collect();
        Gap::of(&account(), &pods, lease, at(now)).map(|gap| gap.pods)
    }

    #[test]
    fn pods_from_before_the_account_cannot_authenticate() {
        let old = || pod("old", 50);
        assert_eq!(gap(vec![old(), pod("new", 100)], None, 110), Some(vec!["old".to_owned()]));
        assert_eq!(gap(vec![pod("new", 101)], None, 110), None);
        let others = [
            PodFacts { account: Account::Keep("robot".to_owned()), ..old() },
            PodFacts { has_ended: true, ..old() },
            PodFacts { is_injected: false, ..old() },
            PodFacts { created: None, ..old() },
        ];
        assert_eq!(gap(others.into(), None, 110), None);
        // Their last token has ended, so that they have another one.
        assert_eq!(gap(vec![old()], None, 699), Some(vec!["old".to_owned()]));
        assert_eq!(gap(vec![old()], None, 700), None);
    }

    #[test]
    fn a_holder_that_renews_does_authenticate() {
        let pods = || vec![pod("one", 50), pod("two", 50)];
        let both = Some(vec!["one".to_owned(), "two".to_owned()]);
        assert_eq!(gap(pods(), Some(&lease("one_u_app", 125)), 130), Some(vec!["two".to_owned()]));
        // Just after the account's creation the API server still believes the old token.
        assert_eq!(gap(pods(), Some(&lease("one_u_app", 119)), 130), both);
        assert_eq!(gap(pods(), Some(&lease("one_other_app", 125)), 130), both, "another pod of that name");
        assert_eq!(gap(pods(), Some(&lease("", 125)), 130), both);
        let pods: Vec<Arc<PodFacts>> = pods().into_iter().map(Arc::new).collect();
        let note = Gap::of(&account(), &pods, None, at(110)).unwrap().note();
        for part in ["leader-billing", "one, two", "deleting these pods"] {
            assert!(note.contains(part), "{note}");
        }
    }
}
