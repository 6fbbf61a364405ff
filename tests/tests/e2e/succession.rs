//! How often leadership moves when pods are replaced or removed on purpose, and to which of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::overlap::Run;
use leader_tests::progress::say;
use serde_json::json;

use crate::stage::{Stage, long, until};
use crate::workload::Workload;
use crate::writer::Writer;

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Waits until the leader's pod, and no other one, is the one that is removed last.
fn protected(workload: &Workload<'_>) -> Result<Run> {
    until("the leader's pod to be removed last", || {
        let leader = workload.leading()?;
        let selector = format!("--selector=app={}", workload.name);
        let list = workload.stage.namespace.get(&["pods", &selector])?;
        for pod in list["items"].as_array().context("a list without items")? {
            let metadata = &pod["metadata"];
            let leads = metadata["name"] == leader.writer.pod.as_str();
            let costs = !metadata["annotations"][COST].is_null();
            ensure!(leads == costs, "{leads}: {metadata:#}");
        }
        Ok(leader)
    })
}

/// The elected runs that began after `leader`'s, in order.
fn later(workload: &Workload<'_>, leader: &Run) -> Result<Vec<Run>> {
    let runs = workload.runs()?.into_iter();
    Ok(runs.filter(|run| run.writer.elected() && run.first > leader.first).collect())
}

fn writer(name: &str, replicas: u32) -> Writer {
    Writer::new(name).replicas(replicas).lease_seconds(15).stop_seconds(10)
}

/// As [`writer`], for pods that are deleted together: its leader takes longer to stop than the kubelet takes to tell all of them. A standby
/// that is to end as well, and has not been told yet, would take over for a moment.
fn lingering(name: &str, replicas: u32) -> Writer {
    writer(name, replicas).variable("SHUTDOWN_SECONDS", "3")
}

/// Rolls out a new template so many times. Each time leadership moves once, and to a pod of the new template.
fn rolls_out(replicas: u32, writer: fn(&str, u32) -> Writer) -> Result<()> {
    let rounds = if long() { 10 } else { 2 };
    let name = format!("rolled-{replicas}");
    Stage::test(&name, |stage| {
        let workload = stage.start(&writer(&name, replicas))?;
        for round in 1..=rounds {
            let leader = protected(&workload)?;
            let before = workload.ready_pods()?;
            workload.kubectl(&["rollout", "restart"], &[])?;
            workload.wait_until_rolled_out()?;
            // The last pod of the old template may still be shutting down.
            let new = workload.led_anew(std::slice::from_ref(&leader))?;
            until("the pods of the old template to be gone", || {
                let selector = format!("--selector=app={name}");
                let list = stage.namespace.get(&["pods", &selector])?;
                let pods = list["items"].as_array().context("a list without items")?;
                let replicas = usize::try_from(replicas)?;
                ensure!(pods.len() == replicas, "there are {} pods", pods.len());
                Ok(())
            })?;
            let later = later(&workload, &leader)?;
            ensure!(later.len() == 1, "round {round}: leadership moved {} times: {later:#?}", later.len());
            ensure!(!before.contains(&new.writer.pod), "round {round}: {} is of the old template", new.writer.pod);
            workload.never_two(2)?;
        }
        say(format!("{rounds} roll-outs of {replicas} replicas: leadership moved once in each, to the new template"));
        Ok(())
    })
}

#[test]
fn a_rollout_of_two_replicas_moves_leadership_once() -> Result<()> {
    rolls_out(2, writer)
}

#[test]
fn a_rollout_of_three_replicas_moves_leadership_once() -> Result<()> {
    rolls_out(3, writer)
}

#[test]
fn a_rollout_of_five_replicas_moves_leadership_once() -> Result<()> {
    // Two pods more than wanted at a time, and two less.
    rolls_out(5, lingering)
}

#[test]
fn scaling_down_leaves_the_leader_where_it_is() -> Result<()> {
    Stage::test("scaled", |stage| {
        let workload = stage.start(&Writer::new("scaled").replicas(5).lease_seconds(15))?;
        let leader = protected(&workload)?;
        for replicas in [3, 1] {
            workload.kubectl(&["scale"], &[&format!("--replicas={replicas}")])?;
            until("the other pods to be gone", || {
                let list = stage.namespace.get(&["pods", "--selector=app=scaled"])?;
                let pods = list["items"].as_array().context("a list without items")?;
                ensure!(pods.len() == replicas, "there are {} pods", pods.len());
                Ok(())
            })?;
            ensure!(later(&workload, &leader)?.is_empty(), "leadership moved: {:#?}", workload.runs()?);
        }
        ensure!(workload.leading()?.writer == leader.writer, "{:#?}", workload.runs()?);
        workload.never_two(1)
    })
}

/// Waits until a set, as kubectl names it, is rolled out.
fn rolled_out(stage: &Stage, set: &str) -> Result<()> {
    stage.namespace.run(&["rollout", "status", set, "--timeout=180s"]).map(drop)
}

/// After a roll-out of a set, whose pods get no cost: another run leads, and leadership moved at most once for each pod. Gives how often.
fn moved_at_most_once_for_each_pod(workload: &Workload<'_>, leader: &Run) -> Result<usize> {
    workload.led_anew(std::slice::from_ref(leader))?;
    let later = later(workload, leader)?;
    let selector = format!("--selector=app={}", workload.name);
    let mut list = workload.stage.namespace.get(&["pods", &selector])?;
    let pods = list["items"].as_array_mut().context("a list without items")?;
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    ensure!(
        (1..=pods.len()).contains(&later.len()),
        "leadership moved {} times among {} pods: {later:#?}",
        later.len(),
        pods.len()
    );
    ensure!(pods.iter().all(|pod| pod["metadata"]["annotations"][COST].is_null()), "{pods:#?}");
    workload.never_two(2)?;
    Ok(later.len())
}

/// A StatefulSet of writers.
fn stateful<'a>(stage: &'a Stage, name: &str, replicas: u32) -> Result<Workload<'a>> {
    let writer = Writer::new(name).replicas(replicas).stop_seconds(1).lease_seconds(15);
    let workload = stage.workload(&writer)?;
    let mut manifest = writer.manifest(stage)?;
    manifest["kind"] = json!("StatefulSet");
    manifest["spec"]["serviceName"] = json!(name);
    stage.namespace.apply(&manifest.to_string())?;
    rolled_out(stage, &format!("statefulset/{name}"))?;
    Ok(workload)
}

/// All pods end before new ones are made.
#[test]
fn a_deployment_that_recreates_its_pods_moves_leadership_once() -> Result<()> {
    Stage::test("recreated", |stage| {
        let writer = lingering("recreated", 3);
        let workload = stage.workload(&writer)?;
        let mut manifest = writer.manifest(stage)?;
        manifest["spec"]["strategy"] = json!({"type": "Recreate"});
        stage.namespace.apply(&manifest.to_string())?;
        workload.wait_until_rolled_out()?;
        let leader = protected(&workload)?;
        workload.kubectl(&["rollout", "restart"], &[])?;
        workload.wait_until_rolled_out()?;
        workload.led_anew(std::slice::from_ref(&leader))?;
        let later = later(&workload, &leader)?;
        ensure!(later.len() == 1, "leadership moved {} times: {later:#?}", later.len());
        workload.never_two(2)
    })
}

/// What `kubectl drain` asks for each pod of a node: the leader hands over before it goes.
#[test]
fn a_leader_that_is_evicted_hands_over_once() -> Result<()> {
    Stage::test("evicted", |stage| {
        let workload = stage.start(&Writer::new("evicted").replicas(3).stop_seconds(5).lease_seconds(15))?;
        let leader = protected(&workload)?;
        let pod = &leader.writer.pod;
        let namespace = stage.namespace.name();
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        stage.namespace.kubectl(&["create", "--raw", &path, "-f", "-"]).input(eviction.to_string()).run()?;
        let (old, new) = workload.led_after(&leader)?;
        workload.wait_until_rolled_out()?;
        let later = later(&workload, &leader)?;
        ensure!(later.len() == 1, "leadership moved {} times: {later:#?}", later.len());
        let pause = Duration::from_nanos(new.first.saturating_sub(old.last));
        // L is 15 s, renewed a few seconds before, and nobody has waited for it.
        ensure!(pause < Duration::from_secs(4), "nobody led for {pause:?}");
        workload.never_two(2)
    })
}

#[test]
fn a_stateful_set_that_is_scaled_down_keeps_its_leader_unless_that_goes() -> Result<()> {
    Stage::test("shrunk", |stage| {
        let workload = stateful(stage, "shrunk", 3)?;
        let leader = workload.leading()?;
        stage.namespace.run(&["scale", "statefulset/shrunk", "--replicas=1"])?;
        until("the other pods to be gone", || {
            let list = stage.namespace.get(&["pods", "--selector=app=shrunk"])?;
            let pods = list["items"].as_array().context("a list without items")?;
            ensure!(pods.len() == 1, "there are {} pods", pods.len());
            Ok(())
        })?;
        let stays = leader.writer.pod == "shrunk-0";
        if !stays {
            workload.led_anew(std::slice::from_ref(&leader))?;
        }
        let later = later(&workload, &leader)?;
        // One after the other goes: from 2 leadership may go to 1 and on to 0.
        let most = if stays { 0 } else { 2 };
        ensure!(later.len() <= most, "leadership moved {} times: {later:#?}", later.len());
        workload.never_two(1)
    })
}

/// From the last one to the first, each of them ready before the next: whoever takes over may be the next to be replaced.
#[test]
fn a_stateful_set_moves_leadership_at_most_once_for_each_of_its_pods() -> Result<()> {
    const REPLICAS: u32 = 3;
    Stage::test("ordered", |stage| {
        let workload = stateful(stage, "ordered", REPLICAS)?;
        let leader = workload.leading()?;
        stage.namespace.run(&["rollout", "restart", "statefulset/ordered"])?;
        rolled_out(stage, "statefulset/ordered")?;
        let moves = moved_at_most_once_for_each_pod(&workload, &leader)?;
        say(format!("a roll-out of a StatefulSet with {REPLICAS} replicas: leadership moved {moves} times"));
        Ok(())
    })
}

/// On each node the old pod ends before the new one is made. The cluster has one node, so that nobody stands by meanwhile.
#[test]
fn a_daemon_set_moves_leadership_at_most_once_for_each_of_its_pods() -> Result<()> {
    Stage::test("on-nodes", |stage| {
        let writer = Writer::new("on-nodes").stop_seconds(1).lease_seconds(15);
        let workload = stage.workload(&writer)?;
        let mut manifest = writer.manifest(stage)?;
        manifest["kind"] = json!("DaemonSet");
        manifest["spec"].as_object_mut().context("no specification")?.remove("replicas");
        stage.namespace.apply(&manifest.to_string())?;
        rolled_out(stage, "daemonset/on-nodes")?;
        let leader = workload.leading()?;
        stage.namespace.run(&["rollout", "restart", "daemonset/on-nodes"])?;
        rolled_out(stage, "daemonset/on-nodes")?;
        let moves = moved_at_most_once_for_each_pod(&workload, &leader)?;
        say(format!("a roll-out of a DaemonSet: leadership moved {moves} times"));
        Ok(())
    })
}
