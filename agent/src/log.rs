//! The agent's log: lines on stderr for whoever operates the pod.
//!
//! A line that stderr does not take at once is dropped: a reader that hangs must not hold up who elects and kills.

use std::io::{self, Write};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::stderr,
};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A pipe that is ready takes this much without blocking (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

/// Begins to log. `filter` is a level (`debug`) or a list of targets with levels; without a usable one it is `info`.
pub fn start(filter: Option<&str>) {
    let targets = filter
        .and_then(|filter| filter.parse::<Targets>().ok())
        .unwrap_or_else(|| Targets::new().with_target("leader_agent", tracing::Level::INFO));
    let lines = fmt::layer().with_writer(Stderr::default).with_ansi(false).with_target(false).compact();
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
}

#[derive(Default)]
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let descriptor = stderr();
        let mut polled = [PollFd::new(&descriptor, PollFlags::OUT)];
        if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
            let _ = if line.len() <= PIECE {
                rustix::io::write(descriptor, line)
            } else {
                rustix::io::write(descriptor, &[&line[..PIECE - 4], b"...\n"].concat())
            };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
