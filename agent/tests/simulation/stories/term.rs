//! A term from its start to its end: apps that end, fail, ignore their signal or want to be prepared, holds, and ends.

use super::{ANN, BEN, LEADER, Story, assert_within, seconds};
use crate::{
    fault::{Away, Edit, Fault, Initial, Who},
    machine::Comeback,
    plan::Plan,
};

#[test]
pub(super) fn an_app_that_ends_takes_its_agent_along_and_frees_the_lease() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::AppExit { who: LEADER });
    assert_within(story.next_start(), 0.0, 0.01);
    story.until(8.0);
    assert_eq!(story.machines[ANN].life, 3, "one life, its end, and another life");
}

#[test]
pub(super) fn a_pause_ends_at_the_deadline() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Pause { who: LEADER, lasts: seconds(40.0) });
    assert_within(story.all_gone(), 12.5, 13.9);
}

#[test]
pub(super) fn an_app_killed_late_gets_its_time_to_go() {
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
pub(super) fn a_hold_stops_the_leader_and_keeps_everyone_waiting() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Hold(true)));
    assert_within(story.all_gone(), 0.5, 0.51);
    story.until(60.0);
    assert_eq!((story.starts, story.holder()), (1, ""));
    story.apply(Fault::Edit(Edit::Hold(false)));
    assert_within(story.next_start(), 0.0, 0.01);
}

#[test]
pub(super) fn a_hold_seen_together_with_the_acquisition_comes_before_the_start() {
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
pub(super) fn an_app_that_fails_to_start_gives_leadership_away() {
    let mut story = Story::led_by_ann();
    story.machines[ANN].back_after = seconds(10.0);
    story.apply(Fault::AppFails { who: LEADER });
    assert_within(story.next_start(), 0.5, 0.51);
    assert_ne!(story.alive(), [ANN]);
    assert_eq!(story.machines[ANN].life, 2, "its process has ended");
}

#[test]
pub(super) fn an_app_that_fails_to_start_and_to_stop_is_killed_while_the_lease_is_renewed() {
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
pub(super) fn an_app_is_prepared_for_a_hand_over_for_as_long_as_it_takes_or_may_take() {
    // Longer than the lease, which is renewed all the while.
    for (most, takes, gone) in [(30.0, Some(20.0), 20.5), (30.0, Some(0.0), 0.5), (20.0, None, 20.5)] {
        let mut story = prepared_within(most, takes);
        story.apply(Fault::Edit(Edit::Hold(true)));
        assert_within(story.all_gone(), gone, gone + 0.01);
        assert_eq!(story.machines[ANN].life, 1);
    }
}

/// A world in which Ann leads an app that ignores its stop signal and may take `time` for a stop that is not urgent.
fn unhurried(time: f64, change: impl FnOnce(&mut Plan)) -> Story {
    let mut story = Story::with(Initial::Released, |plan| {
        plan.tempers[ANN].stop_time = seconds(time);
        plan.tempers[ANN].stops_in = None;
        change(plan);
    });
    story.until(7.0);
    story
}

#[test]
pub(super) fn an_app_has_the_pods_time_to_stop_while_the_lease_is_renewed() {
    // Longer than the lease; never less than the stop grace.
    for (time, gone) in [(40.0, 40.05), (5.0, 5.05), (1.0, 4.05)] {
        let mut story = unhurried(time, |_| {});
        story.apply(Fault::Edit(Edit::Hold(true)));
        assert_within(story.all_gone(), gone, gone + 0.01);
        assert_eq!(story.machines[ANN].life, 1);
    }
}

#[test]
pub(super) fn the_time_to_stop_includes_the_preparation_which_leaves_the_stop_grace() {
    for (takes, gone) in [(8.0, 20.05), (19.0, 23.05)] {
        let mut story = unhurried(20.0, |plan| {
            plan.tempers[ANN].preparation = seconds(20.0);
            plan.tempers[ANN].prepared_in = Some(seconds(takes));
        });
        story.apply(Fault::Edit(Edit::Hold(true)));
        assert_within(story.all_gone(), gone, gone + 0.01);
    }
}

#[test]
pub(super) fn a_shutdown_takes_no_time_from_a_stop_that_has_begun_and_adds_none() {
    let mut story = unhurried(20.0, |_| {});
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(10.0);
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::NewPod });
    assert_within(story.all_gone(), 17.05, 17.06);
    story.until(27.2);
    assert_eq!(story.machines[ANN].life, 2, "its process has ended");
}

#[test]
pub(super) fn a_lease_that_was_nearly_lost_leaves_the_app_its_grace_and_a_lease_at_most() {
    let mut story = unhurried(59.0, |_| {});
    story.cut(true, 9.0);
    // The stop signal comes at 15.5 s, and the next renewal half a second later.
    assert_within(story.all_gone(), 12.5, 23.6);
}

#[test]
pub(super) fn an_app_that_has_time_to_stop_is_dead_by_the_deadline_all_the_same() {
    let mut story = unhurried(60.0, |_| {});
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(7.5);
    story.cut(true, 60.0);
    // The last renewal was sent at 6 s: the deadline is 13.5 s later, and its killing takes a while here.
    assert_within(story.all_gone(), 13.2, 13.3);
}

#[test]
pub(super) fn a_preparation_ends_when_the_lease_runs_out() {
    let mut story = prepared_within(60.0, None);
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(7.5);
    story.cut(true, 60.0);
    // The last renewal was sent at 6 s: the stop signal comes 9.5 s later, and half a second is the app's.
    assert_within(story.all_gone(), 8.4, 8.6);
}

#[test]
pub(super) fn a_shutdown_ends_a_preparation_and_the_app_is_not_asked_twice() {
    let mut story = prepared_within(60.0, None);
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(8.0);
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::NewPod });
    assert_within(story.all_gone(), 0.5, 0.51);
    story.until(8.6);
    assert_eq!(story.machines[ANN].life, 2, "its process has ended");
}

#[test]
pub(super) fn turning_on_keeps_everyone_from_acquiring_but_the_leader_leading() {
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
pub(super) fn a_reclaim_without_room_waits_without_a_busy_loop() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::SameDisk);
    story.machines[ANN].link.no_watch_until = seconds(8.0);
    story.until(7.5);
    story.apply(Fault::Late { who: Who::Machine(ANN), by: seconds(3.0) });
    story.until(60.0);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
pub(super) fn a_refused_renewal_is_tried_again_soon() {
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
pub(super) fn asked_to_end_while_acquiring_it_ends_and_leaves_nothing_behind() {
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

#[test]
pub(super) fn an_app_that_takes_longer_to_shut_down_than_the_lease_lasts_keeps_it() {
    let mut story = Story::with(Initial::Released, |plan| plan.tempers[ANN].stops_in = Some(seconds(40.0)));
    story.until(7.0);
    story.apply(Fault::Shutdown { who: LEADER, patience: seconds(60.0), comeback: Comeback::NewPod });
    assert_within(story.next_start(), 40.0, 40.1);
    assert_ne!(story.alive(), [ANN]);
}
