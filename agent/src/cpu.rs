//! Whether this container's CPU limit starves the kill chain: below one core processes end later than their signal.

use std::{fs, path::Path};

/// Where the container sees its own cgroup.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Whether the limit is below one core, or cannot be read. Without a limit it is not.
pub fn is_starved() -> bool {
    cores(Path::new(CGROUP_ROOT)).is_none_or(|cores| cores < 1.0)
}

/// The limit in cores below `root`, infinite without one; `None` when it cannot be read.
/// Formats: the kernel's cgroup-v2 (`cpu.max`) and cgroup-v1 (`cpu.cfs_quota_us`) documentation.
fn cores(root: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(root.join(name)).ok();
    if let Some(text) = read("cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        return if quota == "max" { Some(f64::INFINITY) } else { ratio(quota, period) };
    }
    // One hierarchy for each controller, or both together; which one depends on the distribution.
    ["cpu", "cpu,cpuacct"].iter().find_map(|folder| {
        let quota = read(&format!("{folder}/cpu.cfs_quota_us"))?;
        let period = read(&format!("{folder}/cpu.cfs_period_us"))?;
        if quota.trim().starts_with('-') { Some(f64::INFINITY) } else { ratio(quota.trim(), period.trim()) }
    })
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_cgroup_versions_are_read() {
        let cases = [
            (vec![("cpu.max", "max 100000\n")], Some(f64::INFINITY)),
            (vec![("cpu.max", "50000 100000\n")], Some(0.5)),
            (vec![("cpu.max", "junk\n")], None),
            (vec![("cpu/cpu.cfs_quota_us", "-1\n"), ("cpu/cpu.cfs_period_us", "100000\n")], Some(f64::INFINITY)),
            (vec![("cpu/cpu.cfs_quota_us", "10000\n"), ("cpu/cpu.cfs_period_us", "100000\n")], Some(0.1)),
            (
                vec![("cpu,cpuacct/cpu.cfs_quota_us", "200000\n"), ("cpu,cpuacct/cpu.cfs_period_us", "100000\n")],
                Some(2.0),
            ),
            (vec![], None),
        ];
        for (files, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            for (name, content) in &files {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            assert_eq!(cores(root.path()), expected, "{files:?}");
        }
    }
}
