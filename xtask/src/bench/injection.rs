//! `cargo xtask bench injection`: what a review costs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use leader_tests::command::Tool;
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName, Status};
use serde_json::{Value, json};

use super::document::{micros, table, write_section};
use super::{machine, programs};
use crate::images::checkout;

/// The goals of the project.
const REVIEW_MICROS: f64 = 100.0;
const RATIO: f64 = 0.8;
const P99_MICROS: f64 = 5000.0;
const MEMORY: f64 = 20e6;
/// The load that the goals are about: nothing in it waits for the API server.
const JUDGED: &str = "turn off, median";

/// Options of `cargo xtask bench injection`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The cluster whose API server the webhook works with; brought up if needed, and taken down again unless it was up already.
    #[arg(long, default_value = "bench", value_parser = ClusterName::new)]
    name: ClusterName,
    /// Print what would be written to docs/benchmarks.md.
    #[arg(long)]
    print: bool,
}

/// Measures and writes the section.
pub(crate) fn run(options: &Options) -> Result<()> {
    let alone = in_the_process()?;
    let load = programs::build("leader-webhook", "--bench", "load")?;
    let webhook = programs::build("leader-webhook", "--bin", "leader-webhook")?;
    let was_up = matches!(Cluster::status(&options.name), Status::Up(_));
    let cluster = Cluster::up(&options.name)?;
    let served = over_tls(&cluster, &load, &webhook);
    if !was_up {
        Cluster::down(&options.name)?;
    }
    let section = section(&machine::description()?, &alone, &served?)?;
    if options.print {
        println!("{section}");
        return Ok(());
    }
    let file = checkout().join("docs/benchmarks.md");
    write_section(&file, "Injection", &section)?;
    say(format!("written to {}", file.display()));
    Ok(())
}

/// Medians of criterion in microseconds, by size and what is measured.
type Medians = BTreeMap<String, BTreeMap<String, f64>>;

fn in_the_process() -> Result<Medians> {
    let program = programs::build("leader-webhook", "--bench", "injection")?;
    let results = tempfile::tempdir()?;
    let tool = Tool::new(program).args(["--bench", "--noplot"]).current_dir(checkout());
    tool.env("CRITERION_HOME", results.path()).show(Stdio::inherit())?;
    let mut medians = Medians::new();
    for group in folders(results.path())? {
        for bench in folders(&group)? {
            let read = |name: &str| -> Result<Value> {
                let file = bench.join("new").join(name);
                let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
                Ok(serde_json::from_str(&text)?)
            };
            let (about, estimates) = (read("benchmark.json")?, read("estimates.json")?);
            let text = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
            let nanos = estimates["median"]["point_estimate"].as_f64().context("no median")?;
            medians.entry(text("group_id")).or_default().insert(text("function_id"), nanos / 1000.0);
        }
    }
    Ok(medians)
}

fn folders(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir() && !path.ends_with("report")).collect())
}

/// What the load generator reports: it runs in the cluster's network, beside the webhook that it starts.
fn over_tls(cluster: &Cluster, load: &Path, webhook: &Path) -> Result<Value> {
    let objects = objects().to_string();
    cluster.kubectl(&["apply", "-f", "-"]).input(objects.clone()).run()?;
    let report = programs::report(cluster.tool(load).arg("--webhook").arg(webhook));
    cluster.kubectl(&["delete", "--ignore-not-found", "-f", "-"]).input(objects).run()?;
    report
}

/// Where the webhook keeps its certificate, and where the reviewed workloads say that they are.
fn objects() -> Value {
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let service = json!({"namespace": "leader-bench", "name": "leader-webhook"});
    // Without rules nothing is sent to it but what the load generator sends.
    let webhook = json!({"name": "inject.leader.io", "clientConfig": {"service": service}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"]});
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "leader-bench"}, "webhooks": [webhook]});
    json!({"apiVersion": "v1", "kind": "List", "items": [namespace("leader-bench"), namespace("shop"), configuration]})
}

fn section(machine: &str, alone: &Medians, served: &Value) -> Result<String> {
    let number = |value: &Value| value.as_f64().context("a number is missing in the load generator's report");
    let rows = served["rows"].as_array().context("the load generator's report has no rows")?;
    let of = |server: &str, load: &str| {
        let row = rows.iter().find(|row| row["server"] == server && row["load"] == load);
        row.with_context(|| format!("the load generator's report has no row {server}, {load}"))
    };
    let ratio = |load: &str| -> Result<f64> {
        Ok(number(&of("webhook", load)?["perSecond"])? / number(&of("echo", load)?["perSecond"])?)
    };
    let whole = ["review inject", "review keep", "review eject"];
    let median = |what: &str| alone.get("median").and_then(|all| all.get(what)).copied().unwrap_or(f64::NAN);
    let slowest = whole.map(median).into_iter().fold(0.0, f64::max);
    let p99 = number(&of("webhook", JUDGED)?["half"]["p99Micros"])?;
    let memory = number(&served["memory"]["highest"])?;

    let goal = |what: &str, goal: String, measured: String, met: bool| {
        vec![what.to_owned(), goal, measured, if met { "yes" } else { "**no**" }.to_owned()]
    };
    let goals = table(&[
        ["goal", "at most or least", "measured", "met"].map(str::to_owned).to_vec(),
        goal(
            "whole review of the median manifest, the slowest of three",
            micros(REVIEW_MICROS),
            micros(slowest),
            slowest < REVIEW_MICROS,
        ),
        goal(
            "reviews per second over TLS, of the bare server's",
            format!("{RATIO}"),
            format!("{:.2}", ratio(JUDGED)?),
            ratio(JUDGED)? >= RATIO,
        ),
        goal("99th percentile at half of the peak", micros(P99_MICROS), micros(p99), p99 < P99_MICROS),
        goal("highest resident memory", megabytes(MEMORY), megabytes(memory), memory < MEMORY),
    ]);

    let mut inside = vec![["", "small, 0.4 kB", "median, 7 kB", "large, 200 kB"].map(str::to_owned).to_vec()];
    for what in ["inject", "keep", "eject"].into_iter().chain(whole).chain(["parse only"]) {
        let cells = ["small", "median", "large"].map(|size| {
            alone.get(size).and_then(|all| all.get(what)).map_or_else(|| "-".to_owned(), |value| micros(*value))
        });
        inside.push([vec![what.to_owned()], cells.to_vec()].concat());
    }

    let head = [
        "review",
        "server",
        "body",
        "answer",
        "per second (lowest to highest)",
        "of the bare server",
        "its processor time each",
        "p50 and p99 at half of that",
    ];
    let mut outside = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let load = row["load"].as_str().unwrap_or_default();
        let is_webhook = row["server"] == "webhook";
        outside.push(vec![
            load.to_owned(),
            if is_webhook { "webhook" } else { "bare" }.to_owned(),
            row["bytes"].to_string(),
            row["answerBytes"].to_string(),
            format!(
                "{:.0} ({:.0} to {:.0})",
                number(&row["perSecond"])?,
                number(&row["lowest"])?,
                number(&row["highest"])?
            ),
            if is_webhook { format!("{:.2}", ratio(load)?) } else { "1".to_owned() },
            micros(number(&row["processorMicros"])?),
            format!("{}, {}", micros(number(&row["half"]["p50Micros"])?), micros(number(&row["half"]["p99Micros"])?)),
        ]);
    }

    Ok(format!(
        "Repeat it with `cargo xtask bench injection`, as root on a machine that does nothing else. The numbers here are of\n{machine}\n\n\
         {goals}\n\
         ### In the webhook's process\n\n\
         Medians of criterion, one thread, the release profile. `inject`, `keep` (a manifest applied again over what is live: the live template stays) and `eject` \
         are the decision on parsed values; `review ...` is the whole way from the bytes of an AdmissionReview, which for `keep` and `eject` has the live object too, to the bytes \
         of the answer with its patch, without any request; `parse only` is what any program pays that reads the body of `review inject` into values.\n\n{}\n\
         ### Over TLS\n\n\
         The release binary `leader-webhook` as a process of its own, at the API server of the test cluster. The bare server is a process with the same listener, \
         TLS, certificate and HTTP (`leader_webhook::server`) that sends each body back. Client and servers share the processors. {} HTTP/1.1 connections, each with a request under way; the median of {} rounds of {} s, \
         the servers in turn; then twice as long at half of the median rate, a request when it is due, whether or not those before were answered, and latency counted from then.\n\n\
         `turn off` is a review in which the id was taken off an injected workload: all of the work on the object (read, decide, eject, patch, answer), and the only kind that needs nothing of \
         the API server, so that the goals are judged by it. `apply again` has the requests that a review of an annotated workload makes: they, and the API server beside it on the same processors, are most of its time.\n\n{}\n\
         Resident memory of the webhook: {} before the first review, {} at the highest, {} after all of them (`VmRSS`, `VmHWM` of proc_pid_status(5); the 200 kB reviews are part of it).",
        table(&inside),
        served["connections"],
        served["rounds"],
        served["seconds"],
        table(&outside),
        megabytes(number(&served["memory"]["atRest"])?),
        megabytes(memory),
        megabytes(number(&served["memory"]["after"])?),
    ))
}

fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}
