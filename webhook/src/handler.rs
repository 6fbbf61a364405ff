//! The HTTP side of the webhook: reviews, health and metrics.
//!
//! Whatever arrives gets an answer before the API server stops waiting: what cannot be read is an HTTP error, which `failurePolicy: Fail`
//! makes a refusal. What a review comes to is decided by [`crate::judge`].

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
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::Client;
use leader_certs::keeper;
use tokio::sync::watch;
use tracing::Instrument;

use crate::{
    inject::Defaults,
    judge::{Deadline, Judge},
    metrics,
    observers::Observers,
    registry::Registries,
    review::{self, Malformed, Review},
    sent::Sent,
};

/// The longest body: the API server's own limit for a request.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// How long a body may take to arrive: the API server sends it at once.
const BODY: Duration = Duration::from_secs(3);

/// What reviews are answered with.
pub struct Webhook {
    judge: Judge,
    /// Whether the API server trusts this replica.
    certificates: watch::Receiver<keeper::State>,
    draining: AtomicBool,
    observers: Arc<Observers>,
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
    /// A webhook that serves until [`Webhook::drain`]. `client` is for facts and the objects of ids; `namespace` is its own.
    pub fn new(
        client: Client,
        registries: Arc<Registries>,
        defaults: Defaults,
        namespace: String,
        certificates: watch::Receiver<keeper::State>,
        observers: Observers,
    ) -> Arc<Self> {
        let observers = Arc::new(observers);
        let judge = Judge::new(client, registries, defaults, namespace, Arc::clone(&observers));
        Arc::new(Self { judge, certificates, draining: AtomicBool::new(false), observers })
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
            .layer(middleware::from_fn_with_state(Arc::clone(&self), part))
            .with_state(self)
    }
}

async fn answer(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    let deadline = Deadline::of(request.uri().query());
    let Some(slot) = webhook.judge.slot(deadline).await else {
        return reject(&webhook, &Rejection::Busy, Instant::now());
    };
    let read = read(request).await;
    let slot = slot.of_body(read.as_ref().map_or(MAX_BODY, Bytes::len));
    let started = Instant::now();
    let review = match read.and_then(|body| Ok(Review::parse(&body)?)) {
        Ok(review) => Arc::new(review),
        Err(Rejection::Malformed(Malformed::Request { uid: Some(uid), reason })) => {
            webhook.observers.metrics.count(metrics::Result::Malformed, started.elapsed());
            tracing::warn!(uid, reason, "refused a review that cannot be read");
            return Json(Sent::from(review::refuse_unread(&uid, &reason))).into_response();
        }
        Err(rejection) => return reject(&webhook, &rejection, started),
    };
    // All that is logged on the way has the review's uid, by which it is found in the API server's audit log.
    let span = tracing::info_span!("review", uid = review.request.uid);
    let (result, response) = webhook.judge.answer(Arc::clone(&review), slot, deadline).instrument(span).await;
    webhook.observers.answered(&review, result, &response, started.elapsed());
    Json(Sent::from(response)).into_response()
}

fn reject(webhook: &Webhook, rejection: &Rejection, started: Instant) -> Response {
    webhook.observers.metrics.count(metrics::Result::Malformed, started.elapsed());
    tracing::warn!(%rejection, "a request that is no review");
    (rejection.status(), format!("{rejection}\n")).into_response()
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
        webhook.certificates.borrow().ready()
    };
    match state {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

/// While this replica is on its way out, each answer ends its connection: the next review then goes to a replica that stays. A
/// connection that is closed when it happens to be idle may cross with a review, which nobody may send again.
async fn part(State(webhook): State<Arc<Webhook>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if webhook.draining.load(Ordering::Relaxed) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn text(State(webhook): State<Arc<Webhook>>) -> Response {
    if let keeper::State::Trusted { until, .. } = &*webhook.certificates.borrow() {
        webhook.observers.metrics.set_expiry(*until);
    }
    match webhook.observers.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
