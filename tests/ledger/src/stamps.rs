//! A writer's own record of when it was alive, beside the network: one small file for every process.
//!
//! The file's one line is written over with each stamp, so that it stays small however long the process lives. A write
//! goes to the page cache and stays there when the process is killed; it takes no flush.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::overlap::{Run, Writer};

/// What the names of the files end in.
const EXTENSION: &str = "stamps";

/// The file of one process.
#[derive(Debug)]
pub struct StampFile {
    file: File,
    writer: Writer,
    first: Option<u64>,
}

impl StampFile {
    /// Makes the file of this process in `folder`, which is there already.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(folder: &Path, writer: Writer) -> io::Result<Self> {
        let name = format!("{}.{}.{}.{EXTENSION}", writer.pod, writer.started, std::process::id());
        Ok(Self { file: File::create(folder.join(name))?, writer, first: None })
    }

    /// Notes that the process was alive at `now`, by the boot clock, in nanoseconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn note(&mut self, now: u64) -> io::Result<()> {
        let first = *self.first.get_or_insert(now);
        let Writer { pod, token, started } = &self.writer;
        let token = token.map_or_else(|| "-".to_owned(), |token| token.to_string());
        // The last field is as wide as any time, so that a shorter line never leaves the end of a longer one behind.
        let line = format!("{pod} {token} {started} {first} {now:020}\n");
        self.file.write_all_at(line.as_bytes(), 0)
    }
}

/// Why a folder of stamps cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StampError {
    /// The folder or a file in it.
    #[error("cannot read the stamps in {path}: {source}")]
    Read {
        /// What was read.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that was not written by a [`StampFile`].
    #[error("{path} is no file of stamps: {line:?}")]
    Malformed {
        /// The file.
        path: String,
        /// What stands in it.
        line: String,
    },
}

/// Reads every run from the files in `folder`; the processes of one writer are one run.
///
/// # Errors
/// When something cannot be read, or is no file of stamps.
pub fn read(folder: &Path) -> Result<Vec<Run>, StampError> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        |source| StampError::Read { path, source }
    };
    let mut runs: Vec<Run> = Vec::new();
    for file in fs::read_dir(folder).map_err(at(folder))? {
        let path = file.map_err(at(folder))?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let line = fs::read_to_string(&path).map_err(at(&path))?;
        if line.is_empty() {
            // Made, and killed before its first stamp.
            continue;
        }
        let run =
            parse(line.trim_end()).ok_or_else(|| StampError::Malformed { path: path.display().to_string(), line })?;
        match runs.iter_mut().find(|known| known.writer == run.writer) {
            Some(known) => {
                known.first = known.first.min(run.first);
                known.last = known.last.max(run.last);
            }
            None => runs.push(run),
        }
    }
    runs.sort_by_key(|run| run.first);
    Ok(runs)
}

fn parse(line: &str) -> Option<Run> {
    let mut fields = line.split(' ');
    let pod = fields.next()?.to_owned();
    let token = match fields.next()? {
        "-" => None,
        token => Some(token.parse().ok()?),
    };
    let mut number = || fields.next()?.parse().ok();
    let (started, first, last) = (number()?, number()?, number()?);
    fields.next().is_none().then_some(Run { writer: Writer { pod, token, started }, first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_stamp_stay() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer { pod: "a".to_owned(), token: Some(5), started: 99 };
        let mut file = StampFile::create(folder.path(), writer.clone()).unwrap();
        for now in [99_999, 100_000, 1_000_001] {
            file.note(now).unwrap();
        }
        assert_eq!(read(folder.path()).unwrap(), [Run { writer, first: 99_999, last: 1_000_001 }]);
    }

    #[test]
    fn processes_of_one_writer_are_one_run() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.1.7.stamps"), "a - 1 10 00000000000000000020\n").unwrap();
        fs::write(folder.path().join("a.1.8.stamps"), "a - 1 15 00000000000000000030\n").unwrap();
        fs::write(folder.path().join("a.2.9.stamps"), "a - 2 40 00000000000000000050\n").unwrap();
        fs::write(folder.path().join("notes"), "of somebody else").unwrap();
        let spans: Vec<_> = read(folder.path()).unwrap().iter().map(|run| (run.first, run.last)).collect();
        assert_eq!(spans, [(10, 30), (40, 50)]);
    }

    #[test]
    fn what_is_no_stamp_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.stamps"), "a - 1 10\n").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("x.stamps is no file of stamps"), "{error}");
    }
}
