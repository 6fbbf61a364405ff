//! Hundreds of elections at once against one API server.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use super::accounts::Accounts;
use crate::bench::programs;

/// The account under which all candidates of the load are.
pub(super) const ACCOUNT: &str = "load";
/// Parts of the cluster whose processor time is told.
pub(super) const PARTS: [&str; 2] = ["apiserver", "etcd"];

/// What the load showed.
#[derive(Debug)]
pub(super) struct Load {
    /// The generator's own report.
    pub(super) report: Value,
    /// Requests that the API server received, per second.
    pub(super) requests: f64,
}

/// Runs `ids` elections for so many seconds.
pub(super) fn run(generator: &Path, accounts: &Accounts<'_>, ids: usize, seconds: u64) -> Result<Load> {
    let cluster = accounts.cluster();
    let mut tool = cluster.tool(generator).env("KUBECONFIG", accounts.kubeconfig(ACCOUNT)).args([
        format!("--ids={ids}"),
        format!("--seconds={seconds}"),
        format!("--namespace={}", accounts.namespace()),
    ]);
    for (part, pid) in cluster.processes().into_iter().filter(|(part, _)| PARTS.contains(part)) {
        tool = tool.arg(format!("--process={part}={pid}"));
    }
    let report = programs::report(tool)?;
    let time = |name: &str| -> Result<Timestamp> {
        let text = report[name].as_str().with_context(|| format!("no {name} in {report}"))?;
        Ok(text.parse()?)
    };
    let (from, until) = (time("from")?, time("until")?);
    let mut count = 0.0;
    for request in accounts.requests(ACCOUNT)? {
        let time: Timestamp = request.time.parse()?;
        if time >= from && time < until {
            count += 1.0;
        }
    }
    let seconds = report["seconds"].as_f64().with_context(|| format!("no seconds in {report}"))?;
    Ok(Load { requests: count / seconds, report })
}
