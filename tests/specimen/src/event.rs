//! What the program writes down, one JSON object per line.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use leader_ledger::clock;
use serde::{Deserialize, Serialize};

use crate::options::Options;

/// The file of the events.
pub const FILE: &str = "events";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The pod's name.
    pub pod: String,
    /// The process id in the container.
    pub pid: u32,
    /// The boot clock's time, in nanoseconds: one clock for all pods of a node.
    pub boot: u64,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum What {
    /// The program was started.
    Started(Process),
    /// It listens on every port that it was told.
    Listening,
    /// A signal came, called as in `SIGTERM`.
    Signal(String),
    /// It ends.
    Ended,
    /// An HTTP request came.
    Request {
        /// Whether it came over TLS.
        tls: bool,
        /// Path and query.
        path: String,
        /// The headers.
        headers: BTreeMap<String, String>,
    },
    /// A TCP connection was made.
    Connection,
    /// The health of a gRPC service was asked.
    Health {
        /// The service.
        service: String,
        /// The headers, `:authority` among them.
        headers: BTreeMap<String, String>,
    },
    /// `specimen check` was run.
    Check(Process),
    /// `specimen note TEXT` was run.
    Note(String, Process),
}

/// How a process was started. Words are as [`escape`] writes them, so that none is lost or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its arguments, the program's name first.
    pub arguments: Vec<String>,
    /// Its working folder.
    pub folder: String,
    /// Its executable, links resolved.
    pub executable: String,
    /// User and group.
    pub user: (u32, u32),
    /// `NAME=VALUE`, in the order in which it was given.
    pub environment: Vec<String>,
}

impl Process {
    /// This process.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn this() -> io::Result<Self> {
        // The kernel has just what was given to exec: an empty word, and a variable that is set twice.
        let words = |file: &str| -> io::Result<Vec<String>> {
            let content = fs::read(file)?;
            let content = content.strip_suffix(b"\0").unwrap_or(&content);
            Ok(content.split(|byte| *byte == 0).map(|word| escape(OsStr::from_bytes(word))).collect())
        };
        Ok(Self {
            arguments: words("/proc/self/cmdline")?,
            folder: escape(env::current_dir()?.as_os_str()),
            executable: escape(fs::read_link("/proc/self/exe")?.as_os_str()),
            user: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            environment: words("/proc/self/environ")?,
        })
    }
}

/// A word as printable ASCII: everything else as `\xNN`, which can be read back byte for byte.
pub fn escape(word: impl AsRef<OsStr>) -> String {
    word.as_ref().as_bytes().escape_ascii().to_string()
}

/// Writes an event down: to standard output, and into the folder if there is one.
///
/// # Errors
/// When the clock or the file fails.
pub fn tell(options: &Options, what: What) -> io::Result<()> {
    let event = Event { pod: options.pod.clone(), pid: std::process::id(), boot: clock::boot()?, what };
    let line = serde_json::to_string(&event)? + "\n";
    // One write each: other processes write there, too.
    io::stdout().write_all(line.as_bytes())?;
    let Some(folder) = &options.folder else { return Ok(()) };
    let mut file = File::options().create(true).append(true).open(folder.join(FILE))?;
    file.write_all(line.as_bytes())
}

/// Every event in a folder, in the order in which they were written.
///
/// # Errors
/// When the file cannot be read; none is no event.
pub fn read(folder: &Path) -> io::Result<Vec<Event>> {
    let text = match fs::read_to_string(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described_and_events_come_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let options = Options { folder: Some(folder.path().to_owned()), pod: "p".to_owned(), ..Options::default() };
        let process = Process::this().unwrap();
        assert!(process.arguments[0].contains("specimen"), "{process:?}");
        tell(&options, What::Started(process.clone())).unwrap();
        tell(&options, What::Ended).unwrap();
        let events = read(folder.path()).unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].pod.as_str(), &events[0].what), ("p", &What::Started(process)));
        assert!(events[0].boot <= events[1].boot);
    }

    #[test]
    fn words_keep_every_byte() {
        assert_eq!(escape("a b$\u{e9}\n\\"), r"a b$\xc3\xa9\n\\");
    }
}
