//! Ends `leader.io/turning-on`: takes a workload's entry off the Lease once none of its pods can run the app without the election.
//!
//! What is waited for is learned by a [`tracker`]; whether that is all is decided by [`step`] alone, from the API server's newest state,
//! which is read in the order in which nothing can slip through: the Lease, the workload, what makes its pods, the pods. The Lease is
//! written only if nobody has written it since. So neither a lagging watch nor a second controller can end it too early.

mod history;
mod step;
mod tracker;

use std::time::{Duration, Instant};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::ObjectReference};
use kube::{Api, ResourceExt, api::DynamicObject};
use leader_agent::id::LeaderId;

use self::step::{LATER, SOON, Step, Why, pause, step};
pub use self::tracker::Trackers;
use super::{Context, Error, Key, Requeue, view::View};
use crate::{
    access::is_for,
    events::{EventType, reason},
    turning_on::{Entry, Looked, Stored, TurningOn, Workload, belongs, look, look_for_workloads, review::swap},
};

/// How often it is asked whether there is a reason to look. That costs no request.
const TICK: Duration = Duration::from_millis(250);
/// How late the watch may tell of the end of a pod that is gone already.
const LAG: Duration = Duration::from_secs(5);
/// How often the entry is brought up to date, so that a controller that starts later finds where to begin.
const WRITE: Duration = Duration::from_secs(30);
/// How many pods a note names.
const NAMED: usize = 5;

/// Does what is to be done for one id, and says when to come back.
pub async fn reconcile(context: &Context, namespace: &str, id: &LeaderId) -> Result<Requeue, Error> {
    let key = Key { namespace: namespace.to_owned(), id: id.clone() };
    let trackers = &context.turning_on;
    let Some(lease) = context.view.lease(&key) else { return Ok(lost(context, &key)) };
    let cached = TurningOn::of(&lease);
    if trackers.inherited(&key, &lease.uid().unwrap_or_default(), cached.as_ref()).is_some() {
        return work(context, &key).await;
    }
    let Some(cached) = cached else {
        trackers.forget(&key);
        return Ok(Requeue::OnChange);
    };
    trackers.follow(&context.client, &key, &cached.workloads);
    let now = Instant::now();
    let is_due = |(workload, entry): (&Workload, &Entry)| {
        let ours = |owner: Option<&_>| belongs(owner, workload, &[]);
        trackers.with(&key, workload, |tracker| tracker.is_due(entry, ours, now)).unwrap_or_default()
    };
    let is_idle = !cached.unknown && !cached.workloads.iter().any(is_due);
    if is_idle && !cached.workloads.is_empty() {
        return Ok(Requeue::After(TICK));
    }
    if is_idle && !cached.others.is_empty() {
        tracing::warn!(%key, others = ?cached.others.keys(), "a newer version has to end waiting for these");
        return Ok(Requeue::After(LATER));
    }
    work(context, &key).await
}

/// There is no Lease. Whoever brings it back says again who is waited for; what was seen of them meanwhile is needed then.
fn lost(context: &Context, key: &Key) -> Requeue {
    if let Some(last) = context.view.last_lease(key) {
        let said = TurningOn::of(&last);
        context.turning_on.inherited(key, &last.uid().unwrap_or_default(), said.as_ref());
        return Requeue::OnChange;
    }
    context.turning_on.forget(key);
    Requeue::OnChange
}

/// What a Lease has to say that is made in the place of a lost one.
pub(super) fn of_lost_lease(view: &View, key: &Key) -> Option<String> {
    let mut said = view.last_lease(key).and_then(|lease| TurningOn::of(&lease)).unwrap_or_default();
    // The last one that was seen need not have been the last one, and none may have been seen at all.
    said.unknown = true;
    said.to_annotation()
}

/// Looks at everything, and writes what has become of it.
async fn work(context: &Context, key: &Key) -> Result<Requeue, Error> {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), &key.namespace);
    let lease = leases.get_opt(key.id.as_str()).await.map_err(Error::request(format!("reading Lease {key}")))?;
    // One of this name that is another program's is none of ours, whatever was there before.
    let Some(lease) = lease.filter(|lease| is_for(lease, &key.id)) else { return Ok(Requeue::After(SOON)) };
    let stands = TurningOn::of(&lease);
    let inherited = context.turning_on.inherited(key, &lease.uid().unwrap_or_default(), stands.as_ref());
    if let Some(inherited) = inherited {
        let mut said = stands.unwrap_or_default();
        said.unknown |= inherited.unknown;
        said.others.extend(inherited.others);
        inherited.workloads.into_iter().for_each(|(workload, entry)| said.inherit(workload, entry));
        let written = swap(&context.client, &key.namespace, &lease, &said).await;
        let written = written.map_err(Error::request(format!("writing Lease {key}")))?;
        tracing::info!(%key, written, "a Lease was made anew while its election was being turned on");
        return Ok(Requeue::After(TICK));
    }
    let Some(stands) = stands else { return Ok(Requeue::After(TICK)) };
    let mut said = stands.clone();
    if stands.unknown {
        said.unknown = false;
        let found = look_for_workloads(&context.client, &key.namespace, key.id.as_str()).await;
        let failed = || Error::request(format!("looking for the workloads of {key} and their pods"));
        for (workload, entry) in found.map_err(failed())? {
            said.add(workload, entry);
        }
    }
    let mut news = Vec::new();
    for (workload, entry) in &stands.workloads {
        let failed = || Error::request(format!("looking at {workload} of {key} and its pods"));
        let looked = look(&context.client, &key.namespace, key.id.as_str(), workload, entry).await.map_err(failed())?;
        let Some(outcome) = judge(context, key, workload, entry, &looked) else { continue };
        match &outcome {
            Step::Drop => drop(said.workloads.remove(workload)),
            Step::Wait { entry, .. } => drop(said.workloads.insert(workload.clone(), (**entry).clone())),
        }
        news.push((workload, looked.object.map(|object| reference(key, workload, &object)), outcome));
    }
    if is_worth_writing(context, key, &stands, &said) {
        let written = swap(&context.client, &key.namespace, &lease, &said).await;
        if !written.map_err(Error::request(format!("writing Lease {key}")))? {
            // Somebody else was first: a review, perhaps, that waits for more.
            return Ok(Requeue::After(TICK));
        }
        let now = Instant::now();
        for workload in said.workloads.keys() {
            context.turning_on.with(key, workload, |tracker| tracker.written = now);
        }
    }
    for (workload, reference, outcome) in news {
        tell(context, key, workload, &lease, reference, &outcome);
    }
    Ok(Requeue::After(TICK))
}

/// Whether what is to be said differs from what stands by more than where to begin, or that has become old.
fn is_worth_writing(context: &Context, key: &Key, stands: &TurningOn, said: &TurningOn) -> bool {
    let lasting = |said: &TurningOn| -> Vec<(Workload, Entry)> {
        let entries = said.workloads.iter();
        entries.map(|(workload, entry)| (workload.clone(), Entry { version: String::new(), ..entry.clone() })).collect()
    };
    let is_old = |workload: &Workload| {
        context.turning_on.with(key, workload, |tracker| tracker.written.elapsed() >= WRITE).unwrap_or_default()
    };
    // One that says nothing keeps agents waiting for nobody.
    let is_empty = said.to_annotation().is_none();
    let has_changed =
        stands != said && (stands.unknown || lasting(stands) != lasting(said) || said.workloads.keys().any(is_old));
    is_empty || has_changed
}

/// What an Event is about.
fn reference(key: &Key, workload: &Workload, object: &DynamicObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(workload.kind.resource().api_version),
        kind: Some(workload.kind.name().to_owned()),
        name: Some(workload.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid: object.uid(),
        ..ObjectReference::default()
    }
}

/// What becomes of an entry by what was seen; `None` where its pods are not followed yet.
fn judge(context: &Context, key: &Key, workload: &Workload, entry: &Entry, looked: &Looked) -> Option<Step> {
    let judged = context.turning_on.with(key, workload, |tracker| {
        // The view may lag behind the Lease that was read: what a newer review decided has not had its time yet.
        if !tracker.renew(entry) {
            return None;
        }
        let ours = |owner: Option<&_>| belongs(owner, workload, &looked.sets);
        // After everything was read: what the watch has told by now is no older than that.
        let knowledge = tracker.knowledge(ours);
        let now = Instant::now();
        let pending = match looked.sight.stored {
            Stored::Elected { .. } => {
                tracker.pending_since = None;
                Duration::ZERO
            }
            Stored::Undecided { .. } | Stored::Otherwise | Stored::Absent => {
                now - *tracker.pending_since.get_or_insert(now)
            }
        };
        let mut outcome = step(entry, &looked.sight, &knowledge.evidence, knowledge.watched, pending);
        tracker.vanished_since = match &outcome {
            Step::Wait { why: Why::Vanished(_), .. } => Some(tracker.vanished_since.unwrap_or(now)),
            _ => None,
        };
        if let Step::Wait { why, .. } = &mut outcome
            && let Why::Vanished(pods) = why
            && tracker.vanished_since.is_some_and(|since| now - since < LAG)
        {
            *why = Why::Pods(std::mem::take(pods));
            tracker.looked(now + SOON);
            return Some(outcome);
        }
        tracker.more_since = match &outcome {
            Step::Wait { why: Why::More(_), .. } => Some(tracker.more_since.unwrap_or(now)),
            _ => None,
        };
        let pause = match &outcome {
            Step::Wait { why, .. } => pause(why, pending, now - tracker.more_since.unwrap_or(now)),
            Step::Drop => SOON,
        };
        tracker.looked(now + pause);
        Some(outcome)
    });
    judged.flatten()
}

/// Tells what is waited for when it changes: at the workload, and at the Lease where it is gone.
fn tell(context: &Context, key: &Key, workload: &Workload, lease: &Lease, at: Option<ObjectReference>, outcome: &Step) {
    let (type_, reason, note) = said(key, workload, outcome);
    let is_new = context.turning_on.with(key, workload, |tracker| {
        let is_new = tracker.told != note;
        tracker.told.clone_from(&note);
        is_new
    });
    if is_new == Some(true) {
        tracing::info!(%key, %workload, note, "turning on");
        let reference = at.unwrap_or_else(|| crate::events::reference(lease));
        context.recorder.publish(&reference, type_, reason, note);
    }
}

fn said(key: &Key, workload: &Workload, outcome: &Step) -> (EventType, &'static str, String) {
    let Key { namespace, id } = key;
    let resume = format!("`kubectl leader resume {id} --namespace {namespace}`");
    match outcome {
        Step::Drop => (
            EventType::Normal,
            reason::TURNED_ON,
            format!("no pod of {workload} runs without election `{id}` any more: one may lead"),
        ),
        Step::Wait { why: Why::Pods(pods), .. } => {
            let note = format!(
                "nobody begins to lead `{id}` until these pods have ended, which run without it: {}",
                short(pods)
            );
            (EventType::Normal, reason::TURNING_ON, note)
        }
        Step::Wait { why: Why::Vanished(pods), .. } => {
            let note = format!(
                "nobody begins to lead `{id}`: these pods are gone, and their nodes did not report that their containers ended: {}. \
                 Make sure that they have, and then {resume}",
                short(pods)
            );
            (EventType::Warning, reason::TURNING_ON_STUCK, note)
        }
        Step::Wait { why: Why::Lost(pods), .. } => {
            let note = format!(
                "nobody begins to lead `{id}`: these pods are over, and it is not known how their containers ended: {}. Make sure that \
                 they have, delete the pods, and then {resume}",
                short(pods)
            );
            (EventType::Warning, reason::TURNING_ON_STUCK, note)
        }
        Step::Wait { why: Why::More(why), .. } => {
            let note = format!("nobody begins to lead `{id}` while pods without it may be made: {why}");
            (EventType::Normal, reason::TURNING_ON, note)
        }
        Step::Wait { why: Why::Pending, .. } => {
            let note = format!("nobody begins to lead `{id}` until what was decided about {workload} is stored");
            (EventType::Normal, reason::TURNING_ON, note)
        }
    }
}

/// The first names.
fn short(pods: &[String]) -> String {
    let shown = pods.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match pods.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_are_told() {
        let key = Key::parse("shop", "billing").unwrap();
        let workload: Workload = "Deployment/billing".parse().unwrap();
        let pods: Vec<String> = (0..7).map(|number| format!("billing-{number}")).collect();
        let of = |why: Why| said(&key, &workload, &Step::Wait { entry: Box::default(), why });
        let (type_, reason, note) = of(Why::Vanished(pods[..1].to_vec()));
        assert_eq!((type_, reason), (EventType::Warning, "TurningOnStuck"));
        assert!(
            note.contains("billing-0") && note.contains("kubectl leader resume billing --namespace shop"),
            "{note}"
        );
        let (type_, reason, note) = of(Why::Lost(pods[..1].to_vec()));
        assert_eq!((type_, reason), (EventType::Warning, "TurningOnStuck"));
        assert!(note.contains("delete the pods, and then `kubectl leader resume billing"), "{note}");
        let (_, _, note) = of(Why::Pods(pods));
        assert!(note.ends_with("billing-0, billing-1, billing-2, billing-3, billing-4 and 2 more"), "{note}");
        let (_, reason, _) = said(&key, &workload, &Step::Drop);
        assert_eq!(reason, "TurnedOn");
    }
}
