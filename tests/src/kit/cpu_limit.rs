//! Processor time taken away from a container or a pod that runs.

use super::PodProcess;
use crate::cgroup;
use crate::progress::say;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// The time span of which a limit is a share, in microseconds: the one that Kubernetes uses.
const PERIOD: u32 = 100_000;

/// Whose processor time is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitOf {
    /// The container's, as `resources.limits` does: its processes can see it.
    Container,
    /// The pod's: processes in the container do not see it.
    Pod,
}

/// A limit of processor time; what was there before is put back when this is dropped.
#[derive(Debug)]
#[must_use = "the limit is lifted when this is dropped"]
pub struct CpuLimit {
    file: PathBuf,
    before: String,
}

impl PodProcess {
    /// Gives all processes of this one's container, or pod, together at most that many hundredths of one processor.
    ///
    /// # Errors
    /// When the process has ended, or its control group has no such limit.
    pub fn limit_cpu(&self, limit_of: LimitOf, percent: u32) -> Result<CpuLimit> {
        let quota = PERIOD / 100 * percent;
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", self.pid))
            .with_context(|| format!("process {} ({:?}) has no control groups", self.pid, self.command))?;
        for root in cgroup::hierarchies()? {
            // `number:controllers:path`, see cgroups(7).
            for path in groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
                let container = root.join(path.trim_start_matches('/'));
                let group = match limit_of {
                    LimitOf::Container => container.as_path(),
                    LimitOf::Pod => container.parent().context("a container's control group without a parent")?,
                };
                let limits = [("cpu.cfs_quota_us", quota.to_string()), ("cpu.max", format!("{quota} {PERIOD}"))];
                for (name, limit) in limits {
                    let file = group.join(name);
                    let Ok(before) = fs::read_to_string(&file) else { continue };
                    let limited = CpuLimit { file, before };
                    limited.write(&limit)?;
                    return Ok(limited);
                }
            }
        }
        anyhow::bail!("no control group of process {} limits processor time: {groups}", self.pid)
    }
}

impl CpuLimit {
    fn write(&self, limit: &str) -> Result<()> {
        fs::write(&self.file, limit).with_context(|| format!("cannot write {limit} to {}", self.file.display()))
    }
}

impl Drop for CpuLimit {
    fn drop(&mut self) {
        // A container that was restarted has another group.
        if self.file.exists()
            && let Err(error) = self.write(self.before.trim())
        {
            say(format!("cannot lift a limit: {error:#}"));
        }
    }
}
