//! The writer: an entry every few milliseconds, from its first instruction to its last.

mod busy;
mod connection;
mod options;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};

pub use busy::burn;
pub use options::{OptionError, Options};

use crate::clock;
use crate::overlap::Writer;
use crate::stamps::StampFile;
use busy::Helpers;
use connection::Connection;

/// Writes until it is told to stop, and as long after that as the options say. `started` is the boot clock's time at
/// the start of the process, in nanoseconds.
///
/// # Errors
/// When the clock, the stamps, signals or helpers fail; never because of the network.
pub fn run(options: &Options, started: u64) -> io::Result<()> {
    let writer = Writer { pod: options.pod.clone(), token: options.token, started };
    let mut stamps = match &options.stamp_dir {
        Some(folder) => Some(StampFile::create(folder, writer.clone())?),
        None => None,
    };
    if let Some(stamps) = &mut stamps {
        stamps.note(started)?;
    }
    let told_to_stop = listen()?;
    let helpers = Helpers::start(options.busy_processes, started)?;
    match options.token {
        Some(token) => println!("{} writes with the fencing token {token}", options.pod),
        None => println!("{} writes", options.pod),
    }

    let mut connection = Connection::new(options.keeper.clone(), writer);
    let mut end = None;
    let mut due = Instant::now();
    while end.is_none_or(|end| Instant::now() < end) {
        let now = clock::boot()?;
        if let Some(stamps) = &mut stamps {
            stamps.note(now)?;
        }
        connection.write(now, clock::wall());
        if end.is_none() && told_to_stop.load(Ordering::Relaxed) && !options.ignore_term {
            println!("told to stop: ending in {:?}", options.shutdown);
            end = Some(Instant::now() + options.shutdown);
        }
        due = (due + options.interval).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    helpers.stop()
}

/// Turns the signals that stop a program into a flag. They are blocked first: before the threads start that inherit it.
fn listen() -> io::Result<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let told = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&told);
    thread::spawn(move || {
        while signals.wait().is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(told)
}
