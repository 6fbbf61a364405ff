//! The app of most trials: each process writes the time into its own slot of a file, as long as it lives.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use leader_agent::clock;

/// Names the file in every role's environment.
pub(crate) const FILE: &str = "KERNEL_TEST_BEATS";
/// How often each process writes: the precision of what is measured.
const PAUSE: Duration = Duration::from_micros(200);
/// Bytes in a slot.
const SLOT: usize = size_of::<u64>();

/// What a process beats with.
pub(crate) struct Heart(File);

impl Heart {
    /// Opens the file that the environment names.
    pub(crate) fn new() -> Self {
        Self(OpenOptions::new().write(true).open(file()).expect("the beats' file"))
    }

    /// Writes down that the process of this slot runs.
    pub(crate) fn beat(&self, slot: u64) {
        let now = u64::try_from(clock::boot().as_nanos()).expect("a time");
        self.0.write_all_at(&now.to_ne_bytes(), slot * SLOT as u64).expect("a beat");
    }

    /// Whether the file still has a name: a failed trial deletes it at its end, and whoever is left ends with it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.metadata().expect("the file's links").nlink() > 0
    }
}

/// The role `beat SLOT`: writes until it is killed.
pub(crate) fn beat(words: &[String]) -> ! {
    let slot = words[0].parse().expect("a slot");
    let heart = Heart::new();
    while heart.is_wanted() {
        heart.beat(slot);
        thread::sleep(PAUSE);
    }
    std::process::exit(1)
}

/// The file that the environment names.
pub(crate) fn file() -> PathBuf {
    std::env::var_os(FILE).expect("a file for the beats").into()
}

/// When each process last ran, on the boot clock; those that never ran are left out.
pub(crate) fn read(file: &Path) -> Vec<Duration> {
    let bytes = std::fs::read(file).expect("the beats' file");
    let times = bytes.chunks_exact(SLOT).map(|slot| u64::from_ne_bytes(slot.try_into().expect("a slot")));
    times.filter(|&time| time != 0).map(Duration::from_nanos).collect()
}
