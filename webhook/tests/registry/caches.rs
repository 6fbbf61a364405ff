//! How often registries are asked.

use std::time::Duration;

use axum::{http::StatusCode, response::IntoResponse};
use futures::future::join_all;
use serde_json::json;

use crate::{
    ask, found, question, reason, registries,
    server::{MANIFEST, Registry, silent},
};

#[tokio::test]
async fn many_ask_at_once_and_one_request_is_made() {
    let registry = Registry::start().await;
    registry.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    let (registries, image) = (registries(&[&registry]), format!("{}/app:1", registry.host()));
    let answers = join_all((0..20).map(|_| ask(&registries, question(&image)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.was_asked).count(), 1);
    for answer in answers {
        assert_eq!(found(answer).cmd, ["/app"]);
    }
    assert_eq!((registry.count("/manifests/"), registry.count("/blobs/")), (1, 1));
    // And later none.
    found(ask(&registries, question(&image)).await);
    assert_eq!(registry.asked().len(), 2);
}

#[tokio::test]
async fn a_digest_that_is_known_is_not_read_again() {
    let registry = Registry::start().await;
    let digest = registry.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    registry.put_image("app", Some("2"), &json!({ "Cmd": ["/app"] }));
    let (registries, host) = (registries(&[&registry]), registry.host());
    found(ask(&registries, question(&format!("{host}/app:1"))).await);
    // By digest nothing is asked; by another tag, only where that leads.
    found(ask(&registries, question(&format!("{host}/app@{digest}"))).await);
    assert_eq!(registry.asked().len(), 2);
    found(ask(&registries, question(&format!("{host}/app:2"))).await);
    assert_eq!((registry.count("/manifests/"), registry.count("/blobs/")), (2, 1));
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_moment() {
    let registry = Registry::start().await;
    registry.answer("/manifests/", || StatusCode::INTERNAL_SERVER_ERROR.into_response());
    let (registries, image) = (registries(&[&registry]), format!("{}/app:1", registry.host()));
    let first = reason(ask(&registries, question(&image)).await);
    let again = ask(&registries, question(&image)).await;
    assert!(!again.was_asked);
    assert_eq!((reason(again), registry.asked().len()), (first, 1));
    // Another image of the same registry is another matter.
    reason(ask(&registries, question(&format!("{}/other:1", registry.host()))).await);
    assert_eq!(registry.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_too_late_for_one_is_there_for_the_next() {
    let registry = Registry::start().await;
    registry.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(receiver);
    // The first answer waits until the test has seen the look-up given up. In place: a worker that blocks otherwise may be the one that
    // was to fire the look-up's timer.
    registry.rule(move |asked| {
        if asked.path.contains("/blobs/") {
            let _ = tokio::task::block_in_place(|| gate.lock().unwrap().recv_timeout(Duration::from_secs(30)));
        }
        None
    });
    let (registries, image) = (registries(&[&registry]), format!("{}/app:1", registry.host()));
    let late = registries.look_up(question(&image), Duration::from_millis(100)).await;
    assert!(reason(late).ends_with("did not answer within 100ms"));
    sender.send(()).unwrap();
    let next = ask(&registries, question(&image)).await;
    assert!(!next.was_asked);
    assert_eq!((found(next).cmd, registry.count("/manifests/")), (vec!["/app".to_owned()], 1));
}

#[tokio::test]
async fn who_gives_up_leaves_nobody_waiting() {
    let registry = Registry::start().await;
    registry.answer("/manifests/", || silent(MANIFEST));
    let (registries, image) = (registries(&[&registry]), format!("{}/app:1", registry.host()));
    let short = Duration::from_millis(200);
    let answers = join_all((0..5).map(|_| registries.look_up(question(&image), short))).await;
    for answer in answers {
        assert!(reason(answer).ends_with("did not answer within 200ms"));
    }
    assert_eq!(registry.asked().len(), 1);
}
