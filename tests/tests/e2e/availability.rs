//! The webhook's replicas come and go, and nobody who changes an annotated workload notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use leader_tests::Cluster;
use leader_tests::command::Output;
use serde_json::{Value, json};

use crate::stage::{Stage, until};
use crate::writer::Writer;

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "deployment/leader-webhook";

/// Runs `work` while annotated workloads are created (dry run), by two clients at once; gives how many were. One that is refused is an
/// error.
fn while_reviews_are_asked_for(stage: &Stage, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    let probe = Writer::new("probe").without_stamps().elected().manifest(stage)?.to_string();
    let done = AtomicBool::new(false);
    let ask = || -> Result<(usize, Vec<String>)> {
        let (mut sent, mut refused) = (0, Vec::new());
        while !done.load(Ordering::Relaxed) {
            let create = ["create", "--dry-run=server", "-f", "-"];
            let output = stage.namespace.kubectl(&create).input(&*probe).output()?;
            sent += 1;
            if !output.success() {
                refused.push(output.stderr);
            }
        }
        Ok((sent, refused))
    };
    thread::scope(|scope| {
        let clients = [scope.spawn(ask), scope.spawn(ask)];
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let mut all = 0;
        for client in clients {
            let Ok(asked) = client.join() else { bail!("a client panicked") };
            let (sent, refused) = asked?;
            ensure!(refused.is_empty(), "{} of {sent} reviews were refused: {refused:#?}", refused.len());
            all += sent;
        }
        worked.map(|()| all)
    })
}

/// The names of the replicas that are there to stay.
fn replicas(cluster: &Cluster) -> Result<Vec<String>> {
    let pods = cluster.get(&["pods", NAMESPACE, "--selector=app.kubernetes.io/name=leader-webhook"])?;
    let pods = pods["items"].as_array().context("a list without items")?;
    let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(staying.filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned).collect())
}

/// What `kubectl drain` asks for each pod of a node.
fn evict(cluster: &Cluster, pod: &str) -> Result<Output> {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "leader-system"},
    });
    let path = format!("/api/v1/namespaces/leader-system/pods/{pod}/eviction");
    cluster.kubectl(&["create", "--raw", &path, "-f", "-"]).input(eviction.to_string()).output()
}

/// Waits until both replicas are as a rollout wants them, and none of `gone` is there any more.
fn whole_again(cluster: &Cluster, gone: &[&str]) -> Result<()> {
    cluster.kubectl(&["rollout", "status", WEBHOOK, NAMESPACE, "--timeout=180s"]).run()?;
    until("the replicas that go to be gone", || {
        let pods = cluster.get(&["pods", NAMESPACE])?;
        let names: Vec<&Value> =
            pods["items"].as_array().into_iter().flatten().map(|pod| &pod["metadata"]["name"]).collect();
        ensure!(names.len() == 2 && names.iter().all(|name| gone.iter().all(|gone| *name != gone)), "{names:?}");
        Ok(())
    })
}

#[test]
fn drained_nodes_and_rollouts_refuse_no_review() -> Result<()> {
    Stage::bare_alone("drained", |stage| {
        let cluster = stage.namespace.cluster();
        whole_again(cluster, &[])?;
        let sent = while_reviews_are_asked_for(stage, || {
            let pods = replicas(cluster)?;
            let [first, second] = &pods[..] else { bail!("the replicas are {pods:?}") };
            until("the budget to allow one", || {
                let evicted = evict(cluster, first)?;
                ensure!(evicted.success(), "{evicted:?}");
                Ok(())
            })?;
            // The budget allows one at a time, so that a node that has both keeps the second until there is another.
            let too_soon = evict(cluster, second)?;
            ensure!(!too_soon.success() && too_soon.stderr.contains("disruption budget"), "{too_soon:?}");
            whole_again(cluster, &[first])?;
            // And each of those that are there now.
            let before = replicas(cluster)?;
            cluster.kubectl(&["rollout", "restart", WEBHOOK, NAMESPACE]).run()?;
            whole_again(cluster, &before.iter().map(String::as_str).collect::<Vec<_>>())
        })?;
        ensure!(sent > 20, "only {sent} reviews were asked for");
        Ok(())
    })
}

/// As after the loss of power: no replica is there, and nothing was told to stop.
#[test]
fn replicas_that_are_all_lost_at_once_come_back_by_themselves() -> Result<()> {
    Stage::bare_alone("all-lost", |stage| {
        let cluster = stage.namespace.cluster();
        let pods = replicas(cluster)?;
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        let force = ["--force", "--grace-period=0"];
        cluster.kubectl(&["delete", "pods", NAMESPACE]).args(force).args(&pods).run()?;
        whole_again(cluster, &pods)?;
        let probe = Writer::new("probe").without_stamps().elected().manifest(stage)?.to_string();
        until("the webhook to answer", || {
            stage.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(&*probe).run()
        })
        .map(drop)
    })
}
