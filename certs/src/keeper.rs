//! Keeps the authorities, this process's leaf and the `caBundle` in agreement, for as long as it runs.
//!
//! What to do is decided by [`crate::rotation`] and [`crate::showing`]; requests, watches and the clocks are here. Watches only wake
//! it: each round reads both objects afresh, so a missed event costs at most [`Lifetimes::settle`].

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::sync::watch;

use crate::{
    anchor::Anchor,
    authority::{Authority, AuthorityError},
    bundle::{self, ServiceName},
    leaf::{Leaf, LeafError},
    lifetimes::Lifetimes,
    notice::{self, Notice, Tell},
    resolver::Resolver,
    rotation::{self, Content, Step, View, Why},
    secret::{self, Found},
    server::Server,
    showing,
    sightings::{Revision, Sightings},
    trust,
};

pub use crate::state::State;

/// The pause after a round that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The shortest pause between two rounds: somebody who keeps changing what is kept here is answered so often and no more.
const CALM: Duration = Duration::from_millis(200);
/// The longest round: a few requests of which each takes milliseconds.
const ROUND: Duration = Duration::from_secs(10);
/// The most steps of a round. The longest way from anywhere to rest has four; each lost race means that another replica won.
const STEPS: usize = 8;
/// The name under which managedFields shows what was written here.
const FIELD_MANAGER: &str = "leader-webhook";

/// Which objects it keeps, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Service through which the API server calls.
    pub service: ServiceName,
    /// The name of the authorities' Secret, in the Service's namespace.
    pub secret: String,
    /// The name of the `MutatingWebhookConfiguration`.
    pub configuration: String,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
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
    #[error("the Secret and the MutatingWebhookConfiguration were changed by others {STEPS} times in a row")]
    Race,
    #[error("MutatingWebhookConfiguration {0} does not exist: apply the manifests of deploy/ again")]
    NoConfiguration(String),
    #[error(
        "MutatingWebhookConfiguration {0} has no webhook that calls Service {1}: apply the manifests of deploy/ again"
    )]
    NotOurs(String, String),
    #[error("the API server did not answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Leaf(#[from] LeafError),
}

/// The task. Make it with [`Keeper::new`], then spawn [`Keeper::run`].
pub struct Keeper {
    server: Server,
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    settings: Settings,
    resolver: Arc<Resolver>,
    state: watch::Sender<State>,
    tell: Tell,
    /// What the Secret held when it was last read, and when that was.
    content: Option<(Content, Duration)>,
    /// What stood in the bundle, and as retired in the Secret, when they were last read. A read that fails proves nothing and changes
    /// nothing.
    bundle: Sightings,
    retired: Sightings,
    /// The bundle that was wanted and was there: if it is still wanted and is not there, somebody else changed it.
    in_place: Vec<Anchor>,
    leaf: Option<Leaf>,
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
        tell: Tell,
    ) -> Result<(Self, Arc<Resolver>, watch::Receiver<State>), KeeperError> {
        let resolver = Arc::new(Resolver::new(placeholder(&settings.service, Timestamp::now())?.certified_key));
        let (state, receiver) = watch::channel(State::Untrusted("the certificate has not been made yet".to_owned()));
        let keeper = Self {
            server: Server::new(client.clone()),
            secrets: Api::namespaced(client.clone(), &settings.service.namespace),
            configurations: Api::all(client),
            settings,
            resolver: Arc::clone(&resolver),
            state,
            tell,
            content: None,
            bundle: Sightings::default(),
            retired: Sightings::default(),
            in_place: Vec::new(),
            leaf: None,
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
            let pause = self.round().await;
            tokio::time::sleep(CALM).await;
            let change = tokio::time::timeout(pause, changes.next()).await;
            if let Ok(Some(Err(error))) = change {
                tracing::warn!(%error, "watching the certificates' objects failed; it is tried again");
            }
        }
    }

    /// One round, and how long to sleep after it.
    async fn round(&mut self) -> Duration {
        // What is written follows from what was read no longer ago than others need to follow.
        let limit = ROUND.min(self.settings.lifetimes.settle());
        let steps = tokio::time::timeout(limit, self.steps()).await.unwrap_or(Err(RoundError::Timeout(limit)));
        // Also without an answer: a leaf needs no API server.
        let shown = self.show();
        let reason = steps.and(shown).err().map(|error| error.to_string()).unwrap_or_default();
        if reason != self.complaint && !reason.is_empty() {
            tracing::error!(reason, "the certificates could not be brought up to date; it is tried again every second");
        }
        self.complaint.clone_from(&reason);
        let next = self.judge();
        self.state.send_if_modified(|state| std::mem::replace(state, next.clone()) != next);
        if reason.is_empty() { self.settings.lifetimes.settle() } else { RETRY }
    }

    /// Does what is to be done until there is nothing.
    async fn steps(&mut self) -> Result<(), RoundError> {
        for _ in 0..STEPS {
            let stored = self.read_secret().await?;
            let configuration = self.read_configuration().await?;
            let published = configuration.as_ref().and_then(|stored| bundle::read(stored, &self.settings.service));
            let revision = configuration.as_ref().and_then(revision);
            self.bundle.see_revision(published.iter().flat_map(|found| &found.anchors), revision, self.server.at());
            let found = secret::read(stored.as_ref());
            if let Found::Content { content, .. } = &found {
                self.retired.see(content.retired.iter().map(|retired| &retired.anchor), self.server.at());
                self.content = Some((content.clone(), self.server.at()));
            }
            let view = View {
                is_uniform: published.as_ref().is_some_and(|published| published.is_uniform),
                is_shared: published.as_ref().is_some_and(|published| published.is_shared),
                ..self.view()
            };
            let (life, now) = (self.settings.lifetimes.authority(), view.now);
            match rotation::next(found, &view, || Authority::generate_for(life, now))? {
                Step::Write(content, why) => self.write(stored.as_ref(), &content, &why).await?,
                Step::Publish(anchors) => self.publish(configuration, anchors).await?,
                Step::Rest => {
                    self.in_place = self.content.as_ref().map(|(content, _)| content.anchors()).unwrap_or_default();
                    return Ok(());
                }
            }
        }
        Err(RoundError::Race)
    }

    async fn read_secret(&mut self) -> Result<Option<Secret>, RoundError> {
        let Settings { service, secret: name, .. } = &self.settings;
        let path = Secret::url_path(&(), Some(&service.namespace));
        let read = self.server.get(&path, name).await.and_then(parse);
        read.map_err(|source| RoundError::Request { what: format!("reading {}", self.secret_name()), source })
    }

    async fn read_configuration(&mut self) -> Result<Option<MutatingWebhookConfiguration>, RoundError> {
        let path = MutatingWebhookConfiguration::url_path(&(), None);
        let read = self.server.get(&path, &self.settings.configuration).await.and_then(parse);
        read.map_err(|source| RoundError::Request { what: format!("reading {}", self.configuration_name()), source })
    }

    async fn write(&self, stored: Option<&Secret>, content: &Content, why: &Why) -> Result<(), RoundError> {
        let Settings { service, secret: name, .. } = &self.settings;
        let new = secret::build(name, &service.namespace, content, stored);
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match stored {
            Some(_) => self.secrets.replace(name, &parameters, &new).await,
            None => self.secrets.create(&parameters, &new).await,
        };
        match written {
            Ok(_) => self.tell_written(content, why),
            // Another replica was first, or somebody deleted it just now: its word counts, and is read next.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(source) => {
                return Err(RoundError::Request { what: format!("writing {}", self.secret_name()), source });
            }
        }
        Ok(())
    }

    fn tell_written(&self, content: &Content, why: &Why) {
        let secret = self.secret_name();
        let until = content.retired.first().map(|retired| retired.until);
        let overlap = until.map_or_else(
            || "Nothing was trusted before, so that reviews could not be answered until now.".to_owned(),
            |until| format!("What was trusted before stays trusted until {until:.0}, so that no review fails."),
        );
        let settle = self.settings.lifetimes.settle();
        let (is_warning, reason, note) = match why {
            // Nobody's fault, and nothing to tell: this is how an installation begins.
            Why::Missing if until.is_none() && self.content.is_none() => {
                tracing::info!("created {secret} with a new certificate authority");
                return;
            }
            Why::Missing => (
                true,
                notice::MISSING,
                format!("{secret} was deleted: a new certificate authority was made. {overlap}"),
            ),
            Why::Unusable(why) => {
                let note = format!("{secret} could not be used ({why}): a new certificate authority signs. {overlap}");
                (true, notice::UNUSABLE, note)
            }
            Why::Damaged(why) => (
                true,
                notice::UNUSABLE,
                format!("a part of {secret} could not be used ({why}) and was dropped. {overlap}"),
            ),
            Why::Announced => {
                let note =
                    format!("{secret} has a new certificate authority, which signs in {settle:?}, when it is known");
                (false, notice::ANNOUNCED, note)
            }
            Why::Promoted => (false, notice::PROMOTED, format!("the new certificate authority signs. {overlap}")),
            Why::Tidied => {
                tracing::info!("took out of {secret} what is over");
                return;
            }
            Why::Joined => {
                tracing::info!("the caBundle has certificates that are not those of {secret}. {overlap}");
                return;
            }
        };
        self.tell(is_warning, reason, note);
    }

    /// Makes the API server trust `anchors`.
    async fn publish(
        &self,
        configuration: Option<MutatingWebhookConfiguration>,
        mut anchors: Vec<Anchor>,
    ) -> Result<(), RoundError> {
        let Settings { service, configuration: name, .. } = &self.settings;
        let stored = configuration.ok_or_else(|| RoundError::NoConfiguration(name.clone()))?;
        let published = bundle::read(&stored, service);
        let published = published.ok_or_else(|| RoundError::NotOurs(name.clone(), service.to_string()))?;
        let is_repair = self.in_place == anchors && !published.is_shared;
        if published.is_shared {
            let others = published.anchors.into_iter().filter(|anchor| !anchors.contains(anchor));
            let others: Vec<Anchor> = others.collect();
            anchors.extend(others);
        }
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Strategic(bundle::patch(&stored, service, &anchors));
        match self.configurations.patch(name, &parameters, &patch).await {
            Ok(_) if is_repair => {
                let note = format!(
                    "the caBundle of {} had been changed by somebody else: it was put right. Reviews may have failed \
                     meanwhile; see docs/gitops.md for how tools leave it alone",
                    self.configuration_name()
                );
                self.tell(true, notice::REPAIRED, note);
            }
            Ok(_) => {
                tracing::info!(certificates = anchors.len(), "wrote the caBundle of {}", self.configuration_name());
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(source) => {
                let what = format!("patching {}", self.configuration_name());
                return Err(RoundError::Request { what, source });
            }
        }
        Ok(())
    }

    /// Shows a new leaf where one is needed.
    fn show(&mut self) -> Result<(), RoundError> {
        let Some((content, read_at)) = &self.content else { return Ok(()) };
        let view = self.view();
        let Some(authority) = showing::choose(self.leaf.as_ref(), content, *read_at, &view) else { return Ok(()) };
        let life = self.settings.lifetimes.certificate();
        let leaf = Leaf::issue_for(life, authority, &self.settings.service.dns_names(), view.now)?;
        tracing::info!(until = %leaf.not_after, "showing a new certificate");
        self.resolver.set(Arc::clone(&leaf.certified_key));
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Whether the API server accepts what is shown.
    fn judge(&self) -> State {
        let Some(leaf) = &self.leaf else { return State::Untrusted(self.complaint.clone()) };
        let name = self.settings.service.dns_name();
        match trust::check(&leaf.certified_key.cert, &self.bundle.present(), &name, self.server.now()) {
            Ok(()) => State::Trusted { from: leaf.not_before, until: leaf.not_after },
            Err(error) if self.complaint.is_empty() => {
                let configuration = self.configuration_name();
                State::Untrusted(format!("the caBundle of {configuration} does not cover the certificate: {error}"))
            }
            Err(_) => State::Untrusted(self.complaint.clone()),
        }
    }

    fn view(&self) -> View<'_> {
        View {
            now: self.server.now(),
            at: self.server.at(),
            bundle: &self.bundle,
            is_uniform: true,
            is_shared: false,
            retired: &self.retired,
            lifetimes: &self.settings.lifetimes,
        }
    }

    fn tell(&self, is_warning: bool, reason: &'static str, note: String) {
        Notice { is_warning, reason, note }.tell(&self.tell);
    }

    fn secret_name(&self) -> String {
        format!("Secret {}/{}", self.settings.service.namespace, self.settings.secret)
    }

    fn configuration_name(&self) -> String {
        format!("MutatingWebhookConfiguration {}", self.settings.configuration)
    }
}

/// Which state of the configuration it is.
fn revision(configuration: &MutatingWebhookConfiguration) -> Option<Revision> {
    let metadata = &configuration.metadata;
    Some(Revision { uid: metadata.uid.clone()?, generation: metadata.generation? })
}

/// A certificate that nobody trusts, so that the TLS server has one from the start.
pub(crate) fn placeholder(service: &ServiceName, now: Timestamp) -> Result<Leaf, KeeperError> {
    Ok(Leaf::issue(&Authority::generate(now)?, &service.dns_names(), now)?)
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(json: Option<Vec<u8>>) -> Result<Option<T>, kube::Error> {
    json.map(|json| serde_json::from_slice(&json).map_err(kube::Error::SerdeError)).transpose()
}
