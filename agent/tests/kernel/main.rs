//! Stub, deadline and app against the real kernel, in PID namespaces where the machine lets us make one.
//!
//! The test binary starts itself again in roles: `agent` is the process under test, driven by a script of words on its
//! command line, `beat` is an app that writes down when it last ran, and the others are in [`unruly`]. All of them hold the
//! test's pipe as their stdout, so that its end is the end of the last one.

mod beats;
mod beside;
mod cgroup;
mod debugger;
mod limits;
mod mutants;
mod quota;
mod role;
mod shared;
mod stage;
mod terminal;
mod through;
mod tree;
mod trials;
mod unruly;

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.split_first() {
        Some((role, rest)) if env::var_os(beats::FILE).is_some() => match role.as_str() {
            "agent" => role::agent(rest),
            "beat" => beats::beat(rest),
            "chain" => unruly::chain(rest),
            "bomb" => unruly::bomb(),
            "busy" => unruly::busy(rest),
            "flood" => unruly::flood(rest),
            "headless" => unruly::headless(rest),
            "hidden" => unruly::hidden(rest),
            "tracer" => unruly::tracer(rest),
            "eat" => unruly::eat(),
            "debug" => unruly::debug(rest),
            "pause" => unruly::pause(rest),
            "enter" => unruly::enter(rest),
            other => panic!("no such role: {other}"),
        },
        _ => run_trials(),
    }
}

fn run_trials() -> ExitCode {
    mutants::listen_for_panics();
    let mut arguments = libtest_mimic::Arguments::from_args();
    let beside_others = libtest_mimic::run(&arguments, trials::all());
    // What a limit of the processor does is measured while no other trial takes its time.
    arguments.test_threads = Some(1);
    let alone = libtest_mimic::run(&arguments, trials::alone());
    if beside_others.has_failed() { beside_others.exit_code() } else { alone.exit_code() }
}
