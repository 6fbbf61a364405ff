//! Events about leadership, from the Lease alone: agents have no right to write any.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use leader_agent::names;

use super::{
    Context, Key,
    repair::{subjects, tell},
};
use crate::{
    events::{self, EventType},
    steered::Steered,
};

/// A pod has become the leader.
pub const ELECTED: &str = "LeaderElected";
/// The leader has ended its term, and nobody has begun another one.
pub const RELEASED: &str = "LeaderReleased";
/// The Lease was deleted and made again.
pub const RECREATED: &str = "LeaseRecreated";
/// A person keeps everyone from leading.
pub const HELD: &str = "LeaderHeld";
/// A person does not any more.
pub const RESUMED: &str = "LeaderResumed";
/// A person has asked something of the leader, or of the election.
pub const STEERED: &str = "LeaderSteered";
/// A term that began longer ago than this was told about by another replica, before this one was elected.
const RECENT: Duration = Duration::from_mins(1);

/// What was seen of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    uid: String,
    holder: Option<String>,
    transitions: i32,
    acquired: Option<Timestamp>,
    is_held: bool,
    /// What a person asked for last, as it stands there.
    steered: Option<String>,
}

impl Seen {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        Self {
            uid: lease.uid().unwrap_or_default(),
            holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
            acquired: spec.and_then(|spec| spec.acquire_time.as_ref()).map(|time| time.0),
            is_held: lease.annotations().contains_key(names::HOLD),
            steered: lease.annotations().get(names::STEERED).cloned(),
        }
    }

    /// The term, as far as there is one.
    fn term(&self) -> (&Option<String>, i32, Option<Timestamp>) {
        (&self.holder, self.transitions, self.acquired)
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    type_: EventType,
    reason: &'static str,
    note: String,
}

impl News {
    fn new(type_: EventType, reason: &'static str, note: String) -> Self {
        Self { type_, reason, note }
    }
}

/// What there is to tell about the Lease of `id`.
fn news(id: &str, before: Option<&Seen>, seen: &Seen, now: Timestamp) -> Vec<News> {
    let mut news = Vec::new();
    let again = before.is_some_and(|before| before.uid != seen.uid);
    if again {
        let note = format!(
            "Lease {id} was deleted and made again: a leader that was running takes it back, nobody else does for its whole duration"
        );
        news.push(News::new(EventType::Warning, RECREATED, note));
    }
    if let (Some(before), Some(text)) = (before, &seen.steered)
        && before.steered.as_ref() != Some(text)
        && let Some(Steered { by, what, .. }) = Steered::parse(text)
    {
        news.push(News::new(EventType::Normal, STEERED, format!("{by} asked of `{id}`: {what}")));
    }
    let is_held = before.is_some_and(|before| before.is_held);
    if seen.is_held && !is_held && before.is_some() {
        let note = format!(
            "leader election `{id}` is on hold ({}): the leader stops, and nobody leads until it is taken off",
            names::HOLD
        );
        news.push(News::new(EventType::Normal, HELD, note));
    } else if is_held && !seen.is_held {
        news.push(News::new(EventType::Normal, RESUMED, format!("leader election `{id}` is no longer on hold")));
    }
    let is_new = match before {
        Some(before) => before.term() != seen.term(),
        None => seen.acquired.is_some_and(|at| now.duration_since(at).unsigned_abs() < RECENT),
    };
    if !is_new {
        return news;
    }
    let previous = before.and_then(|before| before.holder.as_deref());
    match (&seen.holder, previous) {
        (Some(holder), previous) => {
            let after =
                previous.filter(|previous| previous != holder).map(|previous| format!(", after {}", pod(previous)));
            let after = after.unwrap_or_default();
            let note = format!("{} leads `{id}`{after} (term {})", pod(holder), seen.transitions);
            news.push(News::new(EventType::Normal, ELECTED, note));
        }
        (None, Some(previous)) => {
            let note = format!("{} does not lead `{id}` any more, and nobody does at the moment", pod(previous));
            news.push(News::new(EventType::Normal, RELEASED, note));
        }
        (None, None) => {}
    }
    news
}

/// The pod of an identity, `<pod>_<pod uid>_<container>`; another one is shown as it is.
fn pod(identity: &str) -> String {
    let mut parts = identity.rsplitn(3, '_');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(pod)) => format!("pod {pod}"),
        _ => identity.to_owned(),
    }
}

/// The pod that the note of an Event [`ELECTED`] names, or the identity of one that is no pod of ours.
pub fn leader_told(note: &str) -> Option<&str> {
    let (leader, _) = note.split_once(" leads `")?;
    Some(leader.strip_prefix("pod ").unwrap_or(leader))
}

/// Tells what has changed in a Lease since it was seen last: on the Lease, and on the workloads that name its id.
pub fn observe(context: &Context, lease: &Lease, before: Option<&Seen>, now: Timestamp) -> Seen {
    let (seen, id) = (Seen::of(lease), lease.name_any());
    let news = news(&id, before, &seen, now);
    if !news.is_empty() {
        let key = Key::parse(&lease.namespace().unwrap_or_default(), &id);
        let workloads = key.map(|key| context.view.workloads(&key)).unwrap_or_default();
        let mut about = vec![events::reference(lease)];
        about.extend(subjects(&workloads, None));
        for News { type_, reason, note } in news {
            tell(context, &about, type_, reason, &note);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).unwrap()
    }

    fn seen(holder: &str, transitions: i32) -> Seen {
        Seen {
            uid: "u1".to_owned(),
            holder: Some(holder.to_owned()).filter(|holder| !holder.is_empty()),
            transitions,
            acquired: Some(at(i64::from(transitions) * 100)),
            is_held: false,
            steered: None,
        }
    }

    fn told(before: Option<&Seen>, now: &Seen) -> Vec<(&'static str, String)> {
        news("billing", before, now, at(10_000)).into_iter().map(|news| (news.reason, news.note)).collect()
    }

    #[test]
    fn who_leads_and_after_whom() {
        let (one, two) = (seen("billing-1_u1_app", 3), seen("billing-2_u2_app", 4));
        let note = "pod billing-2 leads `billing`, after pod billing-1 (term 4)".to_owned();
        assert_eq!(told(Some(&one), &two), [(ELECTED, note)]);
        assert_eq!(told(Some(&two), &two), []);
        let released = Seen { holder: None, ..one.clone() };
        let note = "pod billing-1 does not lead `billing` any more, and nobody does at the moment".to_owned();
        assert_eq!(told(Some(&one), &released), [(RELEASED, note)]);
        assert_eq!(told(Some(&released), &two), [(ELECTED, "pod billing-2 leads `billing` (term 4)".to_owned())]);
        // The same pod in another term; a holder that is no pod of ours.
        assert_eq!(told(Some(&one), &seen("billing-1_u1_app", 5))[0].1, "pod billing-1 leads `billing` (term 5)");
        assert_eq!(told(Some(&one), &seen("laptop", 5))[0].1, "laptop leads `billing`, after pod billing-1 (term 5)");
    }

    #[test]
    fn what_was_told_can_be_read_again() {
        let one = seen("billing-1_u1_app", 3);
        for (holder, leader) in [("billing-2_u2_app", "billing-2"), ("laptop", "laptop")] {
            assert_eq!(leader_told(&told(Some(&one), &seen(holder, 4))[0].1), Some(leader));
        }
        assert_eq!(leader_told(&told(Some(&one), &Seen { holder: None, ..one.clone() })[0].1), None);
    }

    #[test]
    fn who_asked_for_what() {
        let one = seen("billing-1_u1_app", 3);
        let asked = |text: &str| Seen { steered: Some(text.to_owned()), ..one.clone() };
        let steered =
            Steered::new("alice", "step-down of billing-1", "2026-11-21T12:00:00Z".to_owned()).to_annotation();
        let note = "alice asked of `billing`: step-down of billing-1".to_owned();
        assert_eq!(told(Some(&one), &asked(&steered)), [(STEERED, note)]);
        assert_eq!(told(Some(&asked(&steered)), &asked(&steered)), []);
        assert_eq!(told(Some(&one), &asked("anything")), [], "it is somebody else's");
        let again = steered.replace("12:00:00", "12:00:07");
        assert_eq!(told(Some(&asked(&steered)), &asked(&again)).len(), 1);
    }

    #[test]
    fn at_first_sight_only_what_is_recent() {
        let seen = seen("billing-1_u1_app", 3);
        assert_eq!(news("billing", None, &seen, at(300 + 59)).len(), 1);
        assert_eq!(news("billing", None, &seen, at(300 + 61)).len(), 0);
        let held = Seen { is_held: true, ..seen };
        assert_eq!(told(None, &held), []);
    }

    #[test]
    fn holds_and_lost_leases() {
        let one = seen("billing-1_u1_app", 3);
        let held = Seen { is_held: true, ..one.clone() };
        let reasons = |before: &Seen, now: &Seen| {
            told(Some(before), now).into_iter().map(|(reason, _)| reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(&one, &held), [HELD]);
        assert_eq!(reasons(&held, &one), [RESUMED]);
        let made_again = Seen { uid: "u2".to_owned(), ..one.clone() };
        assert_eq!(reasons(&one, &made_again), [RECREATED]);
        let empty = Seen { uid: "u2".to_owned(), ..Seen::default() };
        assert_eq!(reasons(&one, &empty), [RECREATED, RELEASED]);
    }
}
