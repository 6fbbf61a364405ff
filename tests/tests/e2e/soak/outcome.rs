//! What became of a write, and whether what went on at that time explains it.

use std::time::Duration;

use leader_agent::names;
use serde_json::Value;

/// Where the agent is in an injected container's command.
const AGENT: &str = "/leader/agent";
/// What no workload has that was not injected.
const OURS: [&str; 3] = ["leader.io/", names::INIT_CONTAINER, "/leader"];

/// A write of a workload.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) annotated: bool,
    /// Since the beginning of the soak.
    pub(super) began: Duration,
    pub(super) ended: Duration,
    pub(super) outcome: Outcome,
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Stored as it should be.
    Stored,
    /// Stored as it must never be; the text says how.
    Wrong(String),
    /// Not stored, or nobody knows; the text is what the client was told.
    Refused(Cause, String),
}

/// Whom a refusal is due to, as its text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The API server could not ask the webhook.
    NoAnswer,
    /// The webhook said no.
    Webhook,
    /// A policy did: the webhook was not asked.
    Policy,
    /// Anything else: the API server was away, or about to go.
    ApiServer,
}

impl Cause {
    /// Of what kubectl said.
    pub(super) fn of(text: &str) -> Self {
        if text.contains("calling webhook") {
            Self::NoAnswer
        } else if text.contains("ValidatingAdmissionPolicy") {
            Self::Policy
        } else if text.contains("leader.io") && text.contains("denied the request") {
            Self::Webhook
        } else {
            Self::ApiServer
        }
    }
}

/// Judges what is stored of a workload.
pub(super) fn judge(annotated: bool, stored: &Value) -> Outcome {
    let pod = &stored["spec"]["template"]["spec"];
    let has = |list: &Value, found: &dyn Fn(&Value) -> bool| list.as_array().is_some_and(|list| list.iter().any(found));
    if annotated {
        let agent = has(&pod["initContainers"], &|container| container["name"] == names::INIT_CONTAINER);
        let started = has(&pod["containers"], &|container| container["command"][0] == AGENT);
        if stored["metadata"]["annotations"][names::ID].is_string() && agent && started {
            return Outcome::Stored;
        }
        return Outcome::Wrong(format!("annotated and not injected: {stored}"));
    }
    let text = stored.to_string();
    match OURS.iter().find(|ours| text.contains(**ours)) {
        Some(ours) => Outcome::Wrong(format!("not annotated, and has `{ours}`: {stored}")),
        None if pod["containers"][0]["command"][0] != "/app" => {
            Outcome::Wrong(format!("not annotated, and its command is another one: {stored}"))
        }
        None => Outcome::Stored,
    }
}

/// What is done to the webhook and its surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disturbance {
    ReplicaDeleted,
    ReplicaKilled,
    ReplicasLost,
    SecretDeleted,
    ApiServerRestarted,
}

impl Disturbance {
    /// In the order in which they come, again and again.
    pub(super) const ALL: [Self; 5] =
        [Self::ReplicaKilled, Self::SecretDeleted, Self::ApiServerRestarted, Self::ReplicaDeleted, Self::ReplicasLost];

    /// As it stands in the table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::ReplicaDeleted => "a replica deleted, as a drained node does it",
            Self::ReplicaKilled => "a replica killed (SIGKILL)",
            Self::ReplicasLost => "both replicas deleted by force",
            Self::SecretDeleted => "the authority's Secret deleted",
            Self::ApiServerRestarted => "API server killed and started again",
        }
    }

    /// Why writes may be refused meanwhile.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::ReplicaDeleted | Self::SecretDeleted => "no reason: none may be",
            Self::ReplicaKilled => "half of the reviews go to the dead replica until its address is taken away",
            Self::ReplicasLost => "nobody answers reviews until one is back",
            Self::ApiServerRestarted => "nobody answers writes, then the webhook has to find it again",
        }
    }

    /// Whether a write that was refused meanwhile had to be.
    fn explains(self, annotated: bool, cause: Cause) -> bool {
        match self {
            Self::ReplicaDeleted | Self::SecretDeleted => false,
            Self::ReplicaKilled | Self::ReplicasLost => annotated && cause == Cause::NoAnswer,
            Self::ApiServerRestarted => {
                cause == Cause::ApiServer || (annotated && matches!(cause, Cause::NoAnswer | Cause::Webhook))
            }
        }
    }
}

/// The time in which a disturbance can be felt, since the beginning of the soak.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) disturbance: Disturbance,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

impl Window {
    /// Whether a write was under way in it.
    pub(super) fn has(&self, write: &Write) -> bool {
        write.began <= self.until && write.ended >= self.from
    }

    /// Whether it explains how the write ended, which was refused.
    pub(super) fn explains(&self, write: &Write, cause: Cause) -> bool {
        self.has(write) && self.disturbance.explains(write.annotated, cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_are_told_apart() {
        for (text, cause) in [
            ("failed calling webhook \"inject.leader.io\": failed to call webhook: Post ...: EOF", Cause::NoAnswer),
            (
                "deployments.apps \"a\" is forbidden: ValidatingAdmissionPolicy 'leader-injected' with ...",
                Cause::Policy,
            ),
            ("admission webhook \"inject.leader.io\" denied the request: cannot create Lease", Cause::Webhook),
            ("The connection to the server 10.10.0.1:6443 was refused", Cause::ApiServer),
        ] {
            assert_eq!(Cause::of(text), cause, "{text}");
        }
    }

    #[test]
    fn what_is_stored_is_judged() {
        let object = |annotations: Value, pod: Value| json!({"metadata": {"annotations": annotations}, "spec": {"template": {"spec": pod}}});
        let plain = || json!({"containers": [{"command": ["/app"]}]});
        let injected = json!({
            "initContainers": [{"name": names::INIT_CONTAINER}], "containers": [{"command": [AGENT, "run"]}],
        });
        let id = json!({names::ID: "a"});
        let good = [(true, object(id.clone(), injected.clone())), (false, object(json!({}), plain()))];
        for (annotated, stored) in &good {
            assert_eq!(judge(*annotated, stored), Outcome::Stored);
        }
        let half = json!({"initContainers": injected["initContainers"], "containers": plain()["containers"]});
        let other = json!({"containers": [{"command": ["/other"]}]});
        for (annotated, stored) in [
            (true, object(id.clone(), plain())),
            (true, object(id, half)),
            (true, object(json!({}), injected.clone())),
            (false, object(json!({}), injected)),
            (false, object(json!({}), other)),
        ] {
            assert!(matches!(judge(annotated, &stored), Outcome::Wrong(_)), "{stored}");
        }
    }

    #[test]
    fn only_what_happens_at_that_time_and_can_be_felt_explains_a_refusal() {
        let at = Duration::from_secs;
        let write = |annotated, began, ended| {
            let outcome = Outcome::Refused(Cause::NoAnswer, String::new());
            Write { annotated, began: at(began), ended: at(ended), outcome }
        };
        let window = |disturbance| Window { disturbance, from: at(10), until: at(20) };
        let killed = window(Disturbance::ReplicaKilled);
        assert!(killed.explains(&write(true, 8, 11), Cause::NoAnswer));
        assert!(killed.explains(&write(true, 20, 22), Cause::NoAnswer));
        assert!(!killed.explains(&write(true, 21, 22), Cause::NoAnswer));
        assert!(!killed.explains(&write(true, 12, 13), Cause::Policy));
        assert!(!killed.explains(&write(false, 12, 13), Cause::NoAnswer));
        assert!(!window(Disturbance::SecretDeleted).explains(&write(true, 12, 13), Cause::NoAnswer));
        let away = window(Disturbance::ApiServerRestarted);
        assert!(away.explains(&write(false, 12, 13), Cause::ApiServer));
        assert!(!away.explains(&write(false, 12, 13), Cause::NoAnswer));
        assert!(away.explains(&write(true, 12, 13), Cause::Webhook));
    }
}
