//! Terms that begin and end as they should: by the future's own end, by a stop, by a hand-over, by a hold.

use std::{future, sync::Arc};

use leader_agent::{
    election::{Election, Leadership, Outcome},
    lease::record::Record,
    names,
};
use libtest_mimic::Trial;

use crate::{
    api::Api,
    stage::{Ends, Notes, address, candidate, trial, until},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_future_that_ends_gives_its_output_and_the_lease_is_released", finishes),
        trial("a_stop_drops_the_future_and_its_tasks_before_the_release", stops),
        trial("a_future_with_time_to_wind_down_ends_by_itself", winds_down),
        trial("a_dropped_election_releases_the_lease", dropped),
        trial("a_future_that_panics_releases_the_lease", panics),
        trial("leadership_is_handed_over_and_the_terms_do_not_overlap", hands_over),
        trial("a_term_ended_by_a_hold_is_followed_by_another", on_hold),
        trial("a_term_that_is_asked_to_end_is_followed_by_another", asked_to_step_down),
    ]
}

/// With notes of all that the callbacks are told, and who holds the Lease then.
fn noting(election: Election, api: &Arc<Api>, notes: &Notes) -> Election {
    let holder = |what: &'static str| {
        let (api, notes) = (Arc::clone(api), notes.clone());
        move || notes.add(format!("{what}, {:?} holds", api.holder()))
    };
    let (started, stopped, leads) = (holder("started"), holder("stopped"), notes.clone());
    election
        .on_started(move |_| started())
        .on_stopped(stopped)
        .on_new_leader(move |identity| leads.add(format!("{identity} leads")))
}

fn is_released(api: &Api) -> bool {
    api.holder().is_empty() && api.lease()["metadata"]["annotations"][names::RELEASED].is_string()
}

async fn finishes() {
    let (api, notes) = (Arc::new(Api::released()), Notes::default());
    let lead = |leadership: Leadership| {
        let (api, notes) = (Arc::clone(&api), notes.clone());
        async move {
            notes.add("works");
            assert!(leadership.is_leading());
            assert_eq!((leadership.identity(), api.holder()), ("one", "one".to_owned()));
            leadership.token()
        }
    };
    let outcome = noting(candidate("one", &address(&api)), &api, &notes).run(lead).await.unwrap();
    // The Lease began at version 1, so that the acquiring write made it 2.
    assert_eq!(outcome, Outcome::Finished(2));
    assert!(is_released(&api), "{}", api.lease());
    assert_eq!(notes.all(), ["one leads", r#"started, "one" holds"#, "works", r#"stopped, "one" holds"#]);
}

async fn stops() {
    let (api, notes) = (Arc::new(Api::released()), Notes::default());
    let election = noting(candidate("one", &address(&api)), &api, &notes);
    let stop = election.stop_handle();
    let lead = |leadership: Leadership| {
        let ends = |what: &'static str| {
            let (api, notes) = (Arc::clone(&api), notes.clone());
            Ends(Box::new(move || notes.add(format!("{what} dropped, {:?} holds", api.holder()))))
        };
        let (work, task) = (ends("work"), ends("task"));
        leadership.spawn(async move {
            let _task = task;
            future::pending::<()>().await;
        });
        let stop = stop.clone();
        async move {
            let _work = work;
            stop.stop();
            future::pending::<()>().await;
        }
    };
    assert_eq!(election.run(lead).await.unwrap(), Outcome::Stopped);
    assert!(is_released(&api), "{}", api.lease());
    for note in [r#"work dropped, "one" holds"#, r#"task dropped, "one" holds"#, r#"stopped, "one" holds"#] {
        assert!(notes.has(note), "no `{note}` in {:?}", notes.all());
    }
}

async fn winds_down() {
    let (api, notes) = (Arc::new(Api::released()), Notes::default());
    let election = candidate("one", &address(&api)).wind_down(std::time::Duration::from_secs(20));
    let stop = election.stop_handle();
    let lead = |leadership: Leadership| {
        let (stop, api, notes) = (stop.clone(), Arc::clone(&api), notes.clone());
        async move {
            stop.stop();
            leadership.stopping().await;
            notes.add(format!("winding down, {:?} holds", api.holder()));
        }
    };
    // It ended because it was asked to.
    assert_eq!(election.run(lead).await.unwrap(), Outcome::Stopped);
    assert_eq!(notes.all(), [r#"winding down, "one" holds"#]);
    assert!(is_released(&api), "{}", api.lease());
}

async fn dropped() {
    let api = Api::released();
    let run = candidate("one", &address(&api)).run(|_| future::pending::<()>());
    tokio::select! {
        _ = run => panic!("nobody stopped it"),
        () = until("leading", || api.holder() == "one") => {}
    }
    until("released", || is_released(&api)).await;
}

async fn panics() {
    let api = Api::released();
    let run = candidate("one", &address(&api)).run(|_| async { std::panic::resume_unwind(Box::new("on purpose")) });
    let outcome: Result<Result<Outcome<()>, _>, _> = tokio::spawn(run).await;
    assert!(outcome.is_err_and(|error| error.is_panic()));
    until("released", || is_released(&api)).await;
}

async fn hands_over() {
    let (api, notes) = (Api::released(), Notes::default());
    let work = |name: &'static str| {
        let notes = notes.clone();
        move |leadership: Leadership| {
            notes.add(format!("{name} begins"));
            let notes = notes.clone();
            let ends = Ends(Box::new(move || notes.add(format!("{name} ends"))));
            async move {
                let _ends = ends;
                leadership.stopping().await;
                future::pending::<u64>().await
            }
        }
    };
    let (one, two) = (candidate("one", &address(&api)), candidate("two", &address(&api)));
    let (stop_one, stop_two) = (one.stop_handle(), two.stop_handle());
    let first = one.run(work("one"));
    let second = async {
        until("one leads", || notes.has("one begins")).await;
        let leaders = Notes::default();
        let told = leaders.clone();
        let second = two.on_new_leader(move |identity| told.add(identity)).run(work("two"));
        let director = async {
            until("two knows who leads", || leaders.has("one")).await;
            stop_one.stop();
            until("two leads", || notes.has("two begins")).await;
            stop_two.stop();
        };
        let (outcome, ()) = tokio::join!(second, director);
        assert_eq!(leaders.all(), ["one", "two"]);
        outcome
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap(), second.unwrap()), (Outcome::Stopped, Outcome::Stopped));
    assert_eq!(notes.all(), ["one begins", "one ends", "two begins", "two ends"]);
    assert_eq!(api.lease()["spec"]["leaseTransitions"], 2);
}

async fn on_hold() {
    let api = Arc::new(Api::released());
    let mut terms = 0;
    let mut tokens = Vec::new();
    let lead = |leadership: Leadership| {
        terms += 1;
        tokens.push(leadership.token());
        let (term, api) = (terms, Arc::clone(&api));
        async move {
            if term == 1 {
                api.hold();
                let _end = Ends(Box::new(move || {
                    assert_eq!(api.holder(), "one");
                }));
                future::pending::<()>().await;
            }
        }
    };
    let run = candidate("one", &address(&api)).run(lead);
    let person = async {
        until("on hold", || api.lease()["metadata"]["annotations"][names::HOLD].is_string()).await;
        until("released", || is_released(&api)).await;
        api.edit(|lease| {
            lease["metadata"]["annotations"].as_object_mut().expect("annotations").remove(names::HOLD);
        });
    };
    let (outcome, ()) = tokio::join!(run, person);
    assert_eq!(outcome.unwrap(), Outcome::Finished(()));
    assert!(terms == 2 && tokens[1] > tokens[0], "{terms} terms with {tokens:?}");
}

async fn asked_to_step_down() {
    let api = Arc::new(Api::released());
    let mut tokens = Vec::new();
    let lead = |leadership: Leadership| {
        tokens.push(leadership.token());
        let (is_first, api) = (tokens.len() == 1, Arc::clone(&api));
        async move {
            if is_first {
                api.edit(|lease| {
                    let term = Record::parse(lease.clone()).expect("a Lease").term_name().expect("a holder");
                    lease["metadata"]["annotations"][names::STEP_DOWN] = term.into();
                });
                future::pending::<()>().await;
            }
        }
    };
    // Nobody else is there: it leads again, and what was asked of the first term says nothing to the second.
    let outcome = candidate("one", &address(&api)).run(lead).await.unwrap();
    assert_eq!(outcome, Outcome::Finished(()));
    assert!(tokens.len() == 2 && tokens[1] > tokens[0], "{tokens:?}");
    assert!(api.lease()["metadata"]["annotations"][names::STEP_DOWN].is_null(), "{}", api.lease());
}
