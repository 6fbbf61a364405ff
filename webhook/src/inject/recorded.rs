//! What others than injection read of a record.

use std::time::Duration;

use leader_agent::{id::LeaderId, names, timing::parse_duration};
use serde::Deserialize;
use serde_json::Value;

use super::{
    keep::is_intact,
    record::{AccountMode, Record, dedicated_name},
    root::Root,
};

/// The part of a record (the annotation `leader.io/injected`) that tells who elects, as whom and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The id.
    pub id: LeaderId,
    /// The pods use the account that is made for the id.
    pub is_dedicated: bool,
    /// L.
    pub lease_duration: Option<Duration>,
    /// The image of the agent.
    pub agent_image: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    id: String,
    service_account: Option<AccountMode>,
    lease_duration: Option<String>,
    agent_image: Option<String>,
}

impl Recorded {
    /// Reads an annotation's value; `None` when it is not a record.
    pub fn parse(text: &str) -> Option<Self> {
        let fields: Fields = serde_json::from_str(text).ok()?;
        Some(Self {
            id: fields.id.parse().ok()?,
            is_dedicated: fields.service_account == Some(AccountMode::Dedicated),
            lease_duration: fields.lease_duration.and_then(|text| parse_duration(&text).ok()),
            agent_image: fields.agent_image,
        })
    }

    /// Whether an earlier injection of this workload for its id has decided whose account its pods use, which then stays so
    /// ([`super::Facts::default_account_in_use`] does not count any more).
    pub fn decides_account(workload: &Value) -> bool {
        let Some(root @ Root::Template) = Root::of(workload) else { return false };
        let template = root.of_object(workload);
        let id = |object: &Value| object["metadata"]["annotations"][names::ID].as_str().map(str::to_owned);
        let (Some(asked), None) = (id(workload), id(template)) else { return false };
        let record = Record::of(template).ok().flatten();
        record.is_some_and(|record| record.id == asked && record.decided_account() && is_intact(template, &record))
    }

    /// The name of the account that is made for the id.
    pub fn dedicated_account(&self) -> String {
        dedicated_name(self.id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inject::{Decision, Defaults, Facts, workload};

    /// What is decided whether or not `default` is in use.
    fn accounts(object: &Value) -> [String; 2] {
        let defaults = Defaults { agent_image: "agent:1".to_owned(), agent_pull_secret: None };
        [false, true].map(|default_account_in_use| {
            let facts = Facts { default_account_in_use, ..Facts::default() };
            match workload(object, None, &defaults, &facts).unwrap() {
                Decision::Done(outcome) => outcome.election.unwrap().account.name().to_owned(),
                Decision::NeedsImage(request) => panic!("{request:?}"),
            }
        })
    }

    #[test]
    fn whose_account_is_decided_once() {
        let plain = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "billing", "namespace": "shop", "annotations": { "leader.io/id": "billing" } },
            "spec": {
                "selector": { "matchLabels": { "app": "billing" } },
                "template": {
                    "metadata": { "labels": { "app": "billing" } },
                    "spec": { "containers": [{ "name": "app", "image": "billing:1", "command": ["/billing"],
                        "lifecycle": { "stopSignal": "SIGTERM" } }] },
                },
            },
        });
        let defaults = Defaults { agent_image: "agent:1".to_owned(), agent_pull_secret: None };
        let Ok(Decision::Done(outcome)) = workload(&plain, None, &defaults, &Facts::default()) else {
            panic!("not injected")
        };
        let injected = outcome.object;
        let with = |pointer: &str, value: Value| {
            let mut object = injected.clone();
            *object.pointer_mut(pointer).unwrap() = value;
            object
        };
        // As the rollout of what is injected arrives.
        let restarted =
            with("/spec/template/metadata/labels", json!({ "app": "billing", "leader.io/id": "billing", "new": "1" }));
        for decided in [&injected, &restarted] {
            assert!(Recorded::decides_account(decided));
            assert_eq!(accounts(decided), ["leader-billing"; 2]);
        }
        // Plain again, for another id, and not as its record says: `default` counts, or may.
        let other = with("/metadata/annotations/leader.io~1id", json!("other"));
        let unwrapped = with("/spec/template/spec/containers/0/command", json!(["/billing"]));
        for open in [&plain, &other, &unwrapped, &json!({ "kind": "Pod" })] {
            assert!(!Recorded::decides_account(open), "{open}");
        }
        assert_eq!(accounts(&plain), ["leader-billing", "default"]);
    }

    #[test]
    fn what_is_read_of_a_record() {
        let text =
            r#"{"version":1,"id":"billing","serviceAccount":"dedicated","leaseDuration":"1m","agentImage":"agent:1"}"#;
        let read = Recorded::parse(text).unwrap();
        assert_eq!((read.id.as_str(), read.is_dedicated), ("billing", true));
        assert_eq!((read.lease_duration, read.agent_image.as_deref()), (Some(Duration::from_mins(1)), Some("agent:1")));
        assert_eq!(read.dedicated_account(), "leader-billing");
        assert!(!Recorded::parse(r#"{"id":"billing","serviceAccount":"keep"}"#).unwrap().is_dedicated);
        for text in ["", "{", "[]", r#"{"id":"Not_A_Label"}"#, r#"{"id":7}"#] {
            assert_eq!(Recorded::parse(text), None, "{text}");
        }
    }
}
