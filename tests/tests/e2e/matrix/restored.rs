//! etcd comes back with what it held a while ago: writes that were answered are undone.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::trial::parallel;
use super::{Broken, Follow, Row};

/// Restored data name a leader that has lost its lease since, with a lower revision.
const LIMIT: &str = "etcd restored while agents run";

#[test]
fn etcd_restored_from_a_snapshot() -> Result<()> {
    let row = Row::new("etcd", "restored from a snapshot in which another pod led").default_lease().moves();
    row.limit(LIMIT).follow(Follow::Lasting(Duration::from_secs(20))).on_all(|workloads| {
        let cluster = workloads[0].stage.namespace.cluster();
        let snapshot = cluster.etcd_snapshot()?;
        let moved = parallel(workloads, |workload| {
            let leader = workload.leading()?;
            workload.processes(&leader.writer.pod)?.agent()?.signal(Signal::KILL)?;
            workload.led_after(&leader)
        });
        moved.into_iter().collect::<Result<Vec<_>>>()?;
        snapshot.restore()?;
        Ok(Broken::nothing())
    })
}
