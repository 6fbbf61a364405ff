//! The supervisor that holds a Lease and runs an application on exactly one replica: see the library's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    leader_agent::program::main()
}
