//! Keeps the authority, this process's leaf and the `caBundle` in agreement, for as long as it runs.
//!
//! What to do is decided by [`crate::secret`] and [`crate::bundle`]; requests, watches and the clock are here. Watches only wake
//! it: each round reads both objects afresh, so a missed event costs at most [`INTERVAL`].

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::sync::watch;

use crate::{
    authority::{Authority, AuthorityError},
    bundle::{self, ServiceName},
    leaf::{Leaf, LeafError},
    resolver::Resolver,
    secret,
};

/// How long it sleeps at most, whatever the watches say: a clock that was set is noticed after this.
const INTERVAL: Duration = Duration::from_mins(1);
/// The pause after a round that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The longest round: a few requests of which each takes milliseconds.
const ROUND: Duration = Duration::from_secs(10);
/// How often a round begins again because another replica was faster. Each lost race means that it won.
const RACES: usize = 5;
/// The name under which managedFields shows what was written here.
const FIELD_MANAGER: &str = "leader-webhook";

/// Which objects it keeps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Service through which the API server calls.
    pub service: ServiceName,
    /// The name of the authority's Secret, in the Service's namespace.
    pub secret: String,
    /// The name of the `MutatingWebhookConfiguration`.
    pub configuration: String,
}

/// Whether the API server would accept the certificate that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes, while the certificate is valid.
    Trusted {
        /// The first moment of the certificate.
        from: Timestamp,
        /// The last moment of the certificate.
        until: Timestamp,
    },
    /// Not yet, or no longer, for the reason given.
    Untrusted(String),
}

impl State {
    /// Whether reviews can be served at `now`, or why not.
    pub fn ready(&self, now: Timestamp) -> Result<(), String> {
        match self {
            Self::Trusted { from, .. } if now < *from => {
                Err(format!("the certificate is valid from {from} only, and it is {now}: was the clock ahead?"))
            }
            Self::Trusted { until, .. } if now < *until => Ok(()),
            Self::Trusted { until, .. } => Err(format!("the certificate ended at {until}")),
            Self::Untrusted(reason) => Err(reason.clone()),
        }
    }
}

/// Why a keeper could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No authority could be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// No certificate could be made.
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("{what} failed: {source}")]
    Request { what: String, source: kube::Error },
    #[error("{0} was changed by others {RACES} times in a row")]
    Race(String),
    #[error("MutatingWebhookConfiguration {0} does not exist: apply the manifests of deploy/ again")]
    NoConfiguration(String),
    #[error(
        "MutatingWebhookConfiguration {0} has no webhook that calls Service {1}: apply the manifests of deploy/ again"
    )]
    NotOurs(String, String),
    #[error(
        "the authority in Secret {name} cannot be used yet: {reason} Put this node's clock right; if it is right, delete the Secret"
    )]
    NotYet { name: String, reason: AuthorityError },
    #[error("the API server did not answer within {} s", ROUND.as_secs())]
    Timeout,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// The task. Make it with [`Keeper::new`], then spawn [`Keeper::run`].
pub struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    settings: Settings,
    resolver: Arc<Resolver>,
    state: watch::Sender<State>,
    /// What this process signs with, as last seen in the Secret.
    authority: Option<Authority>,
    leaf: Option<Leaf>,
    /// Whether the bundle, when it was last read, had the authority. A read that fails proves nothing and changes nothing.
    trusted: bool,
    /// Why the last round failed, so that it is said once.
    complaint: String,
}

impl Keeper {
    /// A keeper, the certificates it will show, and its state.
    ///
    /// Until the first round is done a certificate of nobody's is shown, with which probes can ask why.
    pub fn new(
        client: Client,
        settings: Settings,
        now: Timestamp,
    ) -> Result<(Self, Arc<Resolver>, watch::Receiver<State>), KeeperError> {
        let nobody = Authority::generate(now)?;
        let placeholder = Leaf::issue(&nobody, &settings.service.dns_names(), now)?;
        let resolver = Arc::new(Resolver::new(placeholder.certified_key));
        let (state, receiver) = watch::channel(State::Untrusted("the certificate has not been made yet".to_owned()));
        let keeper = Self {
            secrets: Api::namespaced(client.clone(), &settings.service.namespace),
            configurations: Api::all(client),
            settings,
            resolver: Arc::clone(&resolver),
            state,
            authority: None,
            leaf: None,
            trusted: false,
            complaint: String::new(),
        };
        Ok((keeper, resolver, receiver))
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let secret = watch_object(self.secrets.clone(), &self.settings.secret).default_backoff();
        let configuration = watch_object(self.configurations.clone(), &self.settings.configuration).default_backoff();
        let changes = stream::select(secret.map(|event| event.map(drop)), configuration.map(|event| event.map(drop)));
        let mut changes = pin!(changes);
        loop {
            let pause = self.round_at(Timestamp::now()).await;
            let change = tokio::time::timeout(pause, changes.next()).await;
            if let Ok(Some(Err(error))) = change {
                tracing::warn!(%error, "watching the certificates' objects failed; it is tried again");
            }
        }
    }

    /// One round, and how long to sleep after it.
    async fn round_at(&mut self, now: Timestamp) -> Duration {
        let round = tokio::time::timeout(ROUND, self.round(now)).await.unwrap_or(Err(RoundError::Timeout));
        let (pause, reason) = match round {
            Ok(()) => (INTERVAL, String::new()),
            Err(error) => (RETRY, error.to_string()),
        };
        if reason != self.complaint && !reason.is_empty() {
            tracing::error!(reason, "the certificates could not be brought up to date; it is tried again every second");
        }
        self.complaint.clone_from(&reason);
        let next = match &self.leaf {
            Some(leaf) if self.trusted => State::Trusted { from: leaf.not_before, until: leaf.not_after },
            _ => State::Untrusted(reason),
        };
        self.state.send_if_modified(|state| std::mem::replace(state, next.clone()) != next);
        pause
    }

    async fn round(&mut self, now: Timestamp) -> Result<(), RoundError> {
        // First, because it needs no API server.
        self.renew(now)?;
        let authority = match self.read_or_make(now).await {
            // Other replicas have moved on to it, or will: what is signed here is not what the API server is to trust.
            Err(error @ RoundError::NotYet { .. }) => {
                self.trusted = false;
                return Err(error);
            }
            made => made?,
        };
        if self.authority.as_ref().is_none_or(|known| known.certificate() != authority.certificate()) {
            tracing::info!(until = %authority.not_after(), "signing with the authority of Secret {}", self.settings.secret);
            self.trusted = false;
            self.leaf = None;
            self.authority = Some(authority);
            self.renew(now)?;
        }
        self.publish().await
    }

    /// The authority in the Secret, made first where there is none that can be used.
    async fn read_or_make(&self, now: Timestamp) -> Result<Authority, RoundError> {
        let name = &self.settings.secret;
        let failed = |what: &str| {
            let what = format!("{what} Secret {}/{name}", self.settings.service.namespace);
            move |source| RoundError::Request { what, source }
        };
        for _ in 0..RACES {
            let stored = self.secrets.get_opt(name).await.map_err(failed("reading"))?;
            let reason = match secret::decide(stored.as_ref(), now) {
                secret::Decision::Use(authority) => return Ok(*authority),
                secret::Decision::Create => None,
                secret::Decision::Replace(reason) => Some(reason),
                secret::Decision::Wait(reason) => {
                    let name = format!("{}/{name}", self.settings.service.namespace);
                    return Err(RoundError::NotYet { name, reason });
                }
            };
            let authority = Authority::generate(now)?;
            let new = secret::build(name, &self.settings.service.namespace, &authority, stored.as_ref());
            let written = if let Some(reason) = reason {
                tracing::warn!(%reason, "replacing the authority in Secret {name}, which cannot be used");
                self.secrets.replace(name, &PostParams::default(), &new).await
            } else {
                tracing::info!("creating Secret {name} with a new authority");
                self.secrets.create(&PostParams::default(), &new).await
            };
            match written {
                Ok(_) => return Ok(authority),
                // Another replica was first, or somebody deleted it just now: look again, its word counts.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(failed("writing")(error)),
            }
        }
        Err(RoundError::Race(format!("Secret {name}")))
    }

    /// Shows a new leaf where none is shown yet, or the one that is has grown old.
    fn renew(&mut self, now: Timestamp) -> Result<(), LeafError> {
        let Some(authority) = &self.authority else { return Ok(()) };
        if self.leaf.as_ref().is_some_and(|leaf| !leaf.is_due(now)) {
            return Ok(());
        }
        let leaf = Leaf::issue(authority, &self.settings.service.dns_names(), now)?;
        tracing::info!(until = %leaf.not_after, "showing a new certificate");
        self.resolver.set(Arc::clone(&leaf.certified_key));
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Makes the API server trust the authority.
    async fn publish(&mut self) -> Result<(), RoundError> {
        let Settings { service, configuration: name, .. } = &self.settings;
        let Some(authority) = &self.authority else { return Ok(()) };
        let failed = |what: &str| {
            let what = format!("{what} MutatingWebhookConfiguration {name}");
            move |source| RoundError::Request { what, source }
        };
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        for _ in 0..RACES {
            let stored = self.configurations.get_opt(name).await.map_err(failed("reading"))?;
            let decision = stored.map(|stored| bundle::decide(&stored, service, authority.certificate()));
            self.trusted = decision == Some(bundle::Decision::Current);
            let patch = match decision {
                Some(bundle::Decision::Current) => return Ok(()),
                Some(bundle::Decision::Outdated(patch)) => Patch::Strategic(patch),
                Some(bundle::Decision::NotOurs) => return Err(RoundError::NotOurs(name.clone(), service.to_string())),
                None => return Err(RoundError::NoConfiguration(name.clone())),
            };
            match self.configurations.patch(name, &parameters, &patch).await {
                Ok(_) => {
                    tracing::info!("wrote the caBundle of MutatingWebhookConfiguration {name}");
                    self.trusted = true;
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(failed("patching")(error)),
            }
        }
        Err(RoundError::Race(format!("MutatingWebhookConfiguration {name}")))
    }
}
