//! Stories told by hand, one for each thing that must happen: what the schedules only show not to go wrong.
//! Messages take 1 ms, clocks are exact, the kill chain takes its worst, L is 15 s, and Ann starts first.

mod electing;
mod steering;
mod term;

use std::{
    ops::{Deref, DerefMut},
    thread,
    time::Duration,
};

use leader_agent::{
    mutant::{self, Mutant},
    timing::Timing,
};

use crate::{
    fault::{Fault, Initial, Who},
    machine::{Clocks, Comeback, Temper},
    plan::Plan,
    world::World,
};

const ANN: usize = 0;
const BEN: usize = 1;
const LEADER: Who = Who::Leader;

/// A world whose story is printed when the test fails.
struct Story(World);

impl Deref for Story {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl DerefMut for Story {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.0
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // With a mistake it is meant to fail.
        if thread::panicking() && mutant::chosen().is_none() {
            println!("{}", self.0.story());
        }
    }
}

impl Story {
    fn new(initial: Initial) -> Self {
        Self::with(initial, |_| {})
    }

    fn with(initial: Initial, change: impl FnOnce(&mut Plan)) -> Self {
        let temper = Temper {
            stops_in: Some(seconds(0.5)),
            leaves_orphans: false,
            killed_in: Duration::from_millis(50),
            preparation: Duration::ZERO,
            stop_time: Duration::ZERO,
            prepared_in: None,
        };
        let mut plan = Plan {
            timings: vec![Timing::default(); 3],
            later_timings: Vec::new(),
            clocks: vec![Clocks::exact(); 3],
            tempers: vec![temper; 3],
            initial,
            rival: None,
            faults: Vec::new(),
            calm: seconds(10_000.0),
            longest_wait: Timing::default().lease(),
            hopeless_clock: false,
            slow_kills: true,
            steady: true,
            yields: Vec::new(),
            patience: None,
            frees: None,
        };
        change(&mut plan);
        Self(World::new(&plan, 1, true))
    }

    /// A world in which Ann has been leading for some seconds.
    fn led_by_ann() -> Self {
        let mut story = Self::new(Initial::Released);
        story.until(7.0);
        story.last_start = Duration::ZERO;
        story
    }

    fn until(&mut self, second: f64) {
        self.0.run(seconds(second), |_| false);
        assert_eq!(self.0.broken, None);
    }

    /// Seconds until an app starts that did not run before.
    #[track_caller]
    fn next_start(&mut self) -> f64 {
        let (begin, starts) = (self.now, self.starts);
        self.0.run(begin + seconds(60.0), |world| world.starts > starts);
        assert_eq!(self.0.broken, None);
        assert!(self.starts > starts, "nobody starts");
        self.now.saturating_sub(begin).as_secs_f64()
    }

    /// Seconds until no app runs.
    #[track_caller]
    fn all_gone(&mut self) -> f64 {
        let begin = self.now;
        self.0.run(begin + seconds(60.0), |world| world.alive().is_empty());
        assert_eq!(self.0.broken, None);
        assert!(self.alive().is_empty(), "nothing ends");
        self.now.saturating_sub(begin).as_secs_f64()
    }

    fn holder(&self) -> &str {
        self.store.record().and_then(|record| record.holder.as_deref()).unwrap_or_default()
    }

    fn crash(&mut self, comeback: Comeback) {
        let back_after = if comeback == Comeback::NewPod { seconds(100.0) } else { seconds(0.1) };
        self.apply(Fault::Crash { who: LEADER, comeback, back_after, at_once: true });
    }

    fn cut(&mut self, requests: bool, lasts: f64) {
        self.apply(Fault::Cut { who: LEADER, requests, replies: true, lasts: seconds(lasts) });
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[track_caller]
fn assert_within(value: f64, least: f64, most: f64) {
    assert!((least..=most).contains(&value), "{value} is not within {least} to {most}");
}

/// The story that shows a mistake which the schedules do not show.
pub(crate) fn for_mutant(mutant: Mutant) -> Option<&'static (&'static str, fn())> {
    macro_rules! story {
        ($part:ident::$name:ident) => {
            &(stringify!($name), $part::$name as fn())
        };
    }
    Some(match mutant {
        Mutant::MetadataFeeds | Mutant::SwapsFirstVersion => {
            story!(electing::rule_6_edits_of_metadata_do_not_feed_a_dead_leader)
        }
        Mutant::WaitsNewestDuration => story!(electing::rule_8_the_longest_duration_seen_is_waited_for),
        Mutant::RestoredIsFree => story!(electing::rule_9_a_release_proof_in_a_restored_server_frees_nothing),
        Mutant::HoldForgotten => story!(steering::a_lost_lease_comes_back_on_hold),
        Mutant::GivenAwayToNobody => story!(steering::what_is_asked_for_waits_while_election_is_being_turned_on),
        Mutant::TakesBackAtOnce => story!(steering::who_gave_leadership_away_takes_it_back_if_nobody_else_does),
        Mutant::ReclaimReleasedUnasked => {
            story!(steering::a_term_that_is_taken_up_again_is_not_given_away_beside_what_an_earlier_process_left)
        }
        Mutant::TransferHasNoEnd => story!(steering::a_transfer_to_one_that_is_gone_costs_two_seconds),
        Mutant::TransferWithoutProof => story!(steering::a_transfer_without_a_release_proof_frees_nothing),
        Mutant::UnreadyAgainAndAgain => {
            story!(steering::what_makes_every_app_unready_does_not_move_leadership_round_and_round)
        }
        Mutant::LostLeaseLeisurely => {
            story!(term::a_lease_that_was_nearly_lost_leaves_the_app_its_grace_and_a_lease_at_most)
        }
        Mutant::ClocksNotCompared => story!(electing::rule_10_every_deadline_allows_for_a_slow_boot_clock),
        Mutant::SkewTolerated => story!(electing::rule_10_a_leader_whose_clocks_disagree_steps_down),
        _ => return None,
    })
}
