//! What a look-up needs from the cluster: the pods' credentials, and the platforms of the nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Node, Secret, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectList, PartialObjectMeta},
};
use tokio::sync::Mutex;

use super::{Answer, Failure, Keyring, Platform, Platforms, Question, Reference, Registries, budget};
use crate::{
    api_error,
    inject::{ImageAnswer, ImageRequest},
    metrics::LookUp,
};

/// How long the list of nodes is trusted.
const NODES: Duration = Duration::from_mins(1);
/// How many nodes one request lists, without all that the node's programs write into its status.
const PAGE: u32 = 500;
/// Labels that the kubelet keeps on its node, and that pods select nodes by:
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-arch>.
const ARCHITECTURE: &str = "kubernetes.io/arch";
const SYSTEM: &str = "kubernetes.io/os";

/// Looks up images for pods of a cluster.
pub struct Cluster {
    client: Client,
    registries: Arc<Registries>,
    nodes: Mutex<Option<(Instant, BTreeSet<Platform>)>>,
}

/// What a look-up came to, in the words of [`crate::inject`], and for the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For the decision.
    pub answer: ImageAnswer,
    /// What came of asking a registry; `None` when it did not come to that.
    pub asked: Option<Answer>,
}

impl Found {
    /// What it counts as.
    pub fn counts_as(&self) -> LookUp {
        let Some(Answer { facts, was_asked }) = &self.asked else { return LookUp::Unusable };
        match facts {
            Ok(_) if *was_asked => LookUp::Found,
            Ok(_) => LookUp::Known,
            Err(Failure::Denied { .. }) => LookUp::Denied,
            Err(Failure::Missing { .. }) => LookUp::Missing,
            Err(Failure::Limited { .. }) => LookUp::Limited,
            Err(Failure::Unreachable { .. } | Failure::Tls { .. } | Failure::Broken { .. }) => LookUp::Unreachable,
            Err(Failure::Slow { .. }) => LookUp::Slow,
            Err(_) => LookUp::Unusable,
        }
    }
}

impl Cluster {
    /// Asks nothing yet.
    pub fn new(client: Client, registries: Arc<Registries>) -> Self {
        Self { client, registries, nodes: Mutex::default() }
    }

    /// Looks up an image for pods in `namespace`, in at most `left` of the review's time, and less where little depends on it.
    pub async fn look_up(&self, namespace: &str, request: &ImageRequest, left: Duration) -> Found {
        // The rest is for what comes after: deciding again, and the election's objects.
        let budget = budget(request.required).min(left * 5 / 8);
        let started = Instant::now();
        let failed = |reason: String| Found { answer: ImageAnswer::Failed(reason), asked: None };
        let image = match Reference::parse(&request.image) {
            Ok(image) => image,
            Err(failure) => return failed(failure.to_string()),
        };
        let known = async { tokio::join!(self.keyring(namespace, request), self.platforms(&request.node_selector)) };
        let Ok((keyring, platforms)) = tokio::time::timeout(budget, known).await else {
            return failed(format!(
                "the API server did not give the pods' pull secrets and its nodes within {budget:?}"
            ));
        };
        let question = Question { credentials: keyring.matching(&image), image, platforms };
        let asked = self.registries.look_up(question, budget.saturating_sub(started.elapsed())).await;
        let answer = match &asked.facts {
            Ok(facts) => ImageAnswer::Found(facts.clone()),
            Err(failure) => ImageAnswer::Failed(keyring.explain(failure)),
        };
        Found { answer, asked: Some(asked) }
    }

    /// The credentials of the pods: their own, or, where they have none, those of their account, as the API server fills them in
    /// (`plugin/pkg/admission/serviceaccount/admission.go`, `Admit`).
    async fn keyring(&self, namespace: &str, request: &ImageRequest) -> Keyring {
        let mut keyring = Keyring::default();
        let names = if request.pull_secrets.is_empty() {
            self.of_account(namespace, &request.service_account, &mut keyring).await
        } else {
            request.pull_secrets.clone()
        };
        let mut names: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        names.dedup();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let read =
            futures::future::join_all(names.into_iter().map(async |name| (name, secrets.get_opt(name).await))).await;
        for (name, secret) in read {
            let source = format!("secret {name}");
            match secret {
                Ok(Some(secret)) => add(&mut keyring, &source, &secret),
                Ok(None) => keyring.note(format!("{source} does not exist")),
                Err(error) => keyring.note(format!("{source} cannot be read: {}", api_error::reason(&error))),
            }
        }
        keyring
    }

    async fn of_account(&self, namespace: &str, account: &str, keyring: &mut Keyring) -> Vec<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let name = if account.is_empty() { "default" } else { account };
        match accounts.get_opt(name).await {
            // One that is made for this election gives nothing.
            Ok(account) => {
                let secrets = account.and_then(|account| account.image_pull_secrets).unwrap_or_default();
                secrets.into_iter().map(|secret| secret.name).collect()
            }
            Err(error) => {
                keyring.note(format!("service account {name} cannot be read: {}", api_error::reason(&error)));
                Vec::new()
            }
        }
    }

    /// The platforms of the Linux nodes that the pods may run on; all of Linux, where the nodes are not known.
    async fn platforms(&self, selector: &BTreeMap<String, String>) -> Platforms {
        let mut known = self.nodes.lock().await;
        let is_fresh = |(at, _): &&(Instant, _)| at.elapsed() < NODES;
        let nodes = match known.as_ref().filter(is_fresh) {
            Some((_, nodes)) => nodes.clone(),
            None => match self.list().await {
                Ok(nodes) => known.insert((Instant::now(), nodes)).1.clone(),
                Err(error) => {
                    tracing::warn!(%error, "cannot list nodes: entry points are looked up for every Linux platform of an image");
                    return narrowed(BTreeSet::new(), selector);
                }
            },
        };
        narrowed(nodes, selector)
    }

    async fn list(&self) -> Result<BTreeSet<Platform>, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut parameters = ListParams::default().limit(PAGE);
        let mut platforms = BTreeSet::new();
        loop {
            let page: ObjectList<PartialObjectMeta<Node>> = api.list_metadata(&parameters).await?;
            platforms.extend(page.items.iter().filter_map(|node| {
                let label = |key: &str| node.labels().get(key).cloned();
                Some(Platform { os: label(SYSTEM)?, architecture: label(ARCHITECTURE)? })
            }));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
                _ => break,
            }
        }
        platforms.retain(|platform| platform.os == "linux");
        Ok(platforms)
    }
}

/// Those of the nodes' platforms that a template's selector lets its pods run on. It may name one that no node has yet.
fn narrowed(mut nodes: BTreeSet<Platform>, selector: &BTreeMap<String, String>) -> Platforms {
    if let Some(architecture) = selector.get(ARCHITECTURE) {
        return Platforms::These([Platform { os: "linux".to_owned(), architecture: architecture.clone() }].into());
    }
    nodes.retain(|platform| platform.os == "linux");
    if nodes.is_empty() { Platforms::Linux } else { Platforms::These(nodes) }
}

/// What a Secret of one of the two types says: `MakeDockerKeyring` in `pkg/credentialprovider/secrets`.
fn add(keyring: &mut Keyring, source: &str, secret: &Secret) {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    match (secret.type_.as_deref(), data(".dockerconfigjson"), data(".dockercfg")) {
        (Some("kubernetes.io/dockerconfigjson"), Some(bytes), _) => keyring.add_config(source, bytes),
        (Some("kubernetes.io/dockercfg"), _, Some(bytes)) => keyring.add_legacy(source, bytes),
        _ => keyring.note(format!("{source} is not of a type that has credentials of registries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_pods_may_run() {
        let nodes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<Platform>>();
        let selector = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let both = nodes(&["linux/amd64", "linux/arm64"]);
        assert_eq!(narrowed(both.clone(), &BTreeMap::new()), Platforms::These(both.clone()));
        assert_eq!(narrowed(both.clone(), &selector("pool", "a")), Platforms::These(both.clone()));
        let arm = Platforms::These(nodes(&["linux/arm64"]));
        assert_eq!(narrowed(both, &selector(ARCHITECTURE, "arm64")), arm);
        assert_eq!(narrowed(BTreeSet::new(), &selector(ARCHITECTURE, "arm64")), arm);
        assert_eq!(narrowed(BTreeSet::new(), &BTreeMap::new()), Platforms::Linux);
    }
}
