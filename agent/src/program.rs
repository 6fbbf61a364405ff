//! What `leader-agent` does from its first instruction: flags, guard, runtime, run, exit code.

use std::{future::Future, path::Path, process::ExitCode};

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::{
    ask::ask as ask_agent,
    cpu,
    follow::{
        follower::{follow, make_folder},
        settings::FollowSettings,
    },
    guard::{self, Guard, GuardOptions, HeldSignals, START_FAILED},
    install::install,
    log,
    mode::Mode,
    names,
    observe::{ObserveArguments, observe},
    probes::interface::Question,
    ready::ready,
    run::{self, RunError},
    settings::{Arguments, Command, HookName, RunArguments, outside_identity},
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
        Command::Observe(arguments) => observe_guarded(*arguments, held),
        Command::Probe { name, state_dir } => ask(&state_dir, Question::Probe(name.into())),
        // A container starts as a standby: what the hook is for begins with a promotion.
        Command::Hook { name: HookName::PostStart, .. } => ExitCode::SUCCESS,
        Command::Hook { name: HookName::PreStop, state_dir } => ask(&state_dir, Question::PreStop),
    }
}

/// Asks the agent that runs here; the exit code is 0 for yes and 1 for everything else, and the reason goes to stderr.
fn ask(state_dir: &Path, question: Question) -> ExitCode {
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot make a runtime: {error}"))
        .and_then(|runtime| runtime.block_on(ask_agent(state_dir, question)).map_err(|error| error.to_string()));
    match answer {
        Ok(_) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run_guarded(arguments: RunArguments, held: HeldSignals) -> ExitCode {
    match arguments.follows(cpu::is_starved()) {
        Ok(Some(settings)) => return follow_guarded(settings, held),
        Ok(None) => {}
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    }
    let settings = match arguments.resolve(cpu::is_starved(), outside_identity) {
        Ok(settings) => settings,
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let options = GuardOptions { state_dir: settings.state_dir.clone(), status_file: settings.status_file.clone() };
    if settings.mode == Mode::Ready {
        guarded(&options, held, |guard| ready(settings, guard))
    } else {
        guarded(&options, held, |guard| run::run(settings, guard))
    }
}

fn observe_guarded(arguments: ObserveArguments, held: HeldSignals) -> ExitCode {
    let pod_name = std::env::var("POD_NAME").ok();
    let settings = match arguments.resolve(cpu::is_starved(), pod_name, outside_identity) {
        Ok(settings) => settings,
        Err(error) => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    let options = GuardOptions { state_dir: None, status_file: Some(settings.status_file.clone()) };
    guarded(&options, held, |guard| observe(settings, guard))
}

fn follow_guarded(settings: FollowSettings, held: HeldSignals) -> ExitCode {
    // Where there can be none, the guard says that there is no lock.
    let _ = make_folder(&settings.own);
    let options = GuardOptions { state_dir: Some(settings.own.clone()), status_file: None };
    guarded(&options, held, |guard| follow(settings, guard))
}

/// Does `work` in the agent. From here on there are two processes: the first one stays behind as the stub.
fn guarded<F>(options: &GuardOptions, held: HeldSignals, work: impl FnOnce(Guard) -> F) -> ExitCode
where
    F: Future<Output = Result<(Guard, u8), RunError>>,
{
    let guard = match guard::start(options, held) {
        Ok(guard) => guard,
        Err(error) => return fail(&error.to_string()),
    };
    log::start(std::env::var(names::env::LOG).ok().as_deref());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot make a runtime: {error}")),
    };
    match runtime.block_on(work(guard)) {
        Ok((guard, code)) => guard.end(code),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(START_FAILED)
}
