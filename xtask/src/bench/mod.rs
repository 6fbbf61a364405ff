//! `cargo xtask bench`: measures, and writes what was measured into docs/benchmarks.md.

pub(crate) mod document;
mod election;
mod injection;
pub(crate) mod machine;
mod memory;
mod programs;
mod scale;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// What a review costs, in the webhook's process and over TLS: about ten minutes on a quiet machine.
    Injection(injection::Options),
    /// What an election costs and how fast it is, beside client-go's: about ten minutes on a quiet machine.
    Election(election::Options),
    /// What a thousand elected workloads cost the webhook and the API server: about eight minutes on a quiet machine.
    Scale(scale::Options),
}

/// Does it.
pub(crate) fn run(task: &Task) -> Result<()> {
    match task {
        Task::Injection(options) => injection::run(options),
        Task::Election(options) => election::run(options),
        Task::Scale(options) => scale::run(options),
    }
}
