//! Receives a ledger's entries, and reports who wrote them and whether any two did at once.

use std::process::ExitCode;

use leader_ledger::keeper;
use leader_ledger::wire::{ENTRY_PORT, REPORT_PORT};

fn main() -> ExitCode {
    match keeper::run(ENTRY_PORT, REPORT_PORT) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ledger-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
