//! When a follower is dead: at the leader's deadline, and never later than its own margin before the end of the term.
//!
//! The leader's margin is that of the leader's container. Here the CPU limit may be another one, and the timers may be later.

use std::time::Duration;

use super::wire::Order;
use crate::timing::{Lateness, Timing};

/// A follower's own margin, and the order that it is applied to.
#[derive(Debug)]
pub struct OwnMargin {
    timing: Timing,
    lateness: Lateness,
    heard: Option<Order>,
}

impl OwnMargin {
    /// Of a container that has the CPU limit that `timing` says, and has run nothing yet.
    pub fn new(timing: Timing) -> Self {
        Self { timing, lateness: Lateness::default(), heard: None }
    }

    /// This order counts from now on: the deadline.
    pub fn hear(&mut self, order: Order, now: Duration) -> Duration {
        self.heard = Some(order);
        self.deadline(order, now)
    }

    /// Nothing runs.
    pub fn end(&mut self) {
        self.heard = None;
    }

    /// The CPU limit was looked at, and a timer came `late`: the deadline, where anything runs.
    pub fn look(&mut self, starved: bool, late: Duration, now: Duration) -> Option<Duration> {
        self.timing = self.timing.with_starved(starved);
        self.lateness.add(now, late);
        self.heard.map(|order| self.deadline(order, now))
    }

    fn deadline(&mut self, order: Order, now: Duration) -> Duration {
        let margin = self.timing.margin_with(self.lateness.worst(now));
        order.deadline().min(order.end().saturating_sub(margin))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::What, *};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_ends_with_the_leader_or_a_margin_of_its_own_before_the_term() {
        let timing = |starved| Timing::new(15 * SECOND, None, starved).unwrap();
        let (leaders, starved) = (timing(false).margin(), timing(true).margin());
        let end = 100 * SECOND;
        let before_end = |time: Duration| end.saturating_sub(time);
        let order = Order::new(What::Run, 1, before_end(leaders), end);
        let mut own = OwnMargin::new(timing(false));
        assert_eq!(own.look(true, Duration::ZERO, 80 * SECOND), None);
        assert_eq!(own.look(false, Duration::ZERO, 80 * SECOND), None);
        assert_eq!(own.hear(order, 85 * SECOND), before_end(leaders));
        assert_eq!(own.look(true, Duration::ZERO, 86 * SECOND), Some(before_end(starved)));
        assert_eq!(own.look(false, 2 * SECOND, 87 * SECOND), Some(before_end(8 * SECOND)));
        own.end();
        assert_eq!(own.look(true, Duration::ZERO, 88 * SECOND), None);

        // A leader that is worse off than this container is not outlived.
        let order = Order::new(What::Run, 1, before_end(starved), end);
        assert_eq!(OwnMargin::new(timing(false)).hear(order, 85 * SECOND), before_end(starved));
        let order = Order::new(What::Run, 1, before_end(leaders), end);
        assert_eq!(OwnMargin::new(timing(true)).hear(order, 85 * SECOND), before_end(starved));
    }
}
