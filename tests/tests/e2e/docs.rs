//! The pages of `docs/` for users, followed as they stand: what somebody types who reads them works, from the first command to the last.
//!
//! A page makes its own namespace and removes it. The pages for admins are walked by `installation`, on a cluster of their own. What
//! stands in other pages and forms is followed by [`reader`], and [`commands`] sees to it that nothing is left out.

mod commands;
mod reader;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use leader_tests::Cluster;
use leader_tests::command::Tool;

use crate::pages::{Page, checkout};
use crate::stage::Stage;

/// The pages, and the namespaces that they make.
const PAGES: [(&str, &str); 6] = [
    ("tutorial", "ledger"),
    ("how-to-run", "shop"),
    ("how-to-ready", "desk"),
    ("how-to-observe", "lookout"),
    ("how-to-migrate", "moving"),
    ("steering", "bridge"),
];
/// The pages that are walked elsewhere.
const ELSEWHERE: [&str; 3] = ["install", "upgrade", "uninstall"];
/// Where the images in pages and examples are published.
const PUBLISHED: &str = "ghcr.io/leader-io";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Follows a page from its beginning to its end; gives what was printed.
fn walk(name: &'static str) -> Result<String> {
    let mut printed = String::new();
    Stage::bare(&format!("docs-{name}"), &[], |stage| {
        let namespace = PAGES.iter().find(|(page, _)| *page == name).map_or("", |(_, namespace)| namespace);
        let cluster = stage.namespace.cluster();
        let made = Made { cluster, namespace };
        made.remove("--wait=true")?;
        let folder = tempfile::tempdir()?;
        let examples = folder.path().join("deploy/examples");
        fs::create_dir_all(&examples)?;
        let here = checkout().join("deploy/examples");
        for entry in fs::read_dir(here)? {
            let path = entry?.path();
            fs::write(
                examples.join(path.file_name().unwrap_or_default()),
                with_images(stage, &fs::read_to_string(&path)?)?,
            )?;
        }
        let page = Page::read(name)?;
        let walked = page.with(|text| with_images(stage, text))?.follow_all(cluster, folder.path());
        if walked.is_err() {
            made.print_diagnosis();
        }
        printed = walked?;
        Ok(())
    })?;
    Ok(printed)
}

/// A text with the images that were pushed to this cluster in place of the published ones.
fn with_images(stage: &Stage, text: &str) -> Result<String> {
    let mut text = text.to_owned();
    for name in ["leader-agent", "leader-ledger"] {
        text = text.replace(&format!("{PUBLISHED}/{name}:{VERSION}"), stage.image(name)?);
    }
    Ok(text)
}

/// The namespace that a page makes, gone when this is dropped.
struct Made<'a> {
    cluster: &'a Cluster,
    namespace: &'static str,
}

impl Made<'_> {
    fn remove(&self, wait: &str) -> Result<()> {
        self.cluster.kubectl(&["delete", "namespace", self.namespace, "--ignore-not-found", wait]).run().map(drop)
    }

    fn print_diagnosis(&self) {
        let show = |tool: Tool| match tool.output() {
            Ok(output) => eprintln!("{}{}", output.stdout, output.stderr),
            Err(error) => eprintln!("{error:#}"),
        };
        let namespace = format!("--namespace={}", self.namespace);
        show(self.cluster.kubectl(&[&namespace, "get", "deployments,pods,leases,services", "-o", "wide"]));
        show(self.cluster.kubectl(&[&namespace, "get", "events", "--sort-by=.metadata.creationTimestamp"]));
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // The page has removed it, unless something failed.
        let _ = self.remove("--wait=false");
    }
}

#[test]
fn the_tutorial() -> Result<()> {
    let printed = walk("tutorial")?;
    ensure!(printed.is_empty() || printed.contains("[\"/ledger-writer\"]"), "it does not end as it began: {printed}");
    Ok(())
}

#[test]
fn how_to_run_on_one_pod_only() -> Result<()> {
    walk("how-to-run").map(drop)
}

#[test]
fn how_to_be_ready_on_the_leader_only() -> Result<()> {
    walk("how-to-ready").map(drop)
}

#[test]
fn how_to_be_told_who_leads() -> Result<()> {
    walk("how-to-observe").map(drop)
}

#[test]
fn how_to_steer() -> Result<()> {
    walk("steering").map(drop)
}

#[test]
fn how_to_move_from_what_was_made_by_hand() -> Result<()> {
    walk("how-to-migrate").map(drop)
}

#[test]
fn every_page_with_commands_is_walked() -> Result<()> {
    let walked: BTreeSet<_> = PAGES.iter().map(|(page, _)| *page).chain(ELSEWHERE).collect();
    for entry in fs::read_dir(checkout().join("docs"))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".md")) else { continue };
        let text = fs::read_to_string(&path)?;
        ensure!(!text.contains("```sh\n") || walked.contains(name), "nobody walks docs/{name}.md, which has commands");
    }
    Ok(())
}

#[test]
fn every_image_of_a_page_is_of_this_version() -> Result<()> {
    for (name, _) in PAGES {
        let text = fs::read_to_string(checkout().join("docs").join(name).with_extension("md"))?;
        for image in text.split(PUBLISHED).skip(1) {
            let tag = image.split_once(':').map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default());
            ensure!(tag == Some(VERSION), "docs/{name}.md names an image with the tag {tag:?}");
        }
    }
    Ok(())
}
