//! A candidate's eyes: one watch on one Lease, for as long as the process lives. Polls only while no watch can be had.

use std::{pin::pin, time::Duration};

use futures::TryStreamExt;
use http::Method;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    client::{LeaseClient, RequestError},
    record::Record,
};
use crate::{
    clock,
    elector::{Event, Source},
    timing::RETRY,
};

/// How long the server keeps one watch open, in seconds: a quarter of an hour less than its own default upper bound.
const WATCH_SECONDS: u32 = 2700;
/// The longest pause between attempts: a release in it is seen that much later.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Watches until the receiver is dropped. A watch that brings nothing for `silence` is taken for dead: a leader renews far
/// more often than that.
pub async fn watch(client: &LeaseClient, silence: Duration, events: mpsc::Sender<Event>) {
    let client = client.another();
    let mut pause = RETRY;
    let mut complained = false;
    while !events.is_closed() {
        let began = Instant::now();
        let followed = follow(&client, silence, &events).await;
        if began.elapsed() > LONGEST_PAUSE {
            pause = RETRY;
        }
        match followed {
            Ok(()) => complained = false,
            Err(error) if complained => debug!(%error, "still cannot watch the Lease"),
            Err(error) => {
                warn!(%error, "cannot watch the Lease: trying again until it can be");
                complained = true;
            }
        }
        client.reset();
        tokio::select! {
            () = sleep(pause) => {}
            () = events.closed() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One list and the watch that continues it, until the server ends it or it falls silent.
async fn follow(client: &LeaseClient, silence: Duration, events: &mpsc::Sender<Event>) -> Result<(), RequestError> {
    let sent = clock::boot();
    let list =
        client.request(Method::GET, format!("{}?{}", client.collection(), client.selector()), Vec::new()).await?;
    let source = Source::Read { sent };
    let seen = match list["items"].as_array().and_then(|items| items.first()) {
        Some(object) => Event::Seen(Record::parse(object.clone())?, source),
        None => Event::Absent { version: None, source },
    };
    let _ = events.send(seen).await;

    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = format!(
        "{}?{}&watch=true&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}",
        client.collection(),
        client.selector()
    );
    let request = client.build(Method::GET, path, Vec::new())?;
    let stream = timeout(client.timeout(), client.client()?.request_events::<Value>(request))
        .await
        .map_err(|_| RequestError::Timeout(client.timeout()))??;
    let mut stream = pin!(stream);
    loop {
        let Ok(next) = timeout(silence, stream.try_next()).await else {
            client.reset();
            return Ok(());
        };
        let event = match next? {
            None => return Ok(()),
            Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                Event::Seen(Record::parse(object)?, Source::Watch)
            }
            Some(WatchEvent::Deleted(object)) => {
                let version = Some(Record::parse(object)?.resource_version);
                Event::Absent { version, source: Source::Watch }
            }
            Some(WatchEvent::Bookmark(_)) => continue,
            Some(WatchEvent::Error(status)) => {
                return Err(kube::Error::Api(status).into());
            }
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}
