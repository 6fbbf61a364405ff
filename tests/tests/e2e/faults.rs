//! A leader that cannot be asked to stop is dead before another one starts: many trials of each fault, several at once.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leader_tests::kit::{Cut, PodProcess};
use leader_tests::progress::say;
use rustix::process::Signal;

use crate::stage::{Stage, long, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// What happens to a leader.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The agent gets SIGSTOP. The container restarts after the deadline, and may take up its own term.
    Stopped,
    /// The agent gets SIGSTOP, and what restarts is cut off from the API server: another pod must lead.
    StoppedAndCut,
    /// The pod is cut off from the API server.
    Cut,
}

/// A pod with a fault; healed when this is dropped.
struct Broken<'a> {
    cut: Option<Cut<'a>>,
    stopped: Option<PodProcess>,
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        // After the deadline there is nothing left to continue.
        if let Some(agent) = self.stopped.take().filter(PodProcess::is_alive) {
            let _ = agent.signal(Signal::CONT);
        }
    }
}

impl Fault {
    fn apply<'a>(self, workload: &Workload<'a>, pod: &str) -> Result<Broken<'a>> {
        let mut broken = Broken { cut: None, stopped: None };
        if matches!(self, Self::StoppedAndCut | Self::Cut) {
            broken.cut = Some(workload.stage.namespace.cut_from_api_server(pod)?);
        }
        if matches!(self, Self::Stopped | Self::StoppedAndCut) {
            let processes = workload.processes(pod)?;
            processes.agent()?.signal(Signal::STOP)?;
            broken.stopped = Some(processes.agent()?.clone());
        }
        Ok(broken)
    }

    fn moves_to_another_pod(self) -> bool {
        !matches!(self, Self::Stopped)
    }
}

/// What a trial showed.
struct Outcome {
    /// From the old app's last stamp to the new one's first.
    pause: Duration,
    moved: bool,
}

/// Breaks the leader once, waits for the next one, and judges by the stamps. On a busy machine leadership may move just
/// before the fault takes hold: then the fault missed it, and is tried again.
fn trial(workload: &Workload<'_>, fault: Fault) -> Result<Outcome> {
    let (leader, known, broken) = until("a fault that hits the leader", || {
        let leader = workload.leading()?;
        let broken = fault.apply(workload, &leader.writer.pod)?;
        let known = workload.runs()?;
        let newest = known.iter().rev().find(|run| run.writer.elected()).context("no elected run")?;
        ensure!(newest.writer == leader.writer, "{:?} led before {:?} was broken", newest.writer, leader.writer);
        Ok((leader, known, broken))
    })?;
    let new = workload.led_anew(&known)?;
    workload.never_two(2)?;
    let moved = leader.writer.pod != new.writer.pod;
    ensure!(moved || !fault.moves_to_another_pod(), "{} led again although it was cut off", new.writer.pod);
    drop(broken);
    until("both pods to be ready again", || {
        let ready = workload.ready_pods()?;
        ensure!(ready.len() == 2, "{ready:?} are ready");
        Ok(())
    })?;
    // The healed one has not taken anything either.
    workload.never_two(2)?;
    let runs = workload.runs()?;
    let old = runs.iter().find(|run| run.writer == leader.writer).context("the old run's stamps are gone")?;
    Ok(Outcome { pause: Duration::from_nanos(new.first.saturating_sub(old.last)), moved })
}

/// Runs `rounds` trials on each of some workloads at the same time, the workload's number choosing the fault, and says what
/// they showed.
fn trials(what: &str, workloads: usize, rounds: usize, writer: &Writer, faults: &[Fault]) -> Result<()> {
    Stage::test(what, |stage| {
        let one = |number: usize| -> Result<Vec<Outcome>> {
            let name = format!("{what}-{number}");
            let workload = stage.start(&writer.named(&name))?;
            let fault = faults[number % faults.len()];
            (0..rounds).map(|_| trial(&workload, fault).with_context(|| format!("{name}: {fault:?}"))).collect()
        };
        let mut outcomes = thread::scope(|scope| -> Result<Vec<Outcome>> {
            let threads: Vec<_> = (0..workloads).map(|number| scope.spawn(move || one(number))).collect();
            let results: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
            let results = results.into_iter().map(|result| result.map_err(|_| anyhow!("a trial panicked"))?);
            Ok(results.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        })?;
        outcomes.sort_by_key(|outcome| outcome.pause);
        let moved = outcomes.iter().filter(|outcome| outcome.moved).count();
        let pauses: Vec<_> = outcomes.iter().map(|outcome| format!("{:.2}", outcome.pause.as_secs_f32())).collect();
        say(format!(
            "{what}: {} trials, {moved} led by another pod; seconds from the old app's last stamp to the new one's first: {}",
            outcomes.len(),
            pauses.join(" ")
        ));
        Ok(())
    })
}

/// How many workloads at once and how many trials on each: 20 trials in the long run.
fn extent() -> (usize, usize) {
    if long() { (5, 4) } else { (2, 1) }
}

fn writer() -> Writer {
    Writer::new("").replicas(2).stop_seconds(1).elected()
}

#[test]
fn a_stopped_agents_app_is_dead_before_another_starts() -> Result<()> {
    let (workloads, rounds) = extent();
    trials("stopped", workloads, rounds, &writer(), &[Fault::StoppedAndCut, Fault::Stopped])
}

#[test]
fn the_app_of_a_pod_that_is_cut_off_is_dead_before_another_starts() -> Result<()> {
    let (workloads, rounds) = extent();
    trials("cut-off", workloads, rounds, &writer(), &[Fault::Cut])
}

#[test]
fn an_app_that_ignores_term_is_dead_before_another_starts() -> Result<()> {
    let (workloads, rounds) = extent();
    trials("deaf", workloads, rounds, &writer().variable("IGNORE_TERM", "1"), &[Fault::Cut])
}

/// The margin is larger there, so the shortest lease does not fit.
#[test]
fn fifty_busy_processes_on_a_tenth_of_a_processor_are_dead_before_another_starts() -> Result<()> {
    let (workloads, rounds) = if long() { (5, 2) } else { (2, 1) };
    let writer =
        writer().lease_seconds(15).variable("BUSY_PROCESSES", "50").variable("IGNORE_TERM", "1").cpu_limit("100m");
    trials("starved", workloads, rounds, &writer, &[Fault::StoppedAndCut, Fault::Cut])
}
