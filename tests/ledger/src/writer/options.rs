//! What a writer is told by its environment.

use std::path::PathBuf;
use std::time::Duration;

/// What a writer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `KEEPER`: the keeper's address, `host:port`.
    pub keeper: String,
    /// `POD_NAME`, or else `HOSTNAME`: who writes.
    pub pod: String,
    /// `LEADER_FENCING_TOKEN`: the term's token, if there was an election.
    pub token: Option<u64>,
    /// `WRITE_INTERVAL`: the time between two entries, e.g. `10ms`.
    pub interval: Duration,
    /// `SHUTDOWN_SECONDS`: how long the writer goes on after it was told to stop.
    pub shutdown: Duration,
    /// `IGNORE_TERM=1`: never stop when told to.
    pub ignore_term: bool,
    /// `BUSY_PROCESSES`: how many helpers burn processor time beside the writer.
    pub busy_processes: u32,
    /// `STAMP_DIR`: the folder for [stamps](crate::stamps), made by somebody else.
    pub stamp_dir: Option<PathBuf>,
}

/// A variable that is missing or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not set.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// Set to something else than what is wanted.
    #[error("{name}={value:?} is not {wanted}")]
    Wrong {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
}

/// The time between two entries when nothing else is asked for: finer than any hand-over.
const DEFAULT_INTERVAL: Duration = Duration::from_millis(10);

impl Options {
    /// Reads the options with `get`, which gives the value of a variable.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense; an empty one counts as not set.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, OptionError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &'static str| match get(name) {
            None => Ok(None),
            Some(value) => match value.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(OptionError::Wrong { name, value, wanted: "a whole number" }),
            },
        };
        let interval = match get("WRITE_INTERVAL") {
            None => DEFAULT_INTERVAL,
            Some(value) => match parse_interval(&value) {
                Some(interval) => interval,
                None => return Err(OptionError::Wrong { name: "WRITE_INTERVAL", value, wanted: INTERVAL_WANTED }),
            },
        };
        let busy_processes = number("BUSY_PROCESSES")?.unwrap_or(0);
        Ok(Self {
            keeper: get("KEEPER").ok_or(OptionError::Missing("KEEPER"))?,
            pod: get("POD_NAME").or_else(|| get("HOSTNAME")).ok_or(OptionError::Missing("POD_NAME"))?,
            token: number("LEADER_FENCING_TOKEN")?,
            interval,
            shutdown: Duration::from_secs(number("SHUTDOWN_SECONDS")?.unwrap_or(0)),
            ignore_term: get("IGNORE_TERM").is_some_and(|value| value != "0"),
            busy_processes: u32::try_from(busy_processes).map_err(|_| OptionError::Wrong {
                name: "BUSY_PROCESSES",
                value: busy_processes.to_string(),
                wanted: "a number of processes",
            })?,
            stamp_dir: get("STAMP_DIR").map(PathBuf::from),
        })
    }
}

const INTERVAL_WANTED: &str = "a time above zero such as 10ms or 1s";

fn parse_interval(text: &str) -> Option<Duration> {
    let interval = if let Some(number) = text.strip_suffix("ms") {
        Duration::from_millis(number.parse().ok()?)
    } else {
        Duration::from_secs(text.strip_suffix('s')?.parse().ok()?)
    };
    (!interval.is_zero()).then_some(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Options, OptionError> {
        Options::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn keeper_and_pod_are_enough() {
        let options = read(&[("KEEPER", "10.0.0.1:7000"), ("HOSTNAME", "a")]).unwrap();
        assert_eq!((options.token, options.interval, options.ignore_term), (None, DEFAULT_INTERVAL, false));
        assert_eq!(options.pod, "a");
    }

    #[test]
    fn every_variable_is_read() {
        let options = read(&[
            ("KEEPER", "k:1"),
            ("POD_NAME", "pod"),
            ("HOSTNAME", "host"),
            ("LEADER_FENCING_TOKEN", "42"),
            ("WRITE_INTERVAL", "5ms"),
            ("SHUTDOWN_SECONDS", "20"),
            ("IGNORE_TERM", "1"),
            ("BUSY_PROCESSES", "50"),
            ("STAMP_DIR", "/stamps"),
        ]);
        let expected = Options {
            keeper: "k:1".to_owned(),
            pod: "pod".to_owned(),
            token: Some(42),
            interval: Duration::from_millis(5),
            shutdown: Duration::from_secs(20),
            ignore_term: true,
            busy_processes: 50,
            stamp_dir: Some("/stamps".into()),
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let basis = [("KEEPER", "k:1"), ("POD_NAME", "pod")];
        for (name, value) in [
            ("WRITE_INTERVAL", "10"),
            ("WRITE_INTERVAL", "0ms"),
            ("LEADER_FENCING_TOKEN", "x"),
            ("BUSY_PROCESSES", "-1"),
        ] {
            let error = read(&[basis[0], basis[1], (name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}={value:?} is not ")), "{error}");
        }
        assert_eq!(read(&[("POD_NAME", "pod")]).unwrap_err().to_string(), "KEEPER is not set");
    }
}
