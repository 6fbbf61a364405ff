//! What the program is told by its environment, and by files while it runs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// While this file is there, or one called `failing-POD`, every probe fails.
pub const FAILING: &str = "failing";
/// A program that is started while this file is there, or one called `deaf-POD`, never listens.
pub const DEAF: &str = "deaf";

/// The signals that are written down; those of [`Options::stop`] are among them.
pub const SIGNALS: [&str; 7] = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH"];

/// What the program is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `SPECIMEN_FOLDER`: where events are written and files are looked for.
    pub folder: Option<PathBuf>,
    /// `POD_NAME`, or else `HOSTNAME`.
    pub pod: String,
    /// `SPECIMEN_HTTP`: a port for HTTP.
    pub http: Option<u16>,
    /// `SPECIMEN_HTTPS`: a port for HTTP over TLS, with a certificate that nobody vouches for.
    pub https: Option<u16>,
    /// `SPECIMEN_TCP`: a port that takes connections.
    pub tcp: Option<u16>,
    /// `SPECIMEN_GRPC`: a port for the gRPC health protocol.
    pub grpc: Option<u16>,
    /// `SPECIMEN_LISTEN_AFTER`: seconds until it listens.
    pub listen_after: Duration,
    /// `SPECIMEN_STOP`: the signals at which it ends, e.g. `TERM,INT`, which is the default.
    pub stop: Vec<String>,
    /// `SPECIMEN_SHUTDOWN`: seconds from that signal to the end.
    pub shutdown: Duration,
}

impl Options {
    /// Reads the options with `get`, which gives the value of a variable.
    ///
    /// # Errors
    /// When a variable makes no sense.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &str| {
            let parse = |value: String| value.parse::<u16>().with_context(|| format!("{name}={value:?} is no number"));
            get(name).map(parse).transpose()
        };
        let seconds = |name: &str| -> Result<Duration> { Ok(Duration::from_secs(number(name)?.unwrap_or(0).into())) };
        let stop: Vec<String> =
            get("SPECIMEN_STOP").unwrap_or_else(|| "TERM,INT".to_owned()).split(',').map(str::to_owned).collect();
        if let Some(unknown) = stop.iter().find(|signal| !SIGNALS.contains(&signal.as_str())) {
            bail!("SPECIMEN_STOP: {unknown:?} is none of {SIGNALS:?}");
        }
        Ok(Self {
            folder: get("SPECIMEN_FOLDER").map(PathBuf::from),
            pod: get("POD_NAME").or_else(|| get("HOSTNAME")).unwrap_or_default(),
            http: number("SPECIMEN_HTTP")?,
            https: number("SPECIMEN_HTTPS")?,
            tcp: number("SPECIMEN_TCP")?,
            grpc: number("SPECIMEN_GRPC")?,
            listen_after: seconds("SPECIMEN_LISTEN_AFTER")?,
            stop,
            shutdown: seconds("SPECIMEN_SHUTDOWN")?,
        })
    }

    /// Whether every probe is to fail now.
    pub fn failing(&self) -> bool {
        self.told(FAILING)
    }

    /// Whether the program is not to listen at all.
    pub fn deaf(&self) -> bool {
        self.told(DEAF)
    }

    fn told(&self, file: &str) -> bool {
        let own = format!("{file}-{}", self.pod);
        self.folder.as_ref().is_some_and(|folder| folder.join(file).exists() || folder.join(own).exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_and_what_makes_no_sense_is_named() {
        let read = |variables: &[(&str, &str)]| {
            Options::read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into()))
        };
        let options = read(&[("HOSTNAME", "p"), ("SPECIMEN_GRPC", "9000"), ("SPECIMEN_STOP", "WINCH")]).unwrap();
        assert_eq!((options.pod.as_str(), options.grpc, options.http), ("p", Some(9000), None));
        assert_eq!(options.stop, ["WINCH"]);
        assert_eq!(read(&[]).unwrap().stop, ["TERM", "INT"]);
        assert!(read(&[("SPECIMEN_TCP", "x")]).unwrap_err().to_string().contains("SPECIMEN_TCP=\"x\""));
        assert!(read(&[("SPECIMEN_STOP", "KILL")]).unwrap_err().to_string().contains("KILL"));
    }

    #[test]
    fn files_tell_all_pods_or_one() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { folder: Some(folder.path().to_owned()), pod: "p".to_owned(), ..Options::default() };
        assert!(!options.failing() && !options.deaf());
        std::fs::write(folder.path().join("failing-other"), "").unwrap();
        assert!(!options.failing());
        std::fs::write(folder.path().join("failing-p"), "").unwrap();
        std::fs::write(folder.path().join("deaf"), "").unwrap();
        assert!(options.failing() && options.deaf());
    }
}
