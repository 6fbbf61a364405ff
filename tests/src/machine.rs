//! What the machine must have before a cluster is brought up: rights, kernel features and Debian packages.

use crate::binaries::Binaries;
use crate::command::{Tool, is_installed, quoted};
use crate::progress::say;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// How it is seen that a package is there, on Debian and elsewhere.
#[derive(Debug)]
enum Sign {
    Program(&'static str),
    File(&'static str),
}

/// A Debian package and its sign.
const PACKAGES: [(&str, Sign); 8] = [
    ("runc", Sign::Program("runc")),
    ("containernetworking-plugins", Sign::File("/usr/lib/cni/ptp")),
    ("iptables", Sign::Program("iptables")),
    ("ipset", Sign::Program("ipset")),
    ("conntrack", Sign::Program("conntrack")),
    ("iproute2", Sign::Program("ip")),
    ("buildah", Sign::Program("buildah")),
    ("skopeo", Sign::Program("skopeo")),
];

/// The browser of tests that look at a page: only they need it, and it is large.
const BROWSER: [(&str, Sign); 2] = [
    ("chromium", Sign::Program("chromium")),
    // Without a font it draws no text.
    ("fonts-liberation", Sign::File("/usr/share/fonts/truetype/liberation")),
];

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => is_installed(name),
            Self::File(path) => Path::new(path).exists(),
        }
    }
}

/// Checks rights and tools that nothing here can provide. Changes nothing.
///
/// # Errors
/// With what is missing and what to do.
pub fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the cluster needs root: it makes network namespaces, mounts and control groups; run this with sudo or as root"
        );
    }
    for program in ["nsenter", "setsid", "unshare", "sysctl"] {
        if !is_installed(program) {
            bail!("no `{program}` in PATH (Debian: apt-get install util-linux procps)");
        }
    }
    Tool::new("unshare").args(["--net", "--mount", "true"]).run().context(
        "no network namespaces here: the cluster needs the right to make them (CAP_SYS_ADMIN); \
         in a container, run it with --privileged",
    )?;
    let file_systems = std::fs::read_to_string("/proc/filesystems").context("cannot read /proc/filesystems")?;
    if !file_systems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        bail!("this kernel has no overlay file system: containerd needs it (try `modprobe overlay`)");
    }
    if crate::cgroup::hierarchies()?.is_empty() {
        bail!("no control groups are mounted under /sys/fs/cgroup: the kubelet needs them");
    }
    if Binaries::find()?.is_none() {
        Binaries::check_toolchain()?;
    }
    let missing = missing(&PACKAGES);
    if !missing.is_empty() && !is_installed("apt-get") {
        bail!("missing: {} (names of Debian packages); install what has these programs here", missing.join(", "));
    }
    Ok(())
}

/// Installs the Debian packages that are missing; does nothing when none is.
///
/// # Errors
/// When apt-get fails, or a program is still missing afterwards.
pub fn install_packages() -> Result<()> {
    install(&PACKAGES)
}

/// The name of a browser that runs without a screen; installed where it is missing.
///
/// # Errors
/// As [`install_packages`].
pub fn browser() -> Result<&'static str> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    install(&BROWSER)?;
    Ok("chromium")
}

fn install(packages: &[(&'static str, Sign)]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let install = ["install", "--yes", "--no-install-recommends"].iter().chain(&missing).copied();
    for arguments in [vec!["update"], install.collect()] {
        let line = arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        say(format!("missing Debian packages: running apt-get {line}"));
        Tool::new("apt-get").args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").run()?;
    }
    let still = self::missing(packages);
    if !still.is_empty() {
        bail!("apt-get succeeded, but the programs of these packages are not found: {}", still.join(", "));
    }
    Ok(())
}

fn missing(packages: &[(&'static str, Sign)]) -> Vec<&'static str> {
    packages.iter().filter(|(_, sign)| !sign.is_there()).map(|(package, _)| *package).collect()
}
