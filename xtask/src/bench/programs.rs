//! Programs to measure, built as they are released.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use leader_tests::command::Tool;
use leader_tests::progress::say;
use serde_json::Value;

use crate::images::checkout;

/// Builds one target of a package in the release profile, or for `cargo bench` its like, and gives the program's path.
///
/// `kind` and `name` are cargo's: `--bin leader-webhook`, `--bench load`.
pub(crate) fn build(package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let profile = if kind == "--bench" { "bench" } else { "release" };
    say(format!("building {name} of {package}"));
    let arguments = ["build", "--locked", "--profile", profile, "--package", package, kind, name];
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tool = Tool::new(cargo).current_dir(checkout()).args(arguments);
    let messages = tool.arg("--message-format=json-render-diagnostics").run()?;
    match messages.lines().rev().find_map(|line| executable(line, name)) {
        Some(path) => Ok(path),
        None => bail!("cargo named no program for {kind} {name} of {package}"),
    }
}

fn executable(message: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str().filter(|_| message["target"]["name"] == name)?;
    Some(PathBuf::from(path))
}

/// A program that is run and whose output is read as JSON.
pub(crate) fn report(tool: Tool) -> Result<Value> {
    let line = tool.command_line();
    let output = tool.run()?;
    serde_json::from_str(&output).with_context(|| format!("`{line}` did not write JSON: {output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","target":{"name":"load"},"executable":"/x/load-1"}"#;
        assert_eq!(executable(message, "load"), Some(PathBuf::from("/x/load-1")));
        assert_eq!(executable(message, "other"), None);
        assert_eq!(executable(r#"{"target":{"name":"load"},"executable":null}"#, "load"), None);
    }
}
