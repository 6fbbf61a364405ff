//! The name of a stop signal, as images and pods write it, and its number.
//!
//! The rule is containerd's, which is Docker's: `ParseSignal` and `SignalMap` of github.com/moby/sys/signal, used by containerd's
//! `internal/cri/server/container_stop.go`. `SIGRTMIN` is 34 and `SIGRTMAX` 64 there, whatever the C library keeps for itself.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// The number of `SIGRTMIN`.
const FIRST_REAL_TIME: i32 = 34;
/// The number of `SIGRTMAX`, the highest of all.
const LAST_REAL_TIME: i32 = 64;
/// `RTMIN+n` goes up to here, and `RTMAX-n` takes over.
const UPPER_OF_MIN: i32 = 15;
/// `RTMAX-n` goes up to here.
const LOWER_OF_MAX: i32 = 14;

/// The names without `SIG`, and their numbers (signal(7), the column of x86 and ARM).
const NAMES: [(&str, i32); 34] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGIOT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGPOLL),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

/// A signal that asks an app to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StopSignal(i32);

/// A text that names no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal: write a name or a number, as in `SIGQUIT`, `QUIT`, `3` or `SIGRTMIN+3`")]
pub struct StopSignalError(String);

impl StopSignal {
    /// SIGTERM, which stands where nothing else is said.
    pub const TERM: Self = Self(libc::SIGTERM);

    /// The number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Whether `signal`, sent to the container, asks it to stop: TERM, INT and QUIT do whatever this one is.
    pub fn is_meant_by(self, signal: i32) -> bool {
        [self.0, libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&signal)
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::TERM
    }
}

impl FromStr for StopSignal {
    type Err = StopSignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = match text.parse::<i32>() {
            Ok(number) => (1..=LAST_REAL_TIME).contains(&number).then_some(number),
            Err(_) => of_name(&text.to_ascii_uppercase()),
        };
        // An edited record may hold a text of any length.
        number.map(Self).ok_or_else(|| StopSignalError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for StopSignal {
    type Error = StopSignalError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(formatter, "SIG{name}"),
            None if self.0 >= FIRST_REAL_TIME => write!(formatter, "SIGRTMIN+{}", self.0 - FIRST_REAL_TIME),
            None => write!(formatter, "signal {}", self.0),
        }
    }
}

/// The number of a name in capital letters.
fn of_name(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    let offset = |text: &str, most: i32| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        text.parse::<i32>().ok().filter(|offset| plain && *offset <= most)
    };
    match name {
        "RTMIN" => Some(FIRST_REAL_TIME),
        "RTMAX" => Some(LAST_REAL_TIME),
        _ => {
            if let Some(by) = name.strip_prefix("RTMIN+") {
                return offset(by, UPPER_OF_MIN).map(|by| FIRST_REAL_TIME + by);
            }
            if let Some(by) = name.strip_prefix("RTMAX-") {
                return offset(by, LOWER_OF_MAX).map(|by| LAST_REAL_TIME - by);
            }
            NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_containerd_reads_them() {
        for (text, number) in [
            ("SIGQUIT", 3),
            ("QUIT", 3),
            ("quit", 3),
            ("sigterm", 15),
            ("3", 3),
            ("37", 37),
            ("SIGWINCH", 28),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMIN+3", 37),
            ("rtmin+15", 49),
            ("RTMAX-14", 50),
            ("SIGRTMAX", 64),
            ("IOT", 6),
        ] {
            assert_eq!(text.parse::<StopSignal>().map(StopSignal::number), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_named() {
        for text in [
            "",
            "SIG",
            "TERMINATE",
            "0",
            "-9",
            "65",
            "RTMIN+16",
            "RTMIN+03",
            "RTMIN+-3",
            "RTMAX-15",
            " TERM",
            "SIGSIGTERM",
        ] {
            let error = text.parse::<StopSignal>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is not a signal")), "{error}");
        }
    }

    #[test]
    fn the_usual_signals_mean_stop_beside_the_apps_own() {
        let signal: StopSignal = "WINCH".parse().unwrap();
        for number in [libc::SIGWINCH, libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
            assert!(signal.is_meant_by(number), "{number}");
        }
        assert!(!signal.is_meant_by(libc::SIGHUP) && !StopSignal::TERM.is_meant_by(libc::SIGWINCH));
    }

    #[test]
    fn a_number_is_shown_by_its_name() {
        for (text, shown) in [("3", "SIGQUIT"), ("SIGRTMIN+3", "SIGRTMIN+3"), ("33", "signal 33")] {
            assert_eq!(text.parse::<StopSignal>().unwrap().to_string(), shown);
        }
    }
}
