//! The admission webhook's process. Everything is in the library: [`leader_webhook::run`].

use std::io;

use clap::Parser;
use leader_webhook::{run::run, settings::Settings};
use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

/// A review is thousands of small allocations: with the C library's allocator it takes twice as long.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Memory is little and lives long here, and a huge page of 2 MB is resident as a whole as soon as a byte of it is used: the process had
/// twice the memory with them. Where that cannot be said to the kernel, nothing else changes.
fn without_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages cannot be turned off");
    }
}

// As many threads as a review can use, not as many as the node has cores.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = EnvFilter::try_new(&settings.log)?;
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(io::stderr).init();
    without_huge_pages();
    run(settings).await
}
