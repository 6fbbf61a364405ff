//! The objects of one kind, as its watch tells them: only what is read of them, found by what they belong to.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use kube::{Resource, ResourceExt, runtime::watcher::Event};

/// An object's namespace and name.
type Place = (String, String);

/// Something that is read of an object.
pub(super) trait Fact: PartialEq {
    /// Whether it says the same as before to whoever waits for a change.
    fn is_like(&self, before: &Self) -> bool {
        self == before
    }
}

/// The objects of one kind. `K` is what they belong to: an id, say.
#[derive(Debug)]
pub(super) struct Store<K, T> {
    objects: HashMap<Place, (K, Arc<T>)>,
    belonging: HashMap<K, BTreeMap<String, Arc<T>>>,
    /// What a list in progress has told so far.
    listing: Option<HashMap<Place, (K, Arc<T>)>>,
    is_complete: bool,
}

impl<K, T> Default for Store<K, T> {
    fn default() -> Self {
        Self { objects: HashMap::new(), belonging: HashMap::new(), listing: None, is_complete: false }
    }
}

impl<K: Clone + Eq + Hash, T: Fact> Store<K, T> {
    /// Takes an event in, and gives what has changed for whom. `extract` says what an object belongs to and what is read of it; what
    /// belongs to nobody is left out.
    pub(super) fn apply<O: Resource<DynamicType = ()>>(
        &mut self,
        event: Event<O>,
        extract: impl FnOnce(O) -> Option<(K, T)>,
    ) -> HashSet<K> {
        match event {
            Event::Init => {
                self.listing = Some(HashMap::new());
                HashSet::new()
            }
            Event::InitApply(object) => {
                let place = place(&object);
                if let (Some(listing), Some((key, fact))) = (&mut self.listing, extract(object)) {
                    listing.insert(place, (key, Arc::new(fact)));
                }
                HashSet::new()
            }
            Event::InitDone => {
                self.is_complete = true;
                let listed = self.listing.take().unwrap_or_default();
                let gone: Vec<Place> =
                    self.objects.keys().filter(|place| !listed.contains_key(*place)).cloned().collect();
                let mut changed: HashSet<K> = gone.into_iter().filter_map(|place| self.remove(&place)).collect();
                for (place, (key, fact)) in listed {
                    changed.extend(self.insert(place, key, fact));
                }
                changed
            }
            Event::Apply(object) => {
                let place = place(&object);
                match extract(object) {
                    Some((key, fact)) => self.insert(place, key, Arc::new(fact)),
                    None => self.remove(&place).into_iter().collect(),
                }
            }
            Event::Delete(object) => self.remove(&place(&object)).into_iter().collect(),
        }
    }

    /// Whether a list was read to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What belongs to `key`, by name.
    pub(super) fn of(&self, key: &K) -> Vec<Arc<T>> {
        self.belonging.get(key).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// What belongs to `key` and has this name.
    pub(super) fn named(&self, key: &K, name: &str) -> Option<Arc<T>> {
        self.belonging.get(key)?.get(name).cloned()
    }

    /// Who has anything.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.belonging.keys()
    }

    fn insert(&mut self, place: Place, key: K, fact: Arc<T>) -> HashSet<K> {
        let is_like = self.objects.get(&place).is_some_and(|(known, old)| *known == key && fact.is_like(old));
        let mut changed: HashSet<K> = self.remove(&place).into_iter().collect();
        self.belonging.entry(key.clone()).or_default().insert(place.1.clone(), Arc::clone(&fact));
        self.objects.insert(place, (key.clone(), fact));
        if is_like {
            return HashSet::new();
        }
        changed.insert(key);
        changed
    }

    /// Takes an object out, and says whose it was.
    fn remove(&mut self, place: &Place) -> Option<K> {
        let (key, _) = self.objects.remove(place)?;
        if let Some(all) = self.belonging.get_mut(&key) {
            all.remove(&place.1);
            if all.is_empty() {
                self.belonging.remove(&key);
            }
        }
        Some(key)
    }
}

fn place<O: Resource<DynamicType = ()>>(object: &O) -> Place {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    type Numbers = Store<String, String>;

    impl Fact for String {
        fn is_like(&self, before: &Self) -> bool {
            self.trim() == before.trim()
        }
    }

    /// A config map that belongs to its label `of`, and of which its `is` is read.
    fn map(name: &str, of: &str, is: &str) -> ConfigMap {
        let labels = [("of", of), ("is", is)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some(name.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn apply(store: &mut Numbers, event: Event<ConfigMap>) -> Vec<String> {
        let extract = |object: ConfigMap| {
            let labels = object.labels();
            Some((labels["of"].clone(), labels["is"].clone())).filter(|(of, _)| !of.is_empty())
        };
        let mut changed: Vec<String> = store.apply(event, extract).into_iter().collect();
        changed.sort();
        changed
    }

    fn facts(store: &Numbers, of: &str) -> Vec<String> {
        store.of(&of.to_owned()).iter().map(|fact| String::clone(fact)).collect()
    }

    #[test]
    fn a_list_counts_when_it_is_complete_and_takes_out_what_is_gone() {
        let mut store = Numbers::default();
        assert!(apply(&mut store, Event::Init).is_empty());
        assert!(apply(&mut store, Event::InitApply(map("one", "a", "1"))).is_empty());
        assert!(!store.is_complete() && facts(&store, "a").is_empty());
        assert_eq!(apply(&mut store, Event::InitDone), ["a"]);
        assert!(store.is_complete());
        assert_eq!(facts(&store, "a"), ["1"]);

        apply(&mut store, Event::Apply(map("two", "b", "2")));
        apply(&mut store, Event::Init);
        apply(&mut store, Event::InitApply(map("one", "a", "1")));
        apply(&mut store, Event::InitApply(map("three", "c", "3")));
        assert_eq!(facts(&store, "b"), ["2"], "the old state counts until the new one is complete");
        assert_eq!(apply(&mut store, Event::InitDone), ["b", "c"], "what is as it was has not changed");
        assert_eq!((facts(&store, "b").len(), facts(&store, "c").len()), (0, 1));
    }

    #[test]
    fn what_says_the_same_is_kept_and_wakes_nobody() {
        let mut store = Numbers::default();
        apply(&mut store, Event::Apply(map("one", "a", "1")));
        assert!(apply(&mut store, Event::Apply(map("one", "a", "1 "))).is_empty());
        assert_eq!(facts(&store, "a"), ["1 "]);
        assert_eq!(apply(&mut store, Event::Apply(map("one", "b", "1 "))), ["a", "b"]);
    }

    #[test]
    fn what_changes_hands_has_changed_for_both() {
        let mut store = Numbers::default();
        assert_eq!(apply(&mut store, Event::Apply(map("one", "a", "1"))), ["a"]);
        assert!(apply(&mut store, Event::Apply(map("one", "a", "1"))).is_empty());
        assert_eq!(apply(&mut store, Event::Apply(map("one", "a", "2"))), ["a"]);
        assert_eq!(apply(&mut store, Event::Apply(map("one", "b", "2"))), ["a", "b"]);
        assert_eq!(store.named(&"b".to_owned(), "one").as_deref(), Some(&"2".to_owned()));
        assert_eq!(apply(&mut store, Event::Apply(map("one", "", "2"))), ["b"], "it belongs to nobody any more");
        assert_eq!(store.keys().count(), 0);
        apply(&mut store, Event::Apply(map("one", "a", "1")));
        assert_eq!(apply(&mut store, Event::Delete(map("one", "a", "1"))), ["a"]);
        assert!(apply(&mut store, Event::Delete(map("one", "a", "1"))).is_empty());
    }
}
