//! To whom leadership can be given: a pod that stands by. Pure.

use leader_agent::mode::Mode;
use serde_json::Value;

use crate::cli::status::{Part, Pod};

/// Why leadership of `id` cannot be given to this pod; nothing where it can.
pub(super) fn unfit(pod: Option<&Value>, id: &str, holder: &str) -> Option<String> {
    let Some(object) = pod else { return Some("there is no such pod".to_owned()) };
    let pod = Pod::new(object);
    match pod.id() {
        None => return Some("it takes part in no election".to_owned()),
        Some(other) if other != id => return Some(format!("it takes part in election `{other}`")),
        Some(_) => {}
    }
    if pod.is(holder) {
        return Some("it leads already".to_owned());
    }
    match pod.part() {
        Part::None => Some("it was not injected".to_owned()),
        Part::Ended => Some("it has ended".to_owned()),
        Part::Ending => Some("it is ending".to_owned()),
        Part::Starting => Some("it is starting: its agent does not run yet".to_owned()),
        Part::Candidate if pod.mode() == Mode::Run && !pod.standby().ready => Some(
            "it is not Ready: its agent has not read the Lease yet, or the pod's other containers are not ready"
                .to_owned(),
        ),
        Part::Candidate => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(mode: &str, ready: &str) -> Value {
        let record = json!({ "version": 1, "id": "billing", "container": "app", "mode": mode });
        json!({
            "metadata": { "name": "billing-b", "uid": "u2", "labels": { "leader.io/id": "billing" },
                "annotations": { "leader.io/injected": record.to_string() } },
            "status": {
                "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }],
                "containerStatuses": [{ "name": "app", "state": { "running": {} } }],
            },
        })
    }

    fn why(change: impl FnOnce(&mut Value)) -> Option<String> {
        let mut pod = pod("run", "True");
        change(&mut pod);
        unfit(Some(&pod), "billing", "billing-a_u1_app")
    }

    #[test]
    fn a_standby_is_fit() {
        assert_eq!(why(|_| {}), None);
        // Where the app runs everywhere, Ready is what the app says.
        for mode in ["ready", "observe"] {
            assert_eq!(unfit(Some(&pod(mode, "False")), "billing", "billing-a_u1_app"), None);
        }
    }

    #[test]
    fn whoever_cannot_take_over_is_refused_with_the_reason() {
        assert_eq!(unfit(None, "billing", "").as_deref(), Some("there is no such pod"));
        assert_eq!(
            unfit(Some(&pod("run", "True")), "billing", "billing-b_u2_app").as_deref(),
            Some("it leads already")
        );
        assert_eq!(
            unfit(Some(&pod("run", "True")), "shop", "").as_deref(),
            Some("it takes part in election `billing`")
        );
        for (pointer, value, expected) in [
            ("/metadata/labels", json!({}), "it takes part in no election"),
            ("/metadata/annotations", json!({}), "it was not injected"),
            ("/metadata/deletionTimestamp", json!("2026-11-21T12:00:00Z"), "it is ending"),
            ("/status/phase", json!("Failed"), "it has ended"),
            ("/status/containerStatuses/0/state", json!({ "waiting": {} }), "it is starting"),
            ("/status/conditions/0/status", json!("False"), "it is not Ready"),
        ] {
            let said = why(|pod| match pod.pointer_mut(pointer) {
                Some(place) => *place = value,
                None => pod["metadata"]["deletionTimestamp"] = value,
            });
            assert!(said.as_deref().is_some_and(|said| said.starts_with(expected)), "{pointer}: {said:?}");
        }
    }

    /// A pod of the same name is another one.
    #[test]
    fn the_holders_name_alone_is_not_the_holder() {
        assert_eq!(unfit(Some(&pod("run", "True")), "billing", "billing-b_u9_app"), None);
    }
}
