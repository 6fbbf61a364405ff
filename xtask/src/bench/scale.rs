//! `cargo xtask bench scale`: what a thousand elected workloads cost the webhook and the API server, on a cluster of its own.
//!
//! They are objects only: no node runs their pods, so that the machine is the API server's and the webhook's.

mod figures;
mod replicas;
mod section;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName, Status};
use serde_json::Value;

use self::figures::{Figures, Histogram};
use self::replicas::{First, Memory};
use super::document::write_section;
use super::{machine, programs};
use crate::images::{self, checkout};
use crate::install;

/// How long reviews took, as the API server saw them and as the webhook did.
const AT_API_SERVER: &str = "apiserver_admission_webhook_admission_duration_seconds";
const AT_WEBHOOK: &str = "leader_webhook_review_duration_seconds";
/// The reviews of a rollout.
const OF_ROLLOUTS: [&str; 2] = ["name=\"inject.leader.io\"", "operation=\"UPDATE\""];
/// What the workloads run, or would: an image of which a registry can be asked.
const IMAGE: &str = "leader-ledger";
/// Of each workload.
const REPLICAS: usize = 3;
/// How long the cluster's own controllers may take to make the pods.
const PODS_SECONDS: usize = 300;
/// While they make them. Their usual 20 requests a second would take ten minutes for that; what is measured later has the usual ones.
const HURRY: [&str; 2] = ["--kube-api-qps=300", "--kube-api-burst=600"];

/// Options of `cargo xtask bench scale`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The cluster, which should have nothing in it; brought up if needed, and taken down again unless it was up already.
    #[arg(long, default_value = "scale", value_parser = ClusterName::new)]
    name: ClusterName,
    /// A tenth of the workloads, at rest for half a minute: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Print what would be written to docs/benchmarks.md.
    #[arg(long)]
    print: bool,
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
struct Extent {
    workloads: usize,
    steady: Duration,
}

const WHOLE: Extent = Extent { workloads: 1000, steady: Duration::from_mins(2) };
const QUICK: Extent = Extent { workloads: 100, steady: Duration::from_secs(30) };

/// All that was measured.
struct Measured {
    extent: Extent,
    /// The generator's report of the creations.
    fill: Value,
    pods: u64,
    first: First,
    /// Requests by their kind, over the time at rest.
    steady: BTreeMap<String, usize>,
    storm: Storm,
    /// After each step, of the replica that uses more.
    memory: Vec<(&'static str, Memory)>,
}

/// Every workload's rollout at once.
struct Storm {
    /// The generator's report.
    report: Value,
    at_api_server: Histogram,
    at_webhook: Histogram,
}

/// Measures and writes the section.
pub(crate) fn run(options: &Options) -> Result<()> {
    let generator = programs::build("leader-webhook", "--bench", "storm")?;
    let was_up = matches!(Cluster::status(&options.name), Status::Up(_));
    let extent = if options.quick { QUICK } else { WHOLE };
    let measured = Cluster::up(&options.name).and_then(|cluster| measure(&cluster, &generator, extent));
    if !was_up {
        Cluster::down(&options.name)?;
    }
    let section = section::text(&machine::description()?, &measured?)?;
    if options.print {
        println!("{section}");
        return Ok(());
    }
    let file = checkout().join("docs/benchmarks.md");
    write_section(&file, "Scale", &section)?;
    say(format!("written to {}", file.display()));
    Ok(())
}

fn measure(cluster: &Cluster, generator: &Path, extent: Extent) -> Result<Measured> {
    let references = images::build_and_push(cluster, None)?;
    install::install(cluster, &references)?;
    let generator = fs::canonicalize(generator).with_context(|| format!("cannot find {}", generator.display()))?;
    let generate = |arguments: &[String]| programs::report(cluster.tool(&generator).args(arguments));
    let workloads = extent.workloads.to_string();
    let image = references.get(IMAGE).with_context(|| format!("no image {IMAGE} was pushed"))?;
    let mut memory = vec![("with no workload", replicas::memory(cluster)?)];

    let (fill, pods) = cluster.with_server_arguments("manager", &HURRY, || {
        say(format!("creating {workloads} workloads"));
        let fill = generate(&["fill".to_owned(), workloads.clone(), image.clone()])?;
        ensure!(fill["refused"] == 0, "workloads were refused: {}", fill["reasons"]);
        let least = extent.workloads * REPLICAS;
        say(format!("waiting for their {least} pods"));
        let pods = generate(&["pods".to_owned(), least.to_string(), PODS_SECONDS.to_string()])?;
        Ok((fill, pods["pods"].as_u64().with_context(|| format!("no pods in {pods}"))?))
    })?;
    let held = generate(&["lead".to_owned(), workloads.clone()])?;
    ensure!(held["refused"] == 0, "Leases could not be held: {}", held["reasons"]);
    replicas::wait_until_quiet(cluster)?;
    memory.push(("all workloads created", replicas::memory(cluster)?));

    say("starting the webhook anew: the first look at everything");
    let first = replicas::first_reconcile(cluster, extent.workloads)?;
    replicas::wait_until_quiet(cluster)?;
    memory.push(("started anew, everything looked at", replicas::memory(cluster)?));

    say(format!("at rest, for {} s", extent.steady.as_secs()));
    let steady = replicas::at_rest(cluster, extent.steady)?;
    memory.push(("at rest", replicas::memory(cluster)?));

    say(format!("a rollout of all {workloads} at once"));
    let before = reviews(cluster)?;
    let report = generate(&["storm".to_owned(), workloads])?;
    let after = reviews(cluster)?;
    memory.push(("every workload rolled out at once", replicas::memory(cluster)?));
    let storm = Storm { report, at_api_server: after.0.since(&before.0), at_webhook: after.1.since(&before.1) };
    Ok(Measured { extent, fill, pods, first, steady, storm, memory })
}

/// How long the reviews of rollouts took, as the API server saw them, and all reviews as the webhook did.
fn reviews(cluster: &Cluster) -> Result<(Histogram, Histogram)> {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"]).run()?;
    let at_api_server = Figures::new(text).histogram(AT_API_SERVER, &OF_ROLLOUTS);
    let at_webhook = replicas::all(cluster)?.iter().try_fold(Histogram::default(), |all, replica| {
        anyhow::Ok(all.and(&replica.figures(cluster)?.histogram(AT_WEBHOOK, &[])))
    })?;
    Ok((at_api_server, at_webhook))
}
