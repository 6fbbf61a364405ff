//! What the page is shown. Times are milliseconds of the epoch, as a browser counts them.

use serde::Serialize;

use super::line::Span;
use crate::cli::status::CLOCKS;

/// An election at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Election {
    pub(super) namespace: String,
    pub(super) id: String,
    /// What takes part, as `Deployment/billing`.
    pub(super) workloads: Vec<String>,
    /// Whom the Lease names.
    pub(super) leader: Option<Pod>,
    /// When the term began.
    pub(super) since: Option<i64>,
    /// When the Lease was renewed last, or released.
    pub(super) renewed: Option<i64>,
    /// How long the Lease lasts without a renewal, in milliseconds.
    pub(super) lasts: Option<i64>,
    pub(super) transitions: i64,
    pub(super) standbys: Vec<Pod>,
    /// Pods that cannot lead yet, or not any more.
    pub(super) others: Vec<Pod>,
    /// `run`, `observe` or `ready`.
    pub(super) mode: String,
    /// What `leader.io/hold` says, where it keeps everyone from leading.
    pub(super) hold: Option<String>,
    /// Of which workloads pods without the agent are waited for.
    pub(super) turning_on: Vec<String>,
    /// What somebody should look at.
    pub(super) trouble: Vec<String>,
}

impl Election {
    /// Whether the leader should have renewed the Lease before `now`, which is of another clock than its word of the last renewal.
    pub(super) fn has_run_out(&self, now: i64) -> bool {
        let slack = i64::try_from(CLOCKS.as_millis()).unwrap_or(i64::MAX);
        let (Some(renewed), Some(lasts)) = (self.renewed, self.lasts) else { return false };
        now.saturating_sub(renewed) > lasts.saturating_add(slack)
    }
}

/// The elections at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) elections: Vec<Election>,
    /// When, by the API server's clock: that of this machine may be wrong.
    pub(super) now: i64,
}

/// A pod that takes part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) node: Option<String>,
    pub(super) ready: bool,
}

/// Something that was told about an election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Happening {
    pub(super) at: i64,
    pub(super) reason: String,
    pub(super) note: String,
    pub(super) warning: bool,
}

/// The beginning of a term, as an Event tells it; or the end of one, after which nobody led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) namespace: String,
    pub(super) id: String,
    pub(super) at: i64,
    pub(super) leader: Option<String>,
}

/// An election with what is known of its past.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    pub(super) election: Election,
    /// Whether its leader has not renewed the Lease for longer than that lasts.
    pub(super) overdue: bool,
    pub(super) line: Vec<Span>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct View {
    /// When it was read, by the API server's clock.
    pub(super) now: i64,
    pub(super) elections: Vec<Shown>,
}
