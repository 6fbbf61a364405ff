//! The alert rules of deploy/components/monitoring, checked and played through by Prometheus' own program.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use leader_tests::Cluster;
use leader_tests::binaries::promtool;
use leader_tests::command::Tool;

#[test]
fn alerts_are_raised_when_they_should_be_and_only_then() -> Result<()> {
    // It needs none, but what cargo builds in passing should not build a program of Prometheus.
    if Cluster::for_tests().is_none() {
        return Ok(());
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir()?;
    let custom_resource = fs::read_to_string(project.join("deploy/components/monitoring/rules.yaml"))?;
    // What is below `spec:` is a file of rules as Prometheus reads it.
    let (_, rules) = custom_resource.split_once("\nspec:\n").context("no spec in the rules")?;
    let rules: Vec<&str> = rules.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    fs::write(folder.path().join("rules.yaml"), rules.join("\n"))?;
    fs::copy(project.join("tests/monitoring/alerts.yaml"), folder.path().join("alerts.yaml"))?;
    let promtool = promtool()?;
    let run = |words: &[&str]| Tool::new(&promtool).args(words).current_dir(folder.path()).run();
    let checked = run(&["check", "rules", "--lint-fatal", "rules.yaml"])?;
    ensure!(checked.contains("rules found"), "{checked}");
    let played = run(&["test", "rules", "alerts.yaml"])?;
    ensure!(played.contains("SUCCESS"), "{played}");
    Ok(())
}
