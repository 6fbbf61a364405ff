//! The soak: workloads are written all the time while the webhook loses replicas, certificates and its API server.
//!
//! Promise 2 is judged by every single write: an unannotated workload is stored as it was written, an annotated one with the agent or
//! not at all. What was refused is told by what went on at that time. It takes a quarter of an hour: `cargo xtask test soak`; left out
//! without `LEADER_TESTS_SOAK=1`.

mod clients;
mod disturbance;
mod outcome;
mod rotation;
mod summary;

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use leader_tests::progress::say;
use serde_json::Value;

use self::clients::{Annotated, Clients};
use self::disturbance::Disturbances;
use self::rotation::Rotations;
use self::summary::{Soaked, Summary};
use crate::stage::Stage;
use crate::workload::Workload;
use crate::writer::Writer;

/// How long it takes when nothing else is asked for, in minutes.
const MINUTES: u64 = 15;
/// Until the first disturbance, and between two of them: rotations alone go on meanwhile.
const PAUSE: Duration = Duration::from_secs(20);

/// What happens during the soak, on one clock.
struct Soak<'a> {
    stage: &'a Stage,
    started: Instant,
    /// Set when the clients have to come to an end.
    done: AtomicBool,
}

impl Soak<'_> {
    /// The time since its beginning.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// How long it is to take, when it is asked for; else it is said that it is left out.
fn wanted() -> Option<Duration> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if set("LEADER_TESTS_SOAK").is_none_or(|value| value == "0") {
        say("left out: the soak takes a quarter of an hour (`cargo xtask test soak` runs it)");
        return None;
    }
    let minutes = set("LEADER_TESTS_SOAK_MINUTES").and_then(|minutes| minutes.parse().ok());
    Some(Duration::from_secs(60 * minutes.filter(|minutes| *minutes > 0).unwrap_or(MINUTES)))
}

#[test]
fn whatever_becomes_of_the_webhook_nothing_plain_is_disturbed_and_nothing_annotated_is_bare() -> Result<()> {
    let Some(length) = wanted() else { return Ok(()) };
    Stage::alone("soak", |stage| {
        let _settings = rotation::Settings::of_a_minute(stage)?;
        let elected = stage.start(&Writer::new("elected").elected())?;
        elected.leading()?;
        let plain = stage.start(&Writer::new("plain").replicas(2))?;
        let before = pods(&plain)?;

        let soak = Soak { stage, started: Instant::now(), done: AtomicBool::new(false) };
        let (soaked, disturbed) = soak_for(&soak, length)?;
        let summary = Summary::of(&soaked);
        summary.write()?;
        disturbed?;

        elected.never_two(1)?;
        let after = pods(&plain)?;
        ensure!(after == before, "the pods of a workload without annotations were {before:?} and are {after:?}");
        ensure!(plain.replica_sets()?.len() == 1, "a workload without annotations was rolled out");
        clients::look_at_all(stage)?;
        summary.judge()
    })
}

/// Everything at once for so long; gives what was seen, and whether everything got whole again.
fn soak_for(soak: &Soak<'_>, length: Duration) -> Result<(Soaked, Result<()>)> {
    let clients = Clients::new(soak)?;
    thread::scope(|scope| {
        let threads = [
            scope.spawn(|| clients.create(Annotated::Yes)),
            scope.spawn(|| clients.update(Annotated::Yes)),
            scope.spawn(|| clients.create(Annotated::No)),
            scope.spawn(|| clients.update(Annotated::No)),
        ];
        let rotations = scope.spawn(|| Rotations::watch(soak));
        let (windows, disturbed) = Disturbances::new(soak).go_on_for(length, PAUSE);
        soak.done.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a client panicked");
        let mut writes = Vec::new();
        for thread in threads {
            writes.append(&mut thread.join().map_err(panicked)??);
        }
        let authorities = rotations.join().map_err(|_| anyhow!("whoever counts authorities panicked"))?;
        Ok((Soaked { length: soak.now(), writes, windows, authorities }, disturbed))
    })
}

/// The pods of a workload, and how often each was restarted.
fn pods(workload: &Workload<'_>) -> Result<Vec<(String, Value)>> {
    let selector = format!("--selector=app={}", workload.name);
    let pods = workload.stage.namespace.get(&["pods", &selector, "--sort-by=.metadata.name"])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    Ok(pods.iter().map(|pod| (pod["metadata"]["uid"].to_string(), restarts(pod))).collect())
}
