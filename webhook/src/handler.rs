//! The HTTP side of the webhook: reviews, health and metrics.
//!
//! Whatever arrives gets an answer before the API server stops waiting, and none that lets an annotated object through as it was:
//! what cannot be read is an HTTP error, which `failurePolicy: Fail` makes a refusal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use kube::{Client, core::admission::AdmissionResponse};
use leader_agent::timing::parse_duration;
use leader_certs::keeper;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinError,
};

use crate::{
    access::{self, AccessError},
    api_error, facts,
    inject::{self, Decision, Defaults, Election, Facts, ImageAnswer, ImageRequest, Refusal},
    metrics::{self, Metrics},
    registry::{Registries, cluster::Cluster},
    review::{self, Malformed, Plan, Review},
    sent::Sent,
};

/// The longest body: the API server's own limit for a request.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// How long a body may take to arrive: the API server sends it at once.
const BODY: Duration = Duration::from_secs(3);
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

/// What reviews are answered with.
pub struct Webhook {
    /// For facts and the objects of ids. Without one (in tests of what comes before), those requests fail.
    pub client: Client,
    /// What is injected.
    pub defaults: Defaults,
    /// The namespace that the webhook runs in.
    pub namespace: String,
    /// Whether the API server trusts this replica.
    pub certificates: watch::Receiver<keeper::State>,
    draining: AtomicBool,
    metrics: Metrics,
    slots: Arc<Semaphore>,
    waiting: Semaphore,
    images: Cluster,
}

/// The right to be worked on.
struct Slot {
    permit: OwnedSemaphorePermit,
    is_light: bool,
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
    #[error(
        "the webhook was not done within {0:?}, because it did not hear from the API server or is overloaded: try again"
    )]
    Timeout(Duration),
    #[error("internal error: {0}; please report this")]
    Broken(#[from] JoinError),
}

/// A request that is answered with an HTTP error.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLong,
    #[error("the body must be application/json")]
    MediaType,
    #[error("the body did not arrive within {BODY:?}")]
    Slow,
    #[error("the body could not be read: {0}")]
    Broken(String),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("too many reviews are being worked on: try again")]
    Busy,
}

impl Rejection {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Webhook {
    /// A webhook that serves until [`Webhook::drain`].
    pub fn new(
        client: Client,
        registries: Arc<Registries>,
        defaults: Defaults,
        namespace: String,
        certificates: watch::Receiver<keeper::State>,
    ) -> Arc<Self> {
        let (metrics, slots) = (Metrics::default(), Arc::new(Semaphore::new(AT_ONCE)));
        let (draining, waiting) = (AtomicBool::new(false), Semaphore::new(WAITING));
        let images = Cluster::new(client.clone(), registries);
        Arc::new(Self { client, defaults, namespace, certificates, draining, metrics, slots, waiting, images })
    }

    /// From now on it is not ready, so that clients go elsewhere; reviews are answered still.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The paths that are served.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/inject", post(answer))
            .route("/livez", get(async || "alive\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(text))
            .with_state(self)
    }

    /// The answer to a review that was read.
    async fn judge(&self, review: Arc<Review>, slot: Slot, deadline: Deadline) -> (metrics::Result, AdmissionResponse) {
        match review.plan(&self.namespace) {
            Plan::Pass(reason) => {
                tracing::debug!(uid = review.request.uid, reason, "passed");
                (metrics::Result::Passed, review.pass())
            }
            Plan::Refuse(reason) => (metrics::Result::Refused, review.refuse(&reason)),
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
        let (answer, _slot) = loop {
            let (worked_on, defaults) = (Arc::clone(&review), self.defaults.clone());
            let work = move || {
                let step = decide(&worked_on, &defaults, &facts);
                (step, facts, slot)
            };
            let (step, free);
            (step, facts, free) = tokio::task::spawn_blocking(work).await?;
            slot = match step? {
                Step::Done(answer) if looked_up || !answer.needs_facts() => break (answer, free),
                Step::NeedsImage(request) if looked_up => {
                    let found = self.find_image(namespace, object, &request, deadline, &mut facts);
                    self.aside(free, found).await
                }
                // An image is asked for with the credentials of the pods' account, which the facts may make another one.
                Step::Done(_) | Step::NeedsImage(_) => {
                    facts = facts::look_up(&self.client, namespace, object).await.map_err(Box::new)?;
                    looked_up = true;
                    free
                }
            };
        };
        let Answer { election, result, response } = *answer;
        if let Some(election) = election.filter(|_| response.allowed) {
            let made = access::ensure(&self.client, namespace, &election, review.request.dry_run);
            Box::pin(made).await?;
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
        self.metrics.count_look_up(found.counts_as(), started.elapsed());
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
    async fn aside(&self, slot: Slot, work: impl Future<Output = ()>) -> Slot {
        let Some(_waiting) = self.waiting.try_acquire().ok().filter(|_| slot.is_light) else {
            work.await;
            return slot;
        };
        drop(slot.permit);
        work.await;
        let Ok(permit) = Arc::clone(&self.slots).acquire_owned().await else { unreachable!("it is never closed") };
        Slot { permit, ..slot }
    }
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
    let response = review.accept(outcome);
    let result = match (response.allowed, &election, &response.patch) {
        (false, ..) => metrics::Result::Failed,
        (true, Some(election), _) if election.injected_afresh => metrics::Result::Injected,
        (true, Some(_), _) => metrics::Result::Kept,
        (true, None, Some(_)) => metrics::Result::Ejected,
        (true, None, None) => metrics::Result::Passed,
    };
    Ok(Step::Done(Box::new(Answer { election, result, response })))
}

async fn answer(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    let deadline = Deadline::of(request.uri().query());
    let permit = Arc::clone(&webhook.slots).acquire_owned();
    let Ok(Ok(permit)) = tokio::time::timeout_at(deadline.at, permit).await else {
        return reject(&webhook, &Rejection::Busy, Instant::now());
    };
    let read = read(request).await;
    let slot = Slot { permit, is_light: read.as_ref().is_ok_and(|body| body.len() <= LIGHT) };
    let started = Instant::now();
    let review = match read.and_then(|body| Ok(Review::parse(&body)?)) {
        Ok(review) => Arc::new(review),
        Err(Rejection::Malformed(Malformed::Request { uid: Some(uid), reason })) => {
            webhook.metrics.count(metrics::Result::Malformed, started.elapsed());
            tracing::warn!(uid, reason, "refused a review that cannot be read");
            return Json(Sent::from(review::refuse_unread(&uid, &reason))).into_response();
        }
        Err(rejection) => return reject(&webhook, &rejection, started),
    };
    let (result, response) = webhook.judge(Arc::clone(&review), slot, deadline).await;
    webhook.metrics.count(result, started.elapsed());
    tracing::info!(
        uid = review.request.uid,
        kind = review.request.kind.kind,
        namespace = review.namespace(),
        name = review.name(),
        operation = ?review.request.operation,
        dry_run = review.request.dry_run,
        %result,
        milliseconds = started.elapsed().as_millis(),
        message = response.result.message,
    );
    Json(Sent::from(response)).into_response()
}

fn reject(webhook: &Webhook, rejection: &Rejection, started: Instant) -> Response {
    webhook.metrics.count(metrics::Result::Malformed, started.elapsed());
    tracing::warn!(%rejection, "a request that is no review");
    (rejection.status(), format!("{rejection}\n")).into_response()
}

/// When a review must be answered, counted from its header.
#[derive(Clone, Copy)]
struct Deadline {
    at: tokio::time::Instant,
    patience: Duration,
}

impl Deadline {
    /// The API server says in the query (`timeout=10s`) how long it waits.
    fn of(query: Option<&str>) -> Self {
        let named = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("timeout="));
        let timeout = named.and_then(|text| parse_duration(text).ok()).unwrap_or(TIMEOUT).min(LONGEST);
        let patience = timeout.saturating_sub(WAY).max(timeout / 2);
        Self { at: tokio::time::Instant::now() + patience, patience }
    }
}

async fn read(request: Request) -> Result<Bytes, Rejection> {
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Rejection::MediaType);
    }
    let body: Limited<Body> = Limited::new(request.into_body(), MAX_BODY);
    match tokio::time::timeout(BODY, body.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Rejection::TooLong),
        Ok(Err(error)) => Err(Rejection::Broken(error.to_string())),
        Err(_) => Err(Rejection::Slow),
    }
}

async fn ready(State(webhook): State<Arc<Webhook>>) -> Response {
    let state = if webhook.draining.load(Ordering::Relaxed) {
        Err("this replica is shutting down".to_owned())
    } else {
        webhook.certificates.borrow().ready(Timestamp::now())
    };
    match state {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn text(State(webhook): State<Arc<Webhook>>) -> Response {
    match webhook.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
