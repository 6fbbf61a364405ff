//! The trials of a row: all its workloads meet the fault, what has to follow follows, all is mended, and the stamps are read.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leader_ledger::clock;
use leader_ledger::overlap::{Overlaps, Run, overlaps};
use leader_tests::progress::say;
use serde_json::{Value, json};

use super::broken::Broken;
use super::outcome::{Outcome, Summary};
use super::row::{Follow, Row, trials_wanted};
use crate::stage::{Stage, until};
use crate::workload::Workload;

/// Between two looks at all workloads with one kubectl, which itself takes a part of the machine.
const PAUSE: Duration = Duration::from_millis(500);

/// A workload's leader when the fault came.
struct Struck {
    leader: Run,
    known: Vec<Run>,
    /// When, by the boot clock.
    at: u64,
}

/// What a fault did to all workloads of a row, in their order.
pub(super) struct Strike {
    struck: Vec<Result<Struck>>,
    broken: Broken,
}

/// Runs all trials of a row.
pub(super) fn rounds(row: &Row, stage: &Stage, strike: impl Fn(&[Workload<'_>]) -> Result<Strike>) -> Result<Summary> {
    let workloads = start(row, stage)?;
    let mut summary = Summary::default();
    let rounds = trials_wanted().div_ceil(workloads.len());
    for number in 1..=rounds {
        let before = summary.failures.len();
        if let Err(error) = round(row, stage, &workloads, &strike, &mut summary) {
            // What follows would be no trial of this fault alone.
            summary.failures.push(format!("round {number}: {error:#}"));
            break;
        }
        say(format!("{}: round {number} of {rounds} is over", row.fault));
        for failure in &summary.failures[before..] {
            say(format!("{}: {failure}", row.fault));
        }
    }
    for workload in &workloads {
        let Overlaps { elected, unelected } = overlaps(&workload.runs()?);
        summary.overlaps.extend(elected);
        summary.with_rival.extend(unelected);
    }
    Ok(summary)
}

/// The row's workloads, all ready and led.
fn start<'a>(row: &Row, stage: &'a Stage) -> Result<Vec<Workload<'a>>> {
    let writers: Vec<_> = (0..row.at_once.min(trials_wanted()))
        .map(|number| row.writer.named(&row.workload(number)).lease_seconds(row.lease_seconds))
        .collect();
    let manifests = writers.iter().map(|writer| writer.manifest(stage)).collect::<Result<Vec<Value>>>()?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests}).to_string();
    // After another row's fault the webhook may not be reached yet.
    until("the workloads to be taken", || stage.namespace.apply(&list))?;
    let workloads = writers.iter().map(|writer| stage.workload(writer)).collect::<Result<Vec<_>>>()?;
    wait_until_well(stage, &workloads)?;
    Ok(workloads)
}

/// One trial on each workload. A workload's failure is noted; an error is one of all of them.
fn round(
    row: &Row,
    stage: &Stage,
    workloads: &[Workload<'_>],
    strike: impl Fn(&[Workload<'_>]) -> Result<Strike>,
    summary: &mut Summary,
) -> Result<()> {
    let Strike { struck, broken } = strike(workloads)?;
    let pairs: Vec<_> = workloads.iter().zip(&struck).collect();
    let followed = parallel(&pairs, |(workload, struck)| match struck {
        Ok(struck) => follow(row.follow, workload, struck),
        Err(error) => Err(anyhow!("{error:#}")),
    });
    broken.mend()?;
    wait_until_well(stage, workloads)?;
    for ((workload, struck), followed) in workloads.iter().zip(struck).zip(followed) {
        match (struck, followed) {
            (Ok(Struck { leader, at, .. }), Ok(())) => {
                summary.outcomes.push(Outcome::of(&workload.runs()?, &leader, at));
            }
            (_, Err(error)) | (Err(error), _) => summary.failures.push(format!("{}: {error:#}", workload.name)),
        }
    }
    Ok(())
}

/// Strikes the leader of each workload.
pub(super) fn strike_each(
    row: &Row,
    workloads: &[Workload<'_>],
    fault: &(impl Fn(&Workload<'_>, &Run) -> Result<Broken> + Sync),
) -> Strike {
    let mut strike = Strike { struck: Vec::new(), broken: Broken::nothing() };
    for result in parallel(workloads, |workload| strike_one(row, workload, fault)) {
        match result {
            Ok((struck, broken)) => {
                strike.broken = strike.broken.and(broken);
                strike.struck.push(Ok(struck));
            }
            Err(error) => strike.struck.push(Err(error)),
        }
    }
    strike
}

fn strike_one(
    row: &Row,
    workload: &Workload<'_>,
    fault: &impl Fn(&Workload<'_>, &Run) -> Result<Broken>,
) -> Result<(Struck, Broken)> {
    until("a fault that hits the leader", || {
        let struck = leads(workload)?;
        let broken = fault(workload, &struck.leader)?;
        check_hit(row, workload, &struck)?;
        Ok((struck, broken))
    })
}

/// Strikes all workloads with one fault.
pub(super) fn strike_all(
    row: &Row,
    workloads: &[Workload<'_>],
    fault: &impl Fn(&[Workload<'_>]) -> Result<Broken>,
) -> Result<Strike> {
    let struck = parallel(workloads, leads);
    let broken = fault(workloads)?;
    let check = |(struck, workload): (Result<Struck>, &Workload<'_>)| {
        struck.and_then(|struck| check_hit(row, workload, &struck).map(|()| struck))
    };
    Ok(Strike { struck: struck.into_iter().zip(workloads).map(check).collect(), broken })
}

fn leads(workload: &Workload<'_>) -> Result<Struck> {
    let leader = workload.leading()?;
    let known = workload.runs()?;
    Ok(Struck { leader, known, at: clock::boot()? })
}

/// A fault that came when leadership had just moved has missed the leader, and shows nothing.
fn check_hit(row: &Row, workload: &Workload<'_>, struck: &Struck) -> Result<()> {
    if row.moves {
        return Ok(());
    }
    let runs = workload.runs()?;
    let newest = runs.iter().rev().find(|run| run.writer.elected()).context("no elected run")?;
    ensure!(newest.writer == struck.leader.writer, "{:?} led before {:?} was struck", newest.writer, struck.leader);
    Ok(())
}

/// Waits for what has to follow, while the fault lasts.
fn follow(follow: Follow, workload: &Workload<'_>, struck: &Struck) -> Result<()> {
    let Struck { leader, known, at } = struck;
    match follow {
        Follow::AnotherPod => {
            until(&format!("another pod to lead {}", workload.name), || {
                let new = workload.runs()?.into_iter().rev().find(|run| run.writer.elected());
                let pod = new.context("no elected run")?.writer.pod;
                ensure!(pod != leader.writer.pod, "{pod} still does");
                Ok(())
            })?;
        }
        Follow::AnotherRun => drop(workload.led_anew(known)?),
        Follow::SameRun(time) => {
            wait_out(time, *at)?;
            let now = workload.leading()?;
            ensure!(now.writer == leader.writer, "{:?} leads, and {:?} led before", now.writer, leader.writer);
        }
        Follow::Lasting(time) => wait_out(time, *at)?,
    }
    Ok(())
}

/// Waits until a fault that came at the moment `at`, by the boot clock, has lasted that long: nothing else ends it.
fn wait_out(time: Duration, at: u64) -> Result<()> {
    let lasted = Duration::from_nanos(clock::boot()?.saturating_sub(at));
    thread::sleep(time.saturating_sub(lasted));
    Ok(())
}

/// Waits until every pod is ready and every workload led.
fn wait_until_well(stage: &Stage, workloads: &[Workload<'_>]) -> Result<()> {
    until("all pods to be ready", || {
        let waiting = stage.namespace.get(&["deployments"]).and_then(|list| waiting(&list, workloads));
        if !matches!(&waiting, Ok(waiting) if waiting.is_empty()) {
            thread::sleep(PAUSE);
        }
        let waiting = waiting?;
        ensure!(waiting.is_empty(), "not all are of {}", waiting.join(", "));
        Ok(())
    })?;
    parallel(workloads, Workload::leading).into_iter().try_for_each(|leading| leading.map(drop))
}

/// The workloads whose pods are not all of the newest template and ready.
fn waiting(list: &Value, workloads: &[Workload<'_>]) -> Result<Vec<String>> {
    let items = list["items"].as_array().context("a list without items")?;
    let is_ready = |name: &str| {
        items.iter().filter(|item| item["metadata"]["name"] == name).any(|item| {
            let (wanted, status) = (&item["spec"]["replicas"], &item["status"]);
            let counts = ["replicas", "updatedReplicas", "readyReplicas"];
            counts.iter().all(|count| status[count] == *wanted)
                && status["observedGeneration"] == item["metadata"]["generation"]
        })
    };
    Ok(workloads.iter().map(|workload| workload.name.clone()).filter(|name| !is_ready(name)).collect())
}

/// The same for each at the same time.
pub(super) fn parallel<T: Sync, R: Send>(all: &[T], one: impl Fn(&T) -> Result<R> + Sync) -> Vec<Result<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|each| scope.spawn(|| one(each))).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|result| result.unwrap_or_else(|_| Err(anyhow!("a trial panicked")))).collect()
    })
}
