//! Single steps, from what a replica sees to what it does.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use leader_certs::{
    anchor::Anchor,
    authority::Authority,
    lifetimes::Lifetimes,
    rotation::{self, Content, Retired, Step, View, Why},
    secret::{Found, Unusable},
    sightings::Sightings,
};

const HOUR: Duration = Duration::from_hours(1);
/// Long after everything was seen first.
const LATER: Duration = Duration::from_hours(9000);

fn start() -> Timestamp {
    "2026-11-21T00:00:00Z".parse().unwrap()
}

fn lifetimes() -> Lifetimes {
    Lifetimes::new(10 * HOUR, HOUR).unwrap()
}

fn authority(made: Timestamp) -> Arc<Authority> {
    Arc::new(Authority::generate_for(lifetimes().authority(), made).unwrap())
}

fn content(signing: &Arc<Authority>, next: Option<&Arc<Authority>>, retired: &[&Arc<Authority>]) -> Content {
    let until = start() + HOUR;
    let retired = retired.iter().map(|authority| Retired { anchor: authority.anchor().clone(), until }).collect();
    Content { signing: Arc::clone(signing), next: next.map(Arc::clone), retired }
}

/// What somebody does who sees this for some time.
struct Seen<'a> {
    bundle: &'a [&'a Arc<Authority>],
    is_uniform: bool,
    is_shared: bool,
    now: Timestamp,
    since: Duration,
}

impl Default for Seen<'_> {
    fn default() -> Self {
        Self { bundle: &[], is_uniform: true, is_shared: false, now: start(), since: Duration::ZERO }
    }
}

impl Seen<'_> {
    fn next(&self, found: Found) -> Step {
        let (mut bundle, mut retired) = (Sightings::default(), Sightings::default());
        bundle.see(self.bundle.iter().map(|authority| authority.anchor()), self.since);
        if let Found::Content { content, .. } = &found {
            retired.see(content.retired.iter().map(|retired| &retired.anchor), self.since);
        }
        let lifetimes = lifetimes();
        let view = View {
            now: self.now,
            at: LATER,
            bundle: &bundle,
            is_uniform: self.is_uniform,
            is_shared: self.is_shared,
            retired: &retired,
            lifetimes: &lifetimes,
        };
        rotation::next(found, &view, || Authority::generate_for(lifetimes.authority(), self.now)).unwrap()
    }

    fn of(&self, content: &Content) -> Step {
        self.next(Found::Content { content: content.clone(), damage: None })
    }

    fn written(&self, found: Found) -> (Content, Why) {
        match self.next(found) {
            Step::Write(content, why) => (content, why),
            step => panic!("{step:?}"),
        }
    }

    fn written_of(&self, content: &Content) -> (Content, Why) {
        self.written(Found::Content { content: content.clone(), damage: None })
    }
}

fn retired(content: &Content) -> Vec<Anchor> {
    content.retired.iter().map(|retired| retired.anchor.clone()).collect()
}

#[test]
fn the_first_one_begins_beside_whatever_is_trusted() {
    let (old, foreign) = (authority(start()), authority(start()));
    let seen = Seen { bundle: &[&old, &foreign], ..Seen::default() };
    let (begun, why) = seen.written(Found::Nothing);
    assert_eq!(why, Why::Missing);
    assert_eq!(retired(&begun), [old.anchor().clone(), foreign.anchor().clone()]);
    assert!(begun.retired.iter().all(|retired| retired.until == start() + lifetimes().retirement()));
    let (begun, why) = seen.written(Found::Unusable(Unusable::Missing("tls.key")));
    assert!(matches!(why, Why::Unusable(reason) if reason.contains("tls.key")));
    assert_eq!(begun.retired.len(), 2);
    let (begun, _) = Seen::default().written(Found::Nothing);
    assert!(begun.retired.is_empty() && begun.next.is_none());
}

#[test]
fn a_bundle_is_written_until_it_is_right() {
    let (signing, next, old, foreign) =
        (authority(start()), authority(start()), authority(start()), authority(start()));
    let all = content(&signing, Some(&next), &[&old]);
    let published = |seen: Seen<'_>| match seen.of(&all) {
        Step::Publish(anchors) => anchors == all.anchors(),
        _ => false,
    };
    assert!(published(Seen::default()));
    assert!(published(Seen { bundle: &[&signing], ..Seen::default() }));
    assert!(published(Seen { bundle: &[&signing, &next, &old], is_uniform: false, ..Seen::default() }));
    assert!(published(Seen { bundle: &[&signing, &next, &old, &foreign], ..Seen::default() }));
    // Order is no matter, and what somebody else writes there, who is to write there, is left.
    let soon = LATER.saturating_sub(Duration::from_secs(1));
    for is_shared in [false, true] {
        let seen = Seen { bundle: &[&old, &next, &signing], since: soon, is_shared, ..Seen::default() };
        assert!(matches!(seen.of(&all), Step::Rest));
    }
    let more = Seen { bundle: &[&foreign, &old, &next, &signing], since: soon, is_shared: true, ..Seen::default() };
    assert!(matches!(more.of(&all), Step::Rest));
    assert!(published(Seen { bundle: &[&foreign], is_shared: true, ..Seen::default() }));
}

#[test]
fn a_bundle_of_somebody_elses_is_joined() {
    let (signing, foreign) = (authority(start()), authority(start()));
    let seen = Seen { bundle: &[&foreign], ..Seen::default() };
    let (joined, why) = seen.written_of(&content(&signing, None, &[]));
    assert_eq!(why, Why::Joined);
    assert_eq!(joined.anchors(), [signing.anchor().clone(), foreign.anchor().clone()]);
    assert!(matches!(seen.of(&joined), Step::Publish(_)));
}

#[test]
fn one_is_announced_in_time_and_promoted_when_it_is_known() {
    let (signing, next) = (authority(start()), authority(start() + 5 * HOUR));
    let alone = content(&signing, None, &[]);
    let bundle = [&signing];
    let at = |now| Seen { bundle: &bundle, now, ..Seen::default() };
    assert!(matches!(at(start() + 5 * HOUR - Duration::from_secs(1)).of(&alone), Step::Rest));
    let (announced, why) = at(start() + 5 * HOUR).written_of(&alone);
    assert_eq!(why, Why::Announced);
    assert_eq!(announced.signing.anchor(), signing.anchor());

    let both = content(&signing, Some(&next), &[]);
    let bundle = [&signing, &next];
    let known = |since| Seen { bundle: &bundle, now: start() + 5 * HOUR, since, ..Seen::default() };
    let settled = LATER.saturating_sub(lifetimes().settle());
    assert!(matches!(known(settled + Duration::from_millis(1)).of(&both), Step::Rest));
    let (promoted, why) = known(settled).written_of(&both);
    assert_eq!((why, promoted.signing.anchor()), (Why::Promoted, next.anchor()));
    assert!(promoted.next.is_none());
    assert_eq!(retired(&promoted), [signing.anchor().clone()]);
}

#[test]
fn one_that_has_ended_is_replaced_by_the_next_or_anew() {
    let (signing, next) = (authority(start()), authority(start() + 9 * HOUR));
    let both = content(&signing, Some(&next), &[]);
    let over = start() + 11 * HOUR;
    let seen = Seen { bundle: &[&signing, &next], now: over, since: LATER, ..Seen::default() };
    let (promoted, why) = seen.written_of(&both);
    assert_eq!(promoted.signing.anchor(), next.anchor());
    assert!(matches!(why, Why::Unusable(reason) if reason.contains("2026-11-21T11:00:00Z")));
    // One that is not in the bundle helps nobody.
    let seen = Seen { bundle: &[&signing], now: over, ..Seen::default() };
    let (begun, _) = seen.written_of(&both);
    assert_ne!(begun.signing.anchor(), next.anchor());
    assert_eq!(retired(&begun), [signing.anchor().clone()]);
    // Nor one that has not begun: the clock was ahead when it was made.
    let seen = Seen { bundle: &[&signing, &next], now: start() - 48 * HOUR, ..Seen::default() };
    let (begun, _) = seen.written_of(&both);
    assert_eq!(retired(&begun).len(), 2);
}

#[test]
fn what_is_retired_goes_when_its_time_is_over_and_all_have_followed() {
    let (signing, old) = (authority(start()), authority(start()));
    let both = content(&signing, None, &[&old]);
    let bundle = [&signing, &old];
    let at = |now, since| Seen { bundle: &bundle, now, since, ..Seen::default() };
    assert!(matches!(at(start(), Duration::ZERO).of(&both), Step::Rest));
    let (tidied, why) = at(start() + HOUR, Duration::ZERO).written_of(&both);
    assert_eq!((why, tidied.retired.len()), (Why::Tidied, 0));
    let seen_just_now = LATER.saturating_sub(lifetimes().follow()) + Duration::from_millis(1);
    assert!(matches!(at(start() + HOUR, seen_just_now).of(&both), Step::Rest));
}

#[test]
fn what_a_damaged_part_said_is_not_forgotten() {
    let (signing, next, old) = (authority(start()), authority(start()), authority(start()));
    let left = content(&signing, Some(&next), &[]);
    let seen = Seen { bundle: &[&signing, &next, &old], ..Seen::default() };
    let found = Found::Content { content: left, damage: Some(Unusable::Retired) };
    let (mended, why) = seen.written(found);
    assert!(matches!(why, Why::Damaged(reason) if reason.contains("retired.json")));
    assert_eq!(retired(&mended), [old.anchor().clone()]);
    assert_eq!(mended.next.map(|next| next.anchor().clone()), Some(next.anchor().clone()));
}
