//! A cluster of a test's own, in which nothing is installed yet, and a folder with a release of this project: where the pages of
//! `docs/` are followed.
//!
//! Its node pulls the published names of images from its own registry, as from a mirror, so that `deploy/` is applied as it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use leader_tests::command::Tool;
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName, node};
use serde_json::Value;
use tempfile::TempDir;

use crate::pages::checkout;

/// Where the images of `deploy/` are published.
const PUBLISHED: &str = "ghcr.io";
const REPOSITORY: &str = "leader-io";
/// The version in the manifests of this checkout.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version that the manifests of the release before it are given.
const EARLIER: &str = "0.0.9";

/// The cluster and the folder; both are gone when this is dropped.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    _down: Down,
    folder: TempDir,
    /// The revision that the earlier release is, where its images were built.
    earlier: Option<String>,
}

/// Which release stands in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The one before this checkout: with the images that were pushed as such, else with this checkout's under another tag.
    Earlier,
    /// This checkout.
    This,
}

impl Release {
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::Earlier => EARLIER,
            Self::This => VERSION,
        }
    }
}

impl Site {
    /// Brings a cluster up, with the images that were pushed to another one: `images` names them.
    pub(crate) fn bring_up(name: &str, other: &Cluster, images: &Value) -> Result<Self> {
        let name = ClusterName::new(name)?;
        let folder = tempfile::tempdir().context("cannot make a folder for a release")?;
        let before = earlier(other)?;
        let revision = before.as_ref().and_then(|images| images["revision"].as_str()).map(str::to_owned);
        // An earlier run that was killed may have left one, with something installed.
        Cluster::down(&name)?;
        let down = Down(name);
        let site = Self { cluster: Cluster::up(&down.0)?, _down: down, folder, earlier: revision };
        node::introduce_mirror(site.cluster.state(), PUBLISHED, &site.cluster.registry())?;
        site.copy_images(other, images, VERSION)?;
        site.copy_images(other, before.as_ref().unwrap_or(images), EARLIER)?;
        site.check_out(Release::This)?;
        Ok(site)
    }

    /// The folder in which a reader of the pages types.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a release into the folder, in place of the one that is there.
    pub(crate) fn check_out(&self, release: Release) -> Result<()> {
        let deploy = self.folder().join("deploy");
        if deploy.exists() {
            fs::remove_dir_all(&deploy)?;
        }
        match (&self.earlier, release) {
            (Some(revision), Release::Earlier) => {
                let unpack = "git archive \"$1\" deploy | tar --extract --directory \"$2\"";
                let unpack = Tool::new("bash").args(["-euo", "pipefail", "-c", unpack, "bash", revision]);
                unpack.arg(self.folder()).current_dir(checkout()).run()?;
            }
            _ => drop(Tool::new("cp").arg("--recursive").args([checkout().join("deploy"), deploy.clone()]).run()?),
        }
        if release == Release::This {
            return Ok(());
        }
        let file = deploy.join("base/deployment.yaml");
        let text = fs::read_to_string(&file)?;
        let tagged = text.replace(&format!(":{VERSION}\n"), &format!(":{EARLIER}\n"));
        ensure!(tagged != text, "no image of version {VERSION} in {}", file.display());
        Ok(fs::write(file, tagged)?)
    }

    /// Objects as JSON: `kubectl get ARGUMENTS -o json`.
    pub(crate) fn get(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster.get(arguments)
    }

    /// Prints what a person would look at after a failure.
    pub(crate) fn print_diagnosis(&self) {
        for arguments in [
            &["get", "pods,replicasets,leases", "--all-namespaces", "-o", "wide"][..],
            &["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"],
            &["logs", "deployment/leader-webhook", "--namespace=leader-system", "--all-pods", "--prefix", "--tail=60"],
        ] {
            let shown = match self.cluster.kubectl(arguments).output() {
                Ok(output) => format!("{}{}", output.stdout, output.stderr),
                Err(error) => format!("{error:#}"),
            };
            eprintln!("$ kubectl {}\n{}", arguments.join(" "), shown.trim_end());
        }
    }

    /// Copies images from another cluster's registry under their published names.
    fn copy_images(&self, other: &Cluster, images: &Value, version: &str) -> Result<()> {
        for image in ["leader-agent", "leader-webhook", "leader-ledger"] {
            let reference = images[image].as_str().with_context(|| format!("no image {image} among {images}"))?;
            let layout = self.folder().join("images").join(version).join(image);
            fs::create_dir_all(layout.parent().unwrap_or(&layout))?;
            let copy = other.image_registry().skopeo("copy", "src-");
            copy.args(["--quiet", &format!("docker://{reference}"), &format!("oci:{}", layout.display())]).run()?;
            self.cluster.push(&layout, &format!("{REPOSITORY}/{image}:{version}"))?;
        }
        Ok(())
    }
}

/// The images of the release before, where `cargo xtask images --previous` pushed them.
fn earlier(cluster: &Cluster) -> Result<Option<Value>> {
    let file: PathBuf = cluster.state().path("images-previous.json");
    if !file.exists() {
        say("the release before is this checkout's own under another tag (`cargo xtask images --previous REVISION`)");
        return Ok(None);
    }
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some(serde_json::from_str(&text)?))
}

/// Takes the cluster down, however far it came up.
struct Down(ClusterName);

impl Drop for Down {
    fn drop(&mut self) {
        if let Err(error) = Cluster::down(&self.0) {
            say(format!("cluster `{}` is still there: {error:#}", self.0.as_str()));
        }
    }
}
