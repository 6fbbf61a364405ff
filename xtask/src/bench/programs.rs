//! Programs to measure, built as they are released.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use leader_tests::command::Tool;
use leader_tests::progress::say;
use serde_json::Value;

use crate::images::checkout;

/// Has cargo name what it built.
const JSON: &str = "--message-format=json-render-diagnostics";

/// Builds one target of a package in the release profile, or for `cargo bench` its like, and gives the program's path.
///
/// `kind` and `name` are cargo's: `--bin leader-webhook`, `--bench load`.
pub(crate) fn build(package: &str, kind: &str, name: &str) -> Result<PathBuf> {
    let profile = if kind == "--bench" { "bench" } else { "release" };
    say(format!("building {name} of {package}"));
    let arguments = ["build", "--locked", "--profile", profile, "--package", package, kind, name];
    built(cargo().args(arguments).arg(JSON), name)
}

/// Builds the agent as `Dockerfile.agent` does: static, with packed relocations.
pub(crate) fn build_agent() -> Result<PathBuf> {
    const NAME: &str = "leader-agent";
    say(format!("building {NAME} as it is released"));
    let version = Tool::new("rustc").arg("-vV").run()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let arguments = ["rustc", "--release", "--locked", "--package", NAME, "--bin", NAME, "--target", host];
    let tool = cargo().env("RUSTFLAGS", "-C target-feature=+crt-static").args(arguments).arg(JSON);
    built(tool.args(["--", "-C", "link-arg=-Wl,-z,pack-relative-relocs"]), NAME)
}

/// cargo, in this checkout.
fn cargo() -> Tool {
    Tool::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())).current_dir(checkout())
}

fn built(tool: Tool, name: &str) -> Result<PathBuf> {
    let line = tool.command_line();
    match tool.run()?.lines().rev().find_map(|line| executable(line, name)) {
        Some(path) => Ok(path),
        None => bail!("`{line}` named no program {name}"),
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
