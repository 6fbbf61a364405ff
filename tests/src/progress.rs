//! What a person sees while something takes its time. Everything goes to standard error; standard output is for results.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Says one line.
pub fn say(line: impl AsRef<str>) {
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{}", line.as_ref());
}

/// A line that changes while something goes on: in place on a terminal, else a new line every half minute.
#[derive(Debug)]
pub struct Ticker {
    terminal: bool,
    last: Instant,
}

impl Ticker {
    const ON_TERMINAL: Duration = Duration::from_millis(200);
    const IN_LOG: Duration = Duration::from_secs(30);

    /// A line that was not yet shown.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: Instant::now() }
    }

    /// Shows this text, unless the last one was shown a moment ago.
    pub fn show(&mut self, text: &str) {
        let pause = if self.terminal { Self::ON_TERMINAL } else { Self::IN_LOG };
        if self.last.elapsed() >= pause {
            self.last = Instant::now();
            let (before, after) = if self.terminal { ("\r", "\x1b[K") } else { ("", "\n") };
            let _ = write!(std::io::stderr(), "{before}{text}{after}");
        }
    }

    /// Clears the line on a terminal.
    pub fn finish(self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Ticker {
    fn default() -> Self {
        Self::new()
    }
}
