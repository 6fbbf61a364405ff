//! Names as Kubernetes takes them, where a text becomes one: in the path of a request, or for a script.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use crate::access::is_dns_subdomain;

/// So much of a text that is no name is quoted: as long as the longest name.
const LONGEST: usize = 253;

/// The name of a pod, as somebody typed it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct PodName(String);

/// A text that no pod can be called.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a pod: lower-case letters, digits, `-` and `.`, with a letter or digit at both ends")]
pub(super) struct NoName(String);

impl PodName {
    /// The name.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodName {
    type Err = NoName;

    /// Also as `kubectl leader status -o name` prints it.
    fn from_str(text: &str) -> Result<Self, NoName> {
        let name = text.strip_prefix("pod/").unwrap_or(text);
        is_dns_subdomain(name)
            .then(|| Self(name.to_owned()))
            .ok_or_else(|| NoName(text.chars().take(LONGEST).collect()))
    }
}

impl TryFrom<String> for PodName {
    type Error = NoName;

    fn try_from(text: String) -> Result<Self, NoName> {
        text.parse()
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_name_gets_into_a_path() {
        for text in ["billing-5d9f-a", "pod/billing-0", "a.b-c.d", "0", &"a".repeat(LONGEST)] {
            let name: PodName = text.parse().unwrap();
            assert_eq!(name.as_str(), text.trim_start_matches("pod/"));
        }
        for text in [
            "",
            "pod/",
            "a/../b",
            "a?x=1",
            "a%2fb",
            "pod/pod/a",
            "Billing",
            "a_u1_app",
            "-a",
            "a-",
            "a..b",
            ".",
            "..",
            "a\n",
            "gr\u{fc}n",
            &"a".repeat(LONGEST + 1),
        ] {
            assert!(text.parse::<PodName>().is_err(), "{text}");
        }
        assert_eq!("\u{1b}[2J".parse::<PodName>().unwrap_err().to_string().matches('\u{1b}').count(), 0);
    }
}
