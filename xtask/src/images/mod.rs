//! `cargo xtask images`: builds the container images from this checkout and pushes them to a cluster's registry.
//!
//! An image's tag is a digest of its content, so that new content gets a new name, and the same content never a rollout.

mod builder;
mod closure;
mod sources;
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use leader_tests::Cluster;
use leader_tests::command::Tool;
use leader_tests::progress::say;

use crate::cluster::Name;
use store::Store;

/// An image of this project.
#[derive(Debug)]
struct Recipe {
    name: &'static str,
    dockerfile: &'static str,
    /// What the image is made from, beside [`COMMON_SOURCES`].
    sources: &'static [&'static str],
}

/// The files of a cluster's state folder that say what was pushed.
const REFERENCES: &str = "images.json";
const PREVIOUS_REFERENCES: &str = "images-previous.json";
/// The name in the latter under which it says what was checked out.
const REVISION: &str = "revision";

const COMMON_SOURCES: [&str; 3] = ["Cargo.toml", "Cargo.lock", ".dockerignore"];

const RECIPES: [Recipe; 4] = [
    // First: it is the smallest that needs all the tools, so that what is missing shows soon.
    Recipe { name: "leader-ledger", dockerfile: "deploy/examples/Dockerfile", sources: &["tests/ledger"] },
    Recipe {
        name: "leader-specimen",
        dockerfile: "tests/specimen/Dockerfile",
        sources: &["tests/ledger", "tests/specimen"],
    },
    Recipe { name: "leader-agent", dockerfile: "Dockerfile.agent", sources: &["agent"] },
    Recipe {
        name: "leader-webhook",
        dockerfile: "Dockerfile.webhook",
        // Not its tests: neither they nor what fuzzing leaves behind is in the image.
        sources: &["agent", "certs", "webhook/Cargo.toml", "webhook/src"],
    },
];

/// Options of `cargo xtask images`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    name: Name,
    /// An image with cargo and a C compiler to build in, in place of one made from this machine's own.
    #[arg(long, value_name = "IMAGE")]
    builder: Option<String>,
    /// Builds what this revision had, in place of the checkout: the test of upgrades then begins with it, not with the checkout's
    /// own images under another tag.
    #[arg(long, value_name = "REVISION")]
    previous: Option<String>,
}

/// The images in a cluster's registry: the name that deploy/ uses, without its registry, and the full reference.
pub(crate) type References = BTreeMap<String, String>;

/// Builds and pushes, and prints the references.
pub(crate) fn run(options: &Options) -> Result<()> {
    let cluster = Cluster::find(&options.name.name)?;
    let references = match &options.previous {
        Some(revision) => build_and_push_previous(&cluster, options.builder.as_deref(), revision)?,
        None => build_and_push(&cluster, options.builder.as_deref())?,
    };
    for (_, reference) in references.iter().filter(|(name, _)| *name != REVISION) {
        println!("{reference}");
    }
    Ok(())
}

/// Builds what has changed, pushes everything to the cluster's registry, and writes the references down in the
/// cluster's state folder.
pub(crate) fn build_and_push(cluster: &Cluster, builder: Option<&str>) -> Result<References> {
    let source = Source { folder: &checkout(), local: "localhost", references: REFERENCES, revision: None };
    build(cluster, builder, &source)
}

/// As [`build_and_push`], from a revision of this checkout's history.
pub(crate) fn build_and_push_previous(cluster: &Cluster, builder: Option<&str>, revision: &str) -> Result<References> {
    let folder = tempfile::tempdir().context("cannot make a folder for a revision")?;
    let tree = folder.path().join("tree");
    let git = || Tool::new("git").current_dir(checkout());
    let revision = git().args(["rev-parse", "--verify", revision]).run()?.trim().to_owned();
    git().args(["worktree", "add", "--quiet", "--detach"]).arg(&tree).arg(&revision).run()?;
    let source = Source {
        folder: &tree,
        // Of another name, so that neither pushes the other out of the store.
        local: "localhost/previous",
        references: PREVIOUS_REFERENCES,
        revision: Some(revision),
    };
    let built = build(cluster, builder, &source);
    git().args(["worktree", "remove", "--force"]).arg(&tree).run()?;
    built
}

/// What images are built from, and where they are kept and written down.
struct Source<'a> {
    folder: &'a Path,
    local: &'static str,
    references: &'static str,
    /// What was checked out, where it is not the checkout as it is.
    revision: Option<String>,
}

fn build(cluster: &Cluster, builder: Option<&str>, source: &Source<'_>) -> Result<References> {
    let store = Store::open()?;
    // A build alone may take minutes, and two of them at once take longer than one after the other.
    let _lock = store.lock()?;
    let builder_key = builder.map_or_else(builder::key, |image| Ok(image.to_owned()))?;
    let mut references = References::new();
    for recipe in &RECIPES {
        let roots = COMMON_SOURCES.iter().chain(recipe.sources).copied().chain([recipe.dockerfile]);
        let key = sources::key(source.folder, roots, &builder_key)?;
        let local = format!("{}/{}:{key}", source.local, recipe.name);
        let id = if let Some(id) = store.image_id(&local)? {
            id
        } else {
            say(format!("building {} from {}", recipe.name, recipe.dockerfile));
            let builder =
                builder.map_or_else(|| builder::find_or_make(&store, &builder_key), |image| Ok(image.to_owned()))?;
            store.build(source.folder, recipe.dockerfile, &builder, &local)?;
            store.remove_others(&local)?;
            store.image_id(&local)?.with_context(|| format!("buildah built no image {local}"))?
        };
        let reference = format!("{}/{}:{}", cluster.registry(), recipe.name, tag(&id)?);
        store.push(cluster, &local, &reference)?;
        say(format!("pushed {reference}"));
        references.insert(recipe.name.to_owned(), reference);
    }
    if let Some(revision) = &source.revision {
        references.insert(REVISION.to_owned(), revision.clone());
    }
    let file = cluster.state().path(source.references);
    fs::write(&file, serde_json::to_string_pretty(&references)? + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(references)
}

/// The references of the images that were pushed to this cluster's registry.
pub(crate) fn pushed(cluster: &Cluster) -> Result<References> {
    let file = cluster.state().path(REFERENCES);
    let name = cluster.name();
    let text = fs::read_to_string(&file).with_context(|| {
        format!("cluster `{name}` has no images yet ({}): run `cargo xtask images --name {name}` first", file.display())
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what was written there", file.display()))
}

/// The checkout that this program was built from.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// A tag from an image's identity, which is a digest of its content.
fn tag(id: &str) -> Result<&str> {
    match id.strip_prefix("sha256:").unwrap_or(id).get(..12) {
        Some(tag) => Ok(tag),
        None => bail!("buildah gave {id:?} for the digest of an image"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_beginning_of_the_digest() {
        assert_eq!(tag("sha256:0123456789abcdef").unwrap(), "0123456789ab");
        assert!(tag("sha256:").is_err());
    }

    #[test]
    fn every_recipe_names_files_of_this_checkout() {
        for recipe in &RECIPES {
            for path in COMMON_SOURCES.iter().chain(recipe.sources).chain([&recipe.dockerfile]) {
                assert!(checkout().join(path).exists(), "{path} of {}", recipe.name);
            }
        }
    }
}
