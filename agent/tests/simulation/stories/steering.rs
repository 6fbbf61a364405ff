//! Leadership that people move, and that moves because an app is not ready.

use leader_agent::{names, timing::UNREADY_PAUSE};

use super::{ANN, BEN, LEADER, Story, assert_within, seconds};
use crate::{
    fault::{Edit, Fault, Initial, Who},
    machine::Comeback,
    plan::Plan,
};

const CID: usize = 2;

fn led_by_ann(change: impl FnOnce(&mut Plan)) -> Story {
    let mut story = Story::with(Initial::Released, change);
    story.until(7.0);
    assert_eq!(story.alive(), [ANN]);
    story
}

fn annotation(story: &Story, key: &str) -> Option<String> {
    story.store.record().and_then(|record| record.annotation(key)).map(str::to_owned)
}

fn without_standbys(story: &mut Story) {
    for n in [BEN, CID] {
        story.machines[n].link.no_requests_until = seconds(10_000.0);
    }
}

#[test]
pub(super) fn a_step_down_moves_leadership_once() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::StepDown(0)));
    // Half a second of it is the app's.
    assert_within(story.next_start(), 0.5, 0.51);
    assert_ne!(story.alive(), [ANN]);
    assert_eq!(annotation(&story, names::STEP_DOWN), None);
    story.until(120.0);
    assert_eq!((story.starts, story.machines[ANN].life), (2, 1));
}

#[test]
pub(super) fn a_request_of_another_term_says_nothing_to_this_one() {
    for by in [-1, 1] {
        let mut story = Story::led_by_ann();
        story.apply(Fault::Edit(Edit::StepDown(by)));
        story.until(60.0);
        assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
    }
}

#[test]
pub(super) fn what_is_asked_for_waits_while_election_is_being_turned_on() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::TurningOn(true)));
    story.apply(Fault::Edit(Edit::TransferTo(Some(CID))));
    story.apply(Fault::Edit(Edit::StepDown(0)));
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
    // Nor does the container's restart give it away.
    story.crash(Comeback::SameDisk);
    assert_within(story.next_start(), 0.1, 0.2);
    assert_eq!(story.alive(), [ANN]);
    story.apply(Fault::Edit(Edit::TurningOn(false)));
    assert_within(story.next_start(), 0.5, 0.51);
    assert_eq!(story.alive(), [CID]);
}

#[test]
pub(super) fn a_successors_answer_waits_while_election_is_being_turned_on() {
    let mut story = led_by_ann(|plan| plan.patience = Some(seconds(5.0)));
    story.apply(Fault::Edit(Edit::TurningOn(true)));
    story.apply(Fault::Unready { who: LEADER, lasts: seconds(60.0) });
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
}

#[test]
pub(super) fn a_request_that_a_crash_left_behind_ends_the_term_that_is_taken_up_again() {
    let mut story = Story::led_by_ann();
    story.crash(Comeback::SameDisk);
    story.apply(Fault::Edit(Edit::StepDown(0)));
    assert_within(story.next_start(), 0.1, 0.2);
    assert_ne!(story.alive(), [ANN]);
}

#[test]
pub(super) fn a_term_that_is_taken_up_again_is_not_given_away_beside_what_an_earlier_process_left() {
    let mut story = Story::led_by_ann();
    story.machines[ANN].beside_until = story.now + seconds(12.0);
    story.crash(Comeback::SameDisk);
    story.apply(Fault::Edit(Edit::StepDown(0)));
    // Longer than the grace and what follows a KILL: the container is not started again and again meanwhile.
    assert_within(story.next_start(), 12.0, 12.1);
    assert_ne!(story.alive(), [ANN]);
    assert_eq!(story.machines[ANN].life, 3, "one death, and one start after it");
}

#[test]
pub(super) fn who_gave_leadership_away_takes_it_back_if_nobody_else_does() {
    let mut story = Story::led_by_ann();
    without_standbys(&mut story);
    story.apply(Fault::Edit(Edit::StepDown(0)));
    assert_within(story.next_start(), 4.5, 4.6);
    assert_eq!(story.alive(), [ANN]);
}

#[test]
pub(super) fn a_transfer_goes_to_the_one_that_is_named() {
    for named in [BEN, CID] {
        let mut story = Story::led_by_ann();
        story.apply(Fault::Edit(Edit::TransferTo(Some(named))));
        story.apply(Fault::Edit(Edit::StepDown(0)));
        assert_within(story.next_start(), 0.5, 0.51);
        assert_eq!(story.alive(), [named]);
        assert_eq!(annotation(&story, names::TRANSFER_TO), None);
    }
}

/// Who gave leadership away lets others go first; once one of them leads, that is done.
#[test]
fn a_transfer_goes_back_at_once_to_the_one_that_leadership_came_from() {
    let mut story = Story::led_by_ann();
    for named in [BEN, ANN] {
        story.apply(Fault::Edit(Edit::TransferTo(Some(named))));
        story.apply(Fault::Edit(Edit::StepDown(0)));
        assert_within(story.next_start(), 0.5, 0.6);
        assert_eq!(story.alive(), [named]);
    }
}

#[test]
pub(super) fn a_transfer_to_one_that_is_gone_costs_two_seconds() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::TransferTo(None)));
    story.apply(Fault::Edit(Edit::StepDown(0)));
    assert_within(story.next_start(), 2.5, 2.6);
    assert_ne!(story.alive(), [ANN]);
    assert_eq!(annotation(&story, names::TRANSFER_TO), None);
}

#[test]
pub(super) fn a_transfer_without_a_release_proof_frees_nothing() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::TransferTo(Some(BEN))));
    story.crash(Comeback::NewPod);
    story.apply(Fault::Edit(Edit::Empty));
    assert_within(story.next_start(), 14.9, 15.1);
}

#[test]
pub(super) fn who_is_named_while_the_lease_is_on_hold_goes_first_after_it() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(30.0);
    story.apply(Fault::Edit(Edit::TransferTo(Some(CID))));
    story.until(60.0);
    story.apply(Fault::Edit(Edit::Hold(false)));
    assert_within(story.next_start(), 0.0, 0.01);
    assert_eq!(story.alive(), [CID]);
}

#[test]
pub(super) fn a_lost_lease_comes_back_on_hold() {
    let mut story = Story::led_by_ann();
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(10.0);
    story.apply(Fault::Delete);
    story.until(60.0);
    assert_eq!((story.starts, annotation(&story, names::HOLD)), (1, Some("x".to_owned())));
}

#[test]
pub(super) fn the_preferred_place_goes_first_after_a_release_and_never_sooner_after_a_loss() {
    let prefers_cid = |plan: &mut Plan| plan.yields = vec![false, true, false];
    let mut story = led_by_ann(prefers_cid);
    story.apply(Fault::Edit(Edit::StepDown(0)));
    assert_within(story.next_start(), 0.5, 0.51);
    assert_eq!(story.alive(), [CID]);

    let mut story = led_by_ann(|plan| plan.yields = vec![false, true, true]);
    story.machines[ANN].back_after = seconds(100.0);
    story.apply(Fault::AppExit { who: LEADER });
    // Nobody is in the preferred place: that costs a second.
    assert_within(story.next_start(), 1.0, 1.1);

    let mut story = led_by_ann(prefers_cid);
    story.crash(Comeback::NewPod);
    // The last renewal was seen at 6 s.
    assert_within(story.next_start(), 14.0, 14.1);
}

#[test]
pub(super) fn a_leader_that_is_not_ready_gives_way_to_a_standby_that_answers() {
    let mut story = led_by_ann(|plan| plan.patience = Some(seconds(5.0)));
    story.apply(Fault::Unready { who: LEADER, lasts: seconds(60.0) });
    // Half a second of it is the app's.
    assert_within(story.next_start(), 5.5, 5.6);
    assert_ne!(story.alive(), [ANN]);
    assert_eq!(annotation(&story, names::SUCCESSOR_WANTED).or(annotation(&story, names::SUCCESSOR)), None);
}

#[test]
pub(super) fn a_leader_that_is_not_ready_for_a_while_stays() {
    let mut story = led_by_ann(|plan| plan.patience = Some(seconds(5.0)));
    for second in [7.0, 13.0, 19.0] {
        story.until(second);
        story.apply(Fault::Unready { who: LEADER, lasts: seconds(4.9) });
    }
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
}

#[test]
pub(super) fn a_leader_that_is_not_ready_stays_where_nobody_else_would_lead() {
    let mut story = led_by_ann(|plan| plan.patience = Some(seconds(5.0)));
    without_standbys(&mut story);
    story.apply(Fault::Unready { who: LEADER, lasts: seconds(20.0) });
    story.until(20.0);
    assert!(annotation(&story, names::SUCCESSOR_WANTED).is_some());
    story.until(60.0);
    assert_eq!((story.starts, story.alive()), (1, vec![ANN]));
    assert_eq!(annotation(&story, names::SUCCESSOR_WANTED), None, "it asks no longer");
}

#[test]
pub(super) fn what_makes_every_app_unready_does_not_move_leadership_round_and_round() {
    let mut story = led_by_ann(|plan| plan.patience = Some(seconds(5.0)));
    let forever = seconds(1000.0);
    story.apply(Fault::Unready { who: LEADER, lasts: forever });
    story.next_start();
    let given_up = story.now.as_secs_f64();
    story.apply(Fault::Unready { who: LEADER, lasts: forever });
    story.until(given_up + UNREADY_PAUSE.as_secs_f64() - 5.0);
    assert_eq!(story.starts, 2);
    story.until(given_up + UNREADY_PAUSE.as_secs_f64() + 5.0);
    assert_eq!(story.starts, 3);
}

#[test]
pub(super) fn a_hold_comes_before_a_successor() {
    let mut story = led_by_ann(|plan| plan.patience = Some(seconds(5.0)));
    story.apply(Fault::Unready { who: Who::Machine(ANN), lasts: seconds(60.0) });
    story.until(11.0);
    story.apply(Fault::Edit(Edit::Hold(true)));
    story.until(60.0);
    assert_eq!((story.starts, story.holder()), (1, ""));
}
