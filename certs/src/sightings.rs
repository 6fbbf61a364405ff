//! Since when a replica has seen each certificate in a place without a break, on a clock that is never set.
//!
//! What another replica, or an earlier run, says about time is not asked: wall clocks jump, and differ. Looks are only now and then: what
//! happened between two of them is told by how often the place was changed.

use std::time::Duration;

use crate::anchor::Anchor;

/// Which state of a place was seen: the object's, and how often it was changed until then, as the API server counts
/// (`metadata.generation`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The object's uid.
    pub uid: String,
    /// Grows by one with each change.
    pub generation: i64,
}

impl Revision {
    /// Whether there was at most one change from `before` to this, so that what is in both was there all the while.
    fn follows(&self, before: &Self) -> bool {
        let changes = self.generation.checked_sub(before.generation);
        self.uid == before.uid && changes.is_some_and(|changes| (0..=1).contains(&changes))
    }
}

/// Certificates in one place, each with the moment of its first sight. Moments count from the start of the process.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    seen: Vec<(Anchor, Duration)>,
    revision: Option<Revision>,
}

impl Sightings {
    /// The place was looked at, at `at`: these and no others are there.
    pub fn see<'a>(&mut self, present: impl IntoIterator<Item = &'a Anchor>, at: Duration) {
        let before = std::mem::take(&mut self.seen);
        let since = |anchor: &Anchor| before.iter().find(|(known, _)| known == anchor).map_or(at, |(_, since)| *since);
        self.seen = present.into_iter().map(|anchor| (anchor.clone(), since(anchor))).collect();
    }

    /// As [`Sightings::see`], in a state of the place that is known: where somebody changed it more than once since the last look, what was
    /// in it meanwhile is not known, and all sightings begin anew. Who takes a certificate out that another replica puts back would
    /// not be noticed otherwise.
    pub fn see_revision<'a>(
        &mut self,
        present: impl IntoIterator<Item = &'a Anchor>,
        revision: Option<Revision>,
        at: Duration,
    ) {
        if let (Some(before), Some(now)) = (&self.revision, &revision)
            && !now.follows(before)
        {
            self.seen.clear();
        }
        self.revision = revision;
        self.see(present, at);
    }

    /// Whether it was there when the place was last looked at.
    pub fn has(&self, anchor: &Anchor) -> bool {
        self.seen.iter().any(|(known, _)| known == anchor)
    }

    /// Whether it has been there for `time` at `at`.
    pub fn has_for(&self, anchor: &Anchor, time: Duration, at: Duration) -> bool {
        let mut seen = self.seen.iter();
        seen.any(|(known, since)| known == anchor && at.checked_sub(*since).is_some_and(|passed| passed >= time))
    }

    /// What was there when the place was last looked at, in order.
    pub fn present(&self) -> Vec<Anchor> {
        self.seen.iter().map(|(anchor, _)| anchor.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

    #[test]
    fn a_break_begins_anew() {
        let anchors: Vec<Anchor> = (0..2)
            .map(|_| Authority::generate("2026-11-21T00:00:00Z".parse().unwrap()).unwrap().anchor().clone())
            .collect();
        let second = Duration::from_secs(1);
        let mut sightings = Sightings::default();
        sightings.see(&anchors, second);
        sightings.see(&anchors[..1], 2 * second);
        sightings.see(&anchors, 3 * second);
        assert!(sightings.has_for(&anchors[0], 3 * second, 4 * second));
        assert!(!sightings.has_for(&anchors[0], 4 * second, 4 * second));
        assert!(sightings.has_for(&anchors[1], second, 4 * second));
        assert!(!sightings.has_for(&anchors[1], 2 * second, 4 * second));
        // Never before it was seen.
        assert!(!sightings.has_for(&anchors[1], Duration::ZERO, second));
        assert_eq!(sightings.present(), anchors);
        sightings.see(&[], 5 * second);
        assert!(!sightings.has(&anchors[0]) && sightings.present().is_empty());
    }

    #[test]
    fn a_break_between_two_looks_counts() {
        let anchor = Authority::generate("2026-11-21T00:00:00Z".parse().unwrap()).unwrap().anchor().clone();
        let second = Duration::from_secs(1);
        let seen_since_the_first = |next: (&str, i64)| {
            let mut sightings = Sightings::default();
            for (looks, (uid, generation)) in [(1, ("a", 5)), (2, next)] {
                let revision = Revision { uid: uid.to_owned(), generation };
                sightings.see_revision([&anchor], Some(revision), looks * second);
            }
            assert!(sightings.has(&anchor));
            sightings.has_for(&anchor, second, 2 * second)
        };
        assert!(seen_since_the_first(("a", 5)) && seen_since_the_first(("a", 6)));
        // Taken out and put back, made anew, or an older state.
        for other in [("a", 7), ("b", 5), ("a", 4), ("a", i64::MIN)] {
            assert!(!seen_since_the_first(other), "{other:?}");
        }
    }
}
