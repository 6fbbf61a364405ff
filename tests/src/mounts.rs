//! The mounts of this machine, as `/proc/self/mountinfo` lists them.

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The kind of file system, e.g. `cgroup2`.
    pub kind: String,
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// When they cannot be read.
pub fn all() -> Result<Vec<Mount>> {
    let file = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// Unmounts everything below a folder, the latest mount first, whoever still uses it.
///
/// # Errors
/// When something could not be unmounted.
pub fn unmount_below(folder: &Path) -> Result<()> {
    // A mount may be covered by another one at the same place, or come back to light when that one goes.
    for _ in 0..3 {
        let mounts = below(folder)?;
        if mounts.is_empty() {
            return Ok(());
        }
        for point in mounts.iter().rev() {
            // Judged by what is left: an unmount takes those below with it.
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
    match below(folder)?.first() {
        Some(point) => bail!("cannot unmount {}; try `umount -l` by hand", point.display()),
        None => Ok(()),
    }
}

fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(all()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(folder)).collect())
}

/// Reads a line of mountinfo, proc(5): the fifth field is the mount point, the kind follows the field `-`.
fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let point = PathBuf::from(unescape(fields.nth(4)?));
    let kind = fields.skip_while(|field| *field != "-").nth(1)?.to_owned();
    Some(Mount { point, kind })
}

/// Undoes the octal escapes of blank, tab, line break and backslash.
fn unescape(field: &str) -> String {
    let mut text = field.to_owned();
    for (escaped, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escaped, character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(parse(line), Some(Mount { point: "/mnt 2".into(), kind: "ext3".into() }));
        let without_options = "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        assert_eq!(parse(without_options), Some(Mount { point: "/sys/fs/cgroup/cpu".into(), kind: "cgroup".into() }));
        assert_eq!(parse("too short"), None);
    }

    #[test]
    fn the_mounts_of_this_machine_are_found() {
        assert!(all().unwrap().iter().any(|mount| mount.point == Path::new("/proc") && mount.kind == "proc"));
    }
}
