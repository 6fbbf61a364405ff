//! `cargo xtask`: what a developer of this project types.

mod bench;
mod cluster;
mod demo;
mod images;
mod install;
mod overlay;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// A real one-node Kubernetes cluster on this machine, for tests and the demo.
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Builds the container images and pushes them to the test cluster's registry.
    Images(images::Options),
    /// Shows what leader does, step by step, on a real cluster.
    Demo(cluster::Name),
    /// Installs leader in the test cluster, with the images that were pushed last.
    Install(cluster::Name),
    /// Runs everything that is tested, on a cluster of its own.
    Test(test::Options),
    /// Measures, and writes the numbers into docs/benchmarks.md.
    #[command(subcommand)]
    Bench(bench::Task),
}

fn main() -> ExitCode {
    let result: Result<()> = match Arguments::parse().task {
        Task::Cluster(task) => cluster::run(task),
        Task::Images(options) => images::run(&options),
        Task::Demo(name) => demo::run(&name),
        Task::Install(name) => install::run(&name),
        Task::Test(options) => test::run(&options),
        Task::Bench(task) => bench::run(&task),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
