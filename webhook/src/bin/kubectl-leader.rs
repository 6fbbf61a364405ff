//! `kubectl leader`: see [`leader_webhook::cli`].

use std::{
    env,
    io::{self, ErrorKind, IsTerminal},
    os::unix::process::CommandExt,
    process::ExitCode,
};

use clap::Parser;
use leader_webhook::{
    cli::{self, Cli, Error},
    review::printable,
};

/// Above 1, which says that a diff is not empty.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(handed) = cli::handed_to(&cli) {
        return match handed {
            Ok(mut command) => {
                // It comes back only when it cannot be run.
                let error = command.exec();
                failed(&format!(
                    "`{}` cannot be run: {error}; --kubectl says where it is",
                    command.get_program().display()
                ))
            }
            Err(error) => failed(&error.to_string()),
        };
    }
    // https://no-color.org: set to anything but the empty text.
    let colour = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match cli::run(&cli, io::stdin(), &mut io::stdout(), &mut io::stderr(), colour) {
        Ok(code) => code.into(),
        // Who reads the output has seen enough, as `head` does.
        Err(Error::Write(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&error.to_string()),
    }
}

fn failed(error: &str) -> ExitCode {
    for line in error.lines() {
        eprintln!("error: {}", printable(line));
    }
    FAILED.into()
}
