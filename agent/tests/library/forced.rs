//! Leadership that is lost: to the network, and to somebody who wrote another holder into the Lease.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use leader_agent::{
    clock,
    election::{ElectionError, Leadership, Outcome},
    elector::Loss,
};
use libtest_mimic::Trial;
use serde_json::json;

use crate::{
    api::Api,
    link::Link,
    stage::{Ends, Notes, SHORT, address, candidate, trial, until},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_candidate_that_is_cut_off_drops_its_future_before_another_one_leads", cut_off),
        trial("another_holder_is_believed_and_the_future_dropped", foreign_holder),
    ]
}

/// The boot clock in nanoseconds.
fn now() -> u64 {
    u64::try_from(clock::boot().as_nanos()).expect("not that old")
}

async fn cut_off() {
    let (api, notes, beat) = (Api::released(), Notes::default(), Arc::new(AtomicU64::new(0)));
    let link = Link::to(&address(&api));
    let one = candidate("one", &link.address).lease_duration(SHORT);
    let two = candidate("two", &address(&api)).lease_duration(SHORT);
    let stop_one = one.stop_handle();
    let work = |_: Leadership| {
        let (notes, beat) = (notes.clone(), Arc::clone(&beat));
        async move {
            notes.add("one begins");
            let _end = Ends(Box::new(move || notes.add("one ends")));
            loop {
                beat.store(now(), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let rival = |_: Leadership| {
        let (began, so_far) = (now(), notes.all());
        async move { (began, so_far) }
    };
    let director = async {
        until("one leads", || notes.has("one begins")).await;
        link.cut(true);
        let began = two.run(rival).await.unwrap();
        let last_beat = beat.load(Ordering::SeqCst);
        let Outcome::Finished((began, so_far)) = began else { panic!("the rival was not stopped") };
        assert_eq!(so_far.last().map(String::as_str), Some("one ends"), "{so_far:?}");
        assert!(last_beat < began, "one still worked {} ns after two had begun", last_beat - began);
        // What was cut off comes back as a standby, or as the next leader.
        link.cut(false);
        stop_one.stop();
    };
    let (outcome, ()) = tokio::join!(one.run(work), director);
    assert_eq!(outcome.unwrap(), Outcome::<()>::Stopped);
}

async fn foreign_holder() {
    let (api, notes) = (Arc::new(Api::released()), Notes::default());
    let mut writes = 0;
    let lead = |_: Leadership| {
        let notes = notes.clone();
        let end = Ends(Box::new(move || notes.add("dropped")));
        api.edit(|lease| lease["spec"]["holderIdentity"] = json!("somebody"));
        writes = api.writes();
        async move {
            let _end = end;
            future::pending::<()>().await;
        }
    };
    let outcome = candidate("one", &address(&api)).run(lead).await;
    assert!(matches!(outcome, Err(ElectionError::Lost(Loss::Foreign))), "{outcome:?}");
    assert_eq!(notes.all(), ["dropped"]);
    // Nothing of this term is written over it.
    assert_eq!((api.holder().as_str(), api.writes()), ("somebody", writes));
}
