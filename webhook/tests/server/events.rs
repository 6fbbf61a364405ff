//! Events are written beside the work, once, about objects that are there, and never in its way.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{core::v1::ObjectReference, events::v1::Event};
use kube::{Api, api::ListParams};
use leader_webhook::{
    events::{EventType, Recorder},
    metrics::Metrics,
};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::fake_api::FakeApi;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/billing";

/// A recorder, and what writes its Events as long as this is there.
struct Recording {
    api: FakeApi,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    task: AbortHandle,
}

impl Recording {
    fn start() -> Self {
        let (api, metrics) = (FakeApi::default(), Arc::<Metrics>::default());
        let (recorder, write) = Recorder::new(api.client(), "leader-webhook-1".to_owned(), Arc::clone(&metrics));
        let task = tokio::spawn(write).abort_handle();
        Self { api, metrics, recorder, task }
    }

    fn counted(&self, result: &str) -> u64 {
        let text = self.metrics.text().unwrap();
        let start = format!("leader_webhook_events_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    }

    /// Waits until so many have ended so.
    async fn until_counted(&self, result: &str, count: u64) {
        for _ in 0..1000 {
            if self.counted(result) >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} Events are {result}, not {count}", self.counted(result));
    }

    /// The Events that were written.
    async fn events(&self) -> Vec<Value> {
        let events: Api<Event> = Api::namespaced(self.api.client(), "shop");
        let events = events.list(&ListParams::default()).await.unwrap().items;
        events.iter().map(|event| json!(event)).collect()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn billing(uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("apps/v1".to_owned()),
        kind: Some("Deployment".to_owned()),
        namespace: Some("shop".to_owned()),
        name: Some("billing".to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

#[tokio::test]
async fn the_same_word_is_written_once() {
    let recording = Recording::start();
    for _ in 0..3 {
        recording.recorder.publish(&billing(Some("u1")), EventType::Warning, "InjectionRefused", "not stored: no");
    }
    recording.until_counted("written", 1).await;
    // What is told later is written later.
    recording.recorder.publish(&billing(Some("u1")), EventType::Warning, "InjectionFailed", "not stored: later");
    recording.until_counted("written", 2).await;
    let events = recording.events().await;
    assert_eq!(events.len(), 2, "{events:#?}");
    let event = events.iter().find(|event| event["reason"] == "InjectionRefused").unwrap();
    for (pointer, expected) in [
        ("/type", "Warning"),
        ("/reason", "InjectionRefused"),
        ("/action", "InjectionRefused"),
        ("/note", "not stored: no"),
        ("/reportingController", "leader.io/webhook"),
        ("/reportingInstance", "leader-webhook-1"),
        ("/regarding/kind", "Deployment"),
        ("/regarding/uid", "u1"),
    ] {
        assert_eq!(event.pointer(pointer), Some(&json!(expected)), "{pointer}: {event:#}");
    }
    assert!(event["eventTime"].is_string(), "{event:#}");
}

#[tokio::test]
async fn an_object_that_is_being_created_is_told_about_when_it_is_there() {
    let recording = Recording::start();
    recording.recorder.publish_once_stored(&billing(None), EventType::Normal, "Injected", "yes");
    tokio::time::sleep(Duration::from_millis(500)).await;
    recording.api.put(
        DEPLOYMENT,
        json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "billing", "namespace": "shop", "uid": "u7" } }),
    );
    recording.until_counted("written", 1).await;
    let uid = recording.api.get(DEPLOYMENT).unwrap()["metadata"]["uid"].clone();
    let events = recording.events().await;
    assert_eq!((events.len(), &events[0]["regarding"]["uid"]), (1, &uid));
}

#[tokio::test]
async fn an_object_that_somebody_else_refused_is_not_told_about() {
    let recording = Recording::start();
    recording.recorder.publish_once_stored(&billing(None), EventType::Normal, "Injected", "yes");
    // It is looked for once in this time, and a few times later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(recording.api.writes(), Vec::<String>::new());
    assert_eq!(["written", "dropped", "failed"].map(|result| recording.counted(result)), [0, 0, 0]);
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_holds_nobody_up() {
    let recording = Recording::start();
    recording.api.fall_silent();
    // More than the queue holds, about different things: none of it waits.
    for number in 0..3000 {
        let note = number.to_string();
        recording.recorder.publish(&billing(Some(&note)), EventType::Normal, "Injected", note.clone());
    }
    assert!(recording.counted("dropped") > 1000, "{}", recording.counted("dropped"));
    recording.until_counted("failed", 1).await;
}
