//! The id of an election: a DNS label that names the Lease and every object around it.

use std::{fmt, str::FromStr};

/// The longest DNS label, in bytes (RFC 1123, section 2.1).
pub const MAX_LENGTH: usize = 63;

/// An id: a DNS label as Kubernetes checks it (lower-case letters, digits and `-`, a letter or digit at both ends).
///
/// ```
/// use leader_agent::id::LeaderId;
/// assert_eq!("billing".parse::<LeaderId>().unwrap().as_str(), "billing");
/// assert!("Billing".parse::<LeaderId>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaderId(String);

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("the id is empty: give a name such as `billing`")]
    Empty,
    /// Longer than [`MAX_LENGTH`].
    #[error("the id `{value}` has {length} characters: at most {MAX_LENGTH} are allowed")]
    TooLong {
        /// The text, cut where it would fill the screen.
        value: String,
        /// Its length in characters.
        length: usize,
    },
    /// Not a DNS label.
    #[error(
        "the id {value:?} is not a DNS label: use lower-case letters, digits and `-`, with a letter or digit at both ends, e.g. `billing`"
    )]
    NotALabel {
        /// The text.
        value: String,
    },
}

impl LeaderId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeaderId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return Err(IdError::Empty) };
        if bytes.len() > MAX_LENGTH {
            let value = text.chars().take(MAX_LENGTH).collect::<String>() + "...";
            return Err(IdError::TooLong { value, length: text.chars().count() });
        }
        if edge(first) && edge(last) && bytes.iter().all(|&byte| edge(byte) || byte == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::NotALabel { value: text.to_owned() })
        }
    }
}

impl fmt::Display for LeaderId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
