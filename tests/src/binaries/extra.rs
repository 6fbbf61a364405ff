//! Programs that only some tests need: built apart from the cluster's binaries, which do not change with them, on first use.

use super::{cache_folder, key_of};
use crate::command::Tool;
use crate::progress::say;
use crate::state;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// As the smallest releases of Go programs are built: no debug information.
const LINKER_OPTIONS: &str = "-s -w";

/// A Go module with one program.
pub(super) struct Extra {
    /// One word for it, in the cache folder.
    pub(super) label: &'static str,
    /// The program's name.
    pub(super) program: &'static str,
    /// What it is, for people.
    pub(super) title: String,
    /// The module's files: names and contents.
    pub(super) sources: &'static [(&'static str, &'static str)],
    /// The package to build.
    pub(super) package: &'static str,
    /// Further arguments of `go build`.
    pub(super) arguments: &'static [&'static str],
}

impl Extra {
    /// The program: found in the cache folder, or else built.
    ///
    /// # Errors
    /// When there is no cache folder, or the build fails.
    pub(super) fn find_or_build(&self) -> Result<PathBuf> {
        let sources = self.sources.iter().map(|(_, content)| *content);
        let parts = sources.chain([LINKER_OPTIONS, std::env::consts::ARCH]).chain(self.arguments.iter().copied());
        let (key, cache) = (key_of(parts), cache_folder()?);
        let program = cache.join(format!("{}-{key}", self.label)).join(self.program);
        if program.is_file() {
            return Ok(program);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
        let waiting = format!("another run is building {}; waiting for it", self.title);
        let _lock = state::lock(&cache.join(format!("{}.lock", self.label)), &waiting)?;
        if !program.is_file() {
            self.build(&program)?;
        }
        Ok(program)
    }

    fn build(&self, program: &Path) -> Result<()> {
        say(format!("building {}", self.title));
        let source = tempfile::tempdir()?;
        for (name, content) in self.sources {
            fs::write(source.path().join(name), content)?;
        }
        let folder = program.parent().context("a program without a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Only what is whole gets the name.
        let unfinished = program.with_extension("unfinished");
        let arguments = ["build", "-trimpath", "-buildvcs=false", "-ldflags", LINKER_OPTIONS];
        let go = Tool::new("go").args(arguments).args(self.arguments).arg("-o").arg(&unfinished).arg(self.package);
        go.current_dir(source.path()).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").run()?;
        fs::rename(&unfinished, program).with_context(|| format!("cannot make {}", program.display()))
    }
}
