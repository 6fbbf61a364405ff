//! Requests for one Lease, each with a deadline of its own. Leaves the decisions to the elector.
//!
//! kube's defaults are unsafe for a lease holder: here there is no layer that retries ([`super::connection`]), every request ends after
//! [`crate::timing::Timing::request_timeout`], and after one that got no answer the next starts on a fresh connection.

use std::{cell::RefCell, time::Duration};

use http::{
    Method, Request,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use kube::{Client, Config, core::Status};
use serde_json::Value;

use super::{
    authorization::Authorization,
    connection::{self, ConnectionError},
    record::{Record, RecordError},
};
use crate::{elector::Reply, id::LeaderId};

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The API server's answer is an error.
    #[error("the API server answered {code}: {message}")]
    Status {
        /// The HTTP code.
        code: u16,
        /// What it said.
        message: String,
    },
    /// The request or its answer was lost, or could not be read.
    #[error("{}", chain(.0))]
    Transport(kube::Error),
    /// There is no way to send it.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The answer is no Lease.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl RequestError {
    /// Whether another write, or another candidate's creation, came first: the everyday end of a compare-and-swap.
    pub fn is_lost_race(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
            || matches!(self, Self::Status { code: 422, message } if message.contains(MUST_UPDATE))
    }
}

/// The API server's words for a PUT without resourceVersion on a Lease that exists.
const MUST_UPDATE: &str = "metadata.resourceVersion: Invalid value";
/// No more of a server's message is kept: a proxy may answer with a page.
const MESSAGE: usize = 300;

/// The beginning of the first line.
fn brief(message: &str) -> String {
    message.trim().lines().next().unwrap_or_default().chars().take(MESSAGE).collect()
}

/// An error with its causes: kube and hyper keep what matters in the last one.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let Status { code, message, .. } = *status;
                Self::Status { code, message: brief(&message) }
            }
            error => Self::Transport(error),
        }
    }
}

/// One Lease on one API server.
#[derive(Debug)]
pub struct LeaseClient {
    config: Config,
    connection: RefCell<Option<Connection>>,
    authorization: RefCell<Option<Authorization>>,
    timeout: Duration,
    namespace: String,
    id: LeaderId,
}

struct Connection(Client);

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Connection")
    }
}

impl LeaseClient {
    /// A client for the Lease `id`. Nothing is sent yet. Each request ends after `timeout`.
    pub fn new(mut config: Config, namespace: &str, id: &LeaderId, timeout: Duration) -> Self {
        config.connect_timeout = Some(timeout);
        Self {
            config,
            connection: RefCell::new(None),
            authorization: RefCell::new(None),
            timeout,
            namespace: namespace.to_owned(),
            id: id.clone(),
        }
    }

    /// Another client for the same Lease, with connections of its own.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.config.clone(), &self.namespace, &self.id, self.timeout)
    }

    /// The Lease from the server's newest state; `None` when there is none.
    pub async fn read(&self) -> Result<Option<Record>, RequestError> {
        match self.request(Method::GET, self.path(), Vec::new()).await {
            Ok(object) => Ok(Some(Record::parse(object)?)),
            Err(RequestError::Status { code: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends `body` as a PUT. With the reply comes the error that explains it.
    pub async fn write(&self, body: &Value) -> (Reply, Option<RequestError>) {
        let creates = body["metadata"]["resourceVersion"].is_null();
        let outcome = match self.request(Method::PUT, self.path(), body.to_string().into_bytes()).await {
            Ok(object) => Record::parse(object).map_err(RequestError::from),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(record) => (Reply::Written(record), None),
            Err(error) => (reply(&error, creates), Some(error)),
        }
    }

    /// Sends one request on the current connections and waits for its answer until the deadline.
    pub(crate) async fn request(&self, method: Method, path: String, body: Vec<u8>) -> Result<Value, RequestError> {
        let client = self.client()?;
        let request = self.build(method, path, body)?;
        let outcome = match tokio::time::timeout(self.timeout, client.request::<Value>(request)).await {
            Ok(outcome) => outcome.map_err(RequestError::from),
            Err(_) => Err(RequestError::Timeout(self.timeout)),
        };
        let unanswered = matches!(outcome, Err(RequestError::Timeout(_) | RequestError::Transport(_)));
        // A client certificate that was renewed counts from the next connection on.
        let unknown = matches!(outcome, Err(RequestError::Status { code: 401, .. }));
        if unanswered || unknown {
            self.reset();
        }
        outcome
    }

    pub(super) fn client(&self) -> Result<Client, RequestError> {
        let mut connection = self.connection.borrow_mut();
        if let Some(Connection(client)) = &*connection {
            return Ok(client.clone());
        }
        let client = connection::connect(&self.config)?;
        *connection = Some(Connection(client.clone()));
        Ok(client)
    }

    /// Drops all connections: what is still under way on them is abandoned, and must not hold up what follows.
    pub(crate) fn reset(&self) {
        *self.connection.borrow_mut() = None;
    }

    /// A request that says who asks.
    pub(super) fn build(&self, method: Method, path: String, body: Vec<u8>) -> Result<Request<Vec<u8>>, RequestError> {
        let mut authorization = self.authorization.borrow_mut();
        let authorization = match &mut *authorization {
            Some(authorization) => authorization,
            none => none.insert(Authorization::of(&self.config.auth_info)?),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(body)
            .map_err(|error| RequestError::Transport(kube::Error::HttpError(error)))?;
        if let Some(value) = authorization.now()? {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.id)
    }

    pub(super) fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    /// The selector without which a list or watch by name is forbidden (RBAC with resourceNames).
    pub(super) fn selector(&self) -> String {
        format!("fieldSelector=metadata.name%3D{}", self.id)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What an error says about the write that got it.
fn reply(error: &RequestError, creates: bool) -> Reply {
    match error {
        // 404 is the namespace, or the Lease of an update by uid: somebody has to look.
        RequestError::Status { code: 404 | 409, .. } => Reply::Conflict,
        // The API server's answer to a PUT without resourceVersion on what exists.
        RequestError::Status { code: 422, .. } if creates => Reply::Conflict,
        RequestError::Status { code: 400..=407 | 410..=499, .. } => Reply::Refused,
        // It may be stored: the answer is lost, or tells only that the server failed after it had begun.
        _ => Reply::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Answers 401 to every token but this one. It ends with the test's process.
    fn server_that_wants(token: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    loop {
                        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                        let Some(authorization) = head.iter().find(|line| line.starts_with("authorization: ")) else {
                            return;
                        };
                        let (code, kind) =
                            if authorization.ends_with(token) { (404, "Gone") } else { (401, "Stranger") };
                        let body =
                            format!(r#"{{"kind":"Status","status":"Failure","message":"{kind}","code":{code}}}"#);
                        let length = body.len();
                        let head = format!(
                            "HTTP/1.1 {code} {kind}\r\ncontent-type: application/json\r\ncontent-length: {length}"
                        );
                        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn after_a_401_the_renewed_token_is_used_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "old").unwrap();
        let mut config = Config::new(server_that_wants("new").parse().unwrap());
        config.auth_info.token_file = Some(file.display().to_string());
        let id: LeaderId = "billing".parse().unwrap();
        let client = LeaseClient::new(config, "shop", &id, Duration::from_mins(1));
        let refused = client.read().await.unwrap_err();
        assert!(matches!(refused, RequestError::Status { code: 401, .. }), "{refused}");
        std::fs::write(&file, "new").unwrap();
        assert!(client.read().await.unwrap().is_none());
    }

    #[test]
    fn only_a_clear_refusal_counts_as_not_stored() {
        let of = |code, creates| reply(&RequestError::Status { code, message: String::new() }, creates);
        for code in [400, 401, 403, 413, 429] {
            assert!(matches!(of(code, false), Reply::Refused), "{code}");
        }
        // 0: an answer that is no Status, from something between here and the API server.
        for code in [0, 408, 500, 502, 503, 504] {
            assert!(matches!(of(code, false), Reply::Unknown), "{code}");
        }
        assert!(matches!(of(409, false), Reply::Conflict));
        assert!(matches!(of(404, false), Reply::Conflict));
        assert!(matches!(of(422, true), Reply::Conflict));
        assert!(matches!(of(422, false), Reply::Refused));
        assert!(matches!(reply(&RequestError::Timeout(Duration::ZERO), false), Reply::Unknown));
    }
}
