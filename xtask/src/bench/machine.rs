//! What the numbers were measured on.

use std::fs;

use anyhow::{Context, Result};
use leader_tests::command::Tool;

use crate::images::checkout;

/// Processor, memory, kernel and compiler of this machine, and the commit that was built.
pub(crate) fn description() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let system = rustix::system::uname();
    let compiler = Tool::new("rustc").arg("--version").run()?;
    let git = |arguments: &[&str]| Tool::new("git").current_dir(checkout()).args(arguments).run();
    let commit = git(&["log", "--max-count=1", "--format=%h of %cs"])?;
    let changed = if git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() { "" } else { " and changes" };
    Ok(format!(
        "{}, {:.0} GB of memory; {} {}; {}; commit {}{changed}.",
        processor(&processors),
        kilobytes(&memory).unwrap_or_default() / 1e6,
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        compiler.trim(),
        commit.trim(),
    ))
}

fn processor(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let line = cpuinfo.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
        line.map_or_else(|| "unknown".to_owned(), |value| value.trim().to_owned())
    };
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let family = [value("cpu family"), value("model"), value("stepping")].join("/");
    format!("{count} processors {} (family/model/stepping {family}, {} MHz)", value("model name"), value("cpu MHz"))
}

fn kilobytes(meminfo: &str) -> Option<f64> {
    meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named() {
        let one = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Some Processor\nstepping\t: 6\ncpu MHz\t\t: 2800.1\n";
        let expected = "2 processors Some Processor (family/model/stepping 6/106/6, 2800.1 MHz)";
        assert_eq!(processor(&format!("{one}\n{one}")), expected);
        assert_eq!(kilobytes("MemTotal:        8000000 kB\nMemFree: 1 kB\n"), Some(8e6));
        assert!(description().unwrap().contains(" processors "));
    }
}
