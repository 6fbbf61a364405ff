//! `kubectl leader` as a program in `PATH`, for shells that follow a page and for tests that want a process of its own: this test program,
//! which has the command line linked in, under that name.

use std::env;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use leader_tests::command::quoted;
use leader_webhook::cli::{self, Cli};

/// The words of the command line, one in a line.
const WORDS: &str = "LEADER_TESTS_COMMAND_LINE";
/// The program's exit code for errors.
const FAILED: u8 = 2;
/// Where the script below has put the standard output, because the test harness writes its own words there.
const STDOUT: &str = "/proc/self/fd/3";

/// The folder with `kubectl-leader`, to be put first into `PATH`.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kubectl-leader");
    let this = env::current_exe().context("finding this program")?;
    let script = format!(
        "#!/bin/sh\n{WORDS}=$(printf '%s\\n' \"$@\") exec {} --exact program::under_its_own_name --quiet --nocapture 3>&1 >/dev/null\n",
        quoted(&this.to_string_lossy())
    );
    let program = folder.join("kubectl-leader");
    // A shell may be reading it.
    if fs::read_to_string(&program).is_ok_and(|there| there == script) {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    // Only what is whole gets the name: other tests may be running it.
    let unfinished = tempfile::NamedTempFile::new_in(&folder)?;
    fs::write(unfinished.path(), script)?;
    fs::set_permissions(unfinished.path(), Permissions::from_mode(0o755))?;
    unfinished.into_temp_path().persist(program)?;
    Ok(folder)
}

/// A test of nothing, but where the script runs it: there it is the program.
#[test]
fn under_its_own_name() -> Result<()> {
    let Ok(words) = env::var(WORDS) else { return Ok(()) };
    let stdout = OpenOptions::new().append(true).open(STDOUT).context("the script opens it")?;
    io::stdout().flush()?;
    rustix::stdio::dup2_stdout(&stdout)?;
    std::process::exit(i32::from(run(&words)))
}

fn run(words: &str) -> u8 {
    let words = words.lines().filter(|word| !word.is_empty());
    let cli = match Cli::try_parse_from(std::iter::once("kubectl-leader").chain(words)) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Some(handed) = cli::handed_to(&cli) {
        // As the program does: it becomes kubectl, and comes back only when it cannot.
        let error = handed.map_or_else(|error| error.to_string(), |mut command| command.exec().to_string());
        eprintln!("error: {error}");
        return FAILED;
    }
    match cli::run(&cli, io::stdin(), &mut io::stdout(), &mut io::stderr(), false) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            FAILED
        }
    }
}
