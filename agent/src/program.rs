//! What `leader-agent` does from its first instruction: flags, guard, runtime, run, exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::{
    cpu,
    guard::{self, GuardOptions, HeldSignals, START_FAILED},
    install::install,
    log, names, run,
    settings::{Arguments, Command, RunArguments, outside_identity},
};

/// Runs the program. For `run` this ends the process by itself.
pub fn main() -> ExitCode {
    let held = match guard::hold_signals() {
        Ok(held) => held,
        Err(error) => return fail(&error.to_string()),
    };
    match Arguments::parse().command {
        Command::Install { dir } => match install(&dir) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        },
        Command::Run(arguments) => run_guarded(*arguments, held),
    }
}

fn run_guarded(arguments: RunArguments, held: HeldSignals) -> ExitCode {
    let settings = match arguments.resolve(cpu::is_starved(), outside_identity) {
        Ok(settings) => settings,
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    // From here on there are two processes: the first one stays behind as the stub.
    let guard = match guard::start(&GuardOptions { state_dir: settings.state_dir.clone() }, held) {
        Ok(guard) => guard,
        Err(error) => return fail(&error.to_string()),
    };
    log::start(std::env::var(names::env::LOG).ok().as_deref());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot make a runtime: {error}")),
    };
    match runtime.block_on(run::run(settings, guard)) {
        Ok((guard, code)) => guard.end(code),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(START_FAILED)
}
