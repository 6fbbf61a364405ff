//! The cluster's image registry, plain HTTP on the node's address, for the node's containerd and for whoever pushes; and how any
//! registry in the cluster is reached.

use crate::command::Tool;
use crate::network::AddressRange;
use crate::process::Starter;
use crate::state::State;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Starts the registry.
///
/// # Errors
/// When it cannot be started.
pub fn start(starter: &mut Starter<'_>, state: &State, range: AddressRange) -> Result<()> {
    let config = state.path("registry.json");
    let content = json!({
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": true}},
        "storage": {"filesystem": {"rootdirectory": state.path("registry")}, "delete": {"enabled": true}},
        "http": {"addr": range.registry()},
    });
    fs::write(&config, content.to_string()).context("cannot write the registry's configuration")?;
    starter.start("registry", "registry", ["serve".into(), config.into_os_string()])
}

/// Asks whether the registry answers.
///
/// # Errors
/// When it does not.
pub fn probe(namespace: &str, range: AddressRange) -> Result<()> {
    // A shell's own TCP: no HTTP client is needed to see that something listens.
    let script = format!("exec 3<>/dev/tcp/{}/{}", range.node_address(), crate::network::REGISTRY_PORT);
    Tool::in_network(namespace, "bash").args(["-c", &script]).run().map(drop)
}

/// A registry, as a client finds it.
#[derive(Debug, Clone)]
pub struct Registry {
    network: String,
    address: String,
    access: Access,
}

#[derive(Debug, Clone)]
enum Access {
    PlainHttp,
    /// TLS, with the authority's certificate in this folder, and `USER:PASSWORD`.
    Private {
        authority: PathBuf,
        credentials: String,
    },
}

impl Registry {
    /// A cluster's own registry.
    pub fn of_cluster(network: &str, range: AddressRange) -> Self {
        Self { network: network.to_owned(), address: range.registry(), access: Access::PlainHttp }
    }

    /// A registry behind TLS and basic authentication. `authority` is a folder with the certificate of its authority in a file
    /// `NAME.crt`.
    pub fn private(network: &str, address: &str, authority: &Path, user: &str, password: &str) -> Self {
        let access = Access::Private { authority: authority.to_owned(), credentials: format!("{user}:{password}") };
        Self { network: network.to_owned(), address: address.to_owned(), access }
    }

    /// Host and port, as they stand in an image's name.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// skopeo inside the network, with the options that this registry takes; `side` is the beginning of their names: `src-`,
    /// `dest-` or nothing.
    pub fn skopeo(&self, command: &str, side: &str) -> Tool {
        let tool = Tool::in_network(&self.network, "skopeo").args(["--insecure-policy", command]);
        match &self.access {
            Access::PlainHttp => tool.arg(format!("--{side}tls-verify=false")),
            Access::Private { authority, credentials } => tool
                .arg(format!("--{side}cert-dir={}", authority.display()))
                .arg(format!("--{side}creds={credentials}")),
        }
    }

    /// Copies an image into the registry. `source` is an image as skopeo names it, e.g. `oci-archive:/tmp/image.tar`; `name`
    /// is `NAME:TAG`. Returns the image's whole name, as it stands in a pod.
    ///
    /// # Errors
    /// When the name is not `NAME:TAG`, or skopeo fails.
    pub fn push(&self, source: &str, name: &str) -> Result<String> {
        let Some((path, tag)) = name.rsplit_once(':') else {
            bail!("`{name}` has no tag: give NAME:TAG, e.g. ledger:1");
        };
        if path.is_empty() || tag.is_empty() || tag.contains('/') {
            bail!("`{name}` is not NAME:TAG, e.g. ledger:1");
        }
        let image = format!("{}/{name}", self.address);
        self.skopeo("copy", "dest-")
            .args(["--quiet", source, &format!("docker://{image}")])
            .run()
            .with_context(|| format!("cannot push {source} as {image}"))?;
        Ok(image)
    }
}

/// How skopeo names the image in a file or folder: an OCI layout, an archive of one, or what `docker save` writes.
///
/// # Errors
/// When it is none of them.
pub fn source_of(path: &Path) -> Result<String> {
    let path = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    let shown = path.display();
    if path.is_dir() {
        return if path.join("oci-layout").exists() {
            Ok(format!("oci:{shown}"))
        } else if path.join("manifest.json").exists() && path.join("version").exists() {
            Ok(format!("dir:{shown}"))
        } else {
            bail!("{shown} is no image: a folder must be an OCI layout (`buildah push IMAGE oci:DIR`)");
        };
    }
    let list = Tool::new("tar").arg("-tf").arg(&path).run().with_context(|| format!("{shown} is no tar archive"))?;
    let contains = |name: &str| list.lines().any(|line| line.trim_start_matches("./") == name);
    if contains("oci-layout") {
        Ok(format!("oci-archive:{shown}"))
    } else if contains("manifest.json") {
        Ok(format!("docker-archive:{shown}"))
    } else {
        bail!("{shown} is no image: neither an OCI archive nor what `docker save` writes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_apart_by_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let error = source_of(&path).unwrap_err().to_string();
        assert!(error.contains("must be an OCI layout"), "{error}");
        for (marker, transport) in [("manifest.json", "docker-archive"), ("oci-layout", "oci-archive")] {
            fs::write(path.join(marker), "{}").unwrap();
            let archive = path.join(format!("{transport}.tar"));
            Tool::new("tar").arg("-C").arg(&path).arg("-cf").arg(&archive).arg(format!("./{marker}")).run().unwrap();
            assert_eq!(source_of(&archive).unwrap(), format!("{transport}:{}", archive.display()));
        }
        assert_eq!(source_of(&path).unwrap(), format!("oci:{}", path.display()));
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        for name in ["ledger", "host:5000/ledger", ":1", "ledger:"] {
            let registry = Registry::of_cluster("none", AddressRange::new(0));
            let error = registry.push("oci:/none", name).unwrap_err().to_string();
            assert!(error.contains("NAME:TAG"), "{error}");
        }
    }
}
