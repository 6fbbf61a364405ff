//! Judging: what a review comes to, with everything that is looked up for it and made before it is answered.
//!
//! No answer lets an annotated object through as it was: whatever fails is a refusal. How much is worked on at once is decided here, too;
//! how a review arrives, by [`crate::handler`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{Client, core::admission::AdmissionResponse};
use leader_agent::timing::parse_duration;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    task::JoinError,
};

use crate::{
    access::{self, AccessError},
    api_error, facts,
    inject::{self, Decision, Defaults, Election, Facts, ImageAnswer, ImageRequest, Refusal},
    metrics,
    observers::Observers,
    registry::{Registries, cluster::Cluster},
    review::{Plan, Review},
    rewrites, steering, turning_on,
};

/// The API server's patience when it does not name it: what deploy/ sets.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest `timeoutSeconds` that the API server takes.
const LONGEST: Duration = Duration::from_secs(30);
/// How much of that patience is left for the way to the API server and back.
const WAY: Duration = Duration::from_secs(2);
/// How many reviews are worked on at once; one of full size takes about 30 MB as JSON values, and the pod has 512.
const AT_ONCE: usize = 8;
/// The longest body of a review that does not count as worked on while a registry is waited for. A registry that is down would hold
/// up the reviews of all others otherwise.
const LIGHT: usize = 128 * 1024;
/// How many such reviews wait at once; together they take no more than the others may.
const WAITING: usize = 64;

/// Judges reviews.
pub(crate) struct Judge {
    /// For facts and the objects of ids.
    client: Client,
    /// What is injected.
    defaults: Defaults,
    /// The namespace that the webhook runs in.
    namespace: String,
    observers: Arc<Observers>,
    slots: Arc<Semaphore>,
    waiting: Semaphore,
    images: Cluster,
}

/// The right to be worked on.
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
    is_light: bool,
}

impl Slot {
    /// For a review whose body has this many bytes.
    pub(crate) fn of_body(self, bytes: usize) -> Self {
        Self { is_light: bytes <= LIGHT, ..self }
    }
}

/// When a review must be answered, counted from its header.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    at: tokio::time::Instant,
    patience: Duration,
}

impl Deadline {
    /// The API server says in the query (`timeout=10s`) how long it waits.
    pub(crate) fn of(query: Option<&str>) -> Self {
        let named = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("timeout="));
        let timeout = named.and_then(|text| parse_duration(text).ok()).unwrap_or(TIMEOUT).min(LONGEST);
        let patience = timeout.saturating_sub(WAY).max(timeout / 2);
        Self { at: tokio::time::Instant::now() + patience, patience }
    }
}

/// Why a review was not answered with an outcome.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("looking up what is bound to the namespace's service account `default` failed: {}", api_error::reason(.0))]
    Facts(#[from] Box<kube::Error>),
    #[error(transparent)]
    TurningOn(#[from] turning_on::review::AskError),
    #[error(
        "the webhook was not done within {0:?}, because it did not hear from the API server or is overloaded: try again"
    )]
    Timeout(Duration),
    #[error("internal error: {0}; please report this")]
    Broken(#[from] JoinError),
}

impl Judge {
    pub(crate) fn new(
        client: Client,
        registries: Arc<Registries>,
        defaults: Defaults,
        namespace: String,
        observers: Arc<Observers>,
    ) -> Self {
        let (slots, waiting) = (Arc::new(Semaphore::new(AT_ONCE)), Semaphore::new(WAITING));
        let images = Cluster::new(client.clone(), registries);
        Self { client, defaults, namespace, observers, slots, waiting, images }
    }

    /// The right to be worked on; `None` where there was none in time.
    pub(crate) async fn slot(&self, deadline: Deadline) -> Option<Slot> {
        let permit = tokio::time::timeout_at(deadline.at, Arc::clone(&self.slots).acquire_owned()).await;
        Some(Slot { _permit: permit.ok()?.ok()?, is_light: false })
    }

    /// The answer to a review that was read.
    pub(crate) async fn answer(
        &self,
        review: Arc<Review>,
        slot: Slot,
        deadline: Deadline,
    ) -> (metrics::Result, AdmissionResponse) {
        match review.plan(&self.namespace) {
            Plan::Pass(reason) => {
                tracing::debug!(uid = review.request.uid, reason, "passed");
                (metrics::Result::Passed, review.pass())
            }
            Plan::Refuse(reason) => (metrics::Result::Refused, review.refuse(&reason)),
            Plan::Service => {
                let work = tokio::time::timeout_at(deadline.at, steering::answer(&self.client, &review)).await;
                work.unwrap_or_else(|_| {
                    let reason = Failure::Timeout(deadline.patience).to_string();
                    (metrics::Result::Failed, review.refuse(&reason))
                })
            }
            Plan::Inject => {
                let work = Box::pin(self.inject(Arc::clone(&review), slot, deadline));
                let work = tokio::time::timeout_at(deadline.at, work).await;
                work.unwrap_or(Err(Failure::Timeout(deadline.patience))).unwrap_or_else(|failure| {
                    let result = match &failure {
                        Failure::Refused(_) => metrics::Result::Refused,
                        Failure::Access(error) if error.is_refusal() => metrics::Result::Refused,
                        _ => metrics::Result::Failed,
                    };
                    (result, review.refuse(&failure.to_string()))
                })
            }
        }
    }

    async fn inject(
        &self,
        review: Arc<Review>,
        mut slot: Slot,
        deadline: Deadline,
    ) -> Result<(metrics::Result, AdmissionResponse), Failure> {
        let (Some(object), namespace) = (&review.object, review.namespace()) else {
            unreachable!("a plan to inject has an object")
        };
        // What is kept as it is needs nothing from the cluster: it is looked up once that turns out not to be enough.
        let (mut facts, mut looked_up) = (Facts::default(), false);
        // A large object is worked on for long, and in this thread nothing else would be answered meanwhile. The work cannot be
        // interrupted, so that the slot is its own until it ends, whoever still waits for it.
        let (answer, slot) = loop {
            let (worked_on, defaults) = (Arc::clone(&review), self.defaults.clone());
            let work = move || {
                let step = decide(&worked_on, &defaults, &facts);
                (step, facts, slot)
            };
            let (step, free);
            (step, facts, free) = tokio::task::spawn_blocking(work).await?;
            let answer = match step? {
                Step::Done(answer) if looked_up || !answer.needs_facts() => break (answer, free),
                Step::NeedsImage(request) if looked_up => {
                    let found = self.find_image(namespace, object, &request, deadline, &mut facts);
                    ((), slot) = self.aside(free, found).await;
                    continue;
                }
                // An image is asked for with the credentials of the pods' account, which the facts may make another one.
                Step::NeedsImage(_) => None,
                Step::Done(answer) => Some(answer),
            };
            let secret = self.defaults.agent_pull_secret.as_deref();
            let found;
            let work = Box::pin(facts::look_up(&self.client, namespace, object, secret));
            (found, slot) = self.aside(free, work).await;
            (facts, looked_up) = (found.map_err(Box::new)?, true);
            if let Some(answer) = answer.filter(|_| facts == Facts::default()) {
                break (answer, slot);
            }
        };
        let Answer { election, result, mut response, is_identical } = *answer;
        if let Some(election) = election.filter(|_| response.allowed) {
            // What is left to do waits for the API server, which is slowest when there are most reviews.
            let _aside = self.set_aside(slot);
            let asked = Box::pin(turning_on::review::asked(&self.client, namespace, &review, &election)).await?;
            // A rollout of everything would ask for each object of every id otherwise, while the API server has the most to do.
            if !election.granted_before || asked.waiting.is_some() {
                let (secret, dry_run) = (self.defaults.agent_pull_secret.as_deref(), review.request.dry_run);
                let made = access::ensure(&self.client, namespace, &election, secret, &asked, dry_run);
                Box::pin(made).await?;
            }
            let warnings = asked.waiting.map(|waiting| waiting.warnings(namespace, &election.id)).unwrap_or_default();
            if !warnings.is_empty() {
                response.warnings.get_or_insert_default().extend(warnings);
            }
        }
        if is_identical {
            self.observers.rewritten(&review);
        }
        Ok((result, response))
    }

    /// Looks an image up, and where that fails, what another pod of the same owner knows about it.
    async fn find_image(
        &self,
        namespace: &str,
        object: &Value,
        request: &ImageRequest,
        deadline: Deadline,
        facts: &mut Facts,
    ) {
        let started = Instant::now();
        let left = deadline.at.saturating_duration_since(tokio::time::Instant::now());
        let found = self.images.look_up(namespace, request, left).await;
        self.observers.metrics.count_look_up(found.counts_as(), started.elapsed());
        if let ImageAnswer::Failed(reason) = &found.answer {
            tracing::warn!(namespace, image = request.image, reason, "an image's entry point was not found");
            let id = object["metadata"]["annotations"][leader_agent::names::ID].as_str();
            if let Some(id) = id.filter(|_| request.required && object["kind"] == "Pod") {
                let record = facts::sibling_record(&self.client, namespace, object, id).await;
                facts.sibling_record = record.unwrap_or_else(|error| {
                    tracing::warn!(namespace, id, %error, "cannot read the pods of the same owner");
                    None
                });
            }
        }
        facts.image = Some(found.answer);
    }

    /// Does `work`, which waits for others, and gives the slot away meanwhile where that is safe.
    async fn aside<T>(&self, slot: Slot, work: impl Future<Output = T>) -> (T, Slot) {
        let (is_light, aside) = (slot.is_light, self.set_aside(slot));
        let done = work.await;
        if let Some(slot) = aside.slot {
            return (done, slot);
        }
        let Ok(permit) = Arc::clone(&self.slots).acquire_owned().await else { unreachable!("it is never closed") };
        (done, Slot { _permit: permit, is_light })
    }

    /// Gives the slot away where the review is light and there is room among those that wait.
    fn set_aside(&self, slot: Slot) -> Aside<'_> {
        let place = self.waiting.try_acquire().ok().filter(|_| slot.is_light);
        Aside { slot: Some(slot).filter(|_| place.is_none()), _place: place }
    }
}

/// A review that waits for others, with its slot where that is not given away.
struct Aside<'a> {
    slot: Option<Slot>,
    _place: Option<SemaphorePermit<'a>>,
}

/// What injection came to.
enum Step {
    Done(Box<Answer>),
    NeedsImage(ImageRequest),
}

/// What is answered, once the objects of the election are there.
struct Answer {
    election: Option<Election>,
    result: metrics::Result,
    response: AdmissionResponse,
    /// It is stored as it was before.
    is_identical: bool,
}

impl Answer {
    /// Whether facts of the cluster may make it another one: not where nothing is injected, nor where what was there is kept.
    fn needs_facts(&self) -> bool {
        self.election.as_ref().is_some_and(|election| election.injected_afresh || !election.live_before)
    }
}

/// Everything between the requests: it takes as long as the object is large.
fn decide(review: &Review, defaults: &Defaults, facts: &Facts) -> Result<Step, Refusal> {
    let object = review.object.as_ref().unwrap_or(&Value::Null);
    let outcome = match inject::workload(object, review.old.as_ref(), defaults, facts)? {
        Decision::Done(outcome) => outcome,
        Decision::NeedsImage(request) => return Ok(Step::NeedsImage(request)),
    };
    let election = outcome.election.clone();
    let is_identical =
        review.old.as_ref().is_some_and(|old| election.is_some() && rewrites::is_identical(&outcome.object, old));
    let response = review.accept(outcome);
    let result = match (response.allowed, &election, &response.patch) {
        (false, ..) => metrics::Result::Failed,
        (true, Some(election), _) if election.injected_afresh => metrics::Result::Injected,
        (true, Some(_), _) => metrics::Result::Kept,
        (true, None, Some(_)) => metrics::Result::Ejected,
        (true, None, None) => metrics::Result::Passed,
    };
    Ok(Step::Done(Box::new(Answer { election, result, response, is_identical })))
}
