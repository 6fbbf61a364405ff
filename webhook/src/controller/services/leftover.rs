//! What a Service's selector had made before it was taken over: Kubernetes leaves it behind, with every pod in it.
//!
//! Deleted once, none comes back. But Kubernetes' own controllers may have been at work for the selector when it went, with what they knew
//! before, so that it is looked at again a little later.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use kube::{ResourceExt, api::ListParams};

use super::{
    super::{Context, Error, Key, Requeue},
    api, delete,
};
use crate::services::slices::{SERVICE_NAME, ServiceFacts, is_managed};

/// After the first time it is looked at again after so long.
const AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];
/// How long the leader may take to be in its slice: until then what is left is all that traffic has.
const FILLED: Duration = Duration::from_secs(5);
/// When it is asked again for a Service that is another one than the view says.
const BEHIND: Duration = Duration::from_secs(1);

/// How far each Service is, by its uid.
#[derive(Debug, Default)]
pub(super) struct Progress(HashMap<String, Looks>);

/// How far one Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    /// It is leader-only since then.
    Waiting(Instant),
    /// What was left was removed then, and looked for again so many times.
    Removed(Instant, usize),
}

impl Looks {
    /// When it is time to look; `None` when nothing is expected any more.
    fn due(self, is_filled: bool, now: Instant) -> Option<Instant> {
        match self {
            Self::Waiting(_) if is_filled => Some(now),
            Self::Waiting(since) => Some(since + FILLED),
            Self::Removed(first, times) => AGAIN.get(times).map(|after| first + *after),
        }
    }

    /// It was looked at.
    fn looked(self, now: Instant) -> Self {
        match self {
            Self::Waiting(_) => Self::Removed(now, 0),
            Self::Removed(first, times) => Self::Removed(first, times + 1),
        }
    }
}

impl Progress {
    /// Deletes what is left behind these Services, as far as it is time. `ours` are the slices that take its place.
    pub(super) async fn remove(
        &mut self,
        context: &Context,
        key: &Key,
        services: &[Arc<ServiceFacts>],
        ours: &[Arc<EndpointSlice>],
    ) -> Result<Requeue, Error> {
        self.0.retain(|uid, _| services.iter().any(|service| service.uid == *uid));
        let mut requeue = Requeue::OnChange;
        for service in services {
            let is_of = |slice: &&Arc<EndpointSlice>| slice.labels().get(SERVICE_NAME) == Some(&service.name);
            let is_filled = ours.iter().filter(is_of).any(|slice| !slice.endpoints.is_empty());
            let now = Instant::now();
            let mut looks = *self.0.entry(service.uid.clone()).or_insert(Looks::Waiting(now));
            if looks.due(is_filled, now).is_some_and(|due| due <= now) {
                let left = remove(context, key, service).await?;
                if left != Requeue::OnChange {
                    requeue = requeue.sooner(left);
                    continue;
                }
                looks = looks.looked(now);
                self.0.insert(service.uid.clone(), looks);
            }
            if let Some(due) = looks.due(is_filled, now) {
                requeue = requeue.sooner(Requeue::After(due.saturating_duration_since(now)));
            }
        }
        Ok(requeue)
    }
}

/// Deletes what is left behind one Service, or says when to try again.
///
/// What is to go is read before the Service is: when it is given back after that, what Kubernetes' own controllers make of it is another
/// object, or another version of it, and stays.
async fn remove(context: &Context, key: &Key, service: &ServiceFacts) -> Result<Requeue, Error> {
    let (name, namespace) = (&service.name, &key.namespace);
    let (endpoints, slices) = (api::<Endpoints>(context, key), api::<EndpointSlice>(context, key));
    let old = endpoints.get_metadata_opt(name).await;
    let old = old.map_err(Error::request(format!("reading Endpoints {namespace}/{name}")))?;
    let others: Vec<EndpointSlice> =
        of_service(context, key, name).await?.into_iter().filter(|slice| !is_managed(slice)).collect();
    if old.is_none() && others.is_empty() {
        return Ok(Requeue::OnChange);
    }
    let live = api::<Service>(context, key).get_opt(name).await;
    let live = live.map_err(Error::request(format!("reading Service {namespace}/{name}")))?;
    let is_same = |live: &ServiceFacts| {
        live.uid == service.uid && live.is_taken_over() && live.leader_only.as_ref() == Some(&key.id)
    };
    if !live.as_ref().map(ServiceFacts::of).as_ref().is_some_and(is_same) {
        return Ok(Requeue::After(BEHIND));
    }
    let mut requeue = Requeue::OnChange;
    // First, because slices are mirrored from it.
    if let Some(old) = old {
        tracing::info!(%key, service = name, "removing the Endpoints that a leader-only Service had before");
        requeue = requeue.sooner(delete(&endpoints, key, &old.metadata).await?);
    }
    for slice in &others {
        let slice_name = slice.name_any();
        tracing::info!(%key, service = name, slice = slice_name, "removing a slice that a leader-only Service had before");
        requeue = requeue.sooner(delete(&slices, key, &slice.metadata).await?);
    }
    Ok(requeue)
}

/// Whether a Service has slices of others.
pub(super) async fn has_others(context: &Context, key: &Key, service: &str) -> Result<bool, Error> {
    Ok(of_service(context, key, service).await?.iter().any(|slice| !is_managed(slice)))
}

/// All slices of a Service, as the API server has them now.
async fn of_service(context: &Context, key: &Key, service: &str) -> Result<Vec<EndpointSlice>, Error> {
    let labelled = ListParams::default().labels(&format!("{SERVICE_NAME}={service}"));
    let listed = api::<EndpointSlice>(context, key).list(&labelled).await;
    let what = format!("listing the slices of Service {}/{service}", key.namespace);
    Ok(listed.map_err(Error::request(what))?.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_when_the_leader_is_in_and_twice_more() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let waiting = Looks::Waiting(start);
        assert_eq!(waiting.due(false, start), Some(after(5)));
        assert_eq!(waiting.due(true, after(1)), Some(after(1)));
        let removed = waiting.looked(after(1));
        assert_eq!(removed.due(true, after(1)), Some(after(3)));
        let again = removed.looked(after(3));
        assert_eq!(again.due(false, after(3)), Some(after(16)));
        assert_eq!(again.looked(after(16)).due(false, after(16)), None);
    }
}
