//! Collection: the objects of an id that nobody names any more are deleted, after 2 minutes and the last record's L.
//!
//! None of them has an ownerReference: a deleted workload's pods still shut down with the rights that they have, and with a fresh Lease
//! the next ones could start beside them. So what counts is whether any workload or any pod, a terminating one too, names the id; and a
//! Lease that somebody still renews is in use, whoever that is.
//!
//! A review makes sure of the objects before its workload is stored, and nobody sees it in between. Therefore the Lease is marked
//! first ([`COLLECTING`]), longer than any request may take before it is deleted: a review from before the mark is stored by then, and
//! seen by the live read; one from after it takes the mark off, so that the deletion, which is bound to the resourceVersion, fails.
//! [`decide`] is a function of values; the requests are here too.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::ServiceAccount,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions},
};
use leader_agent::names;
use serde::de::DeserializeOwned;

use super::{Context, Error, Key, Requeue, named, reconcile::Memory};
use crate::access::COLLECTING;

/// How long nobody has named an id whose objects are collected.
const QUIET: Duration = Duration::from_mins(2);
/// How long its Lease is marked before: above the API server's limit for a request (`--request-timeout`, 1 min by default), the review
/// and the write that it is for included.
const MARKED: Duration = Duration::from_secs(70);
/// The pause after somebody was quicker.
const AGAIN: Duration = Duration::from_secs(10);
/// Annotations of a Lease that must not be forgotten, though nobody names the id at the moment: what people wrote, and who is waited for.
const KEPT_BY: [&str; 3] = [names::HOLD, names::ADOPT, names::TURNING_ON];

/// Since when nobody names an id, and what its Lease says meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub struct Quiet {
    since: Instant,
    lease: Option<Record>,
    /// The longest L that the Lease had.
    longest: Duration,
    /// Since when it was seen to be marked.
    marked: Option<Instant>,
}

/// What a holder changes in its Lease.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    uid: Option<String>,
    spec: LeaseSpec,
}

impl Record {
    fn of(lease: &Lease) -> Self {
        Self { uid: lease.uid(), spec: lease.spec.clone().unwrap_or_default() }
    }

    fn duration(&self) -> Duration {
        let seconds = self.spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Duration::from_secs(seconds.unwrap_or_default().min(names::MAX_LEASE_SECONDS))
    }
}

/// What is to be done about an id that nobody names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the Lease says what must not be forgotten.
    Keep,
    /// Nothing yet.
    Wait(Duration),
    /// Mark the Lease.
    Mark,
    /// Look once more, and delete.
    Delete,
}

impl Quiet {
    /// Goes on from what was known: it begins again when the Lease has changed, or was needed meanwhile. `last` is the Lease as it was
    /// last seen, where it is missing now.
    fn follow(known: Option<Self>, lease: Option<&Lease>, last: Option<&Lease>, now: Instant) -> Self {
        let record = lease.map(Record::of);
        let is_marked = lease.is_some_and(|lease| lease.annotations().contains_key(COLLECTING));
        let duration = lease.or(last).map(|lease| Record::of(lease).duration()).unwrap_or_default();
        match known {
            Some(known) if known.lease == record && (is_marked || known.marked.is_none()) => {
                Self { marked: if is_marked { known.marked.or(Some(now)) } else { None }, ..known }
            }
            known => {
                let longest = known.map(|known| known.longest).unwrap_or_default().max(duration);
                Self { since: now, lease: record, longest, marked: is_marked.then_some(now) }
            }
        }
    }

    /// What is to be done at `now`. `is_kept` says that the Lease has something that must not be forgotten.
    fn decide(&self, is_kept: bool, now: Instant) -> Step {
        if is_kept {
            return Step::Keep;
        }
        let until = self.since + QUIET.max(self.longest);
        let left = |until: Instant| Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero());
        // Marked early enough for the whole not to take longer.
        if let Some(wait) = left(until.checked_sub(MARKED).unwrap_or(self.since)) {
            return Step::Wait(wait);
        }
        match (&self.lease, self.marked) {
            (Some(_), None) => Step::Mark,
            (_, marked) => {
                let marked = marked.and_then(|since| left(since + MARKED));
                marked.max(left(until)).map_or(Step::Delete, Step::Wait)
            }
        }
    }
}

/// Whether a Lease has something that must not be forgotten.
fn is_kept(lease: &Lease) -> bool {
    KEPT_BY.iter().any(|key| lease.annotations().contains_key(*key))
}

pub(super) async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
    let view = &context.view;
    if view.is_named(key) || !view.has_objects(key) {
        memory.quiet = None;
        return Ok(Requeue::OnChange);
    }
    let (lease, now) = (view.lease(key), Instant::now());
    let quiet = Quiet::follow(memory.quiet.take(), lease.as_deref(), view.last_lease(key).as_deref(), now);
    let step = quiet.decide(lease.as_deref().is_some_and(is_kept), now);
    memory.quiet = Some(quiet);
    match step {
        Step::Keep => Ok(Requeue::OnChange),
        Step::Wait(wait) => Ok(Requeue::After(wait)),
        Step::Mark => mark(context, key).await,
        Step::Delete => {
            let quiet = memory.quiet.take();
            collect(context, key, quiet.and_then(|quiet| quiet.lease)).await
        }
    }
}

/// Marks the Lease: what else stands in it stays as it is, fields newer than this program included.
async fn mark(context: &Context, key: &Key) -> Result<Requeue, Error> {
    let leases: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &key.namespace, &ApiResource::erase::<Lease>(&()));
    let failed = |action: &str| Error::request(format!("{action} Lease {key}"));
    let Some(mut lease) = leases.get_opt(key.id.as_str()).await.map_err(failed("reading"))? else {
        return Ok(Requeue::After(AGAIN));
    };
    if !is_ours(&lease, key) {
        return Ok(Requeue::OnChange);
    }
    lease.annotations_mut().insert(COLLECTING.to_owned(), Timestamp::now().to_string());
    match leases.replace(key.id.as_str(), &PostParams::default(), &lease).await {
        Ok(_) => Ok(Requeue::After(MARKED)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Requeue::After(AGAIN)),
        Err(error) => Err(failed("marking")(error)),
    }
}

/// Looks once more, at the API server's newest state, and deletes. `seen` is what the Lease said while nobody named the id.
async fn collect(context: &Context, key: &Key, seen: Option<Record>) -> Result<Requeue, Error> {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), &key.namespace);
    // Before who names the id is asked: whoever needs the Lease from now on changes it.
    let lease = leases.get_opt(key.id.as_str()).await.map_err(Error::request(format!("reading Lease {key}")))?;
    // One that was adopted stays what it was before.
    let lease = lease.filter(|lease| is_ours(lease, key));
    let is_as_seen = lease.as_ref().map(Record::of) == seen;
    let is_marked = lease.as_ref().is_none_or(|lease| lease.annotations().contains_key(COLLECTING) && !is_kept(lease));
    if !is_as_seen || !is_marked {
        return Ok(Requeue::After(AGAIN));
    }
    if let Some(name) = named::by(context, key).await? {
        tracing::info!(%key, by = name, "an id is named after all, its objects stay");
        return Ok(Requeue::After(AGAIN));
    }
    let (namespace, name) = (&key.namespace, format!("leader-{}", key.id));
    // The Lease first: when anybody needed it since it was read, this fails, and nothing else is deleted.
    if let Some(lease) = lease
        && !delete(&leases, key, lease).await?
    {
        return Ok(Requeue::After(AGAIN));
    }
    let bindings: Api<RoleBinding> = Api::namespaced(context.client.clone(), namespace);
    let roles: Api<Role> = Api::namespaced(context.client.clone(), namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(context.client.clone(), namespace);
    let gone = [
        delete_named(&bindings, key, &name).await?,
        delete_named(&roles, key, &name).await?,
        delete_named(&accounts, key, &name).await?,
    ];
    if gone.contains(&false) {
        return Ok(Requeue::After(AGAIN));
    }
    tracing::info!(%key, "nobody names the id any more: its Lease, account and rights are deleted");
    Ok(Requeue::OnChange)
}

/// Whether an object was made for the id.
fn is_ours<K: Resource>(object: &K, key: &Key) -> bool {
    object.labels().get(names::ID).map(String::as_str) == Some(key.id.as_str())
}

/// Deletes an object of the id, if it still is what it was; whether it is gone. What is not ours does not count.
async fn delete_named<K>(api: &Api<K>, key: &Key, name: &str) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let read = api.get_opt(name).await;
    match read.map_err(Error::request(format!("reading {} {}/{name}", K::kind(&()), key.namespace)))? {
        Some(object) => delete(api, key, object).await,
        None => Ok(true),
    }
}

async fn delete<K>(api: &Api<K>, key: &Key, object: K) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    if !is_ours(&object, key) {
        return Ok(true);
    }
    let name = object.name_any();
    let preconditions = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&name, &parameters).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(Error::request(format!("deleting {} {}/{name}", K::kind(&()), key.namespace))(error)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use kube::api::ObjectMeta;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn lease(renewed: i64, seconds: i32, annotations: &[&str]) -> Lease {
        let annotations = annotations.iter().map(|&key| (key.to_owned(), String::new()));
        Lease {
            metadata: ObjectMeta {
                uid: Some("u1".to_owned()),
                annotations: Some(annotations.collect()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
                lease_duration_seconds: Some(seconds),
                ..LeaseSpec::default()
            }),
        }
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_marked_in_time_and_deleted_after_two_minutes() {
        let start = Instant::now();
        let (plain, marked) = (lease(0, 15, &[]), lease(0, 15, &[COLLECTING]));
        let quiet = Quiet::follow(None, Some(&plain), None, start);
        assert_eq!(quiet.decide(false, start), Step::Wait(after(50)));
        assert_eq!(quiet.decide(false, start + after(50)), Step::Mark);
        let quiet = Quiet::follow(Some(quiet), Some(&marked), None, start + after(51));
        assert_eq!(quiet.decide(false, start + after(51)), Step::Wait(after(70)));
        assert_eq!(quiet.decide(false, start + after(121)), Step::Delete);
        assert_eq!(quiet.decide(true, start + after(121)), Step::Keep);
    }

    #[test]
    fn a_long_l_is_waited_for_also_when_it_was_released_or_lost() {
        let start = Instant::now();
        let held = Quiet::follow(None, Some(&lease(0, 600, &[])), None, start);
        assert_eq!(held.decide(false, start), Step::Wait(after(530)));
        // Released: the record says 1 s, and it is another one.
        let released = Quiet::follow(Some(held), Some(&lease(9, 1, &[])), None, start + after(10));
        assert_eq!(released.decide(false, start + after(10)), Step::Wait(after(530)));
        let lost = Quiet::follow(None, None, Some(&lease(0, 600, &[])), start);
        assert_eq!(lost.decide(false, start + after(599)), Step::Wait(after(1)));
        assert_eq!(lost.decide(false, start + after(600)), Step::Delete);
    }

    #[test]
    fn whoever_renews_or_needs_it_begins_the_time_anew() {
        let start = Instant::now();
        let (plain, marked) = (lease(0, 15, &[]), lease(0, 15, &[COLLECTING]));
        let quiet = Quiet::follow(None, Some(&marked), None, start);
        let later = start + after(119);
        let renewed = Quiet::follow(Some(quiet.clone()), Some(&lease(1, 15, &[COLLECTING])), None, later);
        assert_eq!(renewed.since, later);
        let needed = Quiet::follow(Some(quiet.clone()), Some(&plain), None, later);
        assert_eq!((needed.since, needed.marked), (later, None));
        let deleted = Quiet::follow(Some(quiet.clone()), None, Some(&marked), later);
        assert_eq!(deleted.since, later);
        assert_eq!(Quiet::follow(Some(quiet.clone()), Some(&marked), None, later), quiet);
    }

    #[test]
    fn what_must_not_be_forgotten() {
        for key in [names::HOLD, names::TURNING_ON, names::ADOPT] {
            assert!(is_kept(&lease(0, 15, &[key])), "{key}");
        }
        assert!(!is_kept(&lease(0, 15, &[COLLECTING, names::RELEASED])));
    }

    proptest! {
        /// However the Lease changes and whenever it is looked at: nothing is deleted that was not quiet for 2 minutes and L, and marked
        /// for as long as a request may take.
        #[test]
        fn never_too_soon(looks in vec((0..100_u64, 0..3_i64, any::<bool>(), 1..300_i32), 1..40)) {
            let mut now = Instant::now();
            let mut known = None;
            let mut seen: Vec<(Instant, Lease)> = Vec::new();
            for (pause, renewed, is_marked, seconds) in looks {
                now += after(pause);
                let marks: &[&str] = if is_marked { &[COLLECTING] } else { &[] };
                let lease = lease(renewed, seconds, marks);
                let quiet = Quiet::follow(known.take(), Some(&lease), None, now);
                seen.push((now, lease.clone()));
                if quiet.decide(false, now) == Step::Delete {
                    let same = |(_, earlier): &&(Instant, Lease)| Record::of(earlier) == Record::of(&lease);
                    let since = seen.iter().rev().take_while(same).last().unwrap().0;
                    let marked = |(_, earlier): &&(Instant, Lease)| earlier.annotations().contains_key(COLLECTING);
                    let marked_since = seen.iter().rev().take_while(marked).last().unwrap().0;
                    prop_assert!(now - since >= QUIET.max(Record::of(&lease).duration()));
                    prop_assert!(now - marked_since >= MARKED);
                }
                known = Some(quiet);
            }
        }
    }
}
