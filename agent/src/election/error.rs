//! Why an election did not begin, or how it was lost.

use std::io;

use crate::{elector::Loss, id::IdError, lease::credentials::CredentialsError, timing::TimingError};

/// Why an election did not begin, or was lost by force.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The Lease's name is none.
    #[error("the Lease's name: {0}")]
    Name(#[from] IdError),
    /// The namespace is none.
    #[error("the namespace {0:?} is not a DNS label: use the name of a namespace, e.g. `default`")]
    Namespace(String),
    /// There is no identity.
    #[error(
        "no identity: set POD_NAME (through the downward API, in a pod), or give a name that is unique to this process"
    )]
    NoIdentity,
    /// The durations do not fit.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// The API server cannot be asked.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The health port cannot be listened on.
    #[error("cannot listen on health port {port}: {source}")]
    HealthPort {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The timer that kills could not be made, or does not hold what was asked for; nothing runs.
    #[error(
        "cannot use a timer on CLOCK_BOOTTIME: {0}. EAGAIN means that this user's limit of pending signals (ulimit -i) is used up"
    )]
    Timer(#[source] io::Error),
    /// No thread or runtime could be made.
    #[error("cannot start the election's thread: {0}")]
    Thread(#[source] io::Error),
    /// Leadership was lost without a stop in time. The future is gone. Whoever goes on begins with a new election.
    #[error("leadership was lost: {0}")]
    Lost(Loss),
    /// The election's thread panicked; the future is gone, and the Lease is left to run out.
    #[error("the election's thread panicked: its message is on stderr. The Lease was not released")]
    Panicked,
}
