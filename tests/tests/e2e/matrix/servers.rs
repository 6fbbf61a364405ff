//! The cluster's own servers end, stand still or come back.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::trial::parallel;
use super::{Broken, Follow, Row};
use crate::workload::Workload;

/// Longer than any lease of these rows.
const OUTAGE: Duration = Duration::from_secs(30);

/// A server stands still for a while.
fn paused(row: Row, part: &'static str) -> Result<()> {
    row.follow(Follow::Lasting(OUTAGE)).on_all(|workloads| pause(workloads, part))
}

fn pause(workloads: &[Workload<'_>], part: &'static str) -> Result<Broken> {
    let cluster = workloads[0].stage.namespace.cluster();
    let paused = cluster.pause_server(part)?;
    Ok(Broken::mended_by(move || {
        paused.resume()?;
        cluster.wait_until_served()
    }))
}

#[test]
fn api_server_killed_and_started_again_later() -> Result<()> {
    let row = Row::new("API server", "killed, started again after 30 s").follow(Follow::Lasting(OUTAGE));
    row.on_all(|workloads| {
        let cluster = workloads[0].stage.namespace.cluster();
        let stopped = cluster.stop_server("apiserver", Signal::KILL)?;
        Ok(Broken::mended_by(move || {
            stopped.start_again()?;
            cluster.wait_until_served()
        }))
    })
}

/// Ends it by a signal, and starts it again at once.
fn restarted(fault: &'static str, signal: Signal) -> Result<()> {
    let row = Row::new("API server", fault).default_lease().moves();
    row.follow(Follow::Lasting(Duration::ZERO)).on_all(|workloads| {
        let cluster = workloads[0].stage.namespace.cluster();
        cluster.stop_server("apiserver", signal)?.start_again()?;
        cluster.wait_until_served()?;
        Ok(Broken::nothing())
    })
}

#[test]
fn api_server_crashed_and_restarted() -> Result<()> {
    restarted("killed and started again at once", Signal::KILL)
}

#[test]
fn api_server_restarted_in_good_order() -> Result<()> {
    restarted("restarted by SIGTERM (takes no request for a minute, while watches are open)", Signal::TERM)
}

/// What was sent meanwhile is carried out when it goes on.
#[test]
fn api_server_frozen() -> Result<()> {
    paused(Row::new("API server", "frozen for 30 s (SIGSTOP)").default_lease(), "apiserver")
}

#[test]
fn etcd_frozen() -> Result<()> {
    paused(Row::new("etcd", "frozen for 30 s (SIGSTOP)").default_lease(), "etcd")
}

#[test]
fn kubelet_frozen() -> Result<()> {
    paused(Row::new("kubelet", "frozen for 30 s (SIGSTOP)"), "kubelet")
}

/// Nobody restarts the leader's container, so another pod has to lead.
#[test]
fn kubelet_frozen_and_agent_killed() -> Result<()> {
    Row::new("kubelet", "frozen, and the leader's agent killed").on_all(|workloads| {
        let broken = pause(workloads, "kubelet")?;
        let killed = parallel(workloads, |workload| {
            let leader = workload.leading()?.writer.pod;
            workload.processes(&leader)?.agent()?.signal(Signal::KILL)
        });
        killed.into_iter().collect::<Result<()>>().map(|()| broken)
    })
}

/// To the API server the pod is gone at once. Its app still runs, on a node that cannot be told.
#[test]
fn pod_deleted_by_force_while_its_node_is_cut_off() -> Result<()> {
    let row = Row::new("kubelet", "node cut off, and the leader's pod deleted by force").default_lease().moves();
    row.on_all(|workloads| {
        let broken = pause(workloads, "kubelet")?;
        let cuts = parallel(workloads, |workload| {
            let (leader, namespace) = (workload.leading()?.writer.pod, &workload.stage.namespace);
            let cut = namespace.cut_from_api_server(&leader)?;
            namespace.run(&["delete", "pod", &leader, "--grace-period=0", "--force", "--wait=false"])?;
            Ok(Broken::mended_by(|| cut.heal()))
        });
        cuts.into_iter().try_fold(broken, |broken, cut| Ok(broken.and(cut?)))
    })
}
