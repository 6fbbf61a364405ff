//! Where pods run, and which variants of an image that picks.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::Deserialize;

use super::failure::shown;

/// An operating system and an architecture, in Go's words, as nodes and indexes write them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`.
    #[serde(default)]
    pub architecture: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", shown(&self.os), shown(&self.architecture))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_alphanumeric());
        match text.split_once('/') {
            Some((os, architecture)) if is_word(os) && is_word(architecture) => {
                Ok(Self { os: os.to_owned(), architecture: architecture.to_owned() })
            }
            _ => Err("expected OS/ARCHITECTURE, e.g. linux/arm64".to_owned()),
        }
    }
}

/// The platforms that an image is looked up for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Platforms {
    /// All of Linux that the image has: it is not known where the pods will run.
    Linux,
    /// These, as far as the image has them.
    These(BTreeSet<Platform>),
}

impl Platforms {
    pub(super) fn contain(&self, platform: &Platform) -> bool {
        match self {
            Self::Linux => platform.os == "linux",
            Self::These(platforms) => platforms.contains(platform),
        }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux => formatter.write_str("linux"),
            Self::These(platforms) => list(platforms).fmt(formatter),
        }
    }
}

/// Platforms in a sentence.
pub(super) fn list<'a>(platforms: impl IntoIterator<Item = &'a Platform>) -> String {
    let all: BTreeSet<String> = platforms.into_iter().map(ToString::to_string).collect();
    if all.is_empty() { "none that is named".to_owned() } else { Vec::from_iter(all).join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_one_is_written() {
        let platform: Platform = "linux/arm64".parse().unwrap();
        assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("linux", "arm64"));
        assert_eq!(platform.to_string(), "linux/arm64");
        for text in ["", "linux", "/", "linux/", "/arm64", "linux/arm/v7", "linux/ arm64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
