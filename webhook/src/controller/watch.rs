//! The watches that fill the [view](super::view), all in one stream.
//!
//! Objects of ids are found by their label. Workloads have none, so that all are read, page by page, and forgotten unless they name an id.

use std::{fmt::Debug, future::ready};

use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{Config, Event, watcher},
    },
};
use leader_agent::names;
use serde::de::DeserializeOwned;

use super::view::Change;

/// How many objects one request lists. Every kind has a page in memory at the start.
const PAGE: u32 = 100;
/// As [`PAGE`], of pods and workloads: each may have tens of kilobytes, and `managedFields` take ten times as much memory as text.
const PAGE_OF_LARGE: u32 = 25;

/// What changes, from the first list on. A watch that fails is tried again, less and less often, up to twice a minute.
pub(super) fn changes(client: &Client) -> SelectAll<BoxStream<'static, Change>> {
    let labelled = || Config::default().labels(names::ID).page_size(PAGE);
    let all = |page: u32| Config::default().page_size(page);
    let default_accounts = Config::default().fields("metadata.name=default").page_size(PAGE);
    select_all([
        watch(client, labelled(), Change::Lease),
        watch(client, labelled(), Change::Account),
        watch(client, default_accounts, Change::DefaultAccount),
        watch(client, labelled(), Change::Role),
        watch(client, labelled(), Change::Binding),
        watch(client, labelled().page_size(PAGE_OF_LARGE), Change::Pod),
        watch(client, all(PAGE_OF_LARGE), Change::Deployment),
        watch(client, all(PAGE_OF_LARGE), Change::StatefulSet),
        watch(client, all(PAGE_OF_LARGE), Change::DaemonSet),
        watch(client, all(PAGE), Change::Service),
        watch(client, labelled(), Change::Slice),
    ])
}

fn watch<K>(client: &Client, config: Config, change: fn(Event<K>) -> Change) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&());
    let events = watcher(Api::<K>::all(client.clone()), config).default_backoff();
    let changes = events.filter_map(move |event| {
        let told = match event {
            Ok(event) => Some(change(event)),
            Err(error) => {
                tracing::warn!(%kind, %error, "a watch of the controller failed; it is tried again");
                None
            }
        };
        ready(told)
    });
    changes.boxed()
}
