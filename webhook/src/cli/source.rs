//! Where manifests come from: standard input, a file, a folder of files, a web address, or a kustomization.

use std::{
    ffi::OsStr,
    fs,
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use clap::Args;
use tokio::runtime;

use super::Error;
use crate::registry::fetch;

/// What `kubectl` reads of a folder (`FileExtensions` in k8s.io/cli-runtime, pkg/resource/builder.go).
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// What builds a kustomization, with the arguments before the folder, in the order of preference.
const BUILDERS: [(&str, &str); 2] = [("kubectl", "kustomize"), ("kustomize", "build")];

/// What the command line names.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Source {
    /// The file to read, `-` for standard input, an http:// or https:// address, or a folder: its .json, .yaml and .yml files, not
    /// those of folders in it.
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// The kustomization to build and read: a folder, or what else `kubectl kustomize` takes.
    #[arg(short, long, value_name = "DIR")]
    kustomize: Option<PathBuf>,
}

/// What one file holds.
#[derive(Debug)]
pub(super) struct Text {
    /// Its name in messages.
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Source {
    /// Its name in messages.
    pub(super) fn name(&self) -> String {
        match (&self.filename, &self.kustomize) {
            (Some(path), _) if path == Path::new("-") => "<stdin>".to_owned(),
            (Some(path), _) | (None, Some(path)) => path.display().to_string(),
            (None, None) => unreachable!("the command line names one of them"),
        }
    }

    /// Reads everything; `stdin` where it is asked for.
    pub(super) fn read(&self, mut stdin: impl Read) -> Result<Vec<Text>, Error> {
        let name = self.name();
        let failed = |source| Error::Read { file: name.clone(), source };
        let path = match (&self.filename, &self.kustomize) {
            (Some(path), _) => path,
            (None, Some(folder)) => return Ok(vec![Text { bytes: build(folder)?, name }]),
            (None, None) => unreachable!("the command line names one of them"),
        };
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            stdin.read_to_end(&mut bytes).map_err(failed)?;
        } else if let Some(url) = path.to_str().filter(|path| is_url(path)) {
            bytes = read_url(url)?;
        } else if path.is_dir() {
            return folder(path, failed);
        } else {
            bytes = fs::read(path).map_err(failed)?;
        }
        Ok(vec![Text { name, bytes }])
    }
}

/// As kubectl tells addresses from files (`FilenameParam` in k8s.io/cli-runtime, pkg/resource/builder.go).
fn is_url(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// In a thread, because who calls the command line as a library may be in a runtime already.
fn read_url(url: &str) -> Result<Vec<u8>, Error> {
    let failed = |reason: String| Error::Fetch { url: url.to_owned(), reason };
    let uri = url.parse().map_err(|error| failed(format!("this is no URL: {error}")))?;
    let get = || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(fetch(uri)).map_err(|error| error.to_string())
    };
    let ended = |_| Err("reading it ended early; please report this".to_owned());
    let read = thread::scope(|scope| scope.spawn(get).join()).unwrap_or_else(ended);
    read.map(Vec::from).map_err(failed)
}

/// The files of a folder in the order of their names.
fn folder(path: &Path, failed: impl Fn(io::Error) -> Error) -> Result<Vec<Text>, Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let path = entry.path();
        let is_manifest = path.extension().and_then(OsStr::to_str).is_some_and(|kind| EXTENSIONS.contains(&kind));
        if is_manifest && !entry.file_type().map_err(&failed)?.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(failed(io::Error::other(format!(
            "the folder has no file that ends in .{}",
            EXTENSIONS.join(", .")
        ))));
    }
    files.sort();
    let read = files.into_iter().map(|path| {
        let name = path.display().to_string();
        let bytes = fs::read(&path).map_err(|source| Error::Read { file: name.clone(), source })?;
        Ok(Text { name, bytes })
    });
    read.collect()
}

/// What a kustomization makes, built by the program that applies it as well.
fn build(folder: &Path) -> Result<Vec<u8>, Error> {
    for (program, verb) in BUILDERS {
        let output = match Command::new(program).arg(verb).arg(folder).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            output => output,
        };
        let failed =
            |reason: String| Error::Build { command: format!("{program} {verb} {}", folder.display()), reason };
        let output = output.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, said.trim())));
        }
        return Ok(output.stdout);
    }
    Err(Error::NoBuilder { folder: folder.display().to_string() })
}
