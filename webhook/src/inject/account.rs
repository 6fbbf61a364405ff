//! The service account: whose the pods use.

use serde_json::Value;

use super::{
    Account, Facts,
    json::text,
    options::Options,
    record::{AccountMode, Record, dedicated_name},
};

/// The account under which a pod runs that names none, and which the API server fills in at a pod's creation.
pub(super) const DEFAULT: &str = "default";

/// The account that the specification of a pod names.
pub(super) fn account_of(spec: &Value) -> Option<&str> {
    ["serviceAccountName", "serviceAccount"].into_iter().find_map(|key| text(spec, key))
}

/// The account that a user named. In a pod, `default` is what the API server filled in where nobody had named one.
fn named(spec: &Value, in_pods: bool) -> Option<&str> {
    account_of(spec).filter(|&name| !in_pods || name != DEFAULT)
}

/// Whose account the pods shall use. `spec` is what the user wrote; `in_pods` says that pods are injected one by one.
pub(super) fn mode(
    options: &Options,
    spec: &Value,
    in_pods: bool,
    previous: Option<&Record>,
    facts: &Facts,
) -> AccountMode {
    let by_default = || match previous {
        // Decided once for an id: a binding of `default` that was made later starts no other account.
        Some(record) if record.id == options.id.as_str() && record.decided_account() => record.service_account,
        _ if facts.default_account_in_use => AccountMode::Keep,
        _ => AccountMode::Dedicated,
    };
    match (options.account, named(spec, in_pods)) {
        (Some(asked), _) => asked,
        (None, Some(_)) => AccountMode::Keep,
        (None, None) => by_default(),
    }
}

impl Account {
    /// The account of an election in this mode.
    pub(super) fn of(mode: AccountMode, id: &str, spec: &Value) -> Self {
        match mode {
            AccountMode::Dedicated => Self::Dedicated(dedicated_name(id)),
            AccountMode::Keep => Self::Keep(account_of(spec).unwrap_or(DEFAULT).to_owned()),
        }
    }
}
