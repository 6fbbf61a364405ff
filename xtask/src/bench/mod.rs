//! `cargo xtask bench`: measures, and writes what was measured into docs/benchmarks.md.

mod document;
mod election;
mod injection;
mod machine;
mod programs;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// What a review costs, in the webhook's process and over TLS: about ten minutes on a quiet machine.
    Injection(injection::Options),
    /// What an election costs and how fast it is, beside client-go's: about ten minutes on a quiet machine.
    Election(election::Options),
}

/// Does it.
pub(crate) fn run(task: &Task) -> Result<()> {
    match task {
        Task::Injection(options) => injection::run(options),
        Task::Election(options) => election::run(options),
    }
}
