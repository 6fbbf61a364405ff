//! The admission webhook's process. Everything is in the library: [`leader_webhook::run`].

use std::io;

use clap::Parser;
use leader_webhook::{run::run, settings::Settings};
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

/// A review is thousands of small allocations: with the C library's allocator it takes twice as long.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

// As many threads as a review can use, not as many as the node has cores.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = EnvFilter::try_new(&settings.log)?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(io::stderr).init();
    run(settings).await
}
