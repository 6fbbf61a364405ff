//! The roll: which followers may run. A function of what was said and heard, without a clock and without I/O.

use std::{collections::BTreeMap, time::Duration};

/// Who may run, by the names of the containers. Moments are on the boot clock.
#[derive(Clone, Debug)]
pub struct Roll(BTreeMap<String, Member>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// It reported that nothing runs, or was never told to.
    Idle,
    /// It may run until then: it was told to in this term, or by a process before this one.
    May { token: Option<u64>, until: Duration },
}

impl Roll {
    /// These followers. With `unknown`, what an earlier process told them may make them run until then.
    pub fn new(names: impl IntoIterator<Item = String>, unknown: Option<Duration>) -> Self {
        let member = unknown.map_or(Member::Idle, |until| Member::May { token: None, until });
        Self(names.into_iter().map(|name| (name, member)).collect())
    }

    /// Whether this is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// It says that nothing of it runs, whatever it was told before.
    pub fn clean(&mut self, name: &str) {
        if let Some(member) = self.0.get_mut(name) {
            *member = Member::Idle;
        }
    }

    /// It is told to run in this term, and is dead at `until` unless it is told so again.
    pub fn told(&mut self, name: &str, token: u64, until: Duration) {
        let Some(member) = self.0.get_mut(name) else { return };
        let before = match member {
            Member::Idle => Duration::ZERO,
            Member::May { until, .. } => *until,
        };
        *member = Member::May { token: Some(token), until: until.max(before) };
    }

    /// It reports that nothing is left of this term. A report of another one says nothing of this.
    pub fn gone(&mut self, name: &str, token: u64) {
        if let Some(member) = self.0.get_mut(name)
            && matches!(member, Member::May { token: Some(told), .. } if *told == token)
        {
            *member = Member::Idle;
        }
    }

    /// Forgets what was told to those whose time is over; whether there were any.
    pub fn settle(&mut self, now: Duration) -> bool {
        let mut any = false;
        for member in self.0.values_mut().filter(|member| **member != Member::Idle && member.is_idle(now)) {
            (*member, any) = (Member::Idle, true);
        }
        any
    }

    /// Whether it runs nothing, for sure.
    pub fn is_idle(&self, name: &str, now: Duration) -> bool {
        self.0.get(name).is_none_or(|member| member.is_idle(now))
    }

    /// Whether none of them runs, for sure.
    pub fn are_idle(&self, now: Duration) -> bool {
        self.0.values().all(|member| member.is_idle(now))
    }

    /// When none of them runs any more, if nobody says anything.
    pub fn idle_at(&self) -> Duration {
        let until = |member: &Member| match member {
            Member::Idle => Duration::ZERO,
            Member::May { until, .. } => *until,
        };
        self.0.values().map(until).max().unwrap_or_default()
    }
}

impl Member {
    fn is_idle(&self, now: Duration) -> bool {
        match self {
            Self::Idle => true,
            Self::May { until, .. } => now >= *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn names() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    #[test]
    fn who_was_told_runs_until_it_reports_or_its_time_is_over() {
        let mut roll = Roll::new(names(), None);
        assert!(roll.are_idle(Duration::ZERO));
        roll.told("a", 1, 10 * SECOND);
        assert!(!roll.are_idle(9 * SECOND) && roll.is_idle("b", SECOND) && roll.are_idle(10 * SECOND));
        roll.told("a", 1, 12 * SECOND);
        assert_eq!(roll.idle_at(), 12 * SECOND);
        // A margin that grew takes nothing back that was heard.
        roll.told("a", 1, 11 * SECOND);
        assert_eq!(roll.idle_at(), 12 * SECOND);
        roll.gone("a", 2);
        assert!(!roll.are_idle(11 * SECOND), "a report of another term");
        roll.gone("b", 1);
        roll.gone("a", 1);
        assert!(roll.are_idle(Duration::ZERO));
    }

    #[test]
    fn that_a_time_is_over_is_said_once() {
        let mut roll = Roll::new(names(), Some(15 * SECOND));
        roll.clean("a");
        assert!(!roll.settle(14 * SECOND) && roll.settle(15 * SECOND) && !roll.settle(16 * SECOND));
        assert_eq!(roll.idle_at(), Duration::ZERO);
        roll.told("b", 1, 20 * SECOND);
        assert!(!roll.settle(19 * SECOND) && !roll.are_idle(19 * SECOND));
    }

    #[test]
    fn what_an_earlier_process_told_is_waited_for() {
        let mut roll = Roll::new(names(), Some(15 * SECOND));
        assert!(!roll.is_idle("a", 14 * SECOND));
        roll.gone("a", 1);
        roll.clean("b");
        assert!(!roll.are_idle(14 * SECOND) && roll.is_idle("b", Duration::ZERO));
        roll.clean("a");
        assert!(roll.are_idle(Duration::ZERO));
        assert!(!roll.has("c") && roll.is_idle("c", Duration::ZERO));
    }

    /// What a follower truly does: it runs from an order on, until it has reported or its deadline has passed.
    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Order(usize, u64),
        /// The container is started anew, and says so.
        Anew(usize),
        /// What it was told last is over, and it says so, perhaps late.
        Ends(usize),
    }

    proptest! {
        #[test]
        fn nobody_who_runs_is_called_idle(steps in prop::collection::vec(prop_oneof![
            3 => (0..4_u64).prop_map(Step::Wait),
            3 => (0..2_usize, 1..9_u64).prop_map(|(who, lease)| Step::Order(who, lease)),
            1 => (0..2_usize).prop_map(Step::Anew),
            2 => (0..2_usize).prop_map(Step::Ends),
        ], 0..60)) {
            let names = names();
            let mut roll = Roll::new(names.clone(), None);
            let (mut now, mut token) = (Duration::ZERO, 0);
            // Until when each one runs.
            let mut runs = [None::<(u64, Duration)>; 2];
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += SECOND * u32::try_from(seconds).unwrap(),
                    Step::Order(who, lease) => {
                        // A new term begins when all are idle.
                        if roll.are_idle(now) {
                            token += 1;
                        }
                        let until = now + SECOND * u32::try_from(lease).unwrap();
                        roll.told(&names[who], token, until);
                        runs[who] = Some((token, until));
                    }
                    Step::Anew(who) => {
                        runs[who] = None;
                        roll.clean(&names[who]);
                    }
                    Step::Ends(who) => if let Some((token, _)) = runs[who].take() {
                        roll.gone(&names[who], token);
                    },
                }
                for (who, name) in names.iter().enumerate() {
                    let alive = runs[who].is_some_and(|(_, until)| now < until);
                    prop_assert!(!(alive && roll.is_idle(name, now)), "{name} runs");
                }
                prop_assert_eq!(roll.are_idle(now), names.iter().all(|name| roll.is_idle(name, now)));
                prop_assert!(roll.are_idle(now.max(roll.idle_at())));
            }
        }
    }
}
