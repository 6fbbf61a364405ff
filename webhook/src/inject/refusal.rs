//! Why a workload is refused: what is wrong, where it stands, what to do.

/// Why a workload is refused. The text is what a person reads in kubectl.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The id is not one.
    #[error("annotation leader.io/id: {0}")]
    Id(#[from] leader_agent::id::IdError),
}
