//! How an election concerns the app: whether it excludes, or informs.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// How long the status file may take to vanish when the lease is being lost, in the modes in which nothing is stopped.
pub const WITHDRAWAL: Duration = Duration::from_secs(1);

/// A value of the annotation [`crate::names::MODE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The app runs on the leader only.
    #[default]
    Run,
    /// The app runs everywhere, and a program beside it tells who leads.
    Observe,
    /// The app runs everywhere, and only the leader is ready.
    Ready,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Run, Self::Observe, Self::Ready];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Observe => "observe",
            Self::Ready => "ready",
        }
    }

    /// Whether the app runs on the leader only. The other modes inform, and exclude nobody.
    pub fn excludes(self) -> bool {
        self == Self::Run
    }

    /// Whether this is what nobody has to write down.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Not a mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: use `run`, `observe` or `ready`")]
pub struct NotAMode(String);

impl FromStr for Mode {
    type Err = NotAMode;

    fn from_str(text: &str) -> Result<Self, NotAMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| NotAMode(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_read_as_it_is_written() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
            assert_eq!(mode.is_default(), mode.excludes());
        }
        let error = "Ready".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(error, "`Ready` is not a mode: use `run`, `observe` or `ready`");
    }
}
