//! The scheduler's slice: a process with a short one is run sooner after it wakes, at the same share of the CPU.

use std::{io, mem};

/// The shortest slice that the kernel takes, in nanoseconds (`sched_setattr(2)`, Linux 6.12).
pub(crate) const SHORTEST_SLICE: u64 = 100_000;
/// The kernel's own choice of a slice.
pub(crate) const DEFAULT_SLICE: u64 = 0;

/// Asks for a slice of `nanoseconds` for the calling thread, which its children inherit. A real-time or idle policy is
/// left alone, and so are the nice value and everything else. Older kernels ignore the value.
pub(crate) fn set_slice(nanoseconds: u64) -> io::Result<()> {
    // SAFETY: `sched_attr` is a plain C struct for which all zeros is a valid value.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    let size = u32::try_from(mem::size_of::<libc::sched_attr>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `size` bytes to a live local of that size.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    let policy = i32::try_from(attributes.sched_policy).unwrap_or(-1);
    if policy != libc::SCHED_OTHER && policy != libc::SCHED_BATCH {
        return Ok(());
    }
    attributes.size = size;
    attributes.sched_runtime = nanoseconds;
    // SAFETY: the kernel reads `size` bytes from a live local of that size.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
