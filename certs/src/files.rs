//! A certificate that somebody else keeps, in two mounted files: shown, read again when it changes, and judged by the `caBundle`,
//! which is that one's to write.

use std::{fs, io, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher::watch_object},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    anchor::Anchor,
    bundle::{self, ServiceName},
    keeper::{KeeperError, parse, placeholder},
    notice::{self, Notice, Tell},
    pair::{self, Pair},
    resolver::Resolver,
    server::Server,
    state::State,
    trust::{self, TrustError},
};

/// How often the files are read. They are small, and in memory where a Secret is mounted.
const POLL: Duration = Duration::from_secs(2);
/// How often the configuration is read when its watch says nothing: it tells the API server's clock.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long reading the configuration may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Which files, and what they are for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificate in PEM, and after it those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// The Service through which the API server calls.
    pub service: ServiceName,
    /// The name of the `MutatingWebhookConfiguration`.
    pub configuration: String,
}

/// The task. Make it with [`Files::new`], then spawn [`Files::run`].
pub struct Files {
    server: Server,
    configurations: Api<MutatingWebhookConfiguration>,
    settings: Settings,
    resolver: Arc<Resolver>,
    state: watch::Sender<State>,
    tell: Tell,
    /// What the files held when they were last read, so that they are understood once.
    content: Option<(Vec<u8>, Vec<u8>)>,
    /// The newest that can be shown, and is not shown yet; and whether it was told why.
    newest: Option<Pair>,
    is_waiting: bool,
    shown: Option<Pair>,
    /// What is wrong with the files, and whether it was so the time before: two files are not replaced at one moment, so that
    /// one look may find halves of two pairs.
    problem: Option<(String, Seen)>,
    /// What the API server trusts, or why that is not known.
    bundle: Result<Vec<Anchor>, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Once,
    Told,
}

impl Files {
    /// One that shows the files' certificate, and its state. Until they can be used, and the bundle is known, a certificate of
    /// nobody's is shown, with which probes can ask why.
    pub fn new(
        client: Client,
        settings: Settings,
        tell: Tell,
    ) -> Result<(Self, Arc<Resolver>, watch::Receiver<State>), KeeperError> {
        let resolver = Arc::new(Resolver::new(placeholder(&settings.service, Timestamp::now())?.certified_key));
        let reason = "the certificate has not been read yet".to_owned();
        let (state, receiver) = watch::channel(State::Untrusted(reason.clone()));
        let files = Self {
            server: Server::new(client.clone()),
            configurations: Api::all(client),
            settings,
            resolver: Arc::clone(&resolver),
            state,
            tell,
            content: None,
            newest: None,
            is_waiting: false,
            shown: None,
            problem: None,
            bundle: Err(reason),
        };
        Ok((files, resolver, receiver))
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let changes = watch_object(self.configurations.clone(), &self.settings.configuration).default_backoff();
        let mut changes = pin!(changes);
        let mut looked = None;
        loop {
            // While something is not as it should be, what puts it right is not waited for longer than the files are.
            let pause = if self.newest.is_none() && self.state.borrow().ready().is_ok() { INTERVAL } else { POLL };
            if looked.is_none_or(|looked: Instant| looked.elapsed() >= pause) {
                looked = self.look().await.then(Instant::now);
            }
            self.read().await;
            self.show();
            match tokio::time::timeout(POLL, changes.next()).await {
                Ok(Some(Ok(_))) => looked = None,
                Ok(Some(Err(error))) => tracing::warn!(%error, "watching the caBundle failed; it is tried again"),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Reads what the API server trusts. One look that fails proves nothing.
    async fn look(&mut self) -> bool {
        let name = &self.settings.configuration;
        let path = MutatingWebhookConfiguration::url_path(&(), None);
        let failure = match tokio::time::timeout(REQUEST, self.server.get(&path, name)).await {
            Ok(read) => match read.and_then(parse::<MutatingWebhookConfiguration>) {
                Ok(found) => {
                    let published = found.as_ref().and_then(|found| bundle::read(found, &self.settings.service));
                    self.bundle = published.map(|published| published.anchors).ok_or_else(|| {
                        let service = &self.settings.service;
                        format!("there is no MutatingWebhookConfiguration {name} that calls Service {service}")
                    });
                    return true;
                }
                Err(error) => error.to_string(),
            },
            Err(_) => format!("no answer within {REQUEST:?}"),
        };
        tracing::warn!(failure, "reading MutatingWebhookConfiguration {name} failed; it is tried again");
        if self.bundle.is_err() {
            self.bundle = Err(format!("reading MutatingWebhookConfiguration {name} failed: {failure}"));
        }
        false
    }

    /// Reads the files.
    async fn read(&mut self) {
        let (certificate, key) = (self.settings.certificate.clone(), self.settings.key.clone());
        let read = move || -> io::Result<_> { Ok((fs::read(certificate)?, fs::read(key)?)) };
        let found = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(found)) if self.content.as_ref() == Some(&found) && self.problem.is_none() => return,
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return self.complain(&error.to_string()),
            Err(error) => return self.complain(&error.to_string()),
        };
        match Pair::from_pem(&found.0, &found.1) {
            Ok(pair) => {
                self.problem = None;
                self.content = Some(found);
                let is_shown = self.shown.as_ref().is_some_and(|shown| shown.certificate == pair.certificate);
                self.newest = (!is_shown).then_some(pair);
                self.is_waiting = false;
            }
            Err(error) => self.complain(&error.to_string()),
        }
    }

    /// Says what is wrong with the files, once, when it was so the time before.
    fn complain(&mut self, what: &str) {
        let seen = match &self.problem {
            Some((problem, seen)) if problem == what => *seen,
            _ => {
                self.problem = Some((what.to_owned(), Seen::Once));
                return;
            }
        };
        if seen == Seen::Once {
            let Settings { certificate, key, .. } = &self.settings;
            let instead = match &self.shown {
                Some(shown) => {
                    let until = shown.certificate.not_after();
                    format!("the certificate that was read before is shown on, until {until}")
                }
                None => "there is no other, so that this replica answers no reviews".to_owned(),
            };
            let note = format!(
                "the certificate in {} and {} cannot be used: {what}; {instead}",
                certificate.display(),
                key.display()
            );
            self.tell(true, notice::FILES_UNUSABLE, note);
            self.problem = Some((what.to_owned(), Seen::Told));
        }
    }

    /// Shows the newest when that is right, and tells whether the API server accepts what is shown.
    fn show(&mut self) {
        if let Some(newest) = self.newest.take_if(|newest| {
            let judge = |pair: &Pair| accepts(&self.settings, &self.bundle, pair, self.server.now());
            pair::replaces(newest, self.shown.as_ref(), judge)
        }) {
            let note = format!("a new certificate is shown, until {}", newest.certificate.not_after());
            self.resolver.set(Arc::clone(&newest.certified_key));
            let before = self.shown.replace(newest);
            if before.is_some() {
                self.tell(false, notice::FILES_RELOADED, note);
            } else {
                tracing::info!("{note}");
            }
        }
        if self.newest.is_some() && !self.is_waiting {
            self.is_waiting = true;
            let note = format!(
                "the new certificate in {} is not shown yet: the caBundle of MutatingWebhookConfiguration {} covers only the one \
                 before",
                self.settings.certificate.display(),
                self.settings.configuration
            );
            self.tell(true, notice::FILES_WAITING, note);
        }
        let next = self.judge();
        if let (State::Trusted { .. }, State::Untrusted(reason)) = (&*self.state.borrow(), &next) {
            self.tell(true, notice::NOT_COVERED, reason.clone());
        }
        self.state.send_if_modified(|state| std::mem::replace(state, next.clone()) != next);
    }

    fn judge(&self) -> State {
        let Some(shown) = &self.shown else {
            let problem = self.problem.as_ref().map(|(problem, _)| problem.as_str());
            let (certificate, key) = (self.settings.certificate.display(), self.settings.key.display());
            let problem = problem.unwrap_or("it has not been read yet");
            return State::Untrusted(format!("the certificate in {certificate} and {key} cannot be used: {problem}"));
        };
        if let Err(reason) = &self.bundle {
            return State::Untrusted(reason.clone());
        }
        match accepts(&self.settings, &self.bundle, shown, self.server.now()) {
            Ok(()) => State::Trusted { from: shown.certificate.not_before(), until: shown.certificate.not_after() },
            Err(error) => State::Untrusted(format!(
                "the caBundle of MutatingWebhookConfiguration {} does not cover the certificate in {}: {error}. Whoever makes the \
                 certificate writes the caBundle, too",
                self.settings.configuration,
                self.settings.certificate.display()
            )),
        }
    }

    fn tell(&self, is_warning: bool, reason: &'static str, note: String) {
        Notice { is_warning, reason, note }.tell(&self.tell);
    }
}

/// Whether the API server accepts `pair`. A bundle that is not known accepts nothing.
fn accepts(
    settings: &Settings,
    bundle: &Result<Vec<Anchor>, String>,
    pair: &Pair,
    now: Timestamp,
) -> Result<(), TrustError> {
    let bundle = bundle.as_deref().unwrap_or_default();
    trust::check(&pair.certified_key.cert, bundle, &settings.service.dns_name(), now)
}
