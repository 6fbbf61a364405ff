//! Building the binaries.

use super::{MODULES, Module, PAUSE_SOURCE, runs};
use crate::command::{Tool, is_installed};
use crate::progress::{Ticker, say};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// Where containers' images are kept while they are made; works without mounts.
const STORAGE_DRIVER: &str = "vfs";

pub(super) fn check_toolchain() -> Result<()> {
    if !is_installed("go") {
        bail!(
            "no `go` in PATH: the cluster's Kubernetes is built from source; install Go 1.26 or later (https://go.dev/dl/)"
        );
    }
    // Inside a module, so that Go compares itself to what the module asks for, or fetches that toolchain.
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("go.mod"), MODULES[0].go_mod)?;
    Tool::new("go").arg("version").current_dir(folder.path()).run().context(
        "this Go cannot build the cluster's Kubernetes; install the version that it asks for (https://go.dev/dl/)",
    )?;
    if !is_installed("cc") {
        bail!("no `cc` in PATH: a C compiler is needed, as it is by Rust (Debian: apt-get install gcc libc6-dev)");
    }
    Ok(())
}

/// Builds everything into `folder`, which may hold an interrupted build.
pub(super) fn all(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let started = Instant::now();
    say(format!(
        "building the cluster's binaries, about 12 minutes on two cores the first time; log in {}",
        folder.display()
    ));
    for (number, module) in MODULES.iter().enumerate() {
        let title = format!("[{}/{}] {} {}", number + 1, MODULES.len() + 1, module.title, module.version());
        build_module(module, folder, &title)?;
    }
    say(format!("[{0}/{0}] pause", MODULES.len() + 1));
    build_pause(folder)?;
    fs::rename(folder.join("server"), folder.join("etcd")).context("cannot rename etcd")?;
    for program in MODULES.iter().flat_map(|module| module.binaries) {
        let program = if *program == "server" { "etcd" } else { program };
        runs(&folder.join(program)).context("a program that was just built does not run")?;
    }
    say(format!("built in {} s", started.elapsed().as_secs()));
    Ok(())
}

fn build_module(module: &Module, folder: &Path, title: &str) -> Result<()> {
    say(title);
    let source = tempfile::tempdir()?;
    fs::write(source.path().join("go.mod"), module.go_mod)?;
    fs::write(source.path().join("go.sum"), module.go_sum)?;
    let log_path = folder.join(format!("{}.log", module.folder));
    let failed = || format!("building {} failed; see {}", module.title, log_path.display());

    let go = |arguments: &[&str]| {
        Tool::new("go")
            .args(arguments)
            .current_dir(source.path())
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly")
    };
    let packages = go(&["list", "-deps", "-tags", module.tags, "tool"]).run().with_context(failed)?.lines().count();

    let linker = module.linker_options();
    // A trailing slash makes Go take it for a folder.
    let output = format!("{}/", folder.display());
    let arguments = [
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        "-tags",
        module.tags,
        "-ldflags",
        &linker,
        "-o",
        &output,
        "tool",
    ];
    let mut child = go(&arguments)
        .into_command()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `go build`")?;
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut ticker = Ticker::new();
    let stderr = child.stderr.take().context("go build has no standard error")?;
    // With -v Go names each package when it has been compiled; what comes from its own cache is not named.
    let mut compiled = 0;
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        writeln!(log, "{line}")?;
        compiled += 1;
        ticker.show(&format!("{title}: {compiled} of at most {packages} packages"));
    }
    ticker.finish();
    if !child.wait()?.success() {
        bail!(failed());
    }
    Ok(())
}

/// Compiles pause and wraps it into an image.
fn build_pause(folder: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let path = |name: &str| work.path().join(name);
    fs::write(path("pause.c"), PAUSE_SOURCE)?;
    fs::write(path("Containerfile"), "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n")?;
    Tool::new("cc")
        .args(["-static", "-Os", "-s", "-o", "pause", "pause.c"])
        .current_dir(work.path())
        .run()
        .context("cannot compile pause; a static C library is needed (Debian: libc6-dev)")?;
    let storage = path("storage");
    let buildah = |arguments: &[&str]| {
        Tool::new("buildah")
            .arg("--root")
            .arg(&storage)
            .arg("--runroot")
            .arg(path("run"))
            .args(["--storage-driver", STORAGE_DRIVER])
            .args(arguments)
            .current_dir(work.path())
    };
    buildah(&["bud", "--isolation", "chroot", "--tag", "pause", "."]).run()?;
    let archive = folder.join("pause.tar");
    // An archive is never written over.
    if archive.exists() {
        fs::remove_file(&archive)?;
    }
    buildah(&["push", "pause"]).arg(format!("oci-archive:{}:pause", archive.display())).run()?;
    Ok(())
}
