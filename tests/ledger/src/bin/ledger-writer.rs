//! Writes a ledger over the network, and knows nothing of leader election.

use std::process::ExitCode;

use leader_ledger::clock;
use leader_ledger::writer::{Options, burn, run};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ledger-writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn std::error::Error>> {
    let started = clock::boot()?;
    let options = Options::read(|name| std::env::var(name).ok())?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(&options, started)?,
        ["burn", started] => burn(&options, started.parse()?)?,
        _ => return Err(format!("no arguments are known, {arguments:?} were given: see the environment").into()),
    }
    Ok(())
}
