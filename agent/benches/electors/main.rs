//! What many elections cost an API server: hundreds of ids with their candidates in one process, each with connections of its own as
//! in a pod, driven by the elector and the lease client that the agent runs on; only the app is missing.
//!
//! `cargo xtask bench election` brings the API server, runs this in its network, and writes the numbers down.

mod candidate;
mod tally;

use std::{rc::Rc, time::Duration};

use clap::Parser;
use jiff::Timestamp;
use leader_agent::{
    elector::Settings,
    id::LeaderId,
    lease::{credentials, record::micro_time},
    timing::Timing,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep, timeout},
};

use tally::{Process, Tally};

/// Between the starts of two ids: a server is not asked by all candidates of a cluster in one second.
const STEP: Duration = Duration::from_millis(50);
/// How long all ids may take to have a leader, after the last has started: the first start of an id costs a lease, and the machine is busy.
const PATIENCE: Duration = Duration::from_mins(2);
/// From the last leader's start to the measurement.
const SETTLE: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error>;

/// Runs many elections against the API server that KUBECONFIG names.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many ids. Without them nothing is measured: `cargo xtask bench election` gives the number.
    #[arg(long, default_value_t = 0)]
    ids: usize,
    /// How many candidates each id has.
    #[arg(long, default_value_t = 3)]
    candidates: usize,
    /// The Leases' namespace.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// A process whose processor time is told, as NAME=PID; may be repeated.
    #[arg(long = "process", value_name = "NAME=PID")]
    processes: Vec<Process>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if arguments.ids == 0 {
        println!("nothing is measured without ids: run `cargo xtask bench election`");
        return Ok(());
    }
    // Two connections for each candidate.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = LocalSet::new().block_on(&runtime, measure(&arguments))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<serde_json::Value, Failure> {
    let config = credentials::find(None).await?;
    let tally = Rc::new(Tally::default());
    let timing = Timing::default();
    for number in 0..arguments.ids {
        let id: LeaderId = format!("load-{number}").parse()?;
        for candidate in 0..arguments.candidates {
            let settings = Settings {
                name: id.to_string(),
                namespace: arguments.namespace.clone(),
                identity: format!("{id}_{candidate}"),
                timing,
                seed: fastrand::u64(..),
                preparation: Duration::ZERO,
                stop_time: Duration::ZERO,
                reclaim: None,
                born_under_turning_on: false,
                yields: false,
                unhealthy_step_down: None,
            };
            tokio::task::spawn_local(candidate::candidate(config.clone(), settings, id.clone(), Rc::clone(&tally)));
        }
        sleep(STEP).await;
    }
    let all_lead = async {
        while tally.leaders() < arguments.ids {
            sleep(STEP).await;
        }
    };
    if timeout(PATIENCE, all_lead).await.is_err() {
        return Err(
            format!("only {} of {} ids have a leader after {PATIENCE:?}", tally.leaders(), arguments.ids).into()
        );
    }
    sleep(SETTLE).await;

    let used = || arguments.processes.iter().map(Process::used).collect::<Result<Vec<_>, _>>();
    let own = Process::own();
    let (before, own_before, from, started) = (used()?, own.used()?, Timestamp::now(), Instant::now());
    tally.start();
    sleep(Duration::from_secs(arguments.seconds)).await;
    let renewals = tally.stop();
    let (after, own_after, until, took) = (used()?, own.used()?, Timestamp::now(), started.elapsed());

    let share = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() / took.as_secs_f64();
    let processes = arguments.processes.iter().zip(before.iter().zip(&after));
    Ok(serde_json::json!({
        "ids": arguments.ids,
        "candidates": arguments.ids * arguments.candidates,
        "leaders": tally.leaders(),
        "termsBegun": tally.terms(),
        "leaseSeconds": timing.lease().as_secs(),
        "seconds": took.as_secs_f64(),
        "from": micro_time(from),
        "until": micro_time(until),
        "renewals": renewals,
        "processors": processes.map(|(process, (before, after))| (process.name().to_owned(), share(*before, *after).into()))
            .collect::<serde_json::Map<_, _>>(),
        "ownProcessors": share(own_before, own_after),
    }))
}
