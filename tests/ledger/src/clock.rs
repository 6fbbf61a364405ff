//! The two clocks of a stamp: one that compares across the processes of a machine, one that people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Time since the machine's boot, suspended time included, in nanoseconds: the same for all pods of one machine.
///
/// # Errors
/// When the kernel has no such clock.
pub fn boot() -> std::io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    u64::try_from(now.as_nanos()).map_err(std::io::Error::other)
}

/// Nanoseconds since 1970 by the wall clock, for people; 0 where that clock stands before 1970.
pub fn wall() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
