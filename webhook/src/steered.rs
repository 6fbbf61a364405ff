//! What a person asked of an election last: the annotation `leader.io/steered`, which `kubectl leader` writes with each of its requests,
//! and which the controller tells as an Event.

use serde::{Deserialize, Serialize};

/// How much of a text is kept: people write reasons, not novels.
const LONGEST: usize = 200;

/// What was asked for, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steered {
    /// The user, as the API server calls whoever asked.
    pub by: String,
    /// What was asked for: `step-down of billing-1`.
    pub what: String,
    /// When, by the API server's clock: RFC 3339.
    pub at: String,
}

impl Steered {
    /// What is written, shortened where it is long.
    pub fn new(by: &str, what: &str, at: String) -> Self {
        let short = |text: &str| text.chars().take(LONGEST).collect();
        Self { by: short(by), what: short(what), at }
    }

    /// Reads the annotation's value; `None` when somebody else wrote it.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The annotation's value.
    pub fn to_annotation(&self) -> String {
        // Three texts, which cannot fail to serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let steered = Steered::new("alice", "step-down of billing-1", "2026-11-21T12:00:00Z".to_owned());
        let text = r#"{"by":"alice","what":"step-down of billing-1","at":"2026-11-21T12:00:00Z"}"#;
        assert_eq!(steered.to_annotation(), text);
        assert_eq!(Steered::parse(text), Some(steered));
        assert_eq!(Steered::parse("alice"), None);
        assert_eq!(Steered::new(&"x".repeat(1000), "", String::new()).by.len(), LONGEST);
    }
}
