//! promtool, which checks Prometheus' rules and plays alerts through.

use super::extra::Extra;
use anyhow::Result;
use std::path::PathBuf;

const SOURCES: [(&str, &str); 2] =
    [("go.mod", include_str!("../../go/promtool/go.mod")), ("go.sum", include_str!("../../go/promtool/go.sum"))];

/// promtool (`tests/go/promtool`): found in the cache folder, or else built, which takes a few minutes of two cores.
///
/// # Errors
/// When there is no cache folder, or the build fails.
pub fn promtool() -> Result<PathBuf> {
    let version = super::required_version(SOURCES[0].1, "github.com/prometheus/prometheus");
    let promtool = Extra {
        label: "promtool",
        program: "promtool",
        title: format!("promtool {}", version.unwrap_or("of an unknown version")),
        sources: &SOURCES,
        package: "tool",
        // It asks no targets: ways to find them would be most of what is built.
        arguments: &["-tags", "remove_all_sd"],
    };
    promtool.find_or_build()
}
