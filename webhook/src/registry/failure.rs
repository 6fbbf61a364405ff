//! Why an image's entry point is not known, each in one clause for the person who reads the refusal.
//!
//! What a registry answered is never repeated: whoever may write an image reference would read answers of servers that only the
//! webhook can reach.

use std::{fmt, time::Duration};

use http::StatusCode;

/// Why a look-up gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The reference is not one.
    #[error("the reference {reference:?} cannot be read: {reason}")]
    Reference {
        /// The reference as it stands in the container.
        reference: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No connection, for a reason below TLS.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port of the server.
        host: String,
        /// What the system says.
        reason: String,
    },
    /// A connection, but no TLS on it.
    #[error("{host} cannot be reached over TLS: {reason}")]
    Tls {
        /// Host and port of the server.
        host: String,
        /// What is wrong, and which flag may help.
        reason: String,
    },
    /// The connection ended or was not HTTP.
    #[error("the connection to {host} broke: {reason}")]
    Broken {
        /// Host and port of the server.
        host: String,
        /// What the HTTP client says.
        reason: String,
    },
    /// The time was over.
    #[error("{host} did not answer within {limit:?}")]
    Slow {
        /// Host and port of the server.
        host: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// 401 or 403.
    #[error("{host} denies access to {repository} ({status}; tried {tried})")]
    Denied {
        /// Host and port of the server.
        host: String,
        /// The repository's name.
        repository: String,
        /// The status.
        status: StatusCode,
        /// The credentials that were tried, by where they come from.
        tried: Tried,
    },
    /// 404.
    #[error("{host} has no {what} ({status}; tried {tried})")]
    Missing {
        /// Host and port of the server.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
        /// The credentials that were tried, by where they come from.
        tried: Tried,
    },
    /// 429.
    #[error("{host} had too many requests ({status}; tried {tried}){}", .wait.as_ref().map(|wait| format!(" and asks to wait: {wait}")).unwrap_or_default())]
    Limited {
        /// Host and port of the server.
        host: String,
        /// The status.
        status: StatusCode,
        /// When to come back, as the server says it.
        wait: Option<String>,
        /// The credentials that were tried, by where they come from.
        tried: Tried,
    },
    /// Another status than was hoped for.
    #[error("{host} answered {status} when asked for {what}")]
    Status {
        /// Host and port of the server.
        host: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: StatusCode,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects {reason}")]
    Redirect {
        /// Host and port of the server.
        host: String,
        /// Where to.
        reason: &'static str,
    },
    /// The server asks for a way of authentication that is not spoken here.
    #[error("{host} asks for an authentication that is not understood: {reason}")]
    Authentication {
        /// Host and port of the server.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A body that would fill the memory.
    #[error("{host} gave a {what} of more than {limit} bytes")]
    TooLong {
        /// Host and port of the server.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// The longest that is read.
        limit: usize,
    },
    /// A body that is not what it should be.
    #[error("{host} gave a {what} that cannot be read: {reason}")]
    Garbage {
        /// Host and port of the server.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// Where it goes wrong; nothing of the body itself.
        reason: String,
    },
    /// A body of a kind that is not an image.
    #[error("{host} gave a {what} of the type {media}, which is not that of a container image")]
    MediaType {
        /// Host and port of the server.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// Its media type.
        media: String,
    },
    /// A body that is not the one that was asked for.
    #[error("{host} gave a {what} with the digest {found} instead of {expected}")]
    Digest {
        /// Host and port of the server.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// The digest by which it was asked for.
        expected: String,
        /// The digest that it has.
        found: String,
    },
    /// The image cannot run where the pods will.
    #[error("it has no variant for {wanted}, only for {found}")]
    Platform {
        /// What the cluster's nodes are.
        wanted: String,
        /// What the image has.
        found: String,
    },
    /// The image has several entry points.
    #[error("its variants for {one} and {other} differ in ENTRYPOINT, CMD or STOPSIGNAL")]
    Disagreement {
        /// A platform.
        one: String,
        /// A platform whose variant differs.
        other: String,
    },
    /// The look-up itself ended.
    #[error("the look-up of {host} ended early; please report this")]
    Ended {
        /// Host and port of the server.
        host: String,
    },
}

/// The credentials that were tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(pub Vec<String>);

impl fmt::Display for Tried {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("without credentials");
        }
        write!(formatter, "{}, and without credentials", self.0.join(", "))
    }
}

impl Failure {
    /// Whether other credentials may do better: the server answered, and said no.
    pub(super) fn is_of_the_credentials(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. }
                | Self::Missing { .. }
                | Self::Limited { .. }
                | Self::Status { .. }
                | Self::Authentication { .. }
        )
    }

    /// The same after all of `tried`.
    pub(super) fn after(mut self, all: Tried) -> Self {
        match &mut self {
            Self::Denied { tried, .. } | Self::Missing { tried, .. } | Self::Limited { tried, .. } => *tried = all,
            _ => (),
        }
        self
    }

    /// How many bytes it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        self.to_string().len()
    }
}

/// A text of a server's as it may stand in a message: short, and without control characters.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String =
        text.chars().take(LONGEST).map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('\u{2026}');
    }
    shown
}

/// Where JSON goes wrong. The parser's own words quote the text.
pub(super) fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a field is missing or of another type",
        serde_json::error::Category::Eof => "it ends too early",
        _ => "it is not JSON",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_body_is_shown() {
        let error = serde_json::from_str::<Vec<u8>>("[\"secret\"]").unwrap_err();
        assert_eq!(place(&error), "a field is missing or of another type, at line 1 column 9");
        assert!(place(&serde_json::from_str::<Vec<u8>>("secret").unwrap_err()).starts_with("it is not JSON"));
        assert_eq!(shown("a\nb"), "a?b");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 101);
    }

    #[test]
    fn who_was_tried() {
        assert_eq!(Tried::default().to_string(), "without credentials");
        let tried = Tried(vec!["secret a".to_owned(), "secret b".to_owned()]);
        assert_eq!(tried.to_string(), "secret a, secret b, and without credentials");
    }
}
