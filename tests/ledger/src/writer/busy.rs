//! Helpers that burn processor time beside the writer, and note in stamps of their own how long they lived.

use std::env;
use std::io;
use std::process::{Child, Command};

use super::Options;
use crate::clock;
use crate::overlap::Writer;
use crate::stamps::StampFile;

/// The argument by which the writer's program is a helper; the next one is the writer's start.
const ARGUMENT: &str = "burn";
/// The time between two stamps of a helper, in nanoseconds: fine against a lease, and seldom enough that it mostly burns.
const STAMP_INTERVAL: u64 = 1_000_000;

/// The helpers of one writer.
#[derive(Debug)]
pub(super) struct Helpers(Vec<Child>);

impl Helpers {
    pub(super) fn start(count: u32, started: u64) -> io::Result<Self> {
        let program = env::current_exe()?;
        let helper = |_| Command::new(&program).arg(ARGUMENT).arg(started.to_string()).spawn();
        (0..count).map(helper).collect::<io::Result<_>>().map(Self)
    }

    pub(super) fn stop(mut self) -> io::Result<()> {
        for helper in &mut self.0 {
            helper.kill()?;
            helper.wait()?;
        }
        Ok(())
    }
}

/// Burns processor time until it is killed, as a helper of the writer that started at `started`.
///
/// # Errors
/// When the clock or the stamps fail.
pub fn burn(options: &Options, started: u64) -> io::Result<()> {
    let writer = Writer { pod: options.pod.clone(), token: options.token, started };
    let Some(folder) = &options.stamp_dir else {
        loop {
            std::hint::spin_loop();
        }
    };
    let mut stamps = StampFile::create(folder, writer)?;
    let mut next = 0;
    loop {
        let now = clock::boot()?;
        if now >= next {
            stamps.note(now)?;
            next = now + STAMP_INTERVAL;
        }
    }
}
