//! Accounts that are bound although no pod of the id runs under them any more lose their right over its Lease.
//!
//! A repair only binds more ([`crate::access`]): pods of an earlier template may need what the newest one does not name, and a review what
//! is not stored yet. What nobody has needed for a while is taken back, after a look at the pods that there are; should somebody need it
//! again a moment later, the next repair binds it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::Pod,
    rbac::v1::{RoleBinding, Subject},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectList, PartialObjectMeta, PostParams},
};
use leader_agent::names;

use super::{Context, Error, Key, Requeue, reconcile::Memory, repair, view::facts::pod_names_id};

/// How long nobody has needed an account that is unbound: as long as the objects of an id stay that nobody names.
const QUIET: Duration = Duration::from_mins(2);
/// How many pods one request lists.
const PAGE: u32 = 200;

/// Since when accounts are bound that nobody needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Spare(BTreeMap<String, Instant>);

impl Spare {
    /// Goes on from what was known: who is needed again begins anew.
    fn follow(&self, bound: BTreeSet<String>, needed: &BTreeSet<String>, now: Instant) -> Self {
        let spare = bound.into_iter().filter(|name| !needed.contains(name));
        Self(spare.map(|name| (name.clone(), self.0.get(&name).copied().unwrap_or(now))).collect())
    }

    /// These have all their time again.
    fn begin_again(&mut self, accounts: &BTreeSet<String>, now: Instant) {
        self.0.iter_mut().filter(|(name, _)| accounts.contains(*name)).for_each(|(_, since)| *since = now);
    }

    /// Those whose time is over, and when the next one's is.
    fn due(&self, now: Instant) -> (BTreeSet<String>, Option<Duration>) {
        let (mut due, mut next) = (BTreeSet::new(), None::<Duration>);
        for (name, since) in &self.0 {
            match QUIET.saturating_sub(now.saturating_duration_since(*since)) {
                Duration::ZERO => drop(due.insert(name.clone())),
                left => next = Some(next.map_or(left, |next| next.min(left))),
            }
        }
        (due, next)
    }
}

/// The service accounts of its own namespace that a binding binds.
fn bound(binding: &RoleBinding) -> BTreeSet<String> {
    let accounts = binding.subjects.iter().flatten().filter(|subject| is_account(subject, binding));
    accounts.map(|subject| subject.name.clone()).collect()
}

fn is_account(subject: &Subject, binding: &RoleBinding) -> bool {
    subject.kind == "ServiceAccount" && subject.namespace == binding.metadata.namespace
}

pub(super) async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
    let view = &context.view;
    let needed = repair::accounts(&view.workloads(key), &view.pods(key));
    let needed: BTreeSet<String> = needed.iter().map(|account| account.name().to_owned()).collect();
    // An id that nobody names is collected as a whole; of pods that are to come nobody knows yet under which account.
    let binding = view.binding(key).filter(|_| !needed.is_empty());
    let bound = binding.map(|binding| bound(&binding)).unwrap_or_default();
    let now = Instant::now();
    memory.spare = memory.spare.follow(bound, &needed, now);
    let (due, next) = memory.spare.due(now);
    if due.is_empty() {
        return Ok(next.map_or(Requeue::OnChange, Requeue::After));
    }
    // Whatever comes of it: an id that is looked at several times a second must not ask each time.
    memory.spare.begin_again(&due, now);
    unbind(context, key, &due).await
}

/// Takes the right over the id's Lease from these accounts, but for those under which pods of the id are there.
pub async fn unbind(context: &Context, key: &Key, accounts: &BTreeSet<String>) -> Result<Requeue, Error> {
    let (namespace, name) = (key.namespace.as_str(), format!("leader-{}", key.id));
    let bindings: Api<RoleBinding> = Api::namespaced(context.client.clone(), namespace);
    let failed = |action: &str| Error::request(format!("{action} RoleBinding {namespace}/{name}"));
    let Some(mut binding) = bindings.get_opt(&name).await.map_err(failed("reading"))? else {
        return Ok(Requeue::OnChange);
    };
    if binding.labels().get(names::ID).map(String::as_str) != Some(key.id.as_str()) {
        return Ok(Requeue::OnChange);
    }
    let mut gone = BTreeSet::new();
    for account in accounts.intersection(&bound(&binding)) {
        if pod_under(context, key, account).await?.is_none() {
            gone.insert(account.clone());
        }
    }
    if gone.is_empty() {
        return Ok(Requeue::After(QUIET));
    }
    let mut subjects = binding.subjects.take().unwrap_or_default();
    subjects.retain(|subject| !(is_account(subject, &binding) && gone.contains(&subject.name)));
    binding.subjects = Some(subjects);
    match bindings.replace(&name, &PostParams::default(), &binding).await {
        Ok(_) => {
            tracing::info!(%key, accounts = ?gone, "no pod runs under these accounts any more: they are unbound");
            Ok(Requeue::OnChange)
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Requeue::After(QUIET)),
        Err(error) => Err(failed("writing")(error)),
    }
}

/// A pod of the id that runs under an account, terminating ones too, as the API server has it now.
async fn pod_under(context: &Context, key: &Key, account: &str) -> Result<Option<String>, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut parameters = ListParams::default().fields(&format!("spec.serviceAccountName={account}")).limit(PAGE);
    loop {
        let page = pods.list_metadata(&parameters).await;
        let page: ObjectList<PartialObjectMeta<Pod>> =
            page.map_err(Error::request(format!("listing the pods under account {}/{account}", key.namespace)))?;
        if let Some(pod) = page.items.iter().find(|pod| pod_names_id(pod, key.id.as_str())) {
            return Ok(Some(pod.name_any()));
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn who_was_not_needed_for_long_is_due() {
        let start = Instant::now();
        let spare = Spare::default().follow(set(&["old", "robot"]), &set(&["robot"]), start);
        assert_eq!(spare.due(start), (set(&[]), Some(QUIET)));
        let later = start + QUIET / 2;
        let spare = spare.follow(set(&["old", "older", "robot"]), &set(&["robot"]), later);
        assert_eq!(spare.due(start + QUIET), (set(&["old"]), Some(QUIET / 2)));
        let mut asked = spare.clone();
        asked.begin_again(&set(&["old"]), start + QUIET);
        assert_eq!(asked.due(start + QUIET), (set(&[]), Some(QUIET / 2)));
        // Needed again in between, it has all its time again.
        let needed = spare.follow(set(&["old", "robot"]), &set(&["old", "robot"]), later);
        assert_eq!(needed, Spare::default());
        let again = needed.follow(set(&["old", "robot"]), &set(&["robot"]), start + QUIET);
        assert_eq!(again.due(start + QUIET), (set(&[]), Some(QUIET)));
    }
}
