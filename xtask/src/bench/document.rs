//! docs/benchmarks.md: a section for each benchmark, written anew by the benchmark and left alone by the others.

use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};

const TITLE: &str =
    "# Benchmarks\n\nWritten by `cargo xtask bench`; each section says how it was measured, and on what.\n";

/// Replaces the section of this heading, or adds it at the end.
pub(crate) fn write_section(file: &Path, heading: &str, text: &str) -> Result<()> {
    let before = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => TITLE.to_owned(),
        read => read.with_context(|| format!("cannot read {}", file.display()))?,
    };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(file, with_section(&before, heading, text)).with_context(|| format!("cannot write {}", file.display()))
}

fn with_section(document: &str, heading: &str, text: &str) -> String {
    let section = format!("## {heading}\n\n{}\n", text.trim());
    let mut parts = vec![String::new()];
    for line in document.lines() {
        if line.starts_with("## ") {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    let first = format!("## {heading}\n");
    match parts.iter_mut().find(|part| part.starts_with(&first)) {
        Some(part) => *part = section,
        None => parts.push(section),
    }
    parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n") + "\n"
}

/// A table: its first row is the head; columns after the first are numbers.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if index == 0 {
            let rest = "---:|".repeat(row.len().saturating_sub(1));
            let _ = writeln!(text, "|---|{rest}");
        }
    }
    text
}

/// Microseconds as a person reads them.
pub(crate) fn micros(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.1} µs"),
        value if value < 10_000.0 => format!("{value:.0} µs"),
        value => format!("{:.1} ms", value / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_of_the_heading_changes() {
        let document = "# Benchmarks\n\nIntro.\n\n## Election\n\nold a\n\n## Injection\n\nold b\n";
        let expected = "# Benchmarks\n\nIntro.\n\n## Election\n\nnew\n\n| a |\n\n## Injection\n\nold b\n";
        assert_eq!(with_section(document, "Election", "new\n\n| a |\n"), expected);
        assert_eq!(with_section(expected, "Election", "new\n\n| a |"), expected);
        assert_eq!(with_section("# B\n", "Injection", "text"), "# B\n\n## Injection\n\ntext\n");
    }

    #[test]
    fn tables_and_times_read_well() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        assert_eq!(table(&[row(&["a", "b"]), row(&["c", "1"])]), "| a | b |\n|---|---:|\n| c | 1 |\n");
        assert_eq!([micros(0.94), micros(99.6), micros(12_345.0)], ["0.9 µs", "100 µs", "12.3 ms"]);
    }
}
