//! Reads from the API server, page by page, as JSON.

use http::{Method, Request, header};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use kube::{Client, client::Body};
use serde_json::Value;

/// How many objects one request lists.
const PAGE: usize = 500;

/// The API server's clock: that of this machine may be wrong, and those of nodes are nearer to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    ahead: SignedDuration,
}

impl Clock {
    /// Asks the server. One that does not tell the time has that of this machine.
    pub(super) async fn ask(client: &Client) -> Result<Self, kube::Error> {
        let response = client.send(get("/version")?.map(Body::from)).await?;
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        Ok(Self { ahead: now.map_or(SignedDuration::ZERO, |now| now.duration_since(Timestamp::now())) })
    }

    /// The time.
    pub(super) fn now(self) -> Timestamp {
        // Beyond the year 9999 nothing here makes a difference.
        Timestamp::now().checked_add(self.ahead).unwrap_or(Timestamp::MAX)
    }
}

/// An object, or nothing where there is none.
pub(super) async fn find(client: &Client, path: &str) -> Result<Option<Value>, kube::Error> {
    match client.request(get(path)?).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// All objects of a list, without the fields' managers, which take the most room and tell nothing here. `query` may be empty.
pub(super) async fn list(client: &Client, path: &str, query: &str) -> Result<Vec<Value>, kube::Error> {
    let query = if query.is_empty() { String::new() } else { format!("&{query}") };
    let (mut found, mut next) = (Vec::new(), String::new());
    loop {
        let mut page: Value = client.request(get(&format!("{path}?limit={PAGE}{query}{next}"))?).await?;
        let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else { return Ok(found) };
        for mut item in items {
            if let Some(metadata) = item["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
            found.push(item);
        }
        match page["metadata"]["continue"].as_str() {
            Some(token) if !token.is_empty() => next = format!("&continue={token}"),
            _ => return Ok(found),
        }
    }
}

/// The path of a resource in one namespace, or in all.
pub(super) fn path(group: &str, namespace: Option<&str>, resource: &str) -> String {
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{resource}"),
        None => format!("{group}/{resource}"),
    }
}

/// The API of Leases.
pub(super) const COORDINATION: &str = "/apis/coordination.k8s.io/v1";
/// The API of pods.
pub(super) const CORE: &str = "/api/v1";

fn get(path: &str) -> Result<Request<Vec<u8>>, kube::Error> {
    Request::builder().method(Method::GET).uri(path).body(Vec::new()).map_err(kube::Error::HttpError)
}
