//! The requests that the API server answered, from its audit log.

use crate::cluster::Cluster;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

/// A request that a client made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When the API server received it, RFC 3339 with microseconds.
    pub time: String,
    /// What was asked, e.g. `update` or `watch`.
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// The pod that made it, when its token says so.
    pub pod: Option<String>,
    /// The answer's HTTP status code, when it has ended.
    pub code: Option<u64>,
}

impl Cluster {
    /// The requests of one user since the cluster came up, in the order in which they were received. `user` is as the API server
    /// names it, e.g. `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn requests_of(&self, user: &str) -> Result<Vec<Request>> {
        let files = loop {
            let paths = self.audit_logs()?;
            let files = paths.iter().map(File::open).collect::<std::io::Result<Vec<File>>>();
            // Otherwise one of them was given its long name meanwhile.
            if self.audit_logs()? == paths {
                break files.with_context(|| format!("cannot read {paths:?}"))?;
            }
        };
        requests(files.into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok)), user)
    }

    /// The files of the audit log, the oldest first: the API server gives one that has grown long the time as part of its name, and begins
    /// the next.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn audit_logs(&self) -> Result<Vec<PathBuf>> {
        let newest = self.audit_log();
        let folder = newest.parent().context("an audit log without folder")?;
        let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        let is_audit = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("audit"))
        };
        let mut files: Vec<_> = files.into_iter().filter(is_audit).collect();
        // `audit-2026-...` comes before `audit.log`.
        files.sort();
        Ok(files)
    }
}

/// A watch is logged twice, at its start and its end: the later line counts.
fn requests(lines: impl Iterator<Item = String>, user: &str) -> Result<Vec<Request>> {
    let mut found = BTreeMap::new();
    for line in lines {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        if event["user"]["username"] != user {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod = event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0].as_str().map(str::to_owned);
        let request = Request {
            time: text(&event["requestReceivedTimestamp"]),
            verb: text(&event["verb"]),
            uri: text(&event["requestURI"]),
            pod,
            code: event["responseStatus"]["code"].as_u64(),
        };
        let id = event["auditID"].as_str().context("a line of the audit log has no auditID")?.to_owned();
        found.insert(id, request);
    }
    let mut requests: Vec<_> = found.into_values().collect();
    requests.sort_by(|one, other| one.time.cmp(&other.time));
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, user: &str, time: &str) -> String {
        let event = serde_json::json!({
            "auditID": id, "verb": "watch", "requestURI": "/x", "requestReceivedTimestamp": time,
            "user": {"username": user, "extra": {"authentication.kubernetes.io/pod-name": ["p-1"]}},
            "responseStatus": {"code": 200},
        });
        event.to_string()
    }

    #[test]
    fn each_request_of_the_user_counts_once() {
        let lines =
            [line("b", "me", "2"), line("a", "me", "1"), line("c", "you", "3"), line("b", "me", "2"), "{\"ver".into()];
        let found = requests(lines.into_iter(), "me").unwrap();
        assert_eq!(found.iter().map(|request| request.time.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(found[0].pod.as_deref(), Some("p-1"));
        assert_eq!(found[0].code, Some(200));
    }
}
