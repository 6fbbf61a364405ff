//! Stub, deadline and app against the real kernel, in PID namespaces where the machine lets us make one.
//!
//! The test binary starts itself again in two roles: `agent` is the process under test, driven by a script of words on its
//! command line, and `beat` is an app that writes down when it last ran. All of them hold the test's pipe as their stdout,
//! so that its end is the end of the last one.

mod beats;
mod beside;
mod role;
mod stage;
mod trials;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((role, rest)) if role == "agent" => role::agent(rest),
        Some((role, rest)) if role == "beat" => beats::beat(rest),
        _ => libtest_mimic::run(&libtest_mimic::Arguments::from_args(), trials::all()).exit_code(),
    }
}
