//! The electing rules of docs/safety.md, in their order.

use std::time::Duration;

use super::{ANN, BEN, LEADER, Story, assert_within, seconds};
use crate::{
    fault::{Edit, Fault, Initial, Who},
    machine::{Comeback, TRUE_RATE},
};

#[test]
pub(super) fn rule_2_the_first_start_costs_the_lease_duration() {
    for initial in [Initial::Absent, Initial::Unheld, Initial::Held] {
        assert_within(Story::new(initial).next_start(), 15.0, 15.1);
    }
}

#[test]
pub(super) fn rule_2_a_release_proof_frees_the_lease_at_once() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::SameDisk });
    // Half a second of it is the app's.
    assert_within(story.next_start(), 0.5, 0.51);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
pub(super) fn rule_2_an_emptied_lease_without_a_proof_is_waited_for() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::LostDisk);
    story.apply(Fault::Edit(Edit::Empty));
    assert_within(story.next_start(), 15.0, 15.1);
}

#[test]
pub(super) fn rule_2_the_leader_takes_an_emptied_lease_back() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Empty));
    story.until(7.1);
    assert!(story.holder().starts_with("ann"));
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
}

#[test]
pub(super) fn rule_3_the_leader_brings_a_deleted_lease_back_and_goes_on() {
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
pub(super) fn rule_3_a_lease_deleted_while_its_leader_is_cut_off_is_waited_for() {
    let mut story = Story::led_by_ann();
    story.cut(true, 60.0);
    story.apply(Fault::Delete);
    assert_within(story.next_start(), 15.0, 15.1);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
pub(super) fn rule_4_a_lost_reply_of_the_acquiring_write_is_made_up_for_by_a_read() {
    let mut story = Story::new(Initial::Released);
    story.until(0.0025);
    story.apply(Fault::LoseReply { who: Who::Machine(ANN), writes: 1 });
    story.apply(Fault::WatchGap { who: Who::Machine(ANN), lasts: seconds(30.0) });
    // The reply is given up after 2.5 s.
    assert_within(story.next_start(), 2.5, 2.51);
    assert_eq!(story.alive(), [ANN]);
}

#[test]
pub(super) fn rule_4_an_acquisition_learned_too_late_starts_nothing_and_is_given_back() {
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
pub(super) fn rule_4_a_term_is_reclaimed_by_its_file_and_not_by_the_name() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::SameDisk);
    assert_within(story.next_start(), 0.1, 0.2);
    assert_eq!(story.alive(), [ANN]);
    story.crash(Comeback::LostDisk);
    assert_within(story.next_start(), 14.0, 15.1);
}

#[test]
pub(super) fn rule_4_a_lost_term_is_not_reclaimed() {
    for edit in [Edit::Transitions(1), Edit::AcquireTime(Some(1)), Edit::Empty] {
        let mut story = Story::led_by_ann();
        story.crash(Comeback::SameDisk);
        story.apply(Fault::Edit(edit));
        assert_within(story.next_start(), 15.0, 15.1);
    }
}

#[test]
pub(super) fn rule_5_a_foreign_holder_is_believed_at_once() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Stranger));
    // The kill chain at its worst.
    assert_within(story.all_gone(), 1.25, 1.26);
    assert_eq!(story.holder(), "stranger");
    assert_within(story.next_start(), 13.0, 14.0);
}

#[test]
pub(super) fn rule_6_edits_of_metadata_do_not_feed_a_dead_leader() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::NewPod);
    for second in 8..21 {
        story.until(f64::from(second));
        story.apply(Fault::Edit(Edit::Label));
    }
    assert_within(story.next_start() + 13.0, 13.0, 15.1);
}

#[test]
pub(super) fn rule_7_a_conflict_after_the_own_commit_is_no_loss() {
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
pub(super) fn rule_7_an_unknown_write_does_not_move_the_deadline() {
    let mut story = Story::led_by_ann();
    // Renewals are stored, but Ann cannot know: the last one that she knows of was sent 1 s ago.
    story.cut(false, 60.0);
    assert_within(story.all_gone(), 8.4, 9.6);
    story.until(40.0);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
pub(super) fn rule_7_an_app_that_ignores_its_signal_is_dead_at_the_deadline() {
    let mut story = Story::with(Initial::Released, |plan| plan.tempers[ANN].stops_in = None);
    story.until(7.0);
    story.cut(true, 60.0);
    assert_within(story.all_gone(), 12.5, 14.0);
    assert_within(story.next_start(), 0.05, 2.1);
}

#[test]
pub(super) fn rule_8_the_longest_duration_seen_is_waited_for() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Duration(Some(25))));
    story.until(7.01);
    story.crash(Comeback::NewPod);
    story.apply(Fault::Edit(Edit::Duration(Some(3))));
    assert_within(story.next_start(), 25.0, 25.1);
}

#[test]
pub(super) fn rule_9_a_release_proof_in_a_restored_server_frees_nothing() {
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
pub(super) fn rule_10_a_candidate_with_a_fast_boot_clock_waits_by_the_other_one() {
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
pub(super) fn rule_10_every_deadline_allows_for_a_slow_boot_clock() {
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
pub(super) fn rule_10_a_leader_whose_clocks_disagree_steps_down() {
    let mut story = Story::with(Initial::Released, |plan| plan.clocks[ANN].boot_rate = TRUE_RATE * 108 / 100);
    story.until(7.0);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
pub(super) fn rule_10_the_first_deadline_allows_for_a_slow_boot_clock_as_well() {
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
pub(super) fn rule_10_two_renewals_in_quick_succession_measure_no_clock() {
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
pub(super) fn rule_11_a_success_after_the_stop_began_moves_only_the_end() {
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
pub(super) fn rule_11_a_success_after_the_stop_began_gives_the_app_more_time_but_not_for_ever() {
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
pub(super) fn rule_12_the_lease_is_released_when_the_last_process_is_gone() {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.tempers[ANN].leaves_orphans = true;
        plan.tempers[ANN].killed_in = seconds(0.9);
    });
    story.until(7.0);
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::SameDisk });
    assert_within(story.next_start(), 1.4, 1.41);
}
