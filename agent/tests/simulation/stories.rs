//! Stories told by hand, one for each thing that must happen: what the schedules only show not to go wrong.
//! Messages take 1 ms, clocks are exact, the kill chain takes its worst, L is 15 s, and Ann starts first.

use std::{
    ops::{Deref, DerefMut},
    thread,
    time::Duration,
};

use leader_agent::timing::Timing;

use crate::{
    fault::{Away, Edit, Fault, Initial, Plan, Who},
    machine::{Clocks, Comeback, TRUE_RATE, Temper},
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
        if thread::panicking() {
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
            prepared_in: None,
        };
        let mut plan = Plan {
            timings: vec![Timing::default(); 3],
            clocks: vec![Clocks::exact(); 3],
            tempers: vec![temper; 3],
            initial,
            faults: Vec::new(),
            calm: seconds(10_000.0),
            longest_wait: Timing::default().lease(),
            hopeless_clock: false,
            slow_kills: true,
            steady: true,
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

#[test]
fn rule_2_the_first_start_costs_the_lease_duration() {
    for initial in [Initial::Absent, Initial::Unheld, Initial::Held] {
        assert_within(Story::new(initial).next_start(), 15.0, 15.1);
    }
}

#[test]
fn rule_2_a_release_proof_frees_the_lease_at_once() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::SameDisk });
    // Half a second of it is the app's.
    assert_within(story.next_start(), 0.5, 0.51);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_2_an_emptied_lease_without_a_proof_is_waited_for() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::LostDisk);
    story.apply(Fault::Edit(Edit::Empty));
    assert_within(story.next_start(), 15.0, 15.1);
}

#[test]
fn rule_2_the_leader_takes_an_emptied_lease_back() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Empty));
    story.until(7.1);
    assert!(story.holder().starts_with("ann"));
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
}

#[test]
fn rule_3_the_leader_brings_a_deleted_lease_back_and_goes_on() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Delete);
    story.until(7.1);
    assert!(story.holder().starts_with("ann"));
    story.apply(Fault::Delete);
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
    assert!(story.holder().starts_with("ann"));
}

#[test]
fn rule_3_a_lease_deleted_while_its_leader_is_cut_off_is_waited_for() {
    let mut story = Story::led_by_ann();
    story.cut(true, 60.0);
    story.apply(Fault::Delete);
    assert_within(story.next_start(), 15.0, 15.1);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_4_a_lost_reply_of_the_acquiring_write_is_made_up_for_by_a_read() {
    let mut story = Story::new(Initial::Released);
    story.until(0.0025);
    story.apply(Fault::LoseReply { who: Who::Machine(ANN), writes: 1 });
    story.apply(Fault::WatchGap { who: Who::Machine(ANN), lasts: seconds(30.0) });
    // The reply is given up after 2.5 s.
    assert_within(story.next_start(), 2.5, 2.51);
    assert_eq!(story.alive(), [ANN]);
}

#[test]
fn rule_4_an_acquisition_learned_too_late_starts_nothing_and_is_given_back() {
    let mut story = Story::new(Initial::Released);
    story.until(0.0025);
    story.cut(false, 11.0);
    story.until(0.0045);
    assert_eq!((story.starts, story.holder().is_empty()), (0, false));
    story.cut(true, 11.0);
    let start = story.next_start();
    assert_within(start, 11.0, 12.5);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_4_a_term_is_reclaimed_by_its_file_and_not_by_the_name() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::SameDisk);
    assert_within(story.next_start(), 0.1, 0.2);
    assert_eq!(story.alive(), [ANN]);
    story.crash(Comeback::LostDisk);
    assert_within(story.next_start(), 14.0, 15.1);
}

#[test]
fn rule_4_a_lost_term_is_not_reclaimed() {
    for edit in [Edit::Transitions(1), Edit::AcquireTime, Edit::Empty] {
        let mut story = Story::led_by_ann();
        story.crash(Comeback::SameDisk);
        story.apply(Fault::Edit(edit));
        assert_within(story.next_start(), 15.0, 15.1);
    }
}

#[test]
fn rule_5_a_foreign_holder_is_believed_at_once() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Stranger));
    // The kill chain at its worst.
    assert_within(story.all_gone(), 1.25, 1.26);
    assert_eq!(story.holder(), "stranger");
    assert_within(story.next_start(), 13.0, 14.0);
}

#[test]
fn rule_6_edits_of_metadata_do_not_feed_a_dead_leader() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::NewPod);
    for second in 8..21 {
        story.until(f64::from(second));
        story.apply(Fault::Edit(Edit::Label));
    }
    assert_within(story.next_start() + 13.0, 13.0, 15.1);
}

#[test]
fn rule_7_a_conflict_after_the_own_commit_is_no_loss() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::WatchGap { who: LEADER, lasts: seconds(100.0) });
    for second in [8.0, 20.0, 33.0] {
        story.until(second);
        story.apply(Fault::LoseReply { who: LEADER, writes: 1 });
    }
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
}

#[test]
fn rule_7_an_unknown_write_does_not_move_the_deadline() {
    let mut story = Story::led_by_ann();
    // Renewals are stored, but Ann cannot know: the last one that she knows of was sent 1 s ago.
    story.cut(false, 60.0);
    assert_within(story.all_gone(), 8.4, 9.6);
    story.until(40.0);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_7_an_app_that_ignores_its_signal_is_dead_at_the_deadline() {
    let mut story = Story::with(Initial::Released, |plan| plan.tempers[ANN].stops_in = None);
    story.until(7.0);
    story.cut(true, 60.0);
    assert_within(story.all_gone(), 12.5, 14.0);
    assert_within(story.next_start(), 0.05, 2.1);
}

#[test]
fn rule_8_the_longest_duration_seen_is_waited_for() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Duration(25)));
    story.until(7.01);
    story.crash(Comeback::NewPod);
    story.apply(Fault::Edit(Edit::Duration(3)));
    assert_within(story.next_start(), 25.0, 25.1);
}

#[test]
fn rule_9_a_release_proof_in_a_restored_server_frees_nothing() {
    let mut story = Story::new(Initial::Released);
    let snapshot = story.store.snapshot();
    story.until(7.0);
    story.store.restore(snapshot);
    story.token = 0;
    for n in 0..3 {
        story.apply(Fault::WatchGap { who: Who::Machine(n), lasts: seconds(0.1) });
    }
    // A candidate that starts now has seen nothing else: a stated limit.
    story.machines[ANN].back_after = seconds(100.0);
    // For Ann it is a proof that others may believe; they have seen more.
    assert_within(story.all_gone(), 1.35, 1.36);
    assert_within(story.next_start(), 13.7, 13.8);
}

#[test]
fn rule_10_a_candidate_with_a_fast_boot_clock_waits_by_the_other_one() {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.clocks[BEN].boot_rate = TRUE_RATE * 108 / 100;
        plan.clocks[2].raw_rate = TRUE_RATE * 108 / 100;
    });
    story.until(7.0);
    story.crash(Comeback::NewPod);
    // The last renewal was seen at 6 s.
    assert_within(story.next_start(), 14.0, 14.1);
}

#[test]
fn rule_10_every_deadline_allows_for_a_slow_boot_clock() {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.clocks[ANN].boot_rate = TRUE_RATE * 955 / 1000;
        plan.tempers[ANN].stops_in = None;
    });
    story.until(7.0);
    story.cut(true, 60.0);
    assert_within(story.next_start(), 13.9, 15.1);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_10_a_leader_whose_clocks_disagree_steps_down() {
    let mut story = Story::with(Initial::Released, |plan| plan.clocks[ANN].boot_rate = TRUE_RATE * 108 / 100);
    story.until(7.0);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_10_the_first_deadline_allows_for_a_slow_boot_clock_as_well() {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.clocks[ANN].boot_rate = TRUE_RATE * 955 / 1000;
        plan.tempers[ANN].stops_in = None;
    });
    story.next_start();
    assert_eq!(story.alive(), [ANN]);
    story.cut(true, 60.0);
    // The simulation finds two apps where the deadline is too late.
    assert_within(story.next_start(), 14.9, 15.1);
}

#[test]
fn rule_10_two_renewals_in_quick_succession_measure_no_clock() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Empty));
    story.until(7.01);
    story.apply(Fault::Edit(Edit::Empty));
    // Ann loses the processor between the reading of one clock and the other.
    story.hiccup = Duration::from_millis(3);
    story.until(7.02);
    story.hiccup = Duration::ZERO;
    story.until(30.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
}

#[test]
fn rule_11_a_success_after_the_stop_began_moves_only_the_end() {
    let mut story = Story::with(Initial::Released, |plan| plan.tempers[ANN].stops_in = Some(seconds(3.5)));
    story.until(7.0);
    // Stop signal 9.5 s after the last renewal of which Ann knows: 8.5 s from here.
    story.cut(true, 9.0);
    let gone = story.all_gone();
    assert_within(gone, 11.9, 12.1);
    assert_eq!(story.machines[ANN].life, 1, "an ordinary stop ends the app, not the process");
    assert_within(story.next_start(), 0.0, 0.01);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn rule_11_a_success_after_the_stop_began_gives_the_app_more_time_but_not_for_ever() {
    for (stops_in, gone) in [(Some(6.0), 14.5), (None, 23.55)] {
        let mut story = Story::with(Initial::Released, |plan| plan.tempers[ANN].stops_in = stops_in.map(seconds));
        story.until(7.0);
        story.cut(true, 9.0);
        let took = story.all_gone();
        assert_within(took, gone - 0.1, gone + 0.2);
        assert_eq!(story.machines[ANN].life, 1, "an ordinary stop ends the app, not the process");
    }
}

#[test]
fn rule_12_the_lease_is_released_when_the_last_process_is_gone() {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.tempers[ANN].leaves_orphans = true;
        plan.tempers[ANN].killed_in = seconds(0.9);
    });
    story.until(7.0);
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::SameDisk });
    assert_within(story.next_start(), 1.4, 1.41);
}

#[test]
fn an_app_that_ends_takes_its_agent_along_and_frees_the_lease() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::AppExit { who: LEADER });
    assert_within(story.next_start(), 0.0, 0.01);
    story.until(8.0);
    assert_eq!(story.machines[ANN].life, 3, "one life, its end, and another life");
}

#[test]
fn a_pause_ends_at_the_deadline() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Pause { who: LEADER, lasts: seconds(40.0) });
    assert_within(story.all_gone(), 12.5, 13.9);
}

#[test]
fn an_app_killed_late_gets_its_time_to_go() {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.tempers[ANN].stops_in = None;
        plan.tempers[ANN].killed_in = seconds(0.5);
    });
    story.until(7.0);
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(10.5);
    // KILL is due at 11 s.
    story.apply(Fault::Pause { who: LEADER, lasts: seconds(1.7) });
    story.until(12.8);
    assert!(story.alive().is_empty());
    assert_eq!(story.machines[ANN].life, 1);
}

#[test]
fn a_hold_stops_the_leader_and_keeps_everyone_waiting() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Hold(true)));
    assert_within(story.all_gone(), 0.5, 0.51);
    story.until(60.0);
    assert_eq!((story.starts, story.holder()), (1, ""));
    story.apply(Fault::Edit(Edit::Hold(false)));
    assert_within(story.next_start(), 0.0, 0.01);
}

#[test]
fn a_hold_seen_together_with_the_acquisition_comes_before_the_start() {
    let mut story = Story::new(Initial::Released);
    for n in 0..3 {
        story.apply(Fault::LoseReply { who: Who::Machine(n), writes: 1 });
    }
    story.run(seconds(1.0), |world| world.store.record().is_some_and(|record| record.holder.is_some()));
    story.apply(Fault::WatchGap { who: LEADER, lasts: seconds(1.0) });
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(10.0);
    assert_eq!((story.starts, story.holder()), (0, ""));
}

#[test]
fn an_app_that_fails_to_start_gives_leadership_away() {
    let mut story = Story::led_by_ann();
    story.machines[ANN].back_after = seconds(10.0);
    story.apply(Fault::AppFails { who: LEADER });
    assert_within(story.next_start(), 0.5, 0.51);
    assert_ne!(story.alive(), [ANN]);
    assert_eq!(story.machines[ANN].life, 2, "its process has ended");
}

#[test]
fn an_app_that_fails_to_start_and_to_stop_is_killed_while_the_lease_is_renewed() {
    let mut story = Story::with(Initial::Released, |plan| plan.tempers[ANN].stops_in = None);
    story.until(7.0);
    story.machines[ANN].back_after = seconds(60.0);
    story.apply(Fault::AppFails { who: LEADER });
    // The stop grace and the end of what was killed; longer than the lease allows without a renewal it may take, too.
    assert_within(story.next_start(), 4.05, 4.1);
    assert_ne!(story.alive(), [ANN]);
}

/// A world in which Ann leads an app that wants to be prepared for its stop.
fn prepared_within(most: f64, takes: Option<f64>) -> Story {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.tempers[ANN].preparation = seconds(most);
        plan.tempers[ANN].prepared_in = takes.map(seconds);
    });
    story.until(7.0);
    story
}

#[test]
fn an_app_is_prepared_for_a_hand_over_for_as_long_as_it_takes_or_may_take() {
    // Longer than the lease, which is renewed all the while.
    for (most, takes, gone) in [(30.0, Some(20.0), 20.5), (30.0, Some(0.0), 0.5), (20.0, None, 20.5)] {
        let mut story = prepared_within(most, takes);
        story.apply(Fault::Edit(Edit::Hold(true)));
        assert_within(story.all_gone(), gone, gone + 0.01);
        assert_eq!(story.machines[ANN].life, 1);
    }
}

#[test]
fn a_preparation_ends_when_the_lease_runs_out() {
    let mut story = prepared_within(60.0, None);
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(7.5);
    story.cut(true, 60.0);
    // The last renewal was sent at 6 s: the stop signal comes 9.5 s later, and half a second is the app's.
    assert_within(story.all_gone(), 8.4, 8.6);
}

#[test]
fn a_shutdown_ends_a_preparation_and_the_app_is_not_asked_twice() {
    let mut story = prepared_within(60.0, None);
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(8.0);
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::NewPod });
    assert_within(story.all_gone(), 0.5, 0.51);
    story.until(8.6);
    assert_eq!(story.machines[ANN].life, 2, "its process has ended");
}

#[test]
fn turning_on_keeps_everyone_from_acquiring_but_the_leader_leading() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::TurningOn(true)));
    story.until(20.0);
    assert_eq!(story.alive(), [ANN]);
    story.apply(Fault::Delete);
    story.until(21.0);
    story.crash(Comeback::LostDisk);
    story.until(60.0);
    assert_eq!(story.starts, 1);
    story.apply(Fault::Edit(Edit::TurningOn(false)));
    assert_within(story.next_start(), 0.0, 0.01);
}

#[test]
fn a_reclaim_without_room_waits_without_a_busy_loop() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::SameDisk);
    story.machines[ANN].link.no_watch_until = seconds(8.0);
    story.until(7.5);
    story.apply(Fault::Late { who: Who::Machine(ANN), by: seconds(3.0) });
    story.until(60.0);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
fn a_refused_renewal_is_tried_again_soon() {
    let mut story = Story::led_by_ann();
    story.until(7.9);
    let before = story.machines[ANN].process.as_ref().map(|process| process.sent.len());
    story.apply(Fault::Outage { how: Away::Refuses, lasts: seconds(3.1) });
    story.until(11.0);
    let after = story.machines[ANN].process.as_ref().map(|process| process.sent.len());
    // Every 0.4 to 0.6 s from the first refused one on.
    assert!(after >= before.map(|before| before + 5), "{before:?} {after:?}");
}

#[test]
fn asked_to_end_while_acquiring_it_ends_and_leaves_nothing_behind() {
    let mut story = Story::new(Initial::Released);
    story.machines[BEN].link.no_requests_until = seconds(100.0);
    story.machines[2].link.no_requests_until = seconds(100.0);
    story.run(seconds(1.0), |world| {
        world.machines[ANN].process.as_ref().is_some_and(|process| !process.sent.is_empty())
    });
    let who = Who::Machine(ANN);
    story.apply(Fault::Shutdown { who, patience: seconds(60.0), comeback: Comeback::NewPod });
    story.until(0.2);
    assert_eq!((story.starts, story.holder()), (0, ""));
    assert!(story.store.record().is_some_and(leader_agent::lease::record::Record::is_free));
}
