//! Looks at elections for as long as somebody does: by watches, so that what happens is seen when it does.

use std::time::Duration;

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, select},
};
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event, watcher},
    },
};
use leader_agent::names;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::{
    Clock, Election, Scope, lease,
    seen::{Kind, Seen},
    unreadable, without_lease,
};
use crate::cli::Error;

/// How often all are looked at, for what happens by itself: a leader that does not renew its Lease, and a reader that is gone.
const TICK: Duration = Duration::from_secs(1);
/// How far apart two judgements are at least, however much happens.
const PAUSE: Duration = Duration::from_millis(200);
/// How many changes are taken at once, where so many have come.
const CHUNK: usize = 256;
/// How many ticks apart Leases are read that no watch has, because they were adopted and have no label.
const ADOPTED: u32 = 5;

type Change = (Kind, watcher::Result<Event<DynamicObject>>);

/// Shows the elections again and again, until that fails or the cluster cannot be read.
pub(super) async fn follow(
    client: &Client,
    scope: Scope<'_>,
    clock: Clock,
    shown: impl FnMut(&[Election], Timestamp) -> Result<(), Error>,
) -> Result<u8, Error> {
    let changes = select(changes(client, scope, Kind::Lease), changes(client, scope, Kind::Pod));
    let adopted = async |seen: &Seen| adopted(client, scope, seen).await;
    show(changes, adopted, || clock.now(), shown).await
}

/// Shows all at the first time and at every tick, and in between those alone that have changed.
async fn show(
    changes: impl Stream<Item = Change> + Unpin,
    adopted: impl AsyncFn(&Seen) -> Vec<Value>,
    now: impl Fn() -> Timestamp,
    mut shown: impl FnMut(&[Election], Timestamp) -> Result<(), Error>,
) -> Result<u8, Error> {
    let mut changes = changes.ready_chunks(CHUNK);
    let (mut seen, mut tick) = (Seen::default(), interval_at(Instant::now() + TICK, TICK));
    // A judgement that takes longer than a tick is followed by a pause all the same.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ticks, mut due, mut is_all, mut next) = (0, 0, true, Instant::now());
    loop {
        tokio::select! {
            chunk = changes.next() => {
                let chunk = chunk.ok_or_else(|| Error::Cluster { reason: "a watch ended".to_owned() })?;
                for change in chunk {
                    match change {
                        (kind, Ok(event)) => seen.take(kind, event),
                        (_, Err(error)) => hopeless(error)?,
                    }
                }
            }
            _ = tick.tick() => (is_all, ticks) = (true, ticks + 1),
            () = sleep_until(next), if seen.is_complete() && (is_all || !seen.news.is_empty()) => {}
        }
        let is_something = is_all || !seen.news.is_empty();
        if !(seen.is_complete() && is_something && Instant::now() >= next) {
            continue;
        }
        if is_all && ticks >= due {
            seen.adopted = adopted(&seen).await;
            due = ticks + ADOPTED;
        }
        let news = std::mem::take(&mut seen.news);
        let now = now();
        shown(&seen.elections((!is_all).then_some(&news), now), now)?;
        (is_all, next) = (false, Instant::now() + PAUSE);
    }
}

fn changes(client: &Client, scope: Scope<'_>, kind: Kind) -> BoxStream<'static, Change> {
    let resource = match kind {
        Kind::Lease => ApiResource::erase::<Lease>(&()),
        Kind::Pod => ApiResource::erase::<Pod>(&()),
    };
    let api: Api<DynamicObject> = match scope.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let of_id = scope.id.map_or_else(|| names::ID.to_owned(), |id| format!("{}={id}", names::ID));
    let config = match (kind, scope.id) {
        // Also one that was adopted.
        (Kind::Lease, Some(id)) => Config::default().fields(&format!("metadata.name={id}")),
        _ => Config::default().labels(&of_id),
    };
    watcher(api, config).default_backoff().map(move |change| (kind, change)).boxed()
}

/// A watch that fails is tried again, but for what does not get better by that.
fn hopeless(error: watcher::Error) -> Result<(), Error> {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => match &error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Err(unreadable(&error)),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Leases that no watch has.
async fn adopted(client: &Client, scope: Scope<'_>, seen: &Seen) -> Vec<Value> {
    let mut found = Vec::new();
    if scope.id.is_some() {
        return found;
    }
    for (namespace, id) in without_lease(scope, seen.leases.all.values(), seen.pods.all.values()) {
        // The next look may find it.
        found.extend(lease(client, namespace, id).await.unwrap_or_default());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{
        super::seen::tests::{object, renewed},
        *,
    };

    /// When elections were shown, in milliseconds from the beginning, and which.
    type Shown = Vec<(u128, Vec<String>)>;

    /// What is shown of these changes, each at its time, until there are no more.
    async fn shown(elections: usize, changes: Vec<(u64, Event<DynamicObject>)>) -> Shown {
        let first = (0..elections).map(|each| Event::InitApply(object(&format!("e{each}"), "a")));
        let leases = [Event::Init].into_iter().chain(first).chain([Event::InitDone]);
        let pods = [Event::Init, Event::InitDone].map(|event| (Kind::Pod, Ok(event)));
        let listed = futures::stream::iter(pods.into_iter().chain(leases.map(|event| (Kind::Lease, Ok(event)))));
        let began = Instant::now();
        let later = futures::stream::iter(changes).then(move |(at, event)| async move {
            sleep_until(began + Duration::from_millis(at)).await;
            (Kind::Lease, Ok(event))
        });
        let mut shown = Shown::new();
        let ended = show(
            Box::pin(listed.chain(later)),
            async |_| Vec::new(),
            || Timestamp::UNIX_EPOCH,
            |elections, _| {
                let ids = elections.iter().map(|election| election.id.clone()).collect();
                shown.push((began.elapsed().as_millis(), ids));
                Ok(())
            },
        );
        assert!(matches!(ended.await, Err(Error::Cluster { .. })), "the changes are over");
        shown
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_elections_that_renew_are_judged_once_in_a_second() {
        let renewals = (0..10_000).map(|each| {
            let event = Event::Apply(renewed(&format!("e{}", each % 1000), "a", each / 1000));
            (u64::try_from(each).unwrap() / 2, event)
        });
        let shown = shown(1000, renewals.collect()).await;
        let (times, sizes): (Vec<_>, Vec<_>) = shown.iter().map(|(at, ids)| (*at, ids.len())).unzip();
        // The first renewal of each changes its spec, and so does that of a chunk that is not over.
        let of_all: Vec<_> =
            times.iter().zip(&sizes).filter(|(_, size)| **size == 1000).map(|(at, _)| *at / 1000).collect();
        assert_eq!(of_all, [0, 1, 2, 3, 4], "{times:?} {sizes:?}");
        assert!(times.iter().filter(|at| **at > 1000).count() <= 4, "{times:?}");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 200), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_shown_at_once_and_alone_and_the_rest_of_it_after_a_pause() {
        let applied = |at: u64, id: &str, holder: &str| (at, Event::Apply(object(id, holder)));
        let changes = vec![
            applied(400, "e1", "b"),
            applied(410, "e2", "b"),
            applied(420, "e1", "c"),
            applied(900, "e3", "b"),
            applied(1500, "e4", "b"),
        ];
        let ids = |shown: &Shown| shown.iter().map(|(at, ids)| format!("{at}: {}", ids.join(" "))).collect::<Vec<_>>();
        let shown = shown(5, changes).await;
        let all = "e0 e1 e2 e3 e4";
        let expected = [
            format!("0: {all}"),
            "400: e1".to_owned(),
            "600: e1 e2".to_owned(),
            "900: e3".to_owned(),
            format!("1100: {all}"),
            "1500: e4".to_owned(),
        ];
        assert_eq!(ids(&shown), expected);
    }
}
