//! buildah, with a store of its own in the user's cache folder: nothing of another user of buildah is seen or changed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use leader_tests::Cluster;
use leader_tests::binaries::cache_folder;
use leader_tests::command::Tool;
use leader_tests::state::{self, Lock};

/// buildah's images, and what it keeps between two builds.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn open() -> Result<Self> {
        let folder = cache_folder()?.join("images");
        for part in ["storage", "run", "tmp"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        Ok(Self { folder })
    }

    pub(super) fn lock(&self) -> Result<Lock> {
        state::lock(&self.folder.join("lock"), "another run builds images; waiting for it")
    }

    /// buildah on this store.
    pub(super) fn buildah(&self) -> Tool {
        self.on_store(Tool::new("buildah"))
    }

    fn on_store(&self, buildah: Tool) -> Tool {
        buildah
            .arg("--root")
            .arg(self.folder.join("storage"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            // The one driver that needs nothing of the kernel and of the file system below.
            .args(["--storage-driver", "vfs"])
            // Mounts of the type cache live there.
            .env("TMPDIR", self.folder.join("tmp"))
    }

    /// The digest of a local image, if there is one of this name.
    pub(super) fn image_id(&self, name: &str) -> Result<Option<String>> {
        let listed = self.buildah().args(["images", "--quiet", "--no-trunc", name]).output()?;
        // buildah fails alike when there is no such image and when the store is broken; a build tells the two apart.
        Ok(listed.stdout.lines().next().map(str::to_owned).filter(|_| listed.success()))
    }

    /// Builds a Dockerfile of the checkout as `name`, and shows the build.
    pub(super) fn build(&self, checkout: &Path, dockerfile: &str, builder: &str, name: &str) -> Result<()> {
        // An interrupted build leaves its container behind, which is a copy of the whole builder.
        self.buildah().args(["rm", "--all"]).run()?;
        self.buildah()
            .args(["bud", "--isolation", "chroot"])
            // vfs copies everything for every layer: a stage is one layer, and cargo's target folder is the cache.
            .arg("--layers=false")
            // The image's digest is that of its content only when no time is in it.
            .args(["--timestamp", "0"])
            .arg("--build-arg")
            .arg(format!("BUILDER={builder}"))
            .args(["--tag", name])
            .arg("--file")
            .arg(checkout.join(dockerfile))
            .arg(checkout)
            // Standard output is for results: the references.
            .show(io::stderr())
    }

    /// Removes the local images of the same name with other tags: they would never be used again.
    pub(super) fn remove_others(&self, name: &str) -> Result<()> {
        let Some((repository, _)) = name.rsplit_once(':') else { return Ok(()) };
        let listed = self.buildah().args(["images", "--noheading", "--format", "{{.Name}}:{{.Tag}}"]).run()?;
        let same = |other: &&str| other.rsplit_once(':').is_some_and(|(known, _)| known == repository);
        for other in listed.lines().filter(same).filter(|other| *other != name) {
            self.buildah().args(["rmi", other]).run()?;
        }
        Ok(())
    }

    /// Pushes a local image to a registry without TLS inside a cluster's network.
    pub(super) fn push(&self, cluster: &Cluster, name: &str, reference: &str) -> Result<()> {
        self.on_store(cluster.tool("buildah"))
            .args(["push", "--quiet", "--tls-verify=false", name])
            .arg(format!("docker://{reference}"))
            .run()
            .map(drop)
    }
}
