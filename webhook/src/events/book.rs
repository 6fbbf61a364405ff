//! What becomes of a notice: a new Event, one more count of an Event that there is, or nothing. Values and moments in, writes out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

use super::{
    EventType,
    written::{DEFAULT_NAMESPACE, event, shortened},
};

/// After this long without another word an Event is over, as client-go has it (`finishTime` in `tools/events/event_broadcaster.go`).
const OVER: Duration = Duration::from_mins(6);
/// How often one Event's count is written at most.
const PAUSE: Duration = Duration::from_mins(1);
/// How many different things are told about one object at once; after that one each [`REFILL`].
const BURST: u32 = 20;
/// How long an object waits for the right to one more.
const REFILL: Duration = Duration::from_mins(1);
/// How many Events, and how many objects, are remembered. About 2 MB.
const LIMIT: usize = 4096;
/// Both clocks: one to count by, one to write down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) steady: Instant,
    pub(super) wall: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), wall: Timestamp::now() }
    }
}

/// The object that something is told about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Object {
    kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    uid: String,
}

/// Notices with the same key are one Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) object: Object,
    pub(super) type_: EventType,
    pub(super) reason: String,
    pub(super) note: String,
}

/// A notice, ready to be entered.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    key: Key,
    regarding: ObjectReference,
}

impl Entry {
    pub(super) fn new(regarding: ObjectReference, type_: EventType, reason: String, note: &str) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let object = Object {
            kind: text(&regarding.kind),
            namespace: text(&regarding.namespace),
            name: text(&regarding.name),
            uid: text(&regarding.uid),
        };
        Self { key: Key { object, type_, reason, note: shortened(note) }, regarding }
    }
}

/// A request to the API server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// A new Event; whose it is, is left open.
    Create(Box<Event>),
    /// More of the same.
    Count { namespace: String, name: String, series: EventSeries },
}

impl Write {
    pub(super) fn namespace(&self) -> &str {
        match self {
            Self::Create(event) => event.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE),
            Self::Count { namespace, .. } => namespace,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Create(event) => event.metadata.name.as_deref().unwrap_or_default(),
            Self::Count { name, .. } => name,
        }
    }
}

/// There is more to say about the object than anybody wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

#[derive(Debug)]
struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Moment,
    written: i32,
    written_at: Instant,
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    /// Takes one, where there is one.
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_secs() / REFILL.as_secs();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// What was told lately.
#[derive(Debug, Default)]
pub(super) struct Book {
    known: HashMap<Key, Known>,
    allowances: HashMap<Object, Allowance>,
    made: u64,
}

impl Book {
    /// Enters a notice: what has to be written now, if anything.
    pub(super) fn enter(&mut self, entry: Entry, now: Moment) -> Result<Option<Write>, TooMany> {
        let Entry { key, regarding } = entry;
        if let Some(known) = self.known.get_mut(&key).filter(|known| !is_over(known, now)) {
            known.count = known.count.saturating_add(1);
            known.last = now;
            return Ok(None);
        }
        let allowance = self.allowances.entry(key.object.clone());
        if !allowance.or_insert(Allowance { left: BURST, since: now.steady }).take(now.steady) {
            return Err(TooMany);
        }
        self.made += 1;
        let event = event(&key, regarding, self.made, now.wall);
        let known = Known {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            name: event.metadata.name.clone().unwrap_or_default(),
            count: 1,
            last: now,
            written: 1,
            written_at: now.steady,
        };
        self.known.insert(key, known);
        self.shrink(now);
        Ok(Some(Write::Create(Box::new(event))))
    }

    /// The counts that have grown and may be written, and forgets what is over.
    pub(super) fn due(&mut self, now: Moment) -> Vec<Write> {
        let mut writes = Vec::new();
        for known in self.known.values_mut() {
            let is_due = now.steady.saturating_duration_since(known.written_at) >= PAUSE;
            if known.count > known.written && is_due {
                (known.written, known.written_at) = (known.count, now.steady);
                let series = EventSeries { count: known.count, last_observed_time: MicroTime(known.last.wall) };
                writes.push(Write::Count { namespace: known.namespace.clone(), name: known.name.clone(), series });
            }
        }
        self.known.retain(|_, known| !is_over(known, now));
        // Who has everything back needs no entry.
        self.allowances.retain(|_, allowance| now.steady.saturating_duration_since(allowance.since) < REFILL * BURST);
        writes
    }

    /// The write failed: the next word about it begins a new Event.
    pub(super) fn forget(&mut self, write: &Write) {
        self.known
            .retain(|_, known| (known.namespace.as_str(), known.name.as_str()) != (write.namespace(), write.name()));
    }

    /// Keeps both maps within [`LIMIT`]: who was silent for longest goes first.
    fn shrink(&mut self, now: Moment) {
        if self.known.len() > LIMIT {
            let silent = |known: &Known| now.steady.saturating_duration_since(known.last.steady);
            let longest = self.known.iter().max_by_key(|(_, known)| silent(known)).map(|(key, _)| key.clone());
            longest.and_then(|key| self.known.remove(&key));
        }
        if self.allowances.len() > LIMIT {
            let oldest = self.allowances.iter().min_by_key(|(_, allowance)| allowance.since);
            let oldest = oldest.map(|(object, _)| object.clone());
            oldest.and_then(|object| self.allowances.remove(&object));
        }
    }
}

fn is_over(known: &Known, now: Moment) -> bool {
    now.steady.saturating_duration_since(known.last.steady) >= OVER
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn entry(object: &str, note: &str) -> Entry {
        let regarding = ObjectReference {
            kind: Some("Deployment".to_owned()),
            namespace: Some("shop".to_owned()),
            name: Some(object.to_owned()),
            ..ObjectReference::default()
        };
        Entry::new(regarding, EventType::Warning, "Refused".to_owned(), note)
    }

    fn later(moment: Moment, by: Duration) -> Moment {
        Moment { steady: moment.steady + by, wall: moment.wall + by }
    }

    #[test]
    fn the_same_word_is_one_event_whose_count_grows() {
        let (mut book, start) = (Book::default(), Moment::now());
        let first = book.enter(entry("billing", "no"), start);
        let Ok(Some(Write::Create(event))) = first else { panic!("{first:?}") };
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!((event.note.as_deref(), event.type_.as_deref()), (Some("no"), Some("Warning")));
        for second in 1..=3 {
            assert_eq!(book.enter(entry("billing", "no"), later(start, Duration::from_secs(second))), Ok(None));
        }
        assert_eq!(book.due(later(start, PAUSE / 2)), []);
        let due = book.due(later(start, PAUSE));
        let [Write::Count { namespace, name, series }] = &due[..] else { panic!("{due:?}") };
        assert_eq!((namespace.as_str(), Some(name)), ("shop", event.metadata.name.as_ref()));
        assert_eq!(series.count, 4);
        assert_eq!(series.last_observed_time.0, later(start, Duration::from_secs(3)).wall);
        // It is written once.
        assert_eq!(book.due(later(start, PAUSE * 2)), []);
        // Another note, and another object, are another Event.
        assert!(matches!(book.enter(entry("billing", "never"), start), Ok(Some(Write::Create(_)))));
        assert!(matches!(book.enter(entry("orders", "no"), start), Ok(Some(Write::Create(_)))));
    }

    #[test]
    fn after_a_silence_and_after_a_failure_it_is_a_new_event() {
        let (mut book, start) = (Book::default(), Moment::now());
        let Ok(Some(first)) = book.enter(entry("billing", "no"), start) else { panic!() };
        let after = later(start, OVER);
        let Ok(Some(second)) = book.enter(entry("billing", "no"), after) else { panic!() };
        assert_ne!(first.name(), second.name());
        book.forget(&second);
        assert!(matches!(book.enter(entry("billing", "no"), after), Ok(Some(Write::Create(_)))));
    }

    #[test]
    fn an_object_has_a_limited_allowance_that_comes_back() {
        let (mut book, start) = (Book::default(), Moment::now());
        let told = |book: &mut Book, number: u32, at| book.enter(entry("billing", &number.to_string()), at).is_ok();
        for number in 0..BURST {
            assert!(told(&mut book, number, start));
        }
        assert!(!told(&mut book, 100, start));
        assert!(book.enter(entry("orders", "no"), start).is_ok(), "another object has its own");
        let after = later(start, REFILL);
        assert!(told(&mut book, 101, after));
        assert!(!told(&mut book, 102, after));
    }

    #[test]
    fn both_maps_are_bounded() {
        let (mut book, now) = (Book::default(), Moment::now());
        for object in 0..LIMIT + 10 {
            assert!(book.enter(entry(&object.to_string(), "no"), now).is_ok());
        }
        assert_eq!((book.known.len(), book.allowances.len()), (LIMIT, LIMIT));
    }

    #[test]
    fn an_object_without_a_namespace_is_told_about_in_the_default_one() {
        let regarding = ObjectReference { name: Some("leader-webhook".to_owned()), ..ObjectReference::default() };
        let entry = Entry::new(regarding, EventType::Normal, "Repaired".to_owned(), "yes");
        let Ok(Some(write)) = Book::default().enter(entry, Moment::now()) else { panic!() };
        assert_eq!(write.namespace(), DEFAULT_NAMESPACE);
    }

    proptest! {
        /// Whatever is told, in whatever order: the book stays small, and no count is lost while it is remembered.
        #[test]
        fn it_stays_small_and_counts_right(told in vec((0..40_u32, 0..3_u32, 0..120_u64), 1..300)) {
            let (mut book, mut now) = (Book::default(), Moment::now());
            let (mut created, mut counted, mut refused) = (0, 0, 0);
            for (object, note, pause) in &told {
                now = later(now, Duration::from_secs(*pause));
                match book.enter(entry(&object.to_string(), &note.to_string()), now) {
                    Ok(Some(Write::Create(_))) => created += 1,
                    Ok(_) => counted += 1,
                    Err(TooMany) => refused += 1,
                }
                for write in book.due(now) {
                    prop_assert!(matches!(&write, Write::Count { series, .. } if series.count > 1), "{write:?}");
                }
                prop_assert!(book.known.len() <= 120 && book.allowances.len() <= 40);
            }
            prop_assert_eq!(created + counted + refused, told.len());
        }
    }
}
