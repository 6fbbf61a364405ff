//! What writer and keeper say to each other: one JSON value a line, over TCP.
//!
//! The writer begins with a [`Hello`], the keeper answers with a [`Welcome`], and from then on only [`Entry`] lines
//! come: nothing is acknowledged, the numbering is taken up again with the next connection.

use std::io::{BufRead, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::overlap::Writer;

/// The port on which the keeper takes entries.
pub const ENTRY_PORT: u16 = 7000;
/// The port on which the keeper serves its report.
pub const REPORT_PORT: u16 = 8080;
/// The longest line, in bytes: the longest pod name has 253, and the rest is numbers.
const LONGEST_LINE: u64 = 1024;

/// The first line of a connection, from the writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who writes.
    pub writer: Writer,
    /// When the line was written, by the boot clock, in nanoseconds.
    pub boot: u64,
    /// When the line was written, by the wall clock, in nanoseconds since 1970.
    pub wall: u64,
}

/// The keeper's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The number of the ledger's next entry.
    pub next: u64,
}

/// One entry, from the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number that the writer gave it.
    pub number: u64,
    /// When it was written, by the boot clock, in nanoseconds.
    pub boot: u64,
    /// When it was written, by the wall clock, in nanoseconds since 1970.
    pub wall: u64,
}

/// Reads one line; `None` at the end of the stream.
///
/// # Errors
/// When reading fails, or the line is too long, unfinished or not of this type.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("a line of {} bytes without an end: at most {LONGEST_LINE} bytes are a line", line.len() + 1),
        )),
    }
}

/// Writes one line in a single write.
///
/// # Errors
/// When writing fails.
pub fn send<T: Serialize>(to: &mut impl Write, value: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_as_it_went() {
        let entry = Entry { number: 7, boot: 8, wall: 9 };
        let mut line = Vec::new();
        send(&mut line, &entry).unwrap();
        let mut reader = line.as_slice();
        assert_eq!(receive(&mut reader).unwrap(), Some(entry));
        assert_eq!(receive::<Entry>(&mut reader).unwrap(), None);
    }

    #[test]
    fn half_a_line_is_no_entry() {
        let text = br#"{"number":1,"boot":2,"wall":3}"#;
        assert!(receive::<Entry>(&mut text.as_slice()).is_err());
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let error = receive::<Entry>(&mut endless).unwrap_err().to_string();
        assert!(error.contains("1024 bytes without an end"), "{error}");
    }
}
