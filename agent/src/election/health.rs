//! The health port of a program that takes part in an election.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

use super::ElectionError;
use crate::probes::server::{Server, ServerError};

/// What the program itself says about its health.
pub(super) type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The kubelet's default patience with a probe.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Health {
    seen: Arc<AtomicBool>,
    check: Option<Check>,
    /// One check at a time: those that hang must not pile up.
    turn: Arc<Mutex<()>>,
}

/// Serves the port, if there is one, for as long as the runtime lives. What is returned is to be set once the Lease was seen.
pub(super) fn serve(asked_for: Option<(u16, Option<Check>)>) -> Result<Arc<AtomicBool>, ElectionError> {
    let seen = Arc::new(AtomicBool::new(false));
    if let Some((port, check)) = asked_for {
        let server = Server::bind(Some(port), None).map_err(|error| {
            let source = match error {
                ServerError::InUse { .. } => io::ErrorKind::AddrInUse.into(),
                ServerError::Port { source, .. } | ServerError::Socket { source, .. } => source,
            };
            ElectionError::HealthPort { port, source }
        })?;
        let health = Health { seen: Arc::clone(&seen), check, turn: Arc::default() };
        server.serve(move |_, request| respond(health.clone(), request));
    }
    Ok(seen)
}

async fn respond(health: Health, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let answer = match request.uri().path() {
        "/readyz" if !health.seen.load(Ordering::Relaxed) => Err("the Lease was not seen yet".to_owned()),
        "/livez" | "/readyz" => health.check().await,
        _ => return text(StatusCode::NOT_FOUND, "there is nothing here: ask /livez or /readyz"),
    };
    match answer {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

impl Health {
    async fn check(&self) -> Result<(), String> {
        let Some(check) = self.check.clone() else { return Ok(()) };
        let turn = Arc::clone(&self.turn);
        let asked = async {
            let turn = turn.lock_owned().await;
            spawn_blocking(move || {
                // Given back only when the check comes back.
                let _turn = turn;
                check()
            })
            .await
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the health check panicked".to_owned()),
            Err(_) => Err(format!("the health check takes longer than {PATIENCE:?}")),
        }
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
