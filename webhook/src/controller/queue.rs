//! Which ids have to be looked at, and when: each once, however often it changes, and never twice at the same time. It reads no clock.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{Key, Requeue};

/// After this long an id is looked at although nothing changed: it costs nothing but what is wrong.
pub const RESYNC: Duration = Duration::from_mins(10);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    due: BTreeSet<(Instant, Key)>,
    when: HashMap<Key, Instant>,
    working: HashSet<Key>,
    /// Changed while it was worked on.
    changed: HashSet<Key>,
    /// Due because it has changed.
    woken: HashSet<Key>,
}

/// An id that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The id.
    pub key: Key,
    /// It has changed since it was worked on last; otherwise it is merely time.
    pub has_changed: bool,
}

impl Queue {
    /// An id has changed: it is looked at now.
    pub fn change(&mut self, key: Key, now: Instant) {
        if self.working.contains(&key) {
            self.changed.insert(key);
        } else {
            self.woken.insert(key.clone());
            self.schedule(key, now);
        }
    }

    /// The next id that is due; it is worked on until [`Queue::done`].
    pub fn take(&mut self, now: Instant) -> Option<Due> {
        let (at, _) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.when.remove(&key);
        self.working.insert(key.clone());
        let has_changed = self.woken.remove(&key);
        Some(Due { key, has_changed })
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// An id was worked on, and has to be looked at again after `requeue`. When something of it `failed`, what changed meanwhile may be its
    /// own doing: it is looked at, but that is no reason to try again what failed. `known` says whether anything of the id is left,
    /// without which it is forgotten.
    pub fn done(&mut self, key: Key, requeue: Requeue, failed: bool, known: bool, now: Instant) {
        self.working.remove(&key);
        match requeue {
            _ if self.changed.remove(&key) => {
                if !failed {
                    self.woken.insert(key.clone());
                }
                self.schedule(key, now);
            }
            Requeue::After(pause) => self.schedule(key, now + pause.min(RESYNC)),
            Requeue::OnChange if known => self.schedule(key, now + RESYNC),
            Requeue::OnChange => {}
        }
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.when.len() + self.working.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn schedule(&mut self, key: Key, at: Instant) {
        let at = match self.when.get(&key) {
            Some(&known) if known <= at => return,
            Some(&known) => {
                self.due.remove(&(known, key.clone()));
                at
            }
            None => at,
        };
        self.when.insert(key.clone(), at);
        self.due.insert((at, key));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(id: &str) -> Key {
        Key::parse("shop", id).unwrap()
    }

    fn take(queue: &mut Queue, now: Instant) -> Key {
        queue.take(now).expect("nothing is due").key
    }

    #[test]
    fn each_once_however_often_it_changes() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for _ in 0..3 {
            queue.change(key("a"), now);
        }
        queue.change(key("b"), now);
        assert_eq!((take(&mut queue, now), take(&mut queue, now), queue.take(now)), (key("a"), key("b"), None));
        // Never twice at the same time, and once more when it is done.
        queue.change(key("a"), now);
        queue.change(key("a"), now);
        assert_eq!(queue.take(now), None);
        queue.done(key("a"), Requeue::OnChange, false, true, now);
        assert_eq!((take(&mut queue, now), queue.take(now)), (key("a"), None));
    }

    #[test]
    fn it_comes_back_when_it_is_said_to() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(7);
        queue.change(key("a"), now);
        let taken = take(&mut queue, now);
        queue.done(taken, Requeue::After(Duration::from_secs(7)), false, true, now);
        assert_eq!((queue.take(now), queue.next()), (None, Some(later)));
        // A change does not wait for that.
        queue.change(key("a"), now);
        let taken = take(&mut queue, now);
        assert_eq!(queue.next(), None);
        queue.done(taken, Requeue::OnChange, false, true, now);
        assert_eq!(queue.next(), Some(now + RESYNC));
    }

    #[test]
    fn what_nobody_knows_is_forgotten() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.change(key("a"), now);
        let taken = take(&mut queue, now);
        queue.done(taken, Requeue::OnChange, false, false, now);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_changes_while_it_fails_is_looked_at_and_no_reason_to_try_again() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.change(key("a"), now);
        for failed in [true, false] {
            assert_eq!(queue.take(now), Some(Due { key: key("a"), has_changed: true }));
            queue.change(key("a"), now);
            queue.done(key("a"), Requeue::After(Duration::from_secs(3)), failed, true, now);
            assert_eq!(queue.take(now), Some(Due { key: key("a"), has_changed: !failed }));
            queue.done(key("a"), Requeue::After(Duration::from_secs(3)), false, true, now);
            assert_eq!((queue.take(now), queue.next()), (None, Some(now + Duration::from_secs(3))));
            queue.change(key("a"), now);
        }
    }

    #[derive(Clone, Debug)]
    enum Move {
        Change(u8),
        Take,
        Done(bool),
        Wait(u16),
    }

    fn moves() -> impl Strategy<Value = Move> {
        prop_oneof![
            (0..4_u8).prop_map(Move::Change),
            Just(Move::Take),
            any::<bool>().prop_map(Move::Done),
            (0..400_u16).prop_map(Move::Wait),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: nothing is worked on twice at once, and what changed is looked at after that.
        #[test]
        fn no_change_is_lost_and_nothing_runs_twice(moves in vec(moves(), 1..200)) {
            let (mut queue, mut now) = (Queue::default(), Instant::now());
            let mut working: Vec<Key> = Vec::new();
            let mut unseen: HashSet<Key> = HashSet::new();
            for step in moves {
                match step {
                    Move::Change(id) => {
                        let key = key(&format!("id-{id}"));
                        unseen.insert(key.clone());
                        queue.change(key, now);
                    }
                    Move::Take => {
                        if let Some(Due { key, .. }) = queue.take(now) {
                            prop_assert!(!working.contains(&key));
                            unseen.remove(&key);
                            working.push(key);
                        }
                    }
                    Move::Done(good) => {
                        if let Some(key) = working.pop() {
                            queue.done(key, Requeue::OnChange, !good, true, now);
                        }
                    }
                    Move::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                }
            }
            for key in working.drain(..) {
                queue.done(key, Requeue::OnChange, false, true, now);
            }
            now += RESYNC;
            while let Some(Due { key, .. }) = queue.take(now) {
                unseen.remove(&key);
            }
            prop_assert!(unseen.is_empty(), "{unseen:?}");
        }
    }
}
