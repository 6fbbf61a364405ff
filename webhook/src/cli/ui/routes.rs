//! What is answered over HTTP: the page to everybody on this machine, the elections and wishes about them to the page of this run alone.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use leader_agent::id::LeaderId;
use serde_json::json;

use super::{
    desk::{Desk, Elections, Place, Wish},
    door::{self, Closed, Token},
    page::Page,
};

/// The longest wish, in bytes: it names one pod.
const WISH: usize = 4096;

/// Everything that is asked for a request.
struct Service<E> {
    desk: Desk<E>,
    token: Token,
    page: Page,
}

/// The pages and paths of `desk`, for who shows `token`.
pub(super) fn router<E: Elections>(desk: Desk<E>, token: Token) -> Router {
    let service = Arc::new(Service { desk, token, page: Page::new() });
    let guarded = Router::new()
        .route("/api/elections", get(elections::<E>))
        .route("/api/elections/{namespace}/{id}", get(history::<E>).post(wish::<E>))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&service), only_ours::<E>));
    Router::new()
        .route("/", get(page::<E>))
        .merge(guarded)
        .layer(DefaultBodyLimit::max(WISH))
        .layer(middleware::from_fn(only_here))
        .with_state(service)
}

async fn only_here(request: Request, next: Next) -> Response {
    let mut response = match door::is_here(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(closed) => closed.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn only_ours<E: Elections>(State(service): State<Arc<Service<E>>>, request: Request, next: Next) -> Response {
    match door::is_ours(request.headers(), &service.token) {
        Ok(()) => next.run(request).await,
        Err(closed) => closed.into_response(),
    }
}

async fn page<E: Elections>(State(service): State<Arc<Service<E>>>) -> Response {
    let policy = [(header::CONTENT_SECURITY_POLICY, service.page.policy.clone())];
    (policy, Html(service.page.text)).into_response()
}

async fn elections<E: Elections>(State(service): State<Arc<Service<E>>>) -> Response {
    match service.desk.look().await {
        Ok(view) => Json(&*view).into_response(),
        Err(reason) => failed(StatusCode::BAD_GATEWAY, &reason),
    }
}

async fn history<E: Elections>(
    State(service): State<Arc<Service<E>>>,
    Path((namespace, id)): Path<(String, String)>,
) -> Response {
    let Some(place) = place(&namespace, &id) else { return nowhere() };
    match service.desk.history(&place).await {
        Ok(happenings) => Json(happenings).into_response(),
        Err(reason) => failed(StatusCode::BAD_GATEWAY, &reason),
    }
}

async fn wish<E: Elections>(
    State(service): State<Arc<Service<E>>>,
    Path((namespace, id)): Path<(String, String)>,
    Json(wish): Json<Wish>,
) -> Response {
    let Some(place) = place(&namespace, &id) else { return nowhere() };
    match service.desk.ask(&place, &wish).await {
        Ok(said) => Json(json!({ "said": said })).into_response(),
        Err(reason) => failed(StatusCode::CONFLICT, &reason),
    }
}

/// A namespace is a DNS label as an id is: nothing else gets into the path of a request to the API server.
fn place(namespace: &str, id: &str) -> Option<Place> {
    let label = |text: &str| text.parse::<LeaderId>().ok();
    Some(Place { namespace: label(namespace)?.to_string(), id: label(id)? })
}

fn nowhere() -> Response {
    failed(StatusCode::NOT_FOUND, "namespaces and ids are DNS labels")
}

fn failed(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}

impl IntoResponse for Closed {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Host | Self::Site => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        };
        failed(status, &self.to_string())
    }
}

#[cfg(test)]
mod tests;
