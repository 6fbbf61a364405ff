//! The subcommands `probe` and `hook`: a question to the agent that runs in the same container, over its Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    header::{HOST, HeaderValue},
};
use tokio::net::UnixStream;

use crate::probes::{client::http1, interface::Question, routes, server::socket_path};

/// An answer is one line.
const BODY: usize = 16 * 1024;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers.
    #[error("no agent answers on {}: {source}. Does `leader-agent run` run in this container, with this state folder?", path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent ended, or was stopped, before it had answered.
    #[error("the agent broke off: {0}")]
    BrokenOff(#[from] hyper::Error),
    /// The agent's answer is no.
    #[error("{0}")]
    No(String),
}

/// Asks the agent whose state folder this is; `Ok` when it says yes, with its reason.
///
/// How long that may take is left to who runs the subcommand.
pub async fn ask(folder: &Path, question: Question) -> Result<String, AskError> {
    let path = socket_path(folder);
    let stream = UnixStream::connect(&path).await.map_err(|source| AskError::NoAgent { path, source })?;
    let (method, path) = routes::path(question);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let (passed, text) = http1(stream, request, read).await?;
    if passed { Ok(text) } else { Err(AskError::No(text)) }
}

async fn read(response: Response<Incoming>) -> (bool, String) {
    let passed = response.status().is_success();
    let body = Limited::new(response.into_body(), BODY).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    (passed, text)
}
