//! Running programs, with errors that show what was run, how it ended and what it said.

use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program to run: its arguments, environment and input.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    input: Option<String>,
}

/// What a program left behind when it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
    /// Its exit code, 128 + n when signal n ended it, as a shell has it.
    pub code: i32,
}

impl Output {
    /// Whether the program ended with code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

impl Tool {
    /// A program by its name (looked up in `PATH`) or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), input: None }
    }

    /// A program that runs inside the network namespace `/run/netns/NAMESPACE`.
    ///
    /// When the calling process is there already, the program is run directly.
    /// `nsenter` and not `ip netns exec`: the latter remounts `/sys`, which hides the cgroup mounts from the kubelet.
    pub fn in_network(namespace: &str, program: impl AsRef<OsStr>) -> Self {
        if crate::network::is_inside(namespace) {
            return Self::new(program);
        }
        let file = crate::network::namespace_file(namespace);
        let mut option = OsString::from("--net=");
        option.push(file);
        Self::new("nsenter").arg(option).arg("--").arg(program)
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the folder in which the program runs.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives the program this text as its standard input; without it the input is empty.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Runs the program to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn output(mut self) -> Result<Output> {
        let input = match &self.input {
            // A file, not a pipe: the program may write before it has read everything.
            Some(text) => {
                let mut file = tempfile::tempfile().context("cannot make a temporary file for a program's input")?;
                file.write_all(text.as_bytes())?;
                file.rewind()?;
                Stdio::from(file)
            }
            None => Stdio::null(),
        };
        let output =
            self.command.stdin(input).output().with_context(|| format!("cannot start `{}`", self.command_line()))?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: exit_code(output.status),
        })
    }

    /// Runs the program to its end and returns its standard output.
    ///
    /// # Errors
    /// When it could not be started or did not end with code 0; the message has the command line and its standard error.
    pub fn run(self) -> Result<String> {
        let line = self.command_line();
        let output = self.output()?;
        if !output.success() {
            bail!("`{line}` ended with code {}: {}", output.code, output.stderr.trim());
        }
        Ok(output.stdout)
    }

    /// Runs the program to its end without input. Its standard output goes to `stdout` as it comes, its standard error to ours.
    ///
    /// # Errors
    /// When it could not be started or did not end with code 0; what it said was seen already.
    pub fn show(mut self, stdout: impl Into<Stdio>) -> Result<()> {
        let line = self.command_line();
        let status = self.command.stdin(Stdio::null()).stdout(stdout).status();
        let status = status.with_context(|| format!("cannot start `{line}`"))?;
        if !status.success() {
            bail!("`{line}` ended with code {}: what it said is above", exit_code(status));
        }
        Ok(())
    }

    /// The underlying command, for callers that spawn or exec it themselves.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// The command line, as a person would type it.
    pub fn command_line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }
}

/// The exit code of a process as a shell tells it: 128 + n when signal n ended it.
pub fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// A word as a shell would read it back.
pub fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./=:,@%+".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Whether a program of this name is found in `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_has_both_streams_and_the_code() {
        let output = Tool::new("sh").args(["-c", "cat; echo bad >&2; exit 3"]).input("good").output().unwrap();
        assert_eq!(output, Output { stdout: "good".into(), stderr: "bad\n".into(), code: 3 });
    }

    #[test]
    fn a_signal_is_told_as_a_shell_does() {
        assert_eq!(Tool::new("sh").args(["-c", "kill -9 $$"]).output().unwrap().code, 137);
    }

    #[test]
    fn a_failure_shows_command_code_and_message() {
        let error = Tool::new("sh").args(["-c", "echo no such thing >&2; exit 2"]).run().unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'echo no such thing >&2; exit 2'` ended with code 2: no such thing");
    }

    #[test]
    fn what_is_shown_goes_where_it_should_and_a_failure_has_its_code() {
        let mut file = tempfile::tempfile().unwrap();
        let error = Tool::new("sh").args(["-c", "echo seen; exit 3"]).show(file.try_clone().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'echo seen; exit 3'` ended with code 3: what it said is above");
        file.rewind().unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "seen\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tool::new("no-such-program-here").run().unwrap_err().to_string();
        assert_eq!(error, "cannot start `no-such-program-here`");
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(quoted("--from=a/b.c"), "--from=a/b.c");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
