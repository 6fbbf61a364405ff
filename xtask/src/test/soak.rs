//! `cargo xtask test soak`: the soak, on a cluster of its own.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use leader_tests::command::Tool;
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName};

use super::{Steps, cargo, on_a_cluster, show};
use crate::bench::{document, machine as measured_on};
use crate::images::checkout;

/// Options of `cargo xtask test soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The cluster to test on; brought up if needed, and taken down again unless it was up already.
    #[arg(long, default_value = "soak", value_parser = ClusterName::new)]
    name: ClusterName,
    /// How long workloads are written while everything is disturbed.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Write the table into docs/benchmarks.md, too, when the soak was passed.
    #[arg(long)]
    document: bool,
}

/// Soaks, and prints the table.
pub(super) fn run(options: &Options) -> Result<()> {
    on_a_cluster(&options.name, options.keep, |cluster, steps| on_cluster(options, cluster, steps))
}

fn on_cluster(options: &Options, cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    let file = table();
    if file.exists() {
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    let result = steps.run("soak", || soak(options, cluster));
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) => {
            say(format!("there is no table {}: {error}", file.display()));
            return result;
        }
    };
    say(format!("\n{text}\nthe table is in {}", file.display()));
    result?;
    if options.document {
        let file = checkout().join("docs/benchmarks.md");
        document::write_section(&file, "Soak", &section(&measured_on::description()?, &text))?;
        say(format!("written to {}", file.display()));
    }
    Ok(())
}

fn soak(options: &Options, cluster: &Cluster) -> Result<()> {
    let tool = Tool::new(cargo())
        .args(["test", "--locked", "--package", "leader-tests", "--test", "e2e", "--"])
        .args(["soak::", "--test-threads=1"])
        .env("RUST_LIB_BACKTRACE", "0")
        .env("LEADER_TESTS_SOAK", "1")
        .env("LEADER_TESTS_SOAK_MINUTES", options.minutes.to_string());
    show(cluster.environment().into_iter().fold(tool, |tool, (name, value)| tool.env(name, value)))
}

fn section(machine: &str, table: &str) -> String {
    format!(
        "Repeat it with `cargo xtask test soak --document`, as root. The numbers here are of\n{machine}\n\n\
         Four clients write workloads all the time: annotated ones and others are created, and manifests are applied over both. Meanwhile the webhook's authority is replaced \
         every minute and its certificates every half a minute, and one thing after the other is broken, until it is whole again. Every write is judged by what the API server stored: \
         one without annotations has to be as it was written, an annotated one has to have the agent or be refused. A refusal is explained when it happened while something was broken \
         that has to be felt.\n\n{table}"
    )
}

/// Where the test leaves the table: beside what cargo builds.
fn table() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    target.join("soak/table.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_has_machine_and_table() {
        let text = section("a machine", "| a |\n");
        assert!(text.contains("are of\na machine\n\n") && text.ends_with("\n\n| a |\n"), "{text}");
        assert!(table().ends_with("soak/table.md"), "{}", table().display());
    }
}
