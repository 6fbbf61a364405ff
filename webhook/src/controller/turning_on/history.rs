//! Pods as they were, as far as the API server remembers: a controller that was away for longer than a watch can make good finds the end
//! that the kubelet reported meanwhile.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, VersionMatch},
};

/// What the API server answers when it does not remember what was, or what came after a resourceVersion.
pub(super) const EXPIRED: u16 = 410;

/// Pods by uid that were there at the resourceVersion `from` and are not any more at `to`, each in its last state. Which of them the API
/// server does not remember, because its store was compacted (by default after 5 minutes), is left out.
pub(super) async fn last_states(pods: &Api<Pod>, gone: &BTreeMap<String, String>, from: &str, to: &str) -> Vec<Pod> {
    let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) else { return Vec::new() };
    let mut found = Vec::new();
    for (uid, name) in gone {
        match last_state(pods, uid, name, Halves::new(from, to)).await {
            Ok(state) => found.extend(state),
            Err(error) => tracing::debug!(name, %error, "the API server does not remember a pod"),
        }
    }
    found
}

/// Whether a pod that is no longer among those that are watched is gone without ever having had a node. One that was given other labels
/// was there still at the moment of that event; what became of it after that nobody has watched.
pub(super) async fn never_ran(pods: &Api<Pod>, pod: &Pod) -> Result<bool, kube::Error> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if !node.is_empty() {
        return Ok(false);
    }
    let (parameters, version) = (ListParams::default(), pod.resource_version().unwrap_or_default());
    let parameters = parameters.fields(&format!("metadata.name={}", pod.name_any())).at(&version);
    match pods.list(&parameters.matching(VersionMatch::Exact)).await {
        Ok(list) => Ok(list.items.iter().all(|other| other.uid() != pod.uid())),
        // It was so long ago that the API server does not remember.
        Err(kube::Error::Api(status)) if status.code == EXPIRED => Ok(false),
        Err(error) => Err(error),
    }
}

async fn last_state(
    pods: &Api<Pod>,
    uid: &str,
    name: &str,
    mut halves: Halves<Pod>,
) -> Result<Option<Pod>, kube::Error> {
    while let Some(version) = halves.next() {
        let parameters = ListParams::default().fields(&format!("metadata.name={name}"));
        let list = pods.list(&parameters.at(&version.to_string()).matching(VersionMatch::Exact)).await?;
        halves.told(version, list.items.into_iter().find(|pod| pod.uid().as_deref() == Some(uid)));
    }
    Ok(halves.last)
}

/// The search for what there was last of something that is there at one version and gone at another, by halves.
#[derive(Debug)]
struct Halves<T> {
    from: u64,
    to: u64,
    last: Option<T>,
    began: bool,
}

impl<T> Halves<T> {
    fn new(from: u64, to: u64) -> Self {
        Self { from, to, last: None, began: false }
    }

    /// At which version to look next.
    fn next(&self) -> Option<u64> {
        match (self.began, &self.last) {
            (false, _) => Some(self.from),
            (true, Some(_)) if self.to.saturating_sub(self.from) > 1 => Some(self.from + (self.to - self.from) / 2),
            _ => None,
        }
    }

    /// What was there at `version`.
    fn told(&mut self, version: u64, state: Option<T>) {
        self.began = true;
        match state {
            Some(state) => (self.from, self.last) = (version, Some(state)),
            None => self.to = version,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, extract::Request, http::StatusCode};
    use kube::Client;
    use proptest::{collection::btree_set, prelude::*};
    use serde_json::{Value, json};

    use super::*;

    /// Seen late: by now it may have had a node, and be gone.
    #[tokio::test]
    async fn a_pod_that_was_given_other_labels_did_not_end_with_that() {
        let pod = |version: &str, node: &str| -> Pod {
            let metadata = json!({ "name": "billing-1", "uid": "u1", "resourceVersion": version });
            serde_json::from_value(json!({ "metadata": metadata, "spec": { "containers": [], "nodeName": node } }))
                .unwrap()
        };
        // There at 8, gone at 9, forgotten before that.
        let (there, gone) = (json!([pod("8", "")]), json!([]));
        let answer = move |request: Request| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let list = |items: &Value| (StatusCode::OK, Json(json!({ "metadata": {}, "items": items })));
            let answer = match query.contains("resourceVersionMatch=Exact") {
                true if query.contains("resourceVersion=8") => list(&there),
                true if query.contains("resourceVersion=3") => {
                    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": EXPIRED });
                    (StatusCode::GONE, Json(status))
                }
                _ => list(&gone),
            };
            std::future::ready(answer)
        };
        let pods: Api<Pod> = Api::namespaced(Client::new(Router::new().fallback(answer), "default"), "shop");
        for (version, node, expected) in [("9", "", true), ("8", "", false), ("3", "", false), ("9", "one", false)] {
            assert_eq!(never_ran(&pods, &pod(version, node)).await.unwrap(), expected, "{version} {node}");
        }
    }

    proptest! {
        /// A state lasts from its version to the next one's; the pod is made at the first and gone at the last.
        #[test]
        fn the_last_state_is_found(mut versions in btree_set(1_u64..100_000, 2..6), from in 0_u64..100_000, more in 0_u64..1000) {
            let gone = versions.pop_last().unwrap();
            let at = |version: u64| versions.range(..=version).next_back().copied().filter(|_| version < gone);
            let mut halves = Halves::new(from, gone.max(from) + more);
            let mut requests = 0;
            while let Some(version) = halves.next() {
                halves.told(version, at(version));
                requests += 1;
            }
            let was_there = versions.first().is_some_and(|made| *made <= from) && from < gone;
            prop_assert_eq!(halves.last, versions.last().copied().filter(|_| was_there));
            prop_assert!(requests <= 19, "{requests} requests");
        }
    }
}
