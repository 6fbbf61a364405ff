//! Entry points from image registries: given a reference, the credentials that may be used and the platforms, what the image's
//! configuration says, or in one clause why it is not known.
//!
//! [`cluster`] finds credentials and platforms in a cluster; the command line has its own. Both ask [`Registries`].

mod auth;
mod cache;
pub mod cluster;
mod failure;
mod fetch;
mod keyring;
mod manifest;
mod platform;
mod pull;
mod reference;
mod transport;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use failure::{Failure, Tried};
pub use fetch::{FetchError, fetch};
pub use keyring::{Credential, Keyring};
pub use platform::{Platform, Platforms};
pub use reference::Reference;
pub use transport::{Options, OptionsError};

use crate::inject::ImageFacts;
use cache::{Cache, Key, Lookup};
use transport::Transport;

/// The longest that a look-up takes, whoever waits for it.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a look-up is waited for that only the stop signal is wanted from.
const FOR_A_SIGNAL: Duration = Duration::from_secs(2);

/// All registries, and what they answered.
#[derive(Debug)]
pub struct Registries {
    transport: Transport,
    cache: Cache,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The image.
    pub image: Reference,
    /// What may be used for it, in this order.
    pub credentials: Vec<Credential>,
    /// Where its containers may run.
    pub platforms: Platforms,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the image's configuration says.
    pub facts: Result<ImageFacts, Failure>,
    /// The registry was asked for this very question, not for an earlier one.
    pub was_asked: bool,
}

/// How long to wait for a look-up, by whether the entry point is wanted or only the stop signal.
pub fn budget(required: bool) -> Duration {
    if required { LONGEST } else { FOR_A_SIGNAL }
}

impl Registries {
    /// Reads the certificate authorities; asks nothing.
    pub fn new(options: &Options) -> Result<Arc<Self>, OptionsError> {
        Ok(Arc::new(Self { transport: Transport::new(options)?, cache: Cache::default() }))
    }

    /// Looks an image up, or waits for whoever is doing so, for at most `budget`.
    ///
    /// The look-up itself goes on to its own end, so that who asks again soon finds what was too late for the first one.
    pub async fn look_up(self: &Arc<Self>, question: Question, budget: Duration) -> Answer {
        let host = question.image.host().to_owned();
        let (this, started) = (Arc::clone(self), Instant::now());
        let work = tokio::spawn(async move { this.answer(&question).await });
        let failed = |failure| Answer { facts: Err(failure), was_asked: true };
        match tokio::time::timeout(budget, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => failed(Failure::Ended { host }),
            Err(_) => {
                tracing::debug!(host, milliseconds = started.elapsed().as_millis(), "a registry is too slow");
                failed(Failure::Slow { host, limit: budget })
            }
        }
    }

    async fn answer(&self, question: &Question) -> Answer {
        let key = Key::of(question);
        let place = match self.cache.look_up(&key, Instant::now()).await {
            Lookup::Known(facts) => return Answer { facts, was_asked: false },
            Lookup::Unknown(place) => place,
        };
        let work = tokio::time::timeout(LONGEST, self.ask(question, &key));
        let slow = |_| Err(Failure::Slow { host: question.image.host().to_owned(), limit: LONGEST });
        let facts = work.await.unwrap_or_else(slow);
        place.fill(facts.clone(), Instant::now());
        Answer { facts, was_asked: true }
    }

    async fn ask(&self, question: &Question, key: &Key) -> Result<ImageFacts, Failure> {
        let Question { image, credentials, platforms } = question;
        if let Some(known) = image.digest().and_then(|digest| self.cache.content(key, digest)) {
            return Ok(known);
        }
        let mut attempts = pull::Attempts::default();
        for session in pull::sessions(&self.transport, image, credentials) {
            let facts = self.ask_in(&session, key, platforms).await;
            if let Some(settled) = attempts.settle(facts) {
                return settled;
            }
        }
        Err(attempts.failure(image, credentials))
    }

    async fn ask_in(
        &self,
        session: &pull::Session<'_>,
        key: &Key,
        platforms: &Platforms,
    ) -> Result<ImageFacts, Failure> {
        let head = session.head().await?;
        // The registry has just said what the tag leads to, to somebody with these very credentials.
        if let Some(known) = self.cache.content(key, head.digest()) {
            return Ok(known);
        }
        let facts = session.facts(head, platforms).await?;
        self.cache.keep(key, facts.clone());
        Ok(facts)
    }
}
