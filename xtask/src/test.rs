//! `cargo xtask test`: everything that is tested, in one command.

mod faults;
mod soak;

use std::env;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leader_tests::command::{Tool, is_installed};
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName, Status, binaries, machine};

use crate::images::{self, checkout};
use crate::install;

/// The packages whose tests need a cluster; the others' run first, so that what is wrong with them shows soon.
const ON_CLUSTER: [&str; 2] = ["leader-tests", "xtask"];
/// Tests on the cluster mostly wait for it: more of them at once than there are processors.
const AT_ONCE: &str = "--test-threads=6";

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    only: Option<Only>,
    /// The cluster to test on; brought up if needed, and taken down again unless it was up already.
    #[arg(long, default_value = "test", value_parser = ClusterName::new)]
    name: ClusterName,
    /// As many trials, and measurements as long, as a release asks for: about ten minutes more.
    #[arg(long)]
    long: bool,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Only the tests whose name contains this; no lints.
    filter: Option<String>,
}

/// What is not part of everything, because it takes so long.
#[derive(Debug, clap::Subcommand)]
enum Only {
    /// Tries each fault many times and prints a table: how often two led at once, and how long nobody did. More than an hour.
    Faults(faults::Options),
    /// Writes workloads while replicas, certificates and the API server come and go, and prints a table: what was refused, and why. 15
    /// minutes.
    Soak(soak::Options),
}

/// Runs everything, and ends with the first step that fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.only {
        Some(Only::Faults(options)) => return faults::run(options),
        Some(Only::Soak(options)) => return soak::run(options),
        None => {}
    }
    let mut steps = Steps::default();
    let result = everything(options, &mut steps);
    steps.summary();
    result
}

fn everything(options: &Options, steps: &mut Steps) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    if root {
        machine::check()?;
    }
    if options.filter.is_none() {
        lints(steps)?;
    }
    let filter = options.filter.as_deref();
    if !root {
        steps.left_out.push("tests on a cluster: they need root".to_owned());
        return steps.run("tests without a cluster", || test(cargo_for(options), &["--workspace"], filter, &[]));
    }
    let exclude = ON_CLUSTER.map(|package| ["--exclude", package]).concat();
    let alone = [&["--workspace"][..], &exclude].concat();
    steps.run("tests without a cluster", || test(cargo_for(options), &alone, filter, &[]))?;

    let was_up = matches!(Cluster::status(&options.name), Status::Up(_));
    let result = on_cluster(options, steps);
    if !was_up && !options.keep {
        steps.run("cluster down", || Cluster::down(&options.name).map(drop))?;
    }
    result
}

fn lints(steps: &mut Steps) -> Result<()> {
    steps.run("rustfmt", || show(Tool::new(cargo()).args(["fmt", "--all", "--check"])))?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    steps.run("clippy", || show(Tool::new(cargo()).args(clippy)))?;
    if is_installed("cargo-deny") {
        steps.run("cargo deny", || show(Tool::new(cargo()).args(["deny", "check"])))
    } else {
        steps.left_out.push("security advisories: cargo-deny is not installed".to_owned());
        Ok(())
    }
}

fn on_cluster(options: &Options, steps: &mut Steps) -> Result<()> {
    let cluster = steps.run("cluster up", || Cluster::up(&options.name))?;
    let references = steps.run("images", || images::build_and_push(&cluster, None))?;
    if options.long {
        // Without it the test of upgrades changes tags only.
        steps.run("images before", || images::build_and_push_previous(&cluster, None, "HEAD~1"))?;
    }
    steps.run("install", || install::install(&cluster, &references))?;
    if options.filter.is_none() {
        // A compiler beside tests would take the processors from those whose leases are short.
        steps.run("programs of tests", || {
            let examples = ["build", "--locked", "--package", "leader-agent", "--bins", "--examples"];
            show(Tool::new(cargo()).args(examples))?;
            binaries::client_go_candidate()?;
            binaries::promtool()?;
            machine::browser().map(drop)
        })?;
    }
    let mut cargo = cargo_for(options);
    for (name, value) in cluster.environment() {
        cargo = cargo.env(name, value);
    }
    let packages = ON_CLUSTER.map(|package| ["--package", package]).concat();
    steps.run("tests on the cluster", || test(cargo, &packages, options.filter.as_deref(), &[AT_ONCE]))
}

/// Brings up the cluster of this name with everything installed, works on it, and takes it down again unless it was up already or is to be
/// kept.
fn on_a_cluster(name: &ClusterName, keep: bool, work: impl FnOnce(&Cluster, &mut Steps) -> Result<()>) -> Result<()> {
    machine::check()?;
    let mut steps = Steps::default();
    let was_up = matches!(Cluster::status(name), Status::Up(_));
    let mut on_it = || {
        let cluster = steps.run("cluster up", || Cluster::up(name))?;
        let references = steps.run("images", || images::build_and_push(&cluster, None))?;
        steps.run("install", || install::install(&cluster, &references))?;
        Ok(cluster)
    };
    let result = on_it().and_then(|cluster| work(&cluster, &mut steps));
    let down = if was_up || keep { Ok(()) } else { steps.run("cluster down", || Cluster::down(name).map(drop)) };
    steps.summary();
    result.and(down)
}

fn test(cargo: Tool, packages: &[&str], filter: Option<&str>, harness: &[&str]) -> Result<()> {
    // Every failure of a step is shown, not only the first one. The causes of an error say more than the functions it came through.
    let tool = cargo.args(["test", "--locked", "--no-fail-fast"]).args(packages).env("RUST_LIB_BACKTRACE", "0");
    show(tool.arg("--").args(filter).args(harness))
}

/// cargo, with what tells tests how much to try.
fn cargo_for(options: &Options) -> Tool {
    Tool::new(cargo()).env("LEADER_TESTS_LONG", if options.long { "1" } else { "0" })
}

/// The cargo that runs this.
fn cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a program in the checkout and shows what it says as it says it.
fn show(tool: Tool) -> Result<()> {
    let tool = tool.current_dir(checkout());
    say(format!("$ {}", tool.command_line()));
    tool.show(Stdio::inherit())
}

/// What was done, and how long it took.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(&'static str, Duration, bool)>,
    left_out: Vec<String>,
}

impl Steps {
    fn run<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        say(format!("\n=== {name}"));
        let started = Instant::now();
        let result = step();
        self.done.push((name, started.elapsed(), result.is_ok()));
        result.with_context(|| format!("{name} failed"))
    }

    fn summary(&self) {
        say("");
        for (name, took, good) in &self.done {
            let outcome = if *good { "ok" } else { "FAILED" };
            say(format!("{name:<24} {:>5} s  {outcome}", took.as_secs()));
        }
        for what in &self.left_out {
            say(format!("left out: {what}"));
        }
        let failed = self.done.iter().any(|(_, _, good)| !good);
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        let outcome = if failed { "failed" } else { "everything passed" };
        say(format!("{outcome}: {} steps in {} s", self.done.len(), total.as_secs()));
    }
}
