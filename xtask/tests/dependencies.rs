//! What `cargo deny check` says about licences, sources and banned crates, for machines without it; both read `deny.toml`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use leader_tests::command::Tool;
use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Every package that is compiled for `target`, but for those of this workspace.
fn dependencies(target: &str) -> Result<Vec<Value>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--locked", "--format-version=1", "--filter-platform", target];
    let mut metadata: Value = serde_json::from_str(&Tool::new(cargo).args(arguments).run()?)?;
    let mut packages = metadata["packages"].as_array_mut().map(std::mem::take).context("no packages")?;
    packages.retain(|package| !package["source"].is_null());
    ensure!(!packages.is_empty(), "no dependencies for {target}");
    Ok(packages)
}

fn rules() -> Result<toml::Table> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
    Ok(fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?.parse()?)
}

fn texts<'a>(rules: &'a toml::Table, table: &str, key: &str) -> Result<Vec<&'a str>> {
    let list = rules[table][key].as_array().with_context(|| format!("{table}.{key} of deny.toml is no list"))?;
    Ok(list.iter().filter_map(|entry| entry.as_str().or_else(|| entry.get("crate")?.as_str())).collect())
}

#[test]
fn every_dependency_has_a_licence_source_and_name_that_are_allowed() -> Result<()> {
    let rules = rules()?;
    let allowed = texts(&rules, "licenses", "allow")?;
    let banned = texts(&rules, "bans", "deny")?;
    let targets = texts(&rules, "graph", "targets")?;
    ensure!(!allowed.is_empty() && !banned.is_empty() && !targets.is_empty(), "deny.toml says nothing");
    let mut wrong = Vec::new();
    for package in targets.into_iter().map(dependencies).collect::<Result<Vec<_>>>()?.concat() {
        let name = package["name"].as_str().context("a package without a name")?;
        let licence = package["license"].as_str().unwrap_or_default();
        let expression = Expression::parse_mode(licence, ParseMode::LAX);
        let is_allowed = |requirement: &LicenseReq| allowed.contains(&requirement.to_string().as_str());
        let licensed = expression.is_ok_and(|expression| expression.evaluate(is_allowed));
        if !licensed {
            wrong.push(format!("{name}: the licence `{licence}`"));
        }
        if package["source"] != CRATES_IO {
            wrong.push(format!("{name}: the source {}", package["source"]));
        }
        if banned.contains(&name) {
            wrong.push(format!("{name}: banned"));
        }
    }
    ensure!(wrong.is_empty(), "deny.toml does not allow: {wrong:#?}");
    Ok(())
}
