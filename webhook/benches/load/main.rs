//! Reviews per second and their latency, over TLS, against a server on the same stack that only sends the body back.
//!
//! The webhook is its own release binary in a process of its own, at a real API server; so is the other server. `cargo xtask bench
//! injection` brings the API server, runs this in its network, and writes the numbers down.

mod client;
mod echo;
#[path = "../manifests/mod.rs"]
mod manifests;
mod measure;
mod server;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Parser;
use leader_webhook::inject::{self, Decision, Defaults, Facts, ImageAnswer, ImageFacts};
use serde_json::Value;

use measure::{Latency, Round};

/// Measures the webhook under load.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary `leader-webhook`. Without it nothing is measured: `cargo xtask bench injection` gives it.
    #[arg(long)]
    webhook: Option<PathBuf>,
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each is repeated, in turn with the others.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only be the server that sends bodies back.
    #[arg(long)]
    echo: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

// As many threads as the webhook has.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.echo {
        return echo::serve().await;
    }
    let Some(binary) = &arguments.webhook else {
        println!("nothing is measured without a webhook: run `cargo xtask bench injection`");
        return Ok(());
    };
    let report = report(&arguments, binary).await?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// What is sent.
struct Load {
    name: &'static str,
    body: String,
}

async fn report(arguments: &Arguments, binary: &std::path::Path) -> anyhow::Result<Value> {
    let webhook = server::Server::webhook(binary).await.context("starting the webhook")?;
    let echo = server::Server::echo().await.context("starting the echo server")?;
    let loads = loads()?;
    let at_rest = webhook.memory()?;
    let length = Duration::from_secs(arguments.seconds);

    let mut rows = Vec::new();
    for load in &loads {
        let mut peaks: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
        // In turn, so that what else the machine does falls on both.
        for _ in 0..arguments.rounds {
            for (name, server) in [("echo", &echo), ("webhook", &webhook)] {
                let round = measure::peak(server, load.body.clone(), length).await?;
                peaks.entry(name).or_default().push(round);
            }
        }
        for (name, server) in [("echo", &echo), ("webhook", &webhook)] {
            let rounds = &peaks[name];
            let rate = measure::median(rounds.iter().map(|round| round.rate));
            let latency = measure::at_rate(server, load.body.clone(), rate / 2.0, length * 2).await?;
            rows.push(row(load, name, rounds, rate, &latency));
        }
    }
    let memory = webhook.memory()?;
    Ok(serde_json::json!({
        "rows": rows,
        "memory": {"atRest": at_rest.now, "highest": memory.highest, "after": memory.now},
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "connections": client::CONNECTIONS,
    }))
}

fn row(load: &Load, server: &str, rounds: &[Round], rate: f64, latency: &Latency) -> Value {
    serde_json::json!({
        "load": load.name,
        "bytes": load.body.len(),
        "server": server,
        "perSecond": rate,
        "lowest": rounds.iter().map(|round| round.rate).fold(f64::INFINITY, f64::min),
        "highest": rounds.iter().map(|round| round.rate).fold(0.0, f64::max),
        "processorMicros": measure::median(rounds.iter().map(|round| round.processor_micros)),
        "answerBytes": rounds[0].answer_bytes,
        "half": {"rate": latency.rate, "p50Micros": latency.p50, "p99Micros": latency.p99, "sent": latency.sent},
    })
}

/// Reviews that need nothing of the API server, and one that does.
fn loads() -> anyhow::Result<Vec<Load>> {
    Ok(vec![
        turn_off("turn off, small", &manifests::SMALL)?,
        turn_off("turn off, median", &manifests::MEDIAN)?,
        turn_off("turn off, 200 kB", &manifests::LARGE)?,
        re_apply("apply again, median", &manifests::MEDIAN)?,
    ])
}

/// The id is taken off a workload that is injected: all of the work on the object, and nothing to look up.
fn turn_off(name: &'static str, plain: &Value) -> anyhow::Result<Load> {
    let injected = injected(plain)?;
    let mut without_id = injected.clone();
    if let Some(annotations) = without_id["metadata"]["annotations"].as_object_mut() {
        annotations.retain(|key, _| !key.starts_with(leader_agent::names::PREFIX));
    }
    Ok(Load { name, body: manifests::review(&without_id, Some(&injected)).to_string() })
}

/// A manifest is applied over what it was injected to: the live template is kept, and what is known about the namespace and the
/// objects of the id are looked at.
fn re_apply(name: &'static str, plain: &Value) -> anyhow::Result<Load> {
    Ok(Load { name, body: manifests::review(plain, Some(&injected(plain)?)).to_string() })
}

fn injected(plain: &Value) -> anyhow::Result<Value> {
    let facts = Facts { image: Some(ImageAnswer::Found(ImageFacts::default())), ..Facts::default() };
    let defaults = Defaults { agent_image: server::AGENT_IMAGE.to_owned(), agent_pull_secret: None };
    match inject::workload(plain, None, &defaults, &facts)? {
        Decision::Done(outcome) => Ok(outcome.object),
        Decision::NeedsImage(request) => anyhow::bail!("{} was asked for twice", request.image),
    }
}
