//! The image that the others are built in, made from what this machine has: its Rust toolchain and its C compiler.
//!
//! It stands in for the public Rust image where no registry can be reached; `--builder` names another.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use leader_tests::command::{Tool, is_installed};
use leader_tests::progress::say;
use sha2::{Digest, Sha256};

use super::closure::{FORMAT, Package, closure};
use super::sources;
use super::store::Store;

/// What a build runs: a linker and a C compiler (the TLS library has parts in C), the C library's static archive,
/// and the programs of the Dockerfiles' RUN lines.
const PACKAGES: [&str; 5] = ["coreutils", "dash", "gcc", "libc6-dev", "sed"];
/// Raised when the image is put together in another way.
const RECIPE: &str = "1";
const NAME: &str = "localhost/leader-builder";
const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Links to folders in a system with a merged /usr: a package may name its files through them.
const MERGED_FOLDERS: [&str; 4] = ["/bin", "/lib", "/lib64", "/sbin"];

/// A key of all that goes into the builder.
pub(super) fn key() -> Result<String> {
    let mut hash = Sha256::new();
    sources::add(&mut hash, RECIPE.as_bytes());
    sources::add(&mut hash, toolchain_version()?.as_bytes());
    for Package { name, version } in packages()? {
        sources::add(&mut hash, name.as_bytes());
        sources::add(&mut hash, version.as_bytes());
    }
    let certificates = ca_certificates();
    let content = fs::read(&certificates).with_context(|| format!("cannot read {}", certificates.display()))?;
    sources::add(&mut hash, &content);
    Ok(sources::short(hash))
}

/// The name of the builder of this machine with this [key], which is made when it is not there.
pub(super) fn find_or_make(store: &Store, key: &str) -> Result<String> {
    let name = format!("{NAME}:{key}");
    if store.image_id(&name)?.is_none() {
        say("making an image to build in, from the Rust toolchain and the C compiler of this machine");
        make(store, &name)?;
        store.remove_others(&name)?;
    }
    Ok(name)
}

fn make(store: &Store, name: &str) -> Result<()> {
    let container = store.buildah().args(["from", "scratch"]).run()?.trim().to_owned();
    let made = fill(store, &container).and_then(|()| {
        let path = ["--env", "PATH=/usr/local/rust/bin:/usr/bin:/bin", "--env", "CARGO_HOME=/usr/local/cargo"];
        store.buildah().arg("config").args(path).arg(&container).run()?;
        store.buildah().args(["commit", "--quiet", &container, name]).run().map(drop)
    });
    store.buildah().args(["rm", &container]).run()?;
    made
}

fn fill(store: &Store, container: &str) -> Result<()> {
    let root = PathBuf::from(store.buildah().args(["mount", container]).run()?.trim());
    copy_files(&package_files()?, &root)?;
    // Debian's `cc` is a link that no package has: the administrator may choose another compiler.
    let cc = root.join("usr/bin/cc");
    symlink("gcc", &cc).with_context(|| format!("cannot make {}", cc.display()))?;
    copy_toolchain(&root.join("usr/local/rust"))?;
    let certificates = root.join(CA_CERTIFICATES.trim_start_matches('/'));
    for folder in [certificates.parent().unwrap_or(&root), &root.join("tmp"), &root.join("usr/local/cargo")] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::copy(ca_certificates(), &certificates).context("cannot copy the CA certificates")?;
    store.buildah().args(["umount", container]).run().map(drop)
}

fn packages() -> Result<Vec<Package>> {
    if !is_installed("dpkg-query") {
        bail!("a builder image is made from Debian packages, and this is no Debian: name an image with --builder");
    }
    let status = Tool::new("dpkg-query").args(["--show", "--showformat", FORMAT]).run()?;
    closure(&status, &PACKAGES).map_err(|missing| {
        anyhow::anyhow!(
            "the package {missing} is needed to build images and is not installed: apt-get install {missing}"
        )
    })
}

/// The packages' files but for documents, by their real folders.
fn package_files() -> Result<BTreeSet<PathBuf>> {
    let names = packages()?.into_iter().map(|package| package.name);
    let listed = Tool::new("dpkg-query").arg("--listfiles").args(names).run()?;
    let mut files: BTreeSet<PathBuf> =
        MERGED_FOLDERS.iter().map(PathBuf::from).filter(|folder| folder.is_symlink()).collect();
    for path in listed.lines().map(Path::new).filter(|path| !path.starts_with("/usr/share")) {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { continue };
        if path.is_symlink() || path.is_file() {
            files
                .insert(folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?.join(name));
        }
    }
    Ok(files)
}

/// Copies files with their links and rights to the same place under another root.
fn copy_files(files: &BTreeSet<PathBuf>, root: &Path) -> Result<()> {
    let mut list = tempfile::NamedTempFile::new()?;
    for file in files {
        list.write_all(file.strip_prefix("/").unwrap_or(file).as_os_str().as_encoded_bytes())?;
        list.write_all(b"\n")?;
    }
    let mut read = Command::new("tar")
        .args(["--create", "--directory", "/", "--no-recursion", "--files-from"])
        .arg(list.path())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `tar`")?;
    let archive = read.stdout.take().context("tar has no output")?;
    let written = Command::new("tar")
        .args(["--extract", "--directory"])
        .arg(root)
        .stdin(archive)
        .status()
        .context("cannot start `tar`")?;
    ensure!(read.wait()?.success() && written.success(), "cannot copy the C compiler to {}", root.display());
    Ok(())
}

/// Copies what builds programs: no documents, and none of the toolchain's other tools.
fn copy_toolchain(target: &Path) -> Result<()> {
    let sysroot = PathBuf::from(Tool::new("rustc").args(["--print", "sysroot"]).run()?.trim());
    let bin = target.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    for (from, to) in [("bin/rustc", bin.as_path()), ("bin/cargo", &bin), ("lib", target)] {
        Tool::new("cp").arg("--archive").arg(sysroot.join(from)).arg(to).run()?;
    }
    Ok(())
}

fn toolchain_version() -> Result<String> {
    Tool::new("rustc").arg("-vV").run()
}

/// The certificates by which this machine trusts others.
fn ca_certificates() -> PathBuf {
    env::var_os("SSL_CERT_FILE").map_or_else(|| PathBuf::from(CA_CERTIFICATES), PathBuf::from)
}
