//! The election as a library, against an API server of the tests' own that has one Lease.
//!
//! The test binary starts itself again as a program that leads and blocks: what happens to one at its deadline is its end.

#[path = "../pod/api.rs"]
#[allow(dead_code, reason = "what the tests of the whole agent need beside this")]
mod api;
mod blocked;
mod forced;
mod health;
mod link;
mod outside;
mod stage;
mod terms;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Some(role) = blocked::role() {
        return blocked::play(&role);
    }
    let trials = [terms::trials(), forced::trials(), blocked::trials(), health::trials(), outside::trials()];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit_code()
}
