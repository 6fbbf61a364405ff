//! Whether the API server would accept the certificate that is shown.

use jiff::Timestamp;

/// The verdict, by the API server's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes, while the certificate is valid.
    Trusted {
        /// The first moment of the certificate.
        from: Timestamp,
        /// The last moment of the certificate.
        until: Timestamp,
    },
    /// Not yet, or no longer, for the reason given.
    Untrusted(String),
}

impl State {
    /// Whether reviews can be served, or why not. No clock is asked: whoever tells the state tells it again when a certificate ends.
    pub fn ready(&self) -> Result<(), String> {
        match self {
            Self::Trusted { .. } => Ok(()),
            Self::Untrusted(reason) => Err(reason.clone()),
        }
    }
}
