//! Control groups of the first version, where this machine has them.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::stage::me;

const ROOT: &str = "/sys/fs/cgroup";
/// What is killed is out of its group within this.
const LIMIT: Duration = Duration::from_secs(20);

/// A group of its own, which goes with this value, and with it whoever is left in it.
pub(crate) struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// A new group of `controller`, or `None` where none can be made.
    pub(crate) fn new(controller: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = PathBuf::from(ROOT).join(controller);
        let file = if controller == "cpu" { "cpu.cfs_quota_us" } else { "cgroup.procs" };
        let name = format!("leader-kernel-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = root.join(name);
        // The second version has these controllers in one folder, and none of this name.
        fs::create_dir(&folder).ok()?;
        let group = Self { folder };
        group.folder.join(file).exists().then_some(group)
    }

    /// Sets one of its values.
    pub(crate) fn write(&self, file: &str, value: &str) {
        fs::write(self.folder.join(file), value).unwrap_or_else(|error| panic!("{file} = {value}: {error}"));
    }

    /// The command that enters it and becomes what follows.
    pub(crate) fn entrance(&self) -> [&str; 3] {
        [me(), "enter", self.folder.to_str().expect("a path")]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + LIMIT;
        while fs::remove_dir(&self.folder).is_err() && self.folder.exists() && Instant::now() < end {
            let members = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A frozen group, which thaws with this value.
pub(crate) struct Frozen<'a>(&'a Cgroup);

impl<'a> Frozen<'a> {
    /// Freezes all in `group`, and waits until nothing of it runs.
    pub(crate) fn new(group: &'a Cgroup) -> Self {
        let frozen = Self(group);
        let end = Instant::now() + LIMIT;
        while fs::read_to_string(group.folder.join("freezer.state")).expect("its state").trim() != "FROZEN" {
            // Processes that were just made are seen by the next attempt.
            group.write("freezer.state", "FROZEN");
            assert!(Instant::now() < end, "not frozen within {LIMIT:?}");
            thread::sleep(Duration::from_millis(1));
        }
        frozen
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = fs::write(self.0.folder.join("freezer.state"), "THAWED");
    }
}
