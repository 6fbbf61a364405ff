//! `kubectl leader`: see [`leader_webhook::cli`].

use std::{
    env,
    io::{self, ErrorKind, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use leader_webhook::cli::{self, Cli, Error};

/// Above 1, which says that a diff is not empty.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // https://no-color.org: set to anything but the empty text.
    let colour = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match cli::run(&cli, io::stdin(), &mut io::stdout(), &mut io::stderr(), colour) {
        Ok(code) => code.into(),
        // Who reads the output has seen enough, as `head` does.
        Err(Error::Write(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("error: {line}");
            }
            FAILED.into()
        }
    }
}
