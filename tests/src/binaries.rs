//! The cluster's binaries: built once from pinned Go modules into the user's cache folder, under a key of what they are built from.

mod build;
mod candidate;
mod extra;
mod promtool;

pub use candidate::{client_go_candidate, client_go_version};
pub use promtool::promtool;

use crate::command::Tool;
use crate::state;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A Go module whose `tool` lines are the programs to build.
#[derive(Debug)]
struct Module {
    /// Shown to people.
    title: &'static str,
    /// The module that is pinned, as in `go.mod`; its version is shown.
    pinned: &'static str,
    folder: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    tags: &'static str,
    binaries: &'static [&'static str],
}

macro_rules! pinned_files {
    ($folder:literal) => {
        (include_str!(concat!("../go/", $folder, "/go.mod")), include_str!(concat!("../go/", $folder, "/go.sum")))
    };
}

const CONTAINERD: (&str, &str) = pinned_files!("containerd");
const REGISTRY: (&str, &str) = pinned_files!("registry");
const KUBERNETES: (&str, &str) = pinned_files!("kubernetes");
const PAUSE_SOURCE: &str = include_str!("../assets/pause.c");

const MODULES: [Module; 3] = [
    Module {
        title: "containerd",
        pinned: "github.com/containerd/containerd/v2",
        folder: "containerd",
        go_mod: CONTAINERD.0,
        go_sum: CONTAINERD.1,
        // Snapshotters that need C libraries.
        tags: "no_btrfs,no_devmapper,no_zfs",
        binaries: &["containerd", "containerd-shim-runc-v2", "ctr"],
    },
    Module {
        title: "the registry",
        pinned: "github.com/distribution/distribution/v3",
        folder: "registry",
        go_mod: REGISTRY.0,
        go_sum: REGISTRY.1,
        tags: "",
        binaries: &["registry"],
    },
    Module {
        title: "Kubernetes and etcd",
        pinned: "k8s.io/kubernetes",
        folder: "kubernetes",
        go_mod: KUBERNETES.0,
        go_sum: KUBERNETES.1,
        tags: "",
        binaries: &[
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
            // etcd: Go calls a program after its package's folder.
            "server",
        ],
    },
];

impl Module {
    fn version(&self) -> &'static str {
        required_version(self.go_mod, self.pinned).unwrap_or("of an unknown version")
    }

    /// Options of the linker: no debug information, and the version that Kubernetes answers when it is asked.
    fn linker_options(&self) -> String {
        let mut options = "-s -w".to_owned();
        if self.pinned == "k8s.io/kubernetes" {
            let version = self.version();
            let mut numbers = version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                for (name, value) in [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor)] {
                    options.extend([" -X ", package, ".", name, "=", value]);
                }
            }
        }
        options
    }
}

/// The version at which a `go.mod` requires a module.
fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    })
}

/// A folder with every binary of the cluster.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The binaries in this folder, which a cluster was brought up with.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The binaries of this source, when they were built and the build was finished.
    ///
    /// # Errors
    /// When there is no cache folder.
    pub fn find() -> Result<Option<Self>> {
        let folder = cache_folder()?.join(key());
        // The folder gets this name only when everything is in it.
        Ok(folder.is_dir().then_some(Self { folder }))
    }

    /// The binaries of this source: found, or else built, which takes minutes.
    ///
    /// # Errors
    /// When the build fails; the message names the log.
    pub fn find_or_build() -> Result<Self> {
        if let Some(found) = Self::find()? {
            return Ok(found);
        }
        let cache = cache_folder()?;
        std::fs::create_dir_all(&cache).with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
        let key = key();
        let _lock = state::lock(
            &cache.join(format!("{key}.lock")),
            "another run is building the cluster's binaries; waiting for it (a build takes up to 15 minutes)",
        )?;
        if let Some(found) = Self::find()? {
            return Ok(found);
        }
        // What an interrupted build left here is built over: only the rename makes it count.
        let unfinished = cache.join(format!("{key}.unfinished"));
        build::all(&unfinished)?;
        let folder = cache.join(&key);
        std::fs::rename(&unfinished, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Says what keeps the binaries from being built here: no Go, one that is too old, or no C compiler.
    ///
    /// # Errors
    /// With what is missing and what to do.
    pub fn check_toolchain() -> Result<()> {
        build::check_toolchain()
    }

    /// The folder, to be put into `PATH`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program by its name.
    pub fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// The image of the container that holds a pod's namespaces, as an OCI archive.
    pub fn pause_image(&self) -> PathBuf {
        self.path("pause.tar")
    }
}

/// The folder that holds what this project builds once per user: `leader` in `XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is an absolute path.
pub fn cache_folder() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    match user {
        Some(folder) => Ok(folder.join("leader")),
        None => bail!("no cache folder: set HOME or XDG_CACHE_HOME to an absolute path"),
    }
}

/// A key of everything that decides what the binaries are.
fn key() -> String {
    let modules: Vec<_> = MODULES.iter().map(|module| (module, module.linker_options())).collect();
    let parts =
        modules.iter().flat_map(|(module, linker)| [module.go_mod, module.go_sum, module.tags, linker.as_str()]);
    key_of(parts.chain([PAUSE_SOURCE, std::env::consts::ARCH]))
}

/// A key of what something is built from.
fn key_of<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps the border between two parts from moving.
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    // 64 bits: enough to tell a handful of versions apart.
    let start = hash.finalize().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{start:016x}")
}

/// The version of the Kubernetes that is built.
pub fn kubernetes_version() -> &'static str {
    MODULES.iter().find(|module| module.folder == "kubernetes").map_or("unknown", Module::version)
}

/// Asks a built program for its version: proof that it runs on this machine.
fn runs(program: &Path) -> Result<()> {
    let option = if program.ends_with("kubectl") { vec!["version", "--client"] } else { vec!["--version"] };
    // The shim knows only this spelling.
    let option = if program.ends_with("containerd-shim-runc-v2") { vec!["-v"] } else { option };
    Tool::new(program).args(option).run().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_pinned_modules() {
        assert!(kubernetes_version().starts_with("v1.36."), "{}", kubernetes_version());
        for module in &MODULES {
            assert!(module.version().starts_with('v'), "{}", module.pinned);
        }
        assert_eq!(required_version("require (\n\ta/b v1.2.3 // indirect\n)\n", "a/b"), Some("v1.2.3"));
        assert_eq!(required_version("require a/b v1.2.3\n", "a/b"), Some("v1.2.3"));
        assert_eq!(required_version("require a/bc v1.2.3\n", "a/b"), None);
    }

    #[test]
    fn every_binary_is_a_tool_of_its_module() {
        for module in &MODULES {
            for binary in module.binaries {
                let is_tool = |line: &str| {
                    let path = line.trim().trim_start_matches("tool ");
                    let last = path.rsplit('/').find(|part| !part.starts_with('v') || part.len() > 3);
                    !path.contains(' ') && last == Some(binary)
                };
                assert!(module.go_mod.lines().any(is_tool), "{binary} in {}", module.folder);
            }
        }
    }

    #[test]
    fn kubernetes_is_told_its_version() {
        let options = MODULES[2].linker_options();
        let version = MODULES[2].version();
        assert!(options.contains(&format!("-X k8s.io/component-base/version.gitVersion={version}")), "{options}");
        assert!(options.contains("-X k8s.io/client-go/pkg/version.gitMinor=36"), "{options}");
        assert_eq!(MODULES[0].linker_options(), "-s -w");
    }

    #[test]
    fn the_key_is_short_and_stable_within_a_build() {
        assert_eq!(key().len(), 16);
        assert_eq!(key(), key());
    }
}
