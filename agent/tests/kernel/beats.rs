//! The app of most trials: each process writes the time into its own slot of a file, as long as it lives.

use std::{
    fs::OpenOptions,
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

/// The role `beat SLOT`: writes until it is killed, or until the file is deleted, which a failed trial does at its end.
pub(crate) fn beat(words: &[String]) -> ! {
    let slot: u64 = words[0].parse().expect("a slot");
    let file = OpenOptions::new().write(true).open(file()).expect("the beats' file");
    while file.metadata().expect("the file's links").nlink() > 0 {
        let now = u64::try_from(clock::boot().as_nanos()).expect("a time");
        file.write_all_at(&now.to_ne_bytes(), slot * SLOT as u64).expect("a beat");
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
