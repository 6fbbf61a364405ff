//! Images for tests: the layers of a pushed image under a configuration of one's own, with files added, in the media types
//! of Docker or of OCI, for one platform or several.
//!
//! They are put together as skopeo's `dir:` keeps them (`containers-transports(5)`), which takes every manifest as it
//! is: nothing is converted on the way, so that a registry serves just what a test wrote.

use crate::command::Tool;
use crate::registry::Registry;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Which media types an image's manifests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Docker's "Image Manifest V 2, Schema 2".
    Docker,
    /// The OCI image specification's.
    Oci,
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self, zipped: bool) -> &'static str {
        match (self, zipped) {
            (Self::Docker, true) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Self::Docker, false) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Oci, true) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, false) => "application/vnd.oci.image.layer.v1.tar",
        }
    }
}

/// A layer: a blob in the image's folder.
#[derive(Debug)]
struct Layer {
    digest: String,
    size: u64,
    zipped: bool,
}

/// An image of one platform that is being put together.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
    layers: Vec<Layer>,
    /// The image's configuration (OCI image specification, `config.md`).
    config: Value,
}

impl Image {
    /// The layers of an image of the cluster's registry, with a configuration that says nothing but the platform.
    ///
    /// # Errors
    /// When it cannot be pulled.
    pub fn from(registry: &Registry, reference: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for an image")?;
        let target = format!("dir:{}", folder.path().display());
        registry
            .skopeo("copy", "src-")
            .args(["--quiet", &format!("docker://{reference}"), &target])
            .run()
            .with_context(|| format!("cannot pull {reference}"))?;
        let manifest = read(&folder.path().join("manifest.json"))?;
        let blob = |digest: &str| folder.path().join(digest.trim_start_matches("sha256:"));
        let old = read(&blob(text(&manifest["config"]["digest"])?))?;
        let mut layers = Vec::new();
        for layer in manifest["layers"].as_array().context("a manifest without layers")? {
            layers.push(Layer {
                digest: text(&layer["digest"])?.to_owned(),
                size: layer["size"].as_u64().context("a layer without a size")?,
                zipped: text(&layer["mediaType"])?.ends_with("gzip"),
            });
        }
        let config = json!({
            "architecture": old["architecture"], "os": old["os"], "config": {},
            "rootfs": {"type": "layers", "diff_ids": old["rootfs"]["diff_ids"]},
        });
        Ok(Self { folder, layers, config })
    }

    /// Takes the place of `config.config`: `Entrypoint`, `Cmd`, `Env`, `WorkingDir`, `User`, `StopSignal`.
    #[must_use]
    pub fn configured(mut self, config: Value) -> Self {
        self.config["config"] = config;
        self
    }

    /// Says that it is for another processor, e.g. `arm64`; the layers stay.
    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        self.config["architecture"] = name.into();
        self
    }

    /// Adds a layer of all that is in a folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with_files(mut self, files: &Path) -> Result<Self> {
        let archive = self.folder.path().join("layer");
        // Nothing of the machine is in it, so that the same files make the same layer.
        Tool::new("tar")
            .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(files)
            .arg(".")
            .run()?;
        let content = fs::read(&archive)?;
        let digest = self.blob(&content)?;
        fs::remove_file(&archive)?;
        let ids = self.config["rootfs"]["diff_ids"].as_array_mut().context("a configuration without layers")?;
        ids.push(digest.clone().into());
        self.layers.push(Layer { digest, size: content.len() as u64, zipped: false });
        Ok(self)
    }

    /// Pushes it; `name` is `NAME:TAG`. Returns the image's whole name.
    ///
    /// # Errors
    /// When that fails.
    pub fn push(&self, registry: &Registry, name: &str, format: Format) -> Result<String> {
        let (content, _) = self.manifest(format)?;
        push_folder(self.folder.path(), &content, registry, name)
    }

    /// The digest that it has in a registry.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn digest(&self, format: Format) -> Result<String> {
        Ok(digest(&self.manifest(format)?.0))
    }

    /// Writes the configuration, and gives the manifest with its descriptor.
    fn manifest(&self, format: Format) -> Result<(Vec<u8>, Value)> {
        let config = serde_json::to_vec(&self.config)?;
        let layers = self
            .layers
            .iter()
            .map(|layer| json!({"mediaType": format.layer(layer.zipped), "size": layer.size, "digest": layer.digest}));
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": format.manifest(),
            "config": {"mediaType": format.config(), "size": config.len(), "digest": self.blob(&config)?},
            "layers": layers.collect::<Vec<_>>(),
        }))?;
        let descriptor = json!({
            "mediaType": format.manifest(), "size": manifest.len(), "digest": digest(&manifest),
            "platform": {"architecture": self.config["architecture"], "os": self.config["os"]},
        });
        Ok((manifest, descriptor))
    }

    /// Writes a blob into the folder, and gives its digest.
    fn blob(&self, content: &[u8]) -> Result<String> {
        let digest = digest(content);
        fs::write(self.folder.path().join(digest.trim_start_matches("sha256:")), content)?;
        Ok(digest)
    }
}

/// Pushes images of several platforms under one name, `NAME:TAG`. Returns the whole name.
///
/// # Errors
/// When that fails.
pub fn push_index(images: &[Image], registry: &Registry, name: &str, format: Format) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a folder for an image")?;
    let mut descriptors = Vec::new();
    for image in images {
        let (manifest, descriptor) = image.manifest(format)?;
        let digest = text(&descriptor["digest"])?.trim_start_matches("sha256:").to_owned();
        for entry in fs::read_dir(image.folder.path())? {
            let entry = entry?;
            fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
        fs::write(folder.path().join(format!("{digest}.manifest.json")), manifest)?;
        descriptors.push(descriptor);
    }
    let index = json!({"schemaVersion": 2, "mediaType": format.index(), "manifests": descriptors});
    push_folder(folder.path(), &serde_json::to_vec(&index)?, registry, name)
}

fn push_folder(folder: &Path, manifest: &[u8], registry: &Registry, name: &str) -> Result<String> {
    fs::write(folder.join("manifest.json"), manifest)?;
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n")?;
    let reference = format!("{}/{name}", registry.address());
    registry
        .skopeo("copy", "dest-")
        .args(["--all", "--preserve-digests", "--quiet"])
        .arg(format!("dir:{}", folder.display()))
        .arg(format!("docker://{reference}"))
        .run()
        .with_context(|| format!("cannot push {reference}"))?;
    Ok(reference)
}

fn read(path: &Path) -> Result<Value> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&content).with_context(|| format!("{} is no JSON", path.display()))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

fn digest(content: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(content).iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
