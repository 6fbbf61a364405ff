//! The rival of the tests: a candidate on client-go's leader election, built apart from the cluster's binaries, which do not change with it.

use super::{cache_folder, key_of};
use crate::command::Tool;
use crate::progress::say;
use crate::state;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const SOURCES: [(&str, &str); 3] = [
    ("go.mod", include_str!("../../go/candidate/go.mod")),
    ("go.sum", include_str!("../../go/candidate/go.sum")),
    ("main.go", include_str!("../../go/candidate/main.go")),
];
/// As the smallest releases of Go programs are built: no debug information.
const LINKER_OPTIONS: &str = "-s -w";
/// The program's name.
const NAME: &str = "client-go-candidate";

/// The version of client-go in it.
pub fn client_go_version() -> &'static str {
    super::required_version(SOURCES[0].1, "k8s.io/client-go").unwrap_or("of an unknown version")
}

/// The client-go candidate (`tests/go/candidate`): found in the cache folder, or else built, which takes a minute.
///
/// # Errors
/// When there is no cache folder, or the build fails.
pub fn client_go_candidate() -> Result<PathBuf> {
    let key = key_of(SOURCES.iter().map(|(_, content)| *content).chain([LINKER_OPTIONS, std::env::consts::ARCH]));
    let cache = cache_folder()?;
    let program = cache.join(format!("candidate-{key}")).join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
    let _lock =
        state::lock(&cache.join("candidate.lock"), "another run is building the client-go candidate; waiting for it")?;
    if !program.is_file() {
        build(&program)?;
    }
    Ok(program)
}

fn build(program: &Path) -> Result<()> {
    say(format!("building the client-go candidate with client-go {}", client_go_version()));
    let source = tempfile::tempdir()?;
    for (name, content) in SOURCES {
        fs::write(source.path().join(name), content)?;
    }
    let folder = program.parent().context("a program without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Only what is whole gets the name.
    let unfinished = program.with_extension("unfinished");
    let arguments = ["build", "-trimpath", "-buildvcs=false", "-ldflags", LINKER_OPTIONS, "-o"];
    let go = Tool::new("go").args(arguments).arg(&unfinished).arg(".");
    go.current_dir(source.path()).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").run()?;
    fs::rename(&unfinished, program).with_context(|| format!("cannot make {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rival_is_of_the_release_that_the_cluster_runs() {
        // Kubernetes 1.x.y is released with client-go 0.x.y.
        let cluster = super::super::kubernetes_version().trim_start_matches("v1");
        assert_eq!(client_go_version().trim_start_matches("v0"), cluster);
    }
}
