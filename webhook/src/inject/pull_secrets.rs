//! Pull secrets: what the agent's image needs, where it is private.
//!
//! The pods of a dedicated account get the secret from that ([`crate::access`]), as long as they name none themselves: the API server
//! takes those of the account only then. Everywhere else it is put into the list; and because a list puts those of the account aside,
//! they are put there too.

use serde_json::{Map, Value, json};

use super::{
    Defaults, Facts, Refusal,
    json::{items, open_list, take_out, text},
    record::{AccountMode, Record},
    root::Root,
};

/// The field of a pod's specification.
const FIELD: &str = "imagePullSecrets";

/// The names that are put into the list of pods with this specification, in order.
pub(super) fn wanted(
    spec: &Value,
    root: Root,
    account: AccountMode,
    defaults: &Defaults,
    facts: &Facts,
) -> Result<Vec<String>, Refusal> {
    let Some(secret) = &defaults.agent_pull_secret else { return Ok(Vec::new()) };
    if facts.lacks_agent_pull_secret {
        return Err(Refusal::NoPullSecret { secret: secret.clone(), image: defaults.agent_image.clone() });
    }
    let named: Vec<&str> = items(spec, FIELD).iter().filter_map(|item| text(item, "name")).collect();
    if named.contains(&secret.as_str()) {
        return Ok(Vec::new());
    }
    if !named.is_empty() {
        return Ok(vec![secret.clone()]);
    }
    if account == AccountMode::Dedicated && root != Root::Pod {
        return Ok(Vec::new());
    }
    let mut wanted = facts.account_pull_secrets.clone();
    if !wanted.contains(secret) {
        wanted.push(secret.clone());
    }
    Ok(wanted)
}

/// Puts them there.
pub(super) fn add(spec: &mut Map<String, Value>, names: &[String], notes: &mut Map<String, Value>) {
    if !names.is_empty() {
        open_list(spec, FIELD, notes).extend(names.iter().map(|name| json!({ "name": name })));
    }
}

/// Takes out what injection put there.
pub(super) fn remove(spec: &mut Map<String, Value>, record: Option<&Record>, notes: &Map<String, Value>) {
    let Some(record) = record.filter(|record| !record.pull_secrets.is_empty()) else { return };
    take_out(spec, FIELD, notes, |item| record.pull_secrets.iter().any(|name| item["name"] == name.as_str()));
}

/// Whether all that injection put there is there.
pub(super) fn are_there(spec: &Value, record: &Record) -> bool {
    let has = |name: &String| items(spec, FIELD).iter().any(|item| item["name"] == name.as_str());
    record.pull_secrets.iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_of(spec: &Value, root: Root, account: AccountMode, facts: &Facts) -> Result<Vec<String>, Refusal> {
        let defaults = Defaults { agent_image: "agent:1".to_owned(), agent_pull_secret: Some("agent".to_owned()) };
        wanted(spec, root, account, &defaults, facts)
    }

    #[test]
    fn where_the_secret_is_put() {
        let facts = Facts { account_pull_secrets: vec!["registry".to_owned()], ..Facts::default() };
        let of = |spec: &Value, root, account| wanted_of(spec, root, account, &facts).unwrap();
        let (none, own) = (json!({}), json!({ "imagePullSecrets": [{ "name": "own" }] }));
        for (root, account) in [(Root::Template, AccountMode::Keep), (Root::Pod, AccountMode::Dedicated)] {
            assert_eq!(of(&none, root, account), ["registry", "agent"]);
            assert_eq!(of(&own, root, account), ["agent"]);
        }
        assert!(of(&none, Root::Template, AccountMode::Dedicated).is_empty(), "the account has it");
        assert_eq!(of(&own, Root::Template, AccountMode::Dedicated), ["agent"]);
        assert!(of(&json!({ "imagePullSecrets": [{ "name": "agent" }] }), Root::Pod, AccountMode::Keep).is_empty());
    }

    #[test]
    fn a_namespace_without_it_is_refused() {
        let facts = Facts { lacks_agent_pull_secret: true, ..Facts::default() };
        let refusal = wanted_of(&json!({}), Root::Template, AccountMode::Dedicated, &facts).unwrap_err().to_string();
        for part in ["agent:1", "secret `agent`", "kubectl create secret docker-registry agent"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let public = Defaults { agent_image: "agent:1".to_owned(), agent_pull_secret: None };
        assert_eq!(wanted(&json!({}), Root::Pod, AccountMode::Keep, &public, &facts), Ok(Vec::new()));
    }
}
