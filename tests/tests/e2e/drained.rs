//! `kubectl drain` of the leader's node, as an administrator does it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::overlap::Run;
use leader_tests::Cluster;
use leader_tests::progress::say;

use crate::stage::{Stage, until};
use crate::steering::standbys;
use crate::workload::Workload;
use crate::writer::Writer;

/// A node on which no new pod is put, from its drain on; uncordoned when this is dropped.
struct Drained<'a> {
    cluster: &'a Cluster,
    node: String,
}

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl(&["uncordon", &self.node]).run() {
            say(format!("cannot uncordon {}: {error:#}", self.node));
        }
    }
}

/// How many elected runs began after `leader`'s.
fn moves(workload: &Workload<'_>, leader: &Run) -> Result<usize> {
    let runs = workload.runs()?.into_iter();
    Ok(runs.filter(|run| run.writer.elected() && run.first > leader.first).count())
}

fn ready(workload: &Workload<'_>, count: usize) -> Result<()> {
    until(&format!("{count} ready replicas"), || {
        let ready = workload.ready_pods()?;
        ensure!(ready.len() == count, "{ready:?} are ready");
        Ok(())
    })
}

/// There is one node only: what is drained from it is the leader's pod alone, and standbys stay as they would on other nodes. Alone,
/// because no test's new pods are started before the end.
#[test]
fn a_leader_whose_node_is_drained_hands_over_once_and_before_it_goes() -> Result<()> {
    Stage::alone("drained-leader", |stage| {
        let workload = stage.start(&Writer::new("drained").replicas(3).stop_seconds(5).lease_seconds(30))?;
        let leader = workload.leading()?;
        standbys(stage, "drained", 2)?;
        let pod = &leader.writer.pod;
        let label = format!("drained-by={}", stage.namespace.name());
        stage.namespace.run(&["label", "pod", pod, &label])?;
        let node = stage.namespace.get(&["pod", pod])?["spec"]["nodeName"].as_str().context("on no node")?.to_owned();
        let cluster = stage.namespace.cluster();
        let drained = Drained { cluster, node };
        let selector = format!("--pod-selector={label}");
        let drain = ["drain", &drained.node, &selector, "--ignore-daemonsets", "--timeout=120s"];

        // As for every pod with an emptyDir.
        let refused = cluster.kubectl(&drain).output()?;
        ensure!(!refused.success() && refused.stderr.contains("--delete-emptydir-data"), "{refused:?}");
        ensure!(moves(&workload, &leader)? == 0, "leadership moved: {:#?}", workload.runs()?);

        let said = cluster.kubectl(&drain).arg("--delete-emptydir-data").run()?;
        ensure!(said.contains(&format!("pod/{pod} evicted")), "{said}");
        let (old, new) = workload.led_after(&leader)?;
        ensure!(new.writer.pod != *pod, "the same leads: {said}");
        let pause = Duration::from_nanos(new.first.saturating_sub(old.last));
        // L is 30 s, renewed a few seconds before, and nobody has waited for it.
        ensure!(pause < Duration::from_secs(4), "nobody led for {pause:?}");
        ensure!(moves(&workload, &leader)? == 1, "leadership moved more than once: {:#?}", workload.runs()?);
        say(format!("a drained node: nobody led for {pause:.2?}"));

        // The replica in its place is not put on this node before that is uncordoned.
        ready(&workload, 2)?;
        drop(drained);
        ready(&workload, 3)?;
        ensure!(moves(&workload, &leader)? == 1, "leadership moved once more: {:#?}", workload.runs()?);
        workload.never_two(2)
    })
}
