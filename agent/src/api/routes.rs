//! From a request to an answer of the local API. Everything else is a question for the prober: [`crate::probes::routes`].

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{Stream, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, timeout_at},
};

use super::status::{Candidate, Status};
use crate::{
    metrics::{self, Metrics},
    probes::{self, interface::Ask, server::Origin},
};

/// Streams at once, on each listener: a quarter of its connections, so that the kubelet always finds one.
pub const WATCHERS: usize = 16;
/// A stream repeats its last line after this: a client learns that the agent is alive, and the agent that a client is not.
pub const REPEAT: Duration = Duration::from_secs(15);

/// Whether the agent is alive.
pub const LIVEZ: &str = "/livez";
/// Whether it has read its Lease.
pub const READYZ: &str = "/readyz";
/// Who leads.
pub const LEADER: &str = "/leader";
/// The figures.
pub const METRICS: &str = "/metrics";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// An answer's body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers whoever asks.
#[derive(Clone, Debug)]
pub struct Api {
    candidate: Arc<Candidate>,
    status: watch::Receiver<Status>,
    metrics: Arc<Metrics>,
    asks: mpsc::Sender<Ask>,
    on_port: Arc<Semaphore>,
    on_socket: Arc<Semaphore>,
}

impl Api {
    /// An API that tells what `status` brings, and hands questions about probes and hooks to `asks`.
    pub fn new(
        candidate: Candidate,
        status: watch::Receiver<Status>,
        metrics: Arc<Metrics>,
        asks: mpsc::Sender<Ask>,
    ) -> Self {
        let watchers = || Arc::new(Semaphore::new(WATCHERS));
        Self { candidate: Arc::new(candidate), status, metrics, asks, on_port: watchers(), on_socket: watchers() }
    }

    /// Answers one request.
    pub async fn respond(self, origin: Origin, request: Request<Incoming>) -> Response<Body> {
        let (path, method) = (request.uri().path(), request.method());
        if ![LIVEZ, READYZ, LEADER, METRICS].contains(&path) {
            return probes::routes::respond(self.asks, origin, request).await.map(BodyExt::boxed_unsync);
        }
        if ![Method::GET, Method::HEAD].contains(method) {
            let mut response = whole(StatusCode::METHOD_NOT_ALLOWED, TEXT, "ask by GET\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        // Whoever elects has left: the process is ending.
        let ends = self.status.has_changed().is_err();
        match path {
            _ if ends => whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the agent is ending\n".to_owned()),
            LIVEZ => whole(StatusCode::OK, TEXT, "ok\n".to_owned()),
            READYZ if self.status.borrow().has_seen_lease => whole(StatusCode::OK, TEXT, "ok\n".to_owned()),
            READYZ => whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the agent has not read its Lease yet\n".to_owned()),
            METRICS => match self.metrics.text() {
                Ok(text) => whole(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            },
            _ if !wants_stream(request.uri().query()) => {
                whole(StatusCode::OK, JSON, self.status.borrow().line(&self.candidate))
            }
            _ => self.stream(origin),
        }
    }

    /// A line for the present state and one for each that follows.
    fn stream(self, origin: Origin) -> Response<Body> {
        let watchers = match origin {
            Origin::Port => self.on_port,
            Origin::Socket => self.on_socket,
        };
        let Ok(place) = watchers.try_acquire_owned() else {
            let line = format!("{WATCHERS} clients watch already: ask without ?watch, or try again later\n");
            return whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, line);
        };
        let body = StreamBody::new(lines(self.candidate, self.status, place)).boxed_unsync();
        response(StatusCode::OK, LINES, body)
    }
}

/// Whether `query` asks for a stream: `watch`, `watch=true` or `watch=1`, as the API server understands it.
fn wants_stream(query: Option<&str>) -> bool {
    query.unwrap_or_default().split('&').any(|pair| matches!(pair, "watch" | "watch=" | "watch=true" | "watch=1"))
}

/// What a client of a stream has been told. Between two of its reads states pass unseen, and nothing is kept for it.
struct Told {
    candidate: Arc<Candidate>,
    status: watch::Receiver<Status>,
    line: String,
    at: Instant,
    _place: OwnedSemaphorePermit,
}

impl Told {
    /// The next line: the present state at first, then each that differs, or the same one again after [`REPEAT`].
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Infallible>, Self)> {
        loop {
            let line = self.status.borrow_and_update().line(&self.candidate);
            if line == self.line {
                match timeout_at(self.at + REPEAT, self.status.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return None,
                    Err(_) => {}
                }
            }
            self.at = Instant::now();
            self.line.clone_from(&line);
            return Some((Ok(Frame::data(Bytes::from(line))), self));
        }
    }
}

fn lines(
    candidate: Arc<Candidate>,
    status: watch::Receiver<Status>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(Told { candidate, status, line: String::new(), at: Instant::now(), _place: place }, Told::next)
}

fn whole(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    response(status, content_type, Full::from(text).boxed_unsync())
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
