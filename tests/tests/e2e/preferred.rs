//! Where the leader had better be (`leader.io/prefer`): what a hand-over costs where a candidate is there, and where none is.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leader_agent::names;
use leader_agent::timing::PREFERENCE_WAIT;
use leader_tests::Cluster;
use leader_tests::progress::say;
use serde_json::{Value, json};

use crate::stage::{Stage, until};
use crate::steering::{said, standbys};
use crate::workload::Workload;
use crate::writer::Writer;

/// The node's label, and the pod's.
const ZONE: &str = "topology.kubernetes.io/zone";
/// A busy machine can make any hand-over slow, but hardly so many in a row.
const TRIES: u32 = 8;

/// Two replicas that prefer that place.
fn start<'a>(stage: &'a Stage, name: &str, place: &str) -> Result<Workload<'a>> {
    stage.start(&Writer::new(name).replicas(2).elected().annotated(names::PREFER, place))
}

/// The node that the stage's pods run on.
fn node(stage: &Stage) -> Result<String> {
    let pods = stage.namespace.get(&["pods", "--selector=app=keeper"])?;
    let node = pods["items"][0]["spec"]["nodeName"].as_str();
    node.map(str::to_owned).with_context(|| format!("the keeper is on no node: {pods:#}"))
}

/// Has leadership given away; for how long nobody led.
fn hand_over(workload: &Workload<'_>) -> Result<Duration> {
    let leader = workload.leading()?;
    standbys(workload.stage, &workload.name, 1)?;
    said(workload.stage, "step-down", &[&workload.name])?;
    let (old, new) = workload.led_after(&leader)?;
    Ok(Duration::from_nanos(new.first.saturating_sub(old.last)))
}

/// Nobody waits for anybody.
fn costs_nothing(workload: &Workload<'_>, why: &str) -> Result<()> {
    let mut pauses = Vec::new();
    for _ in 0..TRIES {
        let pause = hand_over(workload)?;
        if pause < PREFERENCE_WAIT {
            say(format!("{why}: nobody led for {pause:.2?}"));
            return workload.never_two(2);
        }
        pauses.push(pause);
    }
    bail!("{why}: nobody led for {pauses:?}")
}

/// Everybody waits for somebody in a better place, and takes over then.
fn costs_the_wait(workload: &Workload<'_>, why: &str) -> Result<()> {
    let pause = hand_over(workload)?;
    say(format!("{why}: nobody led for {pause:.2?}"));
    ensure!(pause >= PREFERENCE_WAIT, "{why}: nobody led for {pause:?} only");
    workload.never_two(2)
}

#[test]
fn a_hand_over_is_quick_on_the_preferred_node_and_takes_a_second_longer_elsewhere() -> Result<()> {
    Stage::test("preferred-node", |stage| {
        let place = format!("node={}", node(stage)?);
        costs_nothing(&start(stage, "here", &place)?, "on the preferred node")?;
        costs_the_wait(&start(stage, "away", "node=elsewhere")?, "on another node")
    })
}

/// The zone of a node; none again when this is dropped.
struct Zone<'a> {
    cluster: &'a Cluster,
    node: &'a str,
}

impl<'a> Zone<'a> {
    /// Fails where the node is in another zone already.
    fn new(cluster: &'a Cluster, node: &'a str, zone: &str) -> Result<Self> {
        cluster.kubectl(&["label", "node", node, &format!("{ZONE}={zone}")]).run()?;
        Ok(Self { cluster, node })
    }
}

impl Drop for Zone<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl(&["label", "node", self.node, &format!("{ZONE}-")]).run() {
            say(format!("cannot take {} out of its zone: {error:#}", self.node));
        }
    }
}

/// The zone that a pod on this node would be given now.
fn zone_of_a_new_pod(stage: &Stage, node: &str) -> Result<Value> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"},
        "spec": {"nodeName": node, "containers": [{"name": "asks", "image": "asks"}]},
    });
    let create = stage.namespace.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"]);
    let pod: Value = serde_json::from_str(&create.input(pod.to_string()).run()?)?;
    Ok(pod["metadata"]["labels"][ZONE].clone())
}

/// Every pod of the workload is in this zone, or in none.
fn are_in(workload: &Workload<'_>, zone: Option<&str>) -> Result<()> {
    let selector = format!("--selector=app={}", workload.name);
    let list = workload.stage.namespace.get(&["pods", &selector])?;
    for pod in list["items"].as_array().context("a list without items")? {
        let metadata = &pod["metadata"];
        ensure!(metadata["labels"][ZONE].as_str() == zone, "not in zone {zone:?}: {metadata:#}");
    }
    Ok(())
}

/// Alone, because the zone is every new pod's.
#[test]
fn a_preferred_zone_is_that_of_the_pods_node_and_one_that_is_not_known_makes_nobody_wait() -> Result<()> {
    Stage::alone("preferred-zone", |stage| {
        let node = node(stage)?;
        let lost = start(stage, "lost", "zone=a")?;
        are_in(&lost, None)?;
        costs_nothing(&lost, "in a zone that is not known")?;

        let zone = Zone::new(stage.namespace.cluster(), &node, "a")?;
        until("the API server to know the node's zone", || {
            let zone = zone_of_a_new_pod(stage, &node)?;
            ensure!(zone == "a", "a new pod would be in zone {zone}");
            Ok(())
        })?;
        let (near, far) = (start(stage, "near", "zone=a")?, start(stage, "far", "zone=b")?);
        // Those that were there before keep what they know.
        are_in(&lost, None)?;
        are_in(&near, Some("a"))?;
        are_in(&far, Some("a"))?;
        costs_nothing(&near, "in the preferred zone")?;
        costs_the_wait(&far, "in another zone")?;
        drop(zone);
        Ok(())
    })
}
