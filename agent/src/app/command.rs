//! From a command line and an environment to a program that is ready to be started, and back from a failed start to its reason.

use std::{
    env,
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::AsFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use crate::{
    names,
    sys::{
        process::{Image, Stdio},
        signals::SignalSet,
    },
};

/// Where a command is looked up when the environment has no PATH: what container runtimes put there.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the app did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing to start.
    #[error("no command was given: put it after `--`")]
    Empty,
    /// A text with a NUL cannot be handed to a program.
    #[error("{0:?} holds a NUL character: an argument or environment variable cannot")]
    Nul(OsString),
    /// A program that is not bound to a deadline must not be started.
    #[error("no program was started: the deadline is not armed")]
    NotArmed,
    /// What belongs to the app is not started without it.
    #[error("`{command}` was not started: the app is ending")]
    Ending {
        /// The command's first word.
        command: String,
    },
    /// The descriptors that watch the app could not be made.
    #[error(
        "cannot watch the app's processes or prepare a new one: {0}. Is the limit of open files (ulimit -n) reached?"
    )]
    Prepare(#[source] io::Error),
    /// No process could be made.
    #[error("cannot make a process for the app: {0}. Is a limit of processes or memory reached?")]
    Fork(#[source] io::Error),
    /// No such file, in PATH or where the command says.
    #[error(
        "the command `{command}` was not found: {source}. Is its path right, seen from the container's working directory, or its folder in PATH?"
    )]
    NotFound {
        /// The command's first word.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and cannot be executed.
    #[error(
        "the command `{command}` cannot be executed: {source}. Is it executable for this user, and built for this machine?"
    )]
    NotExecutable {
        /// The command's first word.
        command: String,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// The code that shells and container runtimes give to such an end: 127 for not found, 126 for everything else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::NotFound { .. }) { 127 } else { 126 }
    }
}

/// Prepares `command` with this process's environment, less what is the agent's, and with `added`.
pub(super) fn image(
    command: &[OsString],
    added: &[(OsString, OsString)],
    mask: SignalSet,
    foreground: bool,
    stdio: Option<Stdio>,
) -> Result<Image, StartError> {
    let program = command.first().ok_or(StartError::Empty)?;
    // Before the look-up adds folders to the name: what is reported is what was given.
    let arguments = texts(command.iter().cloned())?;
    let environment = environment(env::vars_os(), added);
    let path = environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    Ok(Image {
        candidates: texts(candidates(program, path.unwrap_or(OsStr::new(DEFAULT_PATH))))?,
        arguments,
        environment: texts(environment.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        }))?,
        mask,
        foreground,
        stdio,
    })
}

/// The app's environment.
fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
    added: &[(OsString, OsString)],
) -> Vec<(OsString, OsString)> {
    let replaced = |name: &OsString| {
        names::env::ALL.iter().any(|taken| name == taken) || added.iter().any(|(added, _)| name == added)
    };
    ours.filter(|(name, _)| !replaced(name)).chain(added.iter().cloned()).collect()
}

/// The files that `program` may mean, as execvp has it: a name without a slash is looked up, an empty folder is the current one.
fn candidates(program: &OsStr, path: &OsStr) -> Vec<OsString> {
    if program.as_bytes().contains(&b'/') || program.is_empty() {
        return vec![program.to_owned()];
    }
    let file = |folder: &[u8]| {
        let folder = if folder.is_empty() { b"." } else { folder };
        OsString::from_vec([folder, b"/", program.as_bytes()].concat())
    };
    path.as_bytes().split(|&byte| byte == b':').map(file).collect()
}

/// Texts as the kernel takes them.
fn texts(texts: impl IntoIterator<Item = OsString>) -> Result<Vec<CString>, StartError> {
    let text = |text: OsString| {
        CString::new(text.into_vec()).map_err(|error| StartError::Nul(OsString::from_vec(error.into_vec())))
    };
    texts.into_iter().map(text).collect()
}

/// Reads what a child that has ended left about a failed exec.
pub(super) fn failure(pipe: impl AsFd, command: &str) -> Option<StartError> {
    let mut number = [0; size_of::<i32>()];
    let read = rustix::io::read(pipe, &mut number[..]);
    if read != Ok(number.len()) {
        return None;
    }
    let source = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
    let command = command.to_owned();
    Some(match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StartError::NotFound { command, source },
        _ => StartError::NotExecutable { command, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(text: &str) -> OsString {
        text.into()
    }

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_taken_as_it_stands() {
        let found = candidates(OsStr::new("app"), OsStr::new("/usr/bin::/bin"));
        assert_eq!(found, [os("/usr/bin/app"), os("./app"), os("/bin/app")]);
        assert_eq!(candidates(OsStr::new("bin/app"), OsStr::new("/usr/bin")), [os("bin/app")]);
        assert_eq!(candidates(OsStr::new(""), OsStr::new("/usr/bin")), [os("")]);
    }

    #[test]
    fn the_app_sees_its_own_environment_and_what_is_documented() {
        let ours = [("PATH", "/bin"), ("LEADER_ID", "billing"), ("LEADER_RECORD", "{}"), ("LEADER_FOO", "mine")];
        let ours = ours.into_iter().map(|(name, value)| (os(name), os(value)));
        let added = [(os("LEADER_FENCING_TOKEN"), os("4711")), (os("PATH"), os("/sbin"))];
        let expected = [("LEADER_FOO", "mine"), ("LEADER_FENCING_TOKEN", "4711"), ("PATH", "/sbin")];
        assert_eq!(environment(ours, &added), expected.map(|(name, value)| (os(name), os(value))));
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let start = |command: &[OsString]| image(command, &[], SignalSet::all(), false, None).unwrap_err();
        assert!(matches!(start(&[]), StartError::Empty));
        assert!(matches!(start(&[os("a\0b")]), StartError::Nul(text) if text == "a\0b"));
    }
}
