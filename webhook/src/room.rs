//! Who makes room when there are as many connections as there may be: the one on which nothing has been asked for longest.
//!
//! Whoever reaches the port may open connections and say nothing on them, and the API server keeps some that it may need again. Neither
//! may keep a review out, nor the kubelet, which would take the replica for dead. Accepting is [`crate::server`]'s business.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// How long nothing must have been asked on a connection that is to leave. The next review may be on its way on one that was used just
/// now: what is many at once is often the API server's own.
pub const LEAST: Duration = Duration::from_secs(5);

/// All connections.
#[derive(Debug, Default)]
pub struct Room {
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    taken: BTreeMap<u64, Taken>,
    /// The number of the next one.
    next: u64,
}

#[derive(Debug)]
struct Taken {
    /// Since when nothing is asked; `None` while something is, and once it was told to leave.
    silent: Option<Instant>,
    leave: Arc<Notify>,
}

/// The place of one connection, which is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    room: Arc<Room>,
    number: u64,
    leave: Arc<Notify>,
}

/// A request is answered as long as this is there.
#[derive(Debug)]
pub struct Busy(Arc<Place>);

impl Room {
    /// A place for a connection that has just come, and on which nothing is asked yet.
    pub fn enter(self: &Arc<Self>) -> Arc<Place> {
        let leave = Arc::new(Notify::new());
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, Taken { silent: Some(Instant::now()), leave: Arc::clone(&leave) });
        drop(places);
        Arc::new(Place { room: Arc::clone(self), number, leave })
    }

    /// Tells the connection on which nothing was asked for longest to leave, if that is `least` ago.
    pub fn make(&self, least: Duration) {
        let mut places = self.places();
        let is_long = |silent: Instant| silent.elapsed() >= least;
        let silent = places.taken.values_mut().filter(|taken| taken.silent.is_some_and(is_long));
        if let Some(longest) = silent.min_by_key(|taken| taken.silent) {
            longest.silent = None;
            longest.leave.notify_one();
        }
    }

    // No step in between leaves anything half done.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Something is asked here.
    pub fn work(self: &Arc<Self>) -> Busy {
        self.set(None);
        Busy(Arc::clone(self))
    }

    /// Waits until this connection has to make room.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    fn set(&self, silent: Option<Instant>) {
        if let Some(taken) = self.room.places().taken.get_mut(&self.number) {
            taken.silent = silent;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.places().taken.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Which of them are told to leave when room is made.
    fn told(room: &Room, places: &[&Arc<Place>]) -> Vec<usize> {
        room.make(Duration::ZERO);
        let asked = |place: &Arc<Place>| place.asked_to_leave().now_or_never().is_some();
        places.iter().enumerate().filter(|(_, place)| asked(place)).map(|(index, _)| index).collect()
    }

    #[test]
    fn the_longest_silent_one_goes_and_none_that_is_asked_something() {
        let room = Arc::new(Room::default());
        let (first, second, third) = (room.enter(), room.enter(), room.enter());
        let all = [&first, &second, &third];
        let busy = first.work();
        room.make(LEAST * 1000);
        assert_eq!(told(&room, &all), [1], "none of them was silent for long");
        // Once is enough.
        assert_eq!(told(&room, &all), [2]);
        assert_eq!(told(&room, &all), [0_usize; 0]);
        drop(busy);
        assert_eq!(told(&room, &all), [0]);
    }

    #[test]
    fn what_has_ended_takes_no_place() {
        let room = Arc::new(Room::default());
        let (first, second) = (room.enter(), room.enter());
        let busy = first.work();
        drop(first);
        assert_eq!(room.places().taken.len(), 2, "an answer is still on its way");
        drop(busy);
        assert_eq!(told(&room, &[&second]), [0]);
        assert_eq!(room.places().taken.len(), 1);
    }
}
