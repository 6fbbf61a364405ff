//! Rows about who campaigns: two workloads under one id, one that is deleted and applied again, and a client-go rival.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use leader_ledger::overlap::Run;
use leader_tests::kit::{Rival, RivalOptions};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::process::cut;
use super::{Broken, Follow, Row};
use crate::stage::{PATIENCE, until};
use crate::workload::Workload;
use crate::writer::Writer;

const GROUP: &str = "workload";
/// How long an app takes that is deleted: longer than its Deployment's next pods take to stand by.
const SHUTDOWN: &str = "10";

/// The Deployment of a row's workload, as the row makes it.
fn manifest(workload: &Workload<'_>, writer: &Writer) -> Result<Value> {
    writer.named(&workload.name).elected().manifest(workload.stage)
}

/// A second Deployment under the same id, whose apps leave their stamps beside the first one's.
fn twin(workload: &Workload<'_>, writer: &Writer) -> Result<()> {
    let mut twin = manifest(workload, writer)?;
    let name = format!("{}-twin", workload.name);
    let labels = json!({"app": name});
    twin["metadata"]["name"] = json!(name);
    twin["spec"]["selector"]["matchLabels"] = labels.clone();
    twin["spec"]["template"]["metadata"]["labels"] = labels;
    let namespace = &workload.stage.namespace;
    namespace.apply(&twin.to_string())?;
    namespace.run(&["rollout", "status", &format!("deployment/{name}"), "--timeout=180s"]).map(drop)
}

#[test]
fn two_workloads_under_one_id() -> Result<()> {
    let mut row_writer = None;
    Row::new(GROUP, "two workloads under one id, and the leader cut off")
        .at_once(5)
        .on(|writer| row_writer.insert(writer).clone())
        .on_leader(|workload, leader| {
            twin(workload, row_writer.as_ref().context("no writer")?)?;
            cut(workload, leader)
        })
}

#[test]
fn deleted_and_applied_again_while_the_old_leader_shuts_down() -> Result<()> {
    let mut row_writer = None;
    Row::new(GROUP, "deleted and applied again while the old leader shuts down")
        .at_once(5)
        .on(|writer| row_writer.insert(writer.variable("SHUTDOWN_SECONDS", SHUTDOWN).stop_seconds(20)).clone())
        .on_leader(|workload, _| {
            let manifest = manifest(workload, row_writer.as_ref().context("no writer")?)?;
            workload.kubectl(&["delete"], &["--wait=true", "--cascade=background"])?;
            workload.stage.namespace.apply(&manifest.to_string())?;
            Ok(Broken::nothing())
        })
}

/// What happens to our leader while a rival waits.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Released,
    Killed,
    Cut,
    CutAndLeaseDeleted,
    CutAndLeaseEmptied,
}

impl Blow {
    const ALL: [Self; 5] =
        [Self::Released, Self::Killed, Self::Cut, Self::CutAndLeaseDeleted, Self::CutAndLeaseEmptied];

    fn apply(self, workload: &Workload<'_>, leader: &Run) -> Result<Broken> {
        let namespace = &workload.stage.namespace;
        let broken = match self {
            Self::Released | Self::Killed => Broken::nothing(),
            Self::Cut | Self::CutAndLeaseDeleted | Self::CutAndLeaseEmptied => cut(workload, leader)?,
        };
        match self {
            Self::Released => drop(namespace.run(&["delete", "pod", &leader.writer.pod, "--wait=false"])?),
            Self::Killed => workload.processes(&leader.writer.pod)?.agent()?.signal(Signal::KILL)?,
            Self::Cut => {}
            Self::CutAndLeaseDeleted => drop(namespace.run(&["delete", "lease", &workload.name, "--wait=false"])?),
            Self::CutAndLeaseEmptied => {
                let change = json!({"spec": {"holderIdentity": ""}}).to_string();
                namespace.run(&["patch", "lease", &workload.name, "--type=merge", "--patch", &change])?;
            }
        }
        Ok(broken)
    }
}

fn name_of_rival(workload: &Workload<'_>, trial: usize) -> String {
    format!("rival-{}-{trial}", workload.name)
}

/// Starts a rival that knows who leads.
fn rival(workload: &Workload<'_>, trial: usize) -> Result<Rival> {
    let holder = until("a holder", || {
        let lease = workload.lease()?;
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
        Ok(holder.context("nobody holds the Lease")?.to_owned())
    })?;
    let options = RivalOptions::new(&workload.name, &name_of_rival(workload, trial));
    let mut rival = workload.stage.namespace.rival(&options.stamps(&workload.stamps))?;
    rival.wait_for("new leader", &holder, PATIENCE)?;
    Ok(rival)
}

/// A rival takes an empty Lease at once, whoever's app runs; in the end it is asked to go, or killed. No other pod of ours stands by.
#[test]
fn a_client_go_rival_stands_by() -> Result<()> {
    let trials = AtomicUsize::new(0);
    Row::new(
        GROUP,
        "client-go rival stands by: leader's pod deleted, agent killed, cut off, Lease deleted or emptied meanwhile",
    )
    .default_lease()
    .on(|writer| writer.replicas(1))
    .at_once(5)
    .moves()
    .follow(Follow::Lasting(Duration::from_secs(30)))
    .on_leader(|workload, leader| {
        let trial = trials.fetch_add(1, Ordering::Relaxed);
        let mut rival = rival(workload, trial)?;
        let broken = Blow::ALL[trial % Blow::ALL.len()].apply(workload, leader)?;
        Ok(broken.and(Broken::mended_by(move || {
            if trial.is_multiple_of(2) {
                rival.signal(Signal::TERM)?;
                rival.ended(PATIENCE)?;
            }
            drop(rival);
            Ok(())
        })))
    })
}

/// A rival that was stopped goes on for a moment under a Lease that it lost, and then sees it.
#[test]
fn a_client_go_rival_leads_and_is_stopped() -> Result<()> {
    let trials = AtomicUsize::new(0);
    Row::new(GROUP, "client-go rival leads, and is SIGSTOPped until we lead, which counts as running")
        .default_lease()
        .on(|writer| writer.replicas(1))
        .at_once(5)
        .moves()
        .follow(Follow::AnotherRun)
        .on_leader(|workload, _| {
            let trial = trials.fetch_add(1, Ordering::Relaxed);
            let mut rival = rival(workload, trial)?;
            workload.kubectl(&["scale"], &["--replicas=0"])?;
            let identity = name_of_rival(workload, trial);
            rival.wait_for("leading", &identity, PATIENCE)?;
            rival.signal(Signal::STOP)?;
            workload.kubectl(&["scale"], &["--replicas=1"])?;
            Ok(Broken::mended_by(move || {
                rival.signal(Signal::CONT)?;
                rival.wait_for("lost", &identity, PATIENCE).map(drop)
            }))
        })
}
