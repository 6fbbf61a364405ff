//! What the watches have seen, and of which elections that is news.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::{api::DynamicObject, runtime::watcher::Event};
use serde_json::Value;

use super::{Election, elections, pod::id_of};
use crate::cli::objects::{name, namespace};

/// Namespace and name of an object, or namespace and id of an election.
pub(super) type Key = (String, String);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lease,
    Pod,
}

/// Objects of a kind as the watch has them.
#[derive(Default)]
pub(super) struct Store {
    pub(super) all: BTreeMap<Key, Value>,
    /// A list that is being read.
    next: BTreeMap<Key, Value>,
    is_complete: bool,
}

impl Store {
    /// Takes what a watch tells, and gives the objects as they were and as they are to `differ`.
    fn take(&mut self, event: Event<DynamicObject>, mut differ: impl FnMut(Option<&Value>, Option<&Value>)) {
        match event {
            Event::Init => self.next.clear(),
            Event::InitApply(object) => drop(self.next.insert(key(&object), value(object))),
            Event::InitDone => {
                let before = std::mem::replace(&mut self.all, std::mem::take(&mut self.next));
                for (key, object) in &before {
                    differ(Some(object), self.all.get(key));
                }
                let new = self.all.iter().filter(|(key, _)| !before.contains_key(*key));
                new.for_each(|(_, object)| differ(None, Some(object)));
                self.is_complete = true;
            }
            Event::Apply(object) => {
                let (key, object) = (key(&object), value(object));
                differ(self.all.get(&key), Some(&object));
                self.all.insert(key, object);
            }
            Event::Delete(object) => differ(self.all.remove(&key(&object)).as_ref(), None),
        }
    }
}

fn key(object: &DynamicObject) -> Key {
    (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default())
}

fn value(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    // Every write has another one.
    object.metadata.resource_version = None;
    // It came as JSON.
    serde_json::to_value(object).unwrap_or_default()
}

/// What the watches have.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) leases: Store,
    pub(super) pods: Store,
    /// Leases that no watch has.
    pub(super) adopted: Vec<Value>,
    /// Elections of which something has changed since they were judged.
    pub(super) news: BTreeSet<Key>,
}

impl Seen {
    pub(super) fn take(&mut self, kind: Kind, event: Event<DynamicObject>) {
        let news = &mut self.news;
        let (store, id): (_, fn(&Value) -> Option<&str>) = match kind {
            Kind::Lease => (&mut self.leases, |lease| Some(name(lease))),
            Kind::Pod => (&mut self.pods, id_of),
        };
        store.take(event, |before, after| {
            // A leader renews its Lease all the time, and each tick sees those that do not.
            if !is_renewal(before, after) {
                let of = before.into_iter().chain(after);
                news.extend(of.filter_map(|object| Some((namespace(object).to_owned(), id(object)?.to_owned()))));
            }
        });
    }

    pub(super) fn is_complete(&self) -> bool {
        self.leases.is_complete && self.pods.is_complete
    }

    /// The elections; of those only that are named, where any are.
    pub(super) fn elections(&self, of: Option<&BTreeSet<Key>>, now: Timestamp) -> Vec<Election> {
        let is_meant =
            |namespace: &str, id: &str| of.is_none_or(|of| of.contains(&(namespace.to_owned(), id.to_owned())));
        let unknown =
            |lease: &&Value| !self.leases.all.contains_key(&(namespace(lease).to_owned(), name(lease).to_owned()));
        let leases = self.leases.all.values().chain(self.adopted.iter().filter(unknown));
        let pods = self.pods.all.values().filter(|pod| id_of(pod).is_some_and(|id| is_meant(namespace(pod), id)));
        elections(leases.filter(|lease| is_meant(namespace(lease), name(lease))), pods, now)
    }
}

/// Whether nothing has changed but the time of the last renewal.
fn is_renewal(before: Option<&Value>, after: Option<&Value>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return false };
    let is_same = |key: &str, old: &Value, new: &Value| match (key, old.as_object(), new.as_object()) {
        ("spec", Some(old), Some(new)) => {
            old.len() == new.len()
                && old.iter().all(|(field, value)| field == "renewTime" || new.get(field) == Some(value))
        }
        _ => old == new,
    };
    old.len() == new.len()
        && old.iter().all(|(key, value)| new.get(key).is_some_and(|other| is_same(key, value, other)))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::cli::status) fn object(name: &str, holder: &str) -> DynamicObject {
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name, "namespace": "shop", "managedFields": [{}] },
            "spec": { "holderIdentity": holder },
        });
        serde_json::from_value(object).unwrap()
    }

    pub(in crate::cli::status) fn renewed(name: &str, holder: &str, second: usize) -> DynamicObject {
        let mut object = object(name, holder);
        object.metadata.resource_version = Some(second.to_string());
        object.data["spec"]["renewTime"] = json!(format!("2026-11-21T12:00:{second:02}.000000Z"));
        object
    }

    #[test]
    fn a_list_that_is_read_again_replaces_what_was_there() {
        let mut seen = Seen::default();
        let holders = |seen: &Seen| {
            let all = seen.elections(None, Timestamp::UNIX_EPOCH).into_iter();
            all.map(|election| (election.id, election.leader.map(|leader| leader.identity))).collect::<Vec<_>>()
        };
        seen.take(Kind::Pod, Event::Init);
        seen.take(Kind::Pod, Event::InitDone);
        seen.take(Kind::Lease, Event::Init);
        seen.take(Kind::Lease, Event::InitApply(object("billing", "a")));
        assert!(!seen.is_complete());
        seen.take(Kind::Lease, Event::InitDone);
        assert!(seen.is_complete());
        assert_eq!(holders(&seen), [("billing".to_owned(), Some("a".to_owned()))]);
        seen.take(Kind::Lease, Event::Apply(object("billing", "b")));
        seen.take(Kind::Lease, Event::Apply(object("shop", "c")));
        let both = [("billing".to_owned(), Some("b".to_owned())), ("shop".to_owned(), Some("c".to_owned()))];
        assert_eq!(holders(&seen), both);
        seen.take(Kind::Lease, Event::Init);
        seen.take(Kind::Lease, Event::InitApply(object("billing", "")));
        assert_eq!(holders(&seen), both, "until the list is complete");
        seen.take(Kind::Lease, Event::InitDone);
        assert_eq!(holders(&seen), [("billing".to_owned(), None)]);
        seen.take(Kind::Lease, Event::Delete(object("billing", "")));
        assert_eq!(holders(&seen), []);
    }

    #[test]
    fn a_renewal_is_no_news_and_everything_else_is() {
        let mut seen = Seen::default();
        let mut news = |kind: Kind, event: Event<DynamicObject>| {
            seen.take(kind, event);
            std::mem::take(&mut seen.news).into_iter().map(|(_, id)| id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(news(Kind::Lease, Event::Apply(renewed("billing", "a", 1))), "billing");
        assert_eq!(news(Kind::Lease, Event::Apply(renewed("billing", "a", 2))), "");
        assert_eq!(news(Kind::Lease, Event::Apply(renewed("billing", "b", 3))), "billing");
        let mut held = renewed("billing", "b", 4);
        held.metadata.annotations = Some([("leader.io/hold".to_owned(), String::new())].into());
        assert_eq!(news(Kind::Lease, Event::Apply(held)), "billing");
        // A list that is read again.
        for event in [Event::Init, Event::InitApply(renewed("shop", "c", 5)), Event::InitApply(renewed("same", "d", 5))]
        {
            assert_eq!(news(Kind::Lease, event), "");
        }
        assert_eq!(news(Kind::Lease, Event::InitDone), "billing same shop");
        assert_eq!(news(Kind::Lease, Event::Delete(renewed("shop", "c", 6))), "shop");
        let pod = |name: &str, id: &str| {
            let mut pod = object(name, "");
            pod.metadata.labels = Some([("leader.io/id".to_owned(), id.to_owned())].into());
            pod
        };
        assert_eq!(news(Kind::Pod, Event::Apply(pod("p", "billing"))), "billing");
        assert_eq!(news(Kind::Pod, Event::Apply(pod("p", "billing"))), "", "it is as it was");
        assert_eq!(news(Kind::Pod, Event::Apply(pod("p", "shop"))), "billing shop");
    }
}
