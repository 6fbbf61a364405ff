//! What moves leadership, and that it never moves before the old app is dead.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::clock;
use leader_ledger::overlap::Run;
use rustix::process::Signal;

use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// Breaks the leader and judges what follows, by the stamps and by the keeper's report. Gives the old run and the new one.
fn moved(stage: &Stage, workload: &Workload<'_>, break_it: impl FnOnce(&Run) -> Result<()>) -> Result<(Run, Run)> {
    let leader = workload.leading()?;
    break_it(&leader)?;
    let (old, new) = workload.led_after(&leader)?;
    workload.never_two(2)?;
    until("the new writer in the keeper's report", || {
        let report = stage.report()?;
        ensure!(report.runs.iter().any(|run| run.run.writer == new.writer), "{report}");
        ensure!(report.elected.is_empty(), "the keeper saw two at once: {report}");
        Ok(())
    })?;
    Ok((old, new))
}

fn another_pod(old: &Run, new: &Run) -> Result<()> {
    ensure!(old.writer.pod != new.writer.pod, "leadership did not move: {old:?}, {new:?}");
    ensure!(old.writer.token < new.writer.token, "the fencing token did not grow: {old:?}, {new:?}");
    Ok(())
}

#[test]
fn deleting_the_leaders_pod_moves_leadership() -> Result<()> {
    Stage::test("delete", |stage| {
        let workload = stage.start(&Writer::new("deleted").elected())?;
        let (old, new) = moved(stage, &workload, |leader| {
            stage.namespace.run(&["delete", "pod", &leader.writer.pod, "--wait=false"]).map(drop)
        })?;
        another_pod(&old, &new)
    })
}

#[test]
fn deleting_the_leaders_pod_by_force_moves_leadership() -> Result<()> {
    Stage::test("force", |stage| {
        // Far from ending at once: the name is gone from the API server while the app still runs.
        let writer = Writer::new("forced").elected().variable("SHUTDOWN_SECONDS", "3");
        let workload = stage.start(&writer)?;
        let (old, new) = moved(stage, &workload, |leader| {
            stage.namespace.run(&["delete", "pod", &leader.writer.pod, "--grace-period=0", "--force"]).map(drop)
        })?;
        another_pod(&old, &new)
    })
}

#[test]
fn killing_the_agent_ends_the_app_and_leadership_goes_on() -> Result<()> {
    Stage::test("kill", |stage| {
        let workload = stage.start(&Writer::new("killed").elected())?;
        let (old, new) =
            moved(stage, &workload, |leader| workload.processes(&leader.writer.pod)?.agent()?.signal(Signal::KILL))?;
        ensure!(old.writer != new.writer);
        let end = until("the kubelet to tell of the container's end", || {
            let status = stage.namespace.get(&["pod", &old.writer.pod])?["status"]["containerStatuses"][0].clone();
            let ends = ["state", "lastState"].map(|state| status[state]["terminated"].clone());
            ends.into_iter().find(|end| !end.is_null()).with_context(|| format!("{status:#}"))
        })?;
        ensure!(end["exitCode"] == 137, "the container was not killed: {end:#}");
        Ok(())
    })
}

#[test]
fn an_app_that_dies_is_followed_by_another_run_and_its_exit_code_is_the_containers() -> Result<()> {
    Stage::test("crash", |stage| {
        let workload = stage.start(&Writer::new("crashing").lease_seconds(15))?;
        let (old, new) = moved(stage, &workload, |leader| {
            let processes = workload.processes(&leader.writer.pod)?;
            processes.app().first().map_or(Ok(()), |app| app.signal(Signal::KILL))
        })?;
        // It was released, so nobody waits for the Lease to run out.
        let pause = Duration::from_nanos(new.first.saturating_sub(old.last));
        ensure!(pause < Duration::from_secs(3), "the Lease was not released: {pause:?} until {new:?}");
        another_pod(&old, &new)
    })
}

#[test]
fn deleting_and_applying_again_waits_for_an_old_leader_that_takes_20_s_to_shut_down() -> Result<()> {
    const SHUTDOWN: u64 = 20;
    Stage::test("again", |stage| {
        let writer =
            Writer::new("again").elected().variable("SHUTDOWN_SECONDS", &SHUTDOWN.to_string()).stop_seconds(30);
        let workload = stage.start(&writer)?;
        let mut told = 0;
        let (old, new) = moved(stage, &workload, |_| {
            told = clock::boot()?;
            workload.kubectl(&["delete"], &["--wait=true", "--cascade=background"])?;
            stage.namespace.apply(&writer.manifest(stage)?.to_string()).map(drop)
        })?;
        another_pod(&old, &new)?;
        let shutdown = Duration::from_nanos(old.last - told);
        ensure!(shutdown > Duration::from_secs(SHUTDOWN - 2), "the old leader shut down in {shutdown:?} only");
        // The new pods stood by all the time.
        workload.wait_until_rolled_out()
    })
}
