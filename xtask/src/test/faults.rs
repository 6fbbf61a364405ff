//! `cargo xtask test faults`: the fault matrix, on a cluster of its own.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName};

use super::{Steps, cargo, on_a_cluster, show};
use crate::images::checkout;
use leader_tests::command::Tool;

/// Options of `cargo xtask test faults`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The cluster to test on; brought up if needed, and taken down again unless it was up already.
    #[arg(long, default_value = "faults", value_parser = ClusterName::new)]
    name: ClusterName,
    /// How often each fault is tried.
    #[arg(long, default_value_t = 20)]
    trials: usize,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Only the rows whose text, as in the table's first column, contains this.
    row: Option<String>,
}

/// Tries every fault, and prints the table.
pub(super) fn run(options: &Options) -> Result<()> {
    on_a_cluster(&options.name, options.keep, |cluster, steps| on_cluster(options, cluster, steps))
}

fn on_cluster(options: &Options, cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    let folder = folder();
    if options.row.is_none() && folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let result = steps.run("fault matrix", || rows(options, cluster));
    let table = folder.join("table.md");
    match fs::read_to_string(&table) {
        Ok(text) => say(format!("\n{text}\nthe table is in {}", table.display())),
        Err(error) => say(format!("there is no table {}: {error}", table.display())),
    }
    result
}

fn rows(options: &Options, cluster: &Cluster) -> Result<()> {
    let tool = Tool::new(cargo())
        .args(["test", "--locked", "--package", "leader-tests", "--test", "e2e", "--"])
        // A row has the cluster to itself.
        .args(["matrix::", "--test-threads=1"])
        .env("RUST_LIB_BACKTRACE", "0")
        .env("LEADER_TESTS_FAULTS", "1")
        .env("LEADER_TESTS_TRIALS", options.trials.to_string())
        .env("LEADER_TESTS_ROW", options.row.as_deref().unwrap_or_default());
    show(cluster.environment().into_iter().fold(tool, |tool, (name, value)| tool.env(name, value)))
}

/// Where the tests leave rows and table: beside what cargo builds.
fn folder() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    target.join("fault-matrix")
}
