//! The API server answers the leader late or not as it should: a proxy in between, behind which everybody else sees it as it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::overlap::Run;
use leader_tests::kit::{Answer, ApiProxy};

use super::{Broken, Follow, Row};
use crate::stage::Stage;
use crate::workload::Workload;
use crate::writer::Writer;

/// Long enough that what is late is later than the lease, and comes more than once.
const LASTING: Duration = Duration::from_secs(40);

/// A proxy, and writers whose agents take it for the API server.
fn behind_a_proxy(stage: &Stage, writer: Writer) -> Result<(Arc<ApiProxy>, Writer)> {
    let proxy = ApiProxy::start(stage.namespace.cluster())?;
    let (host, port) = (proxy.address().ip().to_string(), proxy.address().port().to_string());
    let writer = writer.variable("KUBERNETES_SERVICE_HOST", &host).variable("KUBERNETES_SERVICE_PORT", &port);
    Ok((Arc::new(proxy), writer))
}

/// Treats the leader's requests so, until it is mended; by then there must have been some.
fn treat(proxy: &Arc<ApiProxy>, workload: &Workload<'_>, leader: &Run, answer: Answer) -> Result<Broken> {
    let source = address(workload, &leader.writer.pod)?;
    let proxy = Arc::clone(proxy);
    proxy.treat(source, Some(answer));
    Ok(Broken::mended_by(move || {
        let treated = proxy.treated(source);
        proxy.treat(source, None);
        ensure!(treated > 0, "no request came from {source}: it does not use the proxy");
        Ok(())
    }))
}

fn address(workload: &Workload<'_>, pod: &str) -> Result<IpAddr> {
    let object = workload.stage.namespace.get(&["pod", pod])?;
    Ok(object["status"]["podIP"].as_str().context("a pod without an address")?.parse()?)
}

fn refused(fault: &'static str, code: u16, retry_after: Option<u32>) -> Result<()> {
    let row = Row::new("API server", fault).default_lease();
    row.on_leader_with(behind_a_proxy, |proxy, workload, leader| {
        treat(proxy, workload, leader, Answer::Refused { code, retry_after })
    })
}

/// Of every second workload the requests are late, of the others the replies to writes that were stored in time.
fn late(fault: &'static str, seconds: u64) -> Result<()> {
    let row = Row::new("API server", fault).default_lease().follow(Follow::Lasting(LASTING));
    row.on_leader_with(behind_a_proxy, move |proxy, workload, leader| {
        let late = Duration::from_secs(seconds);
        let odd = workload.name.ends_with(['1', '3', '5', '7', '9']);
        let answer = if odd { Answer::LateReply(late) } else { Answer::LateRequest(late) };
        treat(proxy, workload, leader, answer)
    })
}

#[test]
fn too_many_requests() -> Result<()> {
    refused("answers the leader 429, Retry-After 30 s", 429, Some(30))
}

#[test]
fn internal_error() -> Result<()> {
    refused("answers the leader 500", 500, None)
}

#[test]
fn unavailable() -> Result<()> {
    refused("answers the leader 503, Retry-After 30 s", 503, Some(30))
}

#[test]
fn five_seconds_late() -> Result<()> {
    late("5 s late for the leader, requests or replies", 5)
}

#[test]
fn nine_seconds_late() -> Result<()> {
    late("9 s late for the leader, requests or replies", 9)
}

#[test]
fn fourteen_seconds_late() -> Result<()> {
    late("14 s late for the leader, requests or replies", 14)
}

/// The standbys' takeovers are late, too: stored after they were given up.
#[test]
fn nine_seconds_late_for_everybody() -> Result<()> {
    let row = Row::new("API server", "9 s late for leader and standbys").default_lease();
    row.follow(Follow::Lasting(LASTING)).on_leader_with(behind_a_proxy, |proxy, workload, leader| {
        let late = Answer::LateRequest(Duration::from_secs(9));
        let mut broken = treat(proxy, workload, leader, late)?;
        // A standby may have nothing to ask.
        for pod in workload.ready_pods()?.iter().filter(|pod| **pod != leader.writer.pod) {
            let (proxy, source) = (Arc::clone(proxy), address(workload, pod)?);
            proxy.treat(source, Some(late));
            broken = broken.and(Broken::mended_by(move || {
                proxy.treat(source, None);
                Ok(())
            }));
        }
        Ok(broken)
    })
}
