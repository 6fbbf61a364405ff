//! Reads of the API server, and its clock.
//!
//! The API server judges certificates by its own clock, so that clock decides here, too: what is wrong with this node's, or with that
//! of the node of another replica, is no matter. Every answer tells it, to the second.

use std::time::{Duration, Instant};

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use kube::{
    Client, Error,
    client::Body,
    core::{Request, Status},
};

/// What reads objects, and keeps the time.
pub(crate) struct Server {
    client: Client,
    started: Instant,
    /// What the API server's clock said when this process's own did.
    told: Option<(Timestamp, Instant)>,
}

impl Server {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, started: Instant::now(), told: None }
    }

    /// The API server's wall clock; this machine's until an answer has told it.
    pub(crate) fn now(&self) -> Timestamp {
        match self.told {
            Some((told, at)) => crate::time::after(told, at.elapsed()),
            None => Timestamp::now(),
        }
    }

    /// This process's own clock, from its start.
    pub(crate) fn at(&self) -> Duration {
        self.started.elapsed()
    }

    /// The object `name` of the collection at `url_path` as JSON, or nothing where there is none.
    pub(crate) async fn get(&mut self, url_path: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let request =
            Request::new(url_path).get(name, &kube::api::GetParams::default()).map_err(Error::BuildRequest)?;
        let response = self.client.send(request.map(Body::from)).await?;
        let (status, at) = (response.status(), Instant::now());
        let date = response.headers().get("date").and_then(|date| date.to_str().ok());
        if let Some(told) = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()) {
            self.told = Some((told, at));
        }
        let body = response.into_body().collect_bytes().await?;
        if status.is_success() {
            return Ok(Some(body.to_vec()));
        }
        if status.as_u16() == 404 {
            return Ok(None);
        }
        let unread = |_| Status::failure(&String::from_utf8_lossy(&body), "").with_code(status.as_u16());
        Err(Error::Api(serde_json::from_slice::<Status>(&body).unwrap_or_else(unread).boxed()))
    }
}
