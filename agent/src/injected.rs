//! What the agent reads from the record of its injection. The webhook writes the record and keeps all of it; here are only the
//! fields that a running pod needs.

use serde::Deserialize;

/// The part of the record that the agent reads. Unknown fields are the webhook's.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// The id.
    pub id: String,
    /// The wrapped container.
    pub container: String,
    /// L, e.g. `15s`.
    pub lease_duration: Option<String>,
    /// The stop grace, e.g. `4s`.
    pub stop_grace: Option<String>,
}

impl Injected {
    /// Reads a record.
    ///
    /// # Errors
    /// When it is no JSON object with `id` and `container`: somebody edited the pod.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
