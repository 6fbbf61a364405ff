//! The system calls that no safe crate offers, each behind a function that is safe to call.
//!
//! The only place in this project where `unsafe` is allowed. What the calls are for is said by [`crate::guard`] and
//! [`crate::app`], which use them; everything that `rustix` has in safe form is called there directly.
#![allow(unsafe_code)]

pub(crate) mod process;
#[cfg(feature = "mutants")]
pub mod rogue;
pub(crate) mod scheduler;
pub(crate) mod signals;
pub(crate) mod timer;

use std::io;

/// Turns the `-1` of the C library into the error that it stands for.
fn checked(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
