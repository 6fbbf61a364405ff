//! A watch of the pods that an entry is about, from the resourceVersion that it names: so a pod's end is noticed although the pod is gone
//! a moment later, also by a controller that was started in between.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::task::AbortHandle;

use super::{
    super::Key,
    history::{EXPIRED, last_states, never_ran},
    step::{Evidence, Met},
};
use crate::{
    inject::Wanted,
    turning_on::{Entry, Owner, TurningOn, Verdict, Workload, owner, verdict},
};

/// How long one watch lasts, in seconds: a connection that died without a word is noticed then.
const WATCH: u32 = 60;
/// The pause after one that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// After this long a new watch has told what there was to tell when it began: the API server sends that at once.
const SETTLED: Duration = Duration::from_secs(2);

/// What is followed for one entry, and what is remembered of it. Lost with the process: all that counts stands on the Lease.
pub(super) struct Tracker {
    shared: Arc<Mutex<Shared>>,
    task: AbortHandle,
    selector: String,
    /// What pods have to be that are not waited for.
    wanted: Wanted,
    /// The last review that asked.
    review: String,
    /// Since when that one's decision has been seen not to be stored.
    pub(super) pending_since: Option<Instant>,
    /// Since when pods have been seen to be gone whose end is not known.
    pub(super) vanished_since: Option<Instant>,
    /// Since when pods without the election have been seen to be possible, though there is none.
    pub(super) more_since: Option<Instant>,
    /// When to look at everything again.
    pub(super) look_at: Instant,
    /// When the entry was written last.
    pub(super) written: Instant,
    /// What was told last.
    pub(super) told: String,
}

#[derive(Default)]
struct Shared {
    evidence: Evidence,
    /// Since when the watch has gone on without a break.
    since: Option<Instant>,
    /// Grows with everything that is learned.
    news: u64,
}

/// What a tracker knows.
pub(super) struct Knowledge {
    pub(super) evidence: Evidence,
    pub(super) watched: bool,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tracker {
    fn start(client: &Client, key: &Key, entry: &Entry) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            evidence: Evidence { version: entry.version.clone(), ..Evidence::default() },
            ..Shared::default()
        }));
        let pods = Api::namespaced(client.clone(), &key.namespace);
        let (selector, named, wanted) = (entry.selector.clone(), entry.pods.clone(), entry.wanted(key.id.as_str()));
        let follow = follow(pods, selector, named, wanted.clone(), Arc::clone(&shared));
        let now = Instant::now();
        Self {
            shared,
            task: tokio::spawn(follow).abort_handle(),
            selector: entry.selector.clone(),
            wanted,
            review: entry.review.clone(),
            pending_since: None,
            vanished_since: None,
            more_since: None,
            look_at: now,
            written: now,
            told: String::new(),
        }
    }

    /// Takes notice of the entry as it stands now; whether it is one of these pods.
    pub(super) fn renew(&mut self, entry: &Entry) -> bool {
        if self.review != entry.review {
            self.review.clone_from(&entry.review);
            (self.pending_since, self.look_at) = (None, Instant::now());
        }
        self.is_about(entry)
    }

    /// Whether it follows the pods of an entry, for what makes them waited for.
    fn is_about(&self, entry: &Entry) -> bool {
        self.selector == entry.selector && self.wanted.containers == entry.containers
    }

    /// What is known by now, of the pods of `workload` alone.
    pub(super) fn knowledge(&self, belongs: impl Fn(Option<&Owner>) -> bool) -> Knowledge {
        let shared = lock(&self.shared);
        let mut evidence = shared.evidence.clone();
        evidence.met.retain(|_, met| belongs(met.owner.as_ref()));
        Knowledge { evidence, watched: shared.since.is_some_and(|since| since.elapsed() >= SETTLED) }
    }

    /// Whether there is a reason to look at everything: nobody is left to wait for, as far as the watch tells, or it is time.
    pub(super) fn is_due(&self, entry: &Entry, belongs: impl Fn(Option<&Owner>) -> bool, now: Instant) -> bool {
        let shared = lock(&self.shared);
        let Evidence { met, ended, .. } = &shared.evidence;
        let met = met.iter().filter(|(_, met)| belongs(met.owner.as_ref())).map(|(uid, _)| uid);
        let mut waited = entry.pods.keys().chain(met).filter(|uid| !ended.contains(*uid));
        let is_settled = shared.since.is_some_and(|since| since.elapsed() >= SETTLED);
        now >= self.look_at || (waited.next().is_none() && is_settled && shared.news > 0)
    }

    /// What was learned so far has been looked at.
    pub(super) fn looked(&mut self, again: Instant) {
        lock(&self.shared).news = 0;
        self.look_at = again;
    }
}

/// The trackers of all entries.
#[derive(Default)]
pub struct Trackers {
    all: Mutex<HashMap<Key, BTreeMap<Workload, Tracker>>>,
    /// What each Lease said last, and which one it was.
    said: Mutex<HashMap<Key, (String, TurningOn)>>,
}

impl std::fmt::Debug for Trackers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Trackers").finish_non_exhaustive()
    }
}

impl Trackers {
    /// Nobody is waited for under this id any more.
    pub(in super::super) fn forget(&self, key: &Key) {
        lock(&self.all).remove(key);
        lock(&self.said).remove(key);
    }

    /// Takes notice of what the Lease with this uid says, and gives what another one said that was there before and is lost: who made
    /// this one may not have seen that.
    pub(super) fn inherited(&self, key: &Key, uid: &str, now: Option<&TurningOn>) -> Option<TurningOn> {
        let mut all = lock(&self.said);
        if let Some((_, before)) = all.get(key).filter(|(known, _)| known != uid) {
            let is_said = |now: &TurningOn| {
                before.workloads.keys().all(|workload| now.workloads.contains_key(workload))
                    && before.others.keys().all(|key| now.others.contains_key(key))
                    && (now.unknown || !before.unknown)
            };
            if !now.is_some_and(is_said) {
                return Some(before.clone());
            }
        }
        match now {
            Some(now) => drop(all.insert(key.clone(), (uid.to_owned(), now.clone()))),
            None => drop(all.remove(key)),
        }
        None
    }

    /// Follows the pods of these entries, and of no others of this id.
    pub(super) fn follow(&self, client: &Client, key: &Key, entries: &BTreeMap<Workload, Entry>) {
        let mut all = lock(&self.all);
        let trackers = all.entry(key.clone()).or_default();
        trackers.retain(|workload, tracker| entries.get(workload).is_some_and(|entry| tracker.is_about(entry)));
        for (workload, entry) in entries {
            match trackers.get_mut(workload) {
                Some(tracker) => drop(tracker.renew(entry)),
                None => drop(trackers.insert(workload.clone(), Tracker::start(client, key, entry))),
            }
        }
    }

    /// Asks, or tells, one of them; `None` where it is not followed.
    pub(super) fn with<T>(&self, key: &Key, workload: &Workload, ask: impl FnOnce(&mut Tracker) -> T) -> Option<T> {
        lock(&self.all).get_mut(key)?.get_mut(workload).map(ask)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows for as long as it is let.
async fn follow(
    pods: Api<Pod>,
    selector: String,
    named: BTreeMap<String, String>,
    wanted: Wanted,
    shared: Arc<Mutex<Shared>>,
) {
    loop {
        let began = Instant::now();
        let outcome = watch(&pods, &selector, &wanted, &shared).await;
        lock(&shared).since = None;
        match outcome {
            // Its time is over. One that the API server, or what stands before it, ends at once is not begun over and over.
            Ok(()) => {
                tokio::time::sleep(PAUSE.saturating_sub(began.elapsed())).await;
                continue;
            }
            Err(kube::Error::Api(status)) if status.code == EXPIRED => {
                tracing::warn!(
                    id = wanted.id,
                    selector,
                    "the API server's watch does not go back to when pods began to be waited for"
                );
                if let Err(error) = look_back(&pods, &selector, &named, &wanted, &shared).await {
                    tracing::warn!(id = wanted.id, selector, %error, "looking for pods that were waited for");
                }
            }
            Err(error) => {
                tracing::warn!(id = wanted.id, selector, %error, "watching pods that are waited for; it begins again");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The watch begins anew. What ended in between without a trace is waited for, until a person says that it need not be.
async fn look_back(
    pods: &Api<Pod>,
    selector: &str,
    named: &BTreeMap<String, String>,
    wanted: &Wanted,
    shared: &Mutex<Shared>,
) -> Result<(), kube::Error> {
    let (from, mut gone) = {
        let evidence = &mut lock(shared).evidence;
        let met = evidence.met.iter().map(|(uid, met)| (uid.clone(), met.name.clone()));
        let mut all: BTreeMap<String, String> = named.clone().into_iter().chain(met).collect();
        all.retain(|uid, _| !evidence.ended.contains(uid));
        (evidence.version.clone(), all)
    };
    let list = pods.list(&ListParams::default().labels(selector)).await?;
    for uid in list.items.iter().filter_map(ResourceExt::uid) {
        gone.remove(&uid);
    }
    let now = list.metadata.resource_version.unwrap_or_default();
    let remembered = last_states(pods, &gone, &from, &now).await;
    let mut shared = lock(shared);
    remembered.iter().chain(&list.items).for_each(|pod| shared.note(pod, wanted));
    // From here on the watch tells everything again.
    shared.evidence.version = now;
    Ok(())
}

/// One watch, from where the last one ended.
async fn watch(pods: &Api<Pod>, selector: &str, wanted: &Wanted, shared: &Mutex<Shared>) -> Result<(), kube::Error> {
    let mut version = lock(shared).evidence.version.clone();
    if version.is_empty() {
        let list = pods.list(&ListParams::default().labels(selector)).await?;
        list.items.iter().for_each(|pod| lock(shared).note(pod, wanted));
        version = list.metadata.resource_version.unwrap_or_default();
        lock(shared).evidence.version.clone_from(&version);
    }
    let parameters = WatchParams::default().labels(selector).timeout(WATCH);
    let mut events = pin!(pods.watch(&parameters, &version).await?);
    lock(shared).since = Some(Instant::now());
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => lock(shared).event(&pod, wanted),
            WatchEvent::Deleted(pod) => {
                if never_ran(pods, &pod).await? {
                    lock(shared).end(&pod);
                }
                lock(shared).event(&pod, wanted);
            }
            WatchEvent::Bookmark(bookmark) => lock(shared).evidence.version = bookmark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
    Ok(())
}

impl Shared {
    /// An event: what it says of the pod, and up to where everything is known.
    fn event(&mut self, pod: &Pod, wanted: &Wanted) {
        self.note(pod, wanted);
        if let Some(version) = pod.resource_version() {
            self.evidence.version = version;
        }
    }

    fn note(&mut self, pod: &Pod, wanted: &Wanted) {
        let Some(uid) = pod.uid() else { return };
        match verdict(pod, wanted) {
            Verdict::Elected => {}
            Verdict::Ended => self.end(pod),
            Verdict::Waited => {
                let met = Met { name: pod.name_any(), owner: owner(pod) };
                if self.evidence.met.insert(uid, met).is_none() {
                    self.news += 1;
                }
            }
        }
    }

    fn end(&mut self, pod: &Pod) {
        if let Some(uid) = pod.uid()
            && self.evidence.ended.insert(uid)
        {
            self.news += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_a_lost_lease_said_is_said_again() {
        let (trackers, key) = (Trackers::default(), Key::parse("shop", "billing").unwrap());
        let said = TurningOn::parse(r#"{"Deployment/billing":{"version":"7"}}"#);
        assert_eq!(trackers.inherited(&key, "u1", Some(&said)), None);
        // Another Lease, made by who knew nothing of it.
        assert_eq!(trackers.inherited(&key, "u2", None), Some(said.clone()));
        let other = TurningOn::parse(r#"{"Deployment/reports":{"version":"9"}}"#);
        assert_eq!(trackers.inherited(&key, "u2", Some(&other)), Some(said.clone()));
        // It has been written there, or somebody who knew has made it.
        assert_eq!(trackers.inherited(&key, "u2", Some(&said)), None);
        // Nor is forgotten that somebody may have to be waited for of whom nobody knows.
        let unknown = TurningOn { unknown: true, ..said.clone() };
        assert_eq!(trackers.inherited(&key, "u2", Some(&unknown)), None);
        assert_eq!(trackers.inherited(&key, "u3", Some(&said)), Some(unknown.clone()));
        assert_eq!(trackers.inherited(&key, "u2", Some(&said)), None, "the same Lease: it was found out");
        // Who takes it off the same Lease means it.
        assert_eq!(trackers.inherited(&key, "u2", None), None);
        assert_eq!(trackers.inherited(&key, "u3", None), None);
    }

    fn pod(version: &str, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "billing-1", "uid": "u1", "resourceVersion": version, "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [{ "name": "app" }], "nodeName": "one" }, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn an_end_that_was_told_is_known_after_the_pod_is_gone() {
        let mut shared = Shared::default();
        shared.event(&pod("8", &json!({ "phase": "Running" })), &Wanted::id("billing"));
        assert_eq!((shared.evidence.met.len(), shared.evidence.ended.len(), shared.news), (1, 0, 1));
        let state = json!({ "terminated": { "exitCode": 0, "containerID": "containerd://1", "finishedAt": "2026-01-01T00:00:01Z" } });
        let status =
            json!({ "name": "app", "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0 });
        let said = json!({ "type": "ContainersReady", "status": "False", "reason": "PodCompleted" });
        shared.event(
            &pod("9", &json!({ "phase": "Succeeded", "containerStatuses": [status], "conditions": [said] })),
            &Wanted::id("billing"),
        );
        assert!(shared.evidence.ended.contains("u1"));
        assert_eq!((shared.evidence.version.as_str(), shared.news), ("9", 2));
    }
}
