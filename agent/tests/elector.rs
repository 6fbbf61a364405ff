//! The elector alone against a server that misbehaves in one way for long: how often is it asked?

use std::time::Duration;

use jiff::Timestamp;
use leader_agent::{
    clock::Now,
    elector::{Action, Elector, Event, Reply, Role, Settings, Source, StopReason},
    lease::record::{Record, Term},
    names,
    timing::Timing,
};
use serde_json::json;

fn now(boot: Duration) -> Now {
    Now { boot, raw: boot, wall: Timestamp::from_second(1_800_000_000).unwrap() + boot }
}

fn settings() -> Settings {
    Settings {
        name: "billing".to_owned(),
        namespace: "shop".to_owned(),
        identity: "me".to_owned(),
        timing: Timing::default(),
        seed: 1,
        preparation: Duration::ZERO,
        stop_time: Duration::ZERO,
        reclaim: None,
        born_under_turning_on: false,
        yields: false,
        unhealthy_step_down: None,
    }
}

fn elector() -> Elector {
    Elector::new(settings())
}

fn stored(mut body: serde_json::Value, version: u64) -> Record {
    body["metadata"]["uid"] = json!("u1");
    body["metadata"]["resourceVersion"] = json!(version.to_string());
    Record::parse(body).unwrap()
}

/// Lets `elector` work against `write` and `read` for `span`, each answered after a millisecond. Returns the number of requests.
fn drive(
    elector: &mut Elector,
    span: Duration,
    write: impl Fn(serde_json::Value) -> Reply,
    read: impl Fn(Source) -> Option<Event>,
) -> usize {
    const REPLY: Duration = Duration::from_millis(1);
    let (mut clock, mut requests) = (Duration::from_secs(100), 0);
    let end = clock + span;
    elector.handle_timeout(now(clock));
    while clock < end {
        let mut events = Vec::new();
        while let Some(action) = elector.poll() {
            match action {
                Action::Write { attempt, body } => events.push(Event::Replied { attempt, reply: write(body) }),
                Action::Read => {
                    let seen = read(Source::Read { sent: clock });
                    let answered = seen.is_some();
                    events.extend(seen);
                    events.push(Event::ReadEnded { answered });
                }
                Action::Die(_) | Action::End => return requests,
                _ => {}
            }
        }
        if events.is_empty() {
            let Some(due) = elector.next_timeout(now(clock)) else { return requests };
            clock = clock.max(due);
            elector.handle_timeout(now(clock));
        } else {
            requests +=
                events.iter().filter(|event| matches!(event, Event::Replied { .. } | Event::ReadEnded { .. })).count();
            clock += REPLY;
            for event in events {
                elector.handle(event, now(clock));
            }
        }
    }
    requests
}

fn leader() -> Elector {
    let mut elector = elector();
    let start = now(Duration::from_secs(99));
    let object = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "billing", "namespace": "shop", "annotations": { "leader.io/released": "u1/you/3/2026-01-01T00:00:00.000000Z" } },
        "spec": { "leaseTransitions": 3 },
    });
    elector.handle(Event::Seen(stored(object, 7), Source::Read { sent: start.boot }), start);
    let Some(Action::Write { attempt, body }) = elector.poll() else { panic!("a released Lease is taken") };
    elector.handle(Event::Replied { attempt, reply: Reply::Written(stored(body, 8)) }, start);
    assert_eq!(elector.role(), Role::Leader);
    while elector.poll().is_some() {}
    elector
}

/// Two requests each half second are the retries; more would be a loop.
const MOST_A_SECOND: usize = 5;

#[test]
fn a_leader_whose_namespace_is_gone_does_not_ask_in_a_loop() {
    let gone = |source| Some(Event::Absent { version: None, source });
    let requests = drive(&mut leader(), Duration::from_secs(10), |_| Reply::Conflict, gone);
    assert!((4..=10 * MOST_A_SECOND).contains(&requests), "{requests} requests in 10 s");
}

#[test]
fn a_standby_whose_namespace_is_gone_does_not_ask_in_a_loop() {
    let mut elector = elector();
    let start = now(Duration::from_secs(99));
    elector.handle(Event::Absent { version: None, source: Source::Read { sent: start.boot } }, start);
    let gone = |source| Some(Event::Absent { version: None, source });
    let requests = drive(&mut elector, Duration::from_mins(1), |_| Reply::Conflict, gone);
    assert!((4..=60 * MOST_A_SECOND).contains(&requests), "{requests} requests in 60 s");
}

#[test]
fn a_server_that_refuses_or_fails_at_once_is_not_asked_in_a_loop() {
    for reply in [Reply::Refused, Reply::Unknown, Reply::Conflict] {
        let requests = drive(&mut leader(), Duration::from_secs(10), |_| reply.clone(), |_| None);
        assert!((4..=10 * MOST_A_SECOND).contains(&requests), "{reply:?}: {requests} requests in 10 s");
    }
}

/// Two candidates may write the same microsecond into the Lease. The one that lost must not take a record that names it, because
/// somebody edited the holder, for its own write.
#[test]
fn a_hand_over_by_an_edit_is_not_taken_for_a_write_that_lost() {
    let start = now(Duration::from_secs(99));
    let mut elector = elector();
    let released = json!({
        "metadata": { "annotations": { "leader.io/released": "u1/you/3/2026-01-01T00:00:00.000000Z" } },
        "spec": { "leaseTransitions": 3 },
    });
    elector.handle(Event::Seen(stored(released, 7), Source::Read { sent: start.boot }), start);
    let Some(Action::Write { attempt, body }) = elector.poll() else { panic!("a released Lease is taken") };
    let mut others = body.clone();
    others["spec"]["holderIdentity"] = json!("you");
    elector.handle(Event::Seen(stored(others, 8), Source::Watch), start);
    elector.handle(Event::Replied { attempt, reply: Reply::Conflict }, start);
    elector.handle(Event::Seen(stored(body, 9), Source::Watch), start);
    let actions: Vec<Action> = std::iter::from_fn(|| elector.poll()).collect();
    assert!(!actions.iter().any(|action| matches!(action, Action::Start { .. })), "{actions:?}");
    assert_eq!(elector.role(), Role::Standby);
}

/// The app's own news is about an app that runs: at any other time it changes nothing.
#[test]
fn news_of_an_app_that_does_not_run_changes_nothing() {
    let start = now(Duration::from_secs(99));
    for event in [Event::AppFailed, Event::Prepared, Event::AppExited, Event::AppGone] {
        let mut elector = elector();
        elector.handle(event.clone(), start);
        assert!(elector.poll().is_none() && !elector.is_closing(), "{event:?}");
        assert_eq!(elector.role(), Role::Standby);
    }
    let mut leader = leader();
    leader.handle(Event::Prepared, start);
    assert!(leader.poll().is_none(), "nobody asked for a preparation");
}

#[test]
fn an_app_that_failed_to_start_is_stopped_once_and_its_agent_ends() {
    let mut elector = leader();
    let at = |millis| now(Duration::from_secs(99) + Duration::from_millis(millis));
    elector.handle(Event::AppFailed, at(100));
    assert!(matches!(elector.poll(), Some(Action::Stop(StopReason::AppFailed))));
    elector.handle(Event::AppFailed, at(200));
    assert!(elector.poll().is_none() && elector.is_closing());
    elector.handle(Event::AppExited, at(300));
    assert!(matches!(elector.poll(), Some(Action::Kill)));
    elector.handle(Event::AppGone, at(310));
    assert!(matches!(elector.poll(), Some(Action::Disarm)));
    let Some(Action::Write { attempt, body }) = elector.poll() else { panic!("the Lease is given back") };
    let record = stored(body, 9);
    assert!(record.is_free(), "with a proof");
    elector.handle(Event::Replied { attempt, reply: Reply::Written(record) }, at(320));
    assert!(matches!(elector.poll(), Some(Action::ForgetTerm)));
    assert!(matches!(elector.poll(), Some(Action::End)));
}

/// A Lease that was made while pods without the agent ran the app comes back saying so, by whoever was made then and has never seen it;
/// and nobody acquires it before somebody has looked.
#[test]
fn a_lost_lease_comes_back_waiting_by_who_was_born_under_turning_on() {
    let born = |born_under_turning_on: bool| Elector::new(Settings { born_under_turning_on, ..settings() });
    for (is_born, expected) in [(false, None), (true, Some(names::TURNING_ON_UNKNOWN))] {
        let (mut elector, start) = (born(is_born), now(Duration::from_secs(99)));
        elector.handle(Event::Absent { version: None, source: Source::Read { sent: start.boot } }, start);
        let Some(Action::Write { attempt, body }) = elector.poll() else { panic!("the Lease is not made") };
        assert_eq!(body["metadata"]["annotations"][names::TURNING_ON].as_str(), expected);
        elector.handle(Event::Replied { attempt, reply: Reply::Written(stored(body, 8)) }, start);
        let later = now(Duration::from_secs(99) + Duration::from_mins(2));
        elector.handle_timeout(later);
        let acquires = matches!(elector.poll(), Some(Action::Write { .. }));
        assert_eq!(acquires, expected.is_none(), "born: {is_born}");
    }
}

/// Also one that was born later writes back what it has seen itself.
#[test]
fn a_lost_lease_comes_back_as_it_was_last_seen() {
    let (mut elector, start) = (elector(), now(Duration::from_secs(99)));
    let text = r#"{"Deployment/billing":{"version":"7","pods":{"u1":"billing-1"}}}"#;
    let object =
        json!({ "metadata": { "annotations": { (names::TURNING_ON): text } }, "spec": { "leaseTransitions": 3 } });
    elector.handle(Event::Seen(stored(object, 7), Source::Read { sent: start.boot }), start);
    assert!(elector.poll().is_none());
    elector.handle(Event::Absent { version: Some(8), source: Source::Watch }, start);
    let Some(Action::Write { body, .. }) = elector.poll() else { panic!("the Lease is not made") };
    assert_eq!(body["metadata"]["annotations"][names::TURNING_ON], text);
    assert!(body["spec"]["holderIdentity"].is_null());
}

/// No app was started by this process, and perhaps something runs beside the one of the process before it.
#[test]
fn a_term_that_is_taken_up_again_is_given_back_once_its_caller_says_that_nothing_is_left() {
    for why in ["step-down", "end", "too late"] {
        let start = now(Duration::from_secs(99));
        let acquired = "2026-01-01T00:00:00.000000Z";
        let term = Term { uid: "u1".to_owned(), transitions: 3, acquire_time: acquired.parse().unwrap() };
        let mut elector = Elector::new(Settings { reclaim: Some(term), ..settings() });
        let mut object = json!({
            "metadata": { "annotations": {} },
            "spec": { "holderIdentity": "me", "leaseTransitions": 3, "acquireTime": acquired, "renewTime": acquired, "leaseDurationSeconds": 15 },
        });
        if why == "step-down" {
            object["metadata"]["annotations"][names::STEP_DOWN] = json!(format!("u1/me/3/{acquired}"));
        }
        elector.handle(Event::Seen(stored(object, 7), Source::Read { sent: start.boot }), start);
        let Some(Action::Write { attempt, body }) = elector.poll() else { panic!("the term is not taken up again") };
        let mut at = start;
        match why {
            "end" => elector.handle(Event::Shutdown, at),
            "too late" => at = now(start.boot + Duration::from_secs(10)),
            _ => {}
        }
        elector.handle(Event::Replied { attempt, reply: Reply::Written(stored(body, 8)) }, at);
        // Whether it writes a release proof; what else it writes is stored.
        let mut versions = 9..;
        let mut releases = |elector: &mut Elector| {
            while let Some(action) = elector.poll() {
                match action {
                    Action::Write { body, .. } if body["metadata"]["annotations"][names::RELEASED].is_string() => {
                        return true;
                    }
                    Action::Write { attempt, body } => {
                        let record = stored(body, versions.next().unwrap());
                        elector.handle(Event::Replied { attempt, reply: Reply::Written(record) }, at);
                    }
                    Action::Kill | Action::Die(_) | Action::Start { .. } => panic!("{why}: {action:?}"),
                    _ => {}
                }
            }
            false
        };
        assert!(!releases(&mut elector), "{why}");
        elector.handle(Event::AppGone, at);
        assert!(releases(&mut elector), "{why}");
    }
}
