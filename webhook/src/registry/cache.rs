//! What registries answered, so that they are asked seldom, and each thing once at a time.
//!
//! Nothing is given to somebody who could not have asked for it: every key has the credentials in it ([`identity`]). Names that the
//! credentials come from are a part of that, since messages have them.
//!
//! `quick_cache` brings what is hard about it: a bound by weight, and one look-up at a time for each key. moka does the same with more
//! threads and crates.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use quick_cache::{
    DefaultHashBuilder, Weighter,
    sync::{Cache as Bounded, DefaultLifecycle, EntryAction, EntryResult, PlaceholderGuard},
};

use super::{Failure, Platforms, Question, keyring::identity};
use crate::inject::ImageFacts;

/// How long a tag is taken to lead where it led.
const TAG: Duration = Duration::from_mins(1);
/// How long a failure is taken to last: long enough for all pods of a rollout to fail together, short enough for a person.
const FAILURE: Duration = Duration::from_secs(10);
/// About how many bytes each of the two caches holds.
const BYTES: u64 = 2 * 1024 * 1024;
/// About how many entries that is.
const ENTRIES: usize = 1024;
/// What an entry takes beside its texts, about.
const OVERHEAD: usize = 256;

type Facts = Result<ImageFacts, Failure>;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    host: String,
    repository: String,
    version: String,
    credentials: [u8; 32],
    platforms: Platforms,
}

impl Key {
    pub(super) fn of(question: &Question) -> Self {
        let image = &question.image;
        Self {
            host: image.host().to_owned(),
            repository: image.repository().to_owned(),
            version: image.version().to_owned(),
            credentials: identity(&question.credentials),
            platforms: question.platforms.clone(),
        }
    }

    fn with_digest(&self, digest: &str) -> Self {
        Self { version: digest.to_owned(), ..self.clone() }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    facts: Arc<Facts>,
    until: Instant,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Entry> for ByBytes {
    fn weight(&self, key: &Key, entry: &Entry) -> u64 {
        let facts = match entry.facts.as_ref() {
            Ok(facts) => weight(facts),
            Err(failure) => failure.weight(),
        };
        (key_weight(key) + facts) as u64
    }
}

impl Weighter<Key, Arc<ImageFacts>> for ByBytes {
    fn weight(&self, key: &Key, facts: &Arc<ImageFacts>) -> u64 {
        (key_weight(key) + weight(facts)) as u64
    }
}

fn key_weight(key: &Key) -> usize {
    let platforms = match &key.platforms {
        Platforms::Linux => 0,
        Platforms::These(platforms) => platforms.len() * OVERHEAD,
    };
    OVERHEAD + key.host.len() + key.repository.len() + key.version.len() + platforms
}

fn weight(facts: &ImageFacts) -> usize {
    let words = facts.entrypoint.iter().chain(&facts.cmd);
    let words: usize = words.map(|word| word.len() + size_of::<String>()).sum();
    words + facts.digest.len() + facts.stop_signal.as_ref().map_or(0, String::len)
}

/// Answers by what was asked, for a while; and facts by digest, for as long as there is room.
pub(super) struct Cache {
    answers: Bounded<Key, Entry, ByBytes>,
    contents: Bounded<Key, Arc<ImageFacts>, ByBytes>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cache").field("answers", &self.answers.len()).finish_non_exhaustive()
    }
}

impl Default for Cache {
    fn default() -> Self {
        let answers = Bounded::with_weighter(ENTRIES, BYTES, ByBytes);
        Self { answers, contents: Bounded::with_weighter(ENTRIES, BYTES, ByBytes) }
    }
}

/// What the cache knows.
pub(super) enum Lookup<'a> {
    /// The answer.
    Known(Facts),
    /// Nothing, and nobody is asking: this caller is to ask, and others wait for it.
    Unknown(Place<'a>),
}

/// A place that waits to be filled. Dropped without that, it is the next one's who asks.
pub(super) struct Place<'a>(
    PlaceholderGuard<'a, Key, Entry, ByBytes, DefaultHashBuilder, DefaultLifecycle<Key, Entry>>,
);

impl Cache {
    pub(super) async fn look_up(&self, key: &Key, now: Instant) -> Lookup<'_> {
        let look = |_: &Key, entry: &mut Entry| {
            let is_fresh = entry.until > now;
            if is_fresh { EntryAction::Retain(Arc::clone(&entry.facts)) } else { EntryAction::ReplaceWithGuard }
        };
        match self.answers.entry_async(key, look).await {
            EntryResult::Retained(facts) => Lookup::Known(facts.as_ref().clone()),
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => Lookup::Unknown(Place(guard)),
            EntryResult::Removed(..) | EntryResult::Timeout => unreachable!("neither was asked for"),
        }
    }

    /// The facts of a digest that was looked up with these credentials.
    pub(super) fn content(&self, key: &Key, digest: &str) -> Option<ImageFacts> {
        self.contents.get(&key.with_digest(digest)).map(|facts| facts.as_ref().clone())
    }

    pub(super) fn keep(&self, key: &Key, facts: ImageFacts) {
        self.contents.insert(key.with_digest(&facts.digest), Arc::new(facts));
    }
}

impl Place<'_> {
    pub(super) fn fill(self, facts: Facts, now: Instant) {
        let lasts = if facts.is_ok() { TAG } else { FAILURE };
        let entry = Entry { facts: Arc::new(facts), until: now + lasts };
        // Too heavy for the cache, or there already: then it is not kept.
        drop(self.0.insert(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Reference;

    fn key(image: &str) -> Key {
        Key::of(&Question { image: Reference::parse(image).unwrap(), credentials: vec![], platforms: Platforms::Linux })
    }

    fn facts(words: usize) -> ImageFacts {
        ImageFacts { digest: "sha256:d".to_owned(), cmd: vec!["word".to_owned(); words], ..ImageFacts::default() }
    }

    async fn is_known(cache: &Cache, key: &Key, now: Instant) -> bool {
        matches!(cache.look_up(key, now).await, Lookup::Known(_))
    }

    async fn fill(cache: &Cache, key: &Key, facts: Facts, now: Instant) {
        match cache.look_up(key, now).await {
            Lookup::Unknown(place) => place.fill(facts, now),
            Lookup::Known(known) => panic!("{known:?}"),
        }
    }

    #[tokio::test]
    async fn how_long_answers_last() {
        let (cache, good, bad) = (Cache::default(), key("quay.io/good"), key("quay.io/bad"));
        let now = Instant::now();
        fill(&cache, &good, Ok(facts(1)), now).await;
        fill(&cache, &bad, Err(Failure::Ended { host: "quay.io".to_owned() }), now).await;
        assert!(is_known(&cache, &bad, now + FAILURE * 9 / 10).await);
        assert!(!is_known(&cache, &bad, now + FAILURE).await);
        assert!(is_known(&cache, &good, now + TAG * 9 / 10).await);
        assert!(!is_known(&cache, &good, now + TAG).await);
        // What a digest stands for does not change.
        cache.keep(&good, facts(1));
        assert_eq!(cache.content(&good, "sha256:d"), Some(facts(1)));
    }

    #[tokio::test]
    async fn a_place_that_was_left_is_the_next_ones() {
        let (cache, key, now) = (Cache::default(), key("quay.io/app"), Instant::now());
        let Lookup::Unknown(place) = cache.look_up(&key, now).await else { panic!("nobody has asked") };
        let (waiting, ()) = tokio::join!(is_known(&cache, &key, now), async { drop(place) });
        assert!(!waiting);
        fill(&cache, &key, Ok(facts(1)), now).await;
        assert!(is_known(&cache, &key, now).await);
    }

    #[tokio::test]
    async fn there_is_a_bound() {
        let (cache, now) = (Cache::default(), Instant::now());
        for number in 0..10_000 {
            let key = key(&format!("quay.io/app:{number}"));
            fill(&cache, &key, Ok(facts(100)), now).await;
            cache.keep(&key, facts(100));
        }
        assert!(cache.answers.weight() <= BYTES && cache.contents.weight() <= BYTES);
        // One that would not leave room for others is not kept at all.
        let large = key("quay.io/large");
        fill(&cache, &large, Ok(facts(1_000_000)), now).await;
        assert!(!is_known(&cache, &large, now).await && cache.answers.weight() <= BYTES);
    }
}
