//! How much memory a process has, as the kernel tells it.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::Pid;

/// A field of a file in /proc that is told in kilobytes, in bytes.
pub(crate) fn field(pid: Pid, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kilobytes =
        |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse::<u64>().ok();
    Ok(text.lines().find_map(kilobytes).with_context(|| format!("no {name} in {path}"))? * 1024)
}

/// Bytes as a person reads them.
#[allow(clippy::cast_precision_loss)] // Sizes stay far below 2^52.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() {
        let own = rustix::process::getpid();
        let (now, highest) = (field(own, "status", "VmRSS").unwrap(), field(own, "status", "VmHWM").unwrap());
        assert!(now > 100_000 && highest > 100_000, "{now}, {highest}");
        assert!(field(own, "status", "VmNothing").unwrap_err().to_string().contains("no VmNothing in /proc/"));
        assert_eq!(megabytes(12_345_678), "12.3 MB");
    }
}
