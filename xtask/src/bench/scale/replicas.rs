//! The installed webhook's replicas: their memory, their figures, and what they ask the API server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use leader_tests::kit::Request;
use leader_tests::{Cluster, wait};
use rustix::process::Pid;
use serde_json::Value;

use super::figures::Figures;
use crate::bench::memory::field;

const NAMESPACE: &str = "--namespace=leader-system";
const DEPLOYMENT: &str = "deployment/leader-webhook";
const SELECTOR: &str = "--selector=app.kubernetes.io/name=leader-webhook";
/// Whom the webhook is to the API server.
const ACCOUNT: &str = "system:serviceaccount:leader-system:leader-webhook";
/// How long pods may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);
/// Counts reconciliations, by how they ended.
const RECONCILES: &str = "leader_webhook_reconciles_total";
/// So long nothing is reconciled when the controller has nothing to do, and so long that is waited for: what never comes to rest shows in
/// what is measured then.
const QUIET: Duration = Duration::from_secs(20);
const AT_MOST: Duration = Duration::from_mins(1);

/// A replica.
#[derive(Debug)]
pub(super) struct Replica {
    name: String,
    pid: Pid,
}

/// Resident memory of a replica, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) now: u64,
    /// Since its start.
    pub(super) highest: u64,
}

/// How the first look at everything went.
#[derive(Debug)]
pub(super) struct First {
    /// From the moment in which a replica's controller began to lead.
    pub(super) took: Duration,
    pub(super) requests: usize,
    pub(super) failed: f64,
}

/// The replicas that are there to stay.
pub(super) fn all(cluster: &Cluster) -> Result<Vec<Replica>> {
    staying(cluster)?.iter().map(|pod| replica(cluster, pod)).collect()
}

fn staying(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut pods = cluster.get(&["pods", NAMESPACE, SELECTOR])?;
    let pods = pods["items"].as_array_mut().context("a list without items")?;
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(std::mem::take(pods))
}

fn replica(cluster: &Cluster, pod: &Value) -> Result<Replica> {
    let text = |pointer: &str| {
        let value = pod.pointer(pointer).and_then(Value::as_str);
        value.with_context(|| format!("a replica without {pointer}: {}", pod["status"]))
    };
    let (name, uid) = (text("/metadata/name")?, text("/metadata/uid")?);
    let container = text("/status/containerStatuses/0/containerID")?;
    let container = container.strip_prefix("containerd://").context("the container is not containerd's")?;
    let processes = cluster.control_group().container_processes(uid, container)?;
    let [pid] = processes[..] else { anyhow::bail!("{name} has the processes {processes:?}, not one") };
    Ok(Replica { name: name.to_owned(), pid })
}

impl Replica {
    pub(super) fn memory(&self) -> Result<Memory> {
        let of = |name: &str| field(self.pid, "status", name);
        Ok(Memory { now: of("VmRSS")?, highest: of("VmHWM")? })
    }

    /// What it serves under `/metrics`.
    pub(super) fn figures(&self, cluster: &Cluster) -> Result<Figures> {
        let path = format!("/api/v1/namespaces/leader-system/pods/https:{}:10250/proxy/metrics", self.name);
        Ok(Figures::new(cluster.kubectl(&["get", "--raw", &path]).run()?))
    }
}

/// What the replica that uses more has.
pub(super) fn memory(cluster: &Cluster) -> Result<Memory> {
    let mut most = Memory::default();
    for replica in all(cluster)? {
        let Memory { now, highest } = replica.memory()?;
        most = Memory { now: most.now.max(now), highest: most.highest.max(highest) };
    }
    Ok(most)
}

/// How many reconciliations there were, and how many of them failed.
fn reconciled(cluster: &Cluster) -> Result<(f64, f64)> {
    let (mut all_of_them, mut failed) = (0.0, 0.0);
    for pod in staying(cluster)? {
        // One that is just being started has done nothing.
        let Ok(figures) = replica(cluster, &pod).and_then(|replica| replica.figures(cluster)) else { continue };
        all_of_them += figures.sum(RECONCILES, &[]);
        failed += figures.sum(RECONCILES, &["result=\"failed\""]);
    }
    Ok((all_of_them, failed))
}

/// Starts all replicas anew, none beside an old one, and waits until one of them has reconciled so many ids.
#[allow(clippy::cast_precision_loss)] // Far below 2^52.
pub(super) fn first_reconcile(cluster: &Cluster, ids: usize) -> Result<First> {
    let scale = |replicas: &str| cluster.kubectl(&["scale", NAMESPACE, DEPLOYMENT, replicas]).run();
    scale("--replicas=0")?;
    wait::until("the replicas to be gone", PATIENCE, || {
        let left = cluster.kubectl(&["get", "pods", NAMESPACE, SELECTOR, "--output=name"]).run()?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    let scaled = Timestamp::now();
    scale("--replicas=2")?;
    let (failed, until) = wait::until("the first reconciliation of every id", PATIENCE, || {
        let (reconciled, failed) = reconciled(cluster)?;
        ensure!(reconciled >= ids as f64, "{reconciled} of {ids}");
        Ok((failed, Timestamp::now()))
    })?;
    cluster.kubectl(&["rollout", "status", NAMESPACE, DEPLOYMENT, "--timeout=180s"]).run()?;
    let lease = cluster.get(&["lease/leader-webhook-controller", NAMESPACE])?;
    let began: Timestamp = lease["spec"]["acquireTime"].as_str().context("no acquireTime")?.parse()?;
    ensure!(began >= scaled && began <= until, "the controller has led since {began}, not since {scaled}");
    let took = Duration::try_from(until.duration_since(began))?;
    Ok(First { took, requests: requests(cluster, began, until)?.len(), failed })
}

/// Waits until the controllers have nothing to do, at most a minute.
pub(super) fn wait_until_quiet(cluster: &Cluster) -> Result<()> {
    let started = Instant::now();
    let (mut last, mut since) = (reconciled(cluster)?.0, Instant::now());
    while since.elapsed() < QUIET && started.elapsed() < AT_MOST {
        std::thread::sleep(Duration::from_secs(1));
        let now = reconciled(cluster)?.0;
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// What all replicas asked the API server in that time.
fn requests(cluster: &Cluster, from: Timestamp, until: Timestamp) -> Result<Vec<Request>> {
    let mut requests = cluster.requests_of(ACCOUNT)?;
    let times = requests.iter().map(|request| Ok(request.time.parse()?)).collect::<Result<Vec<Timestamp>>>()?;
    let mut times = times.into_iter();
    requests.retain(|_| times.next().is_some_and(|time| time >= from && time < until));
    Ok(requests)
}

/// How often each kind of request was made while nothing happened for so long.
pub(super) fn at_rest(cluster: &Cluster, time: Duration) -> Result<BTreeMap<String, usize>> {
    let from = Timestamp::now();
    std::thread::sleep(time);
    let mut kinds = BTreeMap::new();
    for request in requests(cluster, from, Timestamp::now())? {
        *kinds.entry(kind(&request)).or_default() += 1;
    }
    Ok(kinds)
}

/// What is asked, e.g. `update leases`.
fn kind(request: &Request) -> String {
    let path = request.uri.split('?').next().unwrap_or_default();
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // `/api/VERSION/...` or `/apis/GROUP/VERSION/...`.
    let version = if parts.next() == Some("apis") { parts.nth(1) } else { parts.next() };
    let mut resource = version.and_then(|_| parts.next()).unwrap_or(path);
    if resource == "namespaces" && parts.clone().count() > 1 {
        resource = parts.nth(1).unwrap_or(resource);
    }
    format!("{} {resource}", request.verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_by_verb_and_resource() {
        let kind = |verb: &str, uri: &str| {
            kind(&Request { time: String::new(), verb: verb.into(), uri: uri.into(), pod: None, code: None })
        };
        let lease = "/apis/coordination.k8s.io/v1/namespaces/leader-system/leases/leader-webhook-controller?timeout=1s";
        assert_eq!(kind("update", lease), "update leases");
        assert_eq!(kind("watch", "/api/v1/pods?watch=true"), "watch pods");
        assert_eq!(kind("get", "/api/v1/namespaces/shop"), "get namespaces");
        assert_eq!(kind("get", "/version"), "get /version");
    }
}
