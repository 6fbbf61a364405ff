//! What is said of a pod: whose it is, whether it takes part in an election, and whether its containers have surely ended.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;

use super::{Kind, Set, Workload};
use crate::inject::{self, Wanted};

/// The exit code that containerd gives a container of which it does not know how it ended (`UnknownExitStatus`).
const LOST: i32 = 255;
/// Reasons that the kubelet and containerd write for containers that they cannot find.
const LOST_REASONS: [&str; 2] = ["ContainerStatusUnknown", "Unknown"];
/// The reason of the condition `DisruptionTarget` that the collector of pods sets together with a phase: no kubelet has said it.
const COLLECTED: &str = "DeletionByPodGC";
/// The reason that a node's controller writes for pods of a node that it does not hear of.
const NODE_LOST: &str = "NodeLost";

/// What controls a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What controls a pod; `None` for one that nobody controls.
pub fn owner(pod: &Pod) -> Option<Owner> {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    Some(Owner { kind: controller.kind.clone(), name: controller.name.clone(), uid: controller.uid.clone() })
}

/// Whether a pod with this controller, and with the labels that `workload` selects, belongs to the workload. `sets` are the
/// `ReplicaSet`s with those labels, or the Jobs of the namespace, as far as they are known.
///
/// What cannot be told belongs to it, and a pod that nobody controls does: `kubectl delete --cascade=orphan` leaves such pods, and
/// whoever has these labels will control them.
pub fn belongs(owner: Option<&Owner>, workload: &Workload, sets: &[Set]) -> bool {
    let Some(owner) = owner else { return workload.kind != Kind::CronJob };
    match workload.kind {
        Kind::Deployment => {
            let set = sets.iter().find(|set| set.uid == owner.uid);
            let deployment = set.and_then(|set| set.deployment.as_deref());
            owner.kind == Kind::ReplicaSet.name() && deployment.is_none_or(|name| name == workload.name)
        }
        // A Job that a person makes of it has any name.
        Kind::CronJob => {
            let set = sets.iter().find(|set| set.uid == owner.uid);
            owner.kind == "Job" && set.is_none_or(|set| set.deployment.as_deref() == Some(&workload.name))
        }
        kind => owner.kind == kind.name() && owner.name == workload.name,
    }
}

/// What a pod of a workload means to an election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Its agent takes part: it runs the app only while it leads.
    Elected,
    /// It runs the app without the agent, or under another id, or with the agent before another container; or may yet.
    #[default]
    Waited,
    /// It did, and every container has ended and will not start again.
    Ended,
}

/// Judges a pod of a workload by its newest state.
pub fn verdict(pod: &Pod, wanted: &Wanted) -> Verdict {
    if inject::pod_is_elected(pod, wanted) {
        Verdict::Elected
    } else if has_ended(pod) {
        Verdict::Ended
    } else {
        Verdict::Waited
    }
}

/// Whether the kubelet has reported that every container of the pod has ended and that none starts again. Once true, it stays so: a
/// former state of the pod proves it as well as the newest.
///
/// It takes both. A container that has ended may be started again by a kubelet that has not heard of the pod's deletion yet; and a
/// phase, a deletion, or what a container's last state says prove nothing of containers that were merely lost.
pub fn has_ended(pod: &Pod) -> bool {
    let (Some(status), Some(spec)) = (&pod.status, &pod.spec) else { return false };
    let is_terminal = is_terminal(status) && !is_collected(status);
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    if statuses.is_empty() {
        return is_terminal && is_rejected(status);
    }
    let has_ended = |status: &ContainerStatus| proves_end(status) || never_started(status);
    is_terminal
        && is_said_by_the_kubelet(status)
        && spec
            .containers
            .iter()
            .all(|container| statuses.iter().find(|status| status.name == container.name).is_some_and(has_ended))
}

/// Whether the pod is called terminal, and yet nothing proves that its containers have ended: nobody will report it any more.
pub(super) fn is_lost(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(is_terminal) && !has_ended(pod)
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Whether it is the kubelet that calls the pod terminal. It does so once no container of it can run any more (`mergePodStatus` in
/// k8s.io/kubernetes, `pkg/kubelet/status/status_manager.go`), also where the pod is deleted, before it lets it go (Kubernetes 1.27), and
/// gives this as the reason why containers are not ready (`GenerateContainersReadyCondition` in `pkg/kubelet/status/generate.go`). The
/// collector of pods writes the phase alone, for nodes that are out of service without any condition of its own (`gcTerminating` in
/// `pkg/controller/podgc/gc_controller.go`).
fn is_said_by_the_kubelet(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "ContainersReady"
            && condition.status == "False"
            && matches!(condition.reason.as_deref(), Some("PodCompleted" | "PodFailed"))
    })
}

/// Whether the kubelet did not take the pod at all: it says why, and there is nothing of its containers.
fn is_rejected(status: &PodStatus) -> bool {
    let reason = status.reason.as_deref().unwrap_or_default();
    let nothing = status.init_container_statuses.as_deref().unwrap_or_default().is_empty();
    nothing && status.phase.as_deref() == Some("Failed") && !reason.is_empty() && reason != NODE_LOST
}

fn is_collected(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "DisruptionTarget" && condition.reason.as_deref() == Some(COLLECTED))
}

fn proves_end(status: &ContainerStatus) -> bool {
    terminated(status.state.as_ref()).is_some_and(|ended| lost(ended).is_none())
}

/// Why the end that is told of a container proves none: it may merely have been lost. `None` where it proves it.
pub fn lost(ended: &ContainerStateTerminated) -> Option<String> {
    let reason = ended.reason.as_deref().unwrap_or_default();
    if ended.container_id.as_deref().is_none_or(str::is_empty) {
        Some("it says of no container that it has ended".to_owned())
    } else if ended.finished_at.is_none() {
        Some("it does not say when".to_owned())
    } else if LOST_REASONS.contains(&reason) {
        Some(format!("the reason is {reason}"))
    } else {
        (ended.exit_code == LOST).then(|| format!("the exit code is {LOST}"))
    }
}

/// Whether there is no trace of a start: no container, none before it, none that ran.
fn never_started(status: &ContainerStatus) -> bool {
    let is_empty = |id: &Option<String>| id.as_deref().is_none_or(str::is_empty);
    let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
    is_empty(&status.container_id)
        && terminated(status.state.as_ref())
            .is_none_or(|ended| is_empty(&ended.container_id) && ended.started_at.is_none())
        && status.last_state.as_ref().is_none_or(|last| *last == ContainerState::default())
        && status.restart_count == 0
        && status.started != Some(true)
        && !runs
}

fn terminated(state: Option<&ContainerState>) -> Option<&ContainerStateTerminated> {
    state.and_then(|state| state.terminated.as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(uid: &str, deployment: Option<&str>) -> Set {
        Set {
            name: format!("set-{uid}"),
            uid: uid.to_owned(),
            deployment: deployment.map(str::to_owned),
            ..Set::default()
        }
    }

    fn owned(kind: &str, name: &str, uid: &str) -> Owner {
        Owner { kind: kind.to_owned(), name: name.to_owned(), uid: uid.to_owned() }
    }

    #[test]
    fn whose_a_pod_is() {
        let of = |kind: Kind| Workload { kind, name: "billing".to_owned() };
        let sets = [set("u1", Some("billing")), set("u2", Some("reports")), set("u3", None)];
        let deployment = of(Kind::Deployment);
        for (owner, expected) in [
            (owned("ReplicaSet", "billing-5d", "u1"), true),
            (owned("ReplicaSet", "reports-5d", "u2"), false),
            // Whoever left it behind, it will be adopted.
            (owned("ReplicaSet", "orphan", "u3"), true),
            // Gone already.
            (owned("ReplicaSet", "billing-7f", "u9"), true),
            (owned("StatefulSet", "billing", "u1"), false),
            (owned("Job", "billing-1", "u1"), false),
        ] {
            assert_eq!(belongs(Some(&owner), &deployment, &sets), expected, "{owner:?}");
        }
        assert!(belongs(None, &deployment, &sets));
        let stateful = of(Kind::StatefulSet);
        assert!(belongs(Some(&owned("StatefulSet", "billing", "u")), &stateful, &[]));
        assert!(!belongs(Some(&owned("StatefulSet", "other", "u")), &stateful, &[]));
        let cron = of(Kind::CronJob);
        for (uid, expected) in [("u1", true), ("u2", false), ("u3", false), ("gone", true)] {
            assert_eq!(belongs(Some(&owned("Job", "by-hand", uid)), &cron, &sets), expected, "{uid}");
        }
        assert!(!belongs(Some(&owned("ReplicaSet", "billing-5d", "u1")), &cron, &sets));
        assert!(!belongs(None, &cron, &[]));
        let job = of(Kind::Job);
        assert!(belongs(Some(&owned("Job", "billing", "u")), &job, &[]));
        assert!(!belongs(Some(&owned("Job", "other", "u")), &job, &[]) && belongs(None, &job, &[]));
    }

    /// As the kubelet reports it, which says why containers of a terminal pod are not ready.
    fn pod(deleted: bool, status: &Value) -> Pod {
        let mut status = status.clone();
        let reason = match status["phase"].as_str() {
            Some("Succeeded") => "PodCompleted",
            Some("Failed") => "PodFailed",
            _ => "ContainersNotReady",
        };
        if status.is_object() {
            let said = json!({ "type": "ContainersReady", "status": "False", "reason": reason });
            let others = status["conditions"].as_array().cloned().unwrap_or_default();
            status["conditions"] = [vec![said], others].concat().into();
        }
        pod_as_it_is(deleted, &status)
    }

    fn pod_as_it_is(deleted: bool, status: &Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": "billing-1", "uid": "u1" },
            "spec": { "containers": [{ "name": "app" }, { "name": "proxy" }] },
            "status": status,
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    fn ended() -> Value {
        json!({ "terminated": { "exitCode": 143, "reason": "Error", "containerID": "containerd://1",
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z" } })
    }

    fn container(name: &str, state: &Value) -> Value {
        json!({ "name": name, "state": state, "lastState": {}, "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "containerID": state["terminated"]["containerID"], "started": false })
    }

    fn both(app: &Value, proxy: &Value) -> Value {
        json!([container("app", app), container("proxy", proxy)])
    }

    #[test]
    fn every_container_has_ended_and_none_starts_again() {
        for deleted in [true, false] {
            // It may be started again: a kubelet hears late of a deletion.
            let statuses = json!({ "phase": "Running", "containerStatuses": both(&ended(), &ended()) });
            assert!(!has_ended(&pod(deleted, &statuses)));
            for phase in ["Succeeded", "Failed"] {
                let statuses = json!({ "phase": phase, "containerStatuses": both(&ended(), &ended()) });
                assert!(has_ended(&pod(deleted, &statuses)));
            }
        }
        let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
        for statuses in [both(&ended(), &running), both(&running, &ended()), json!([container("app", &ended())])] {
            assert!(!has_ended(&pod(true, &json!({ "phase": "Failed", "containerStatuses": statuses }))), "{statuses}");
        }
    }

    #[test]
    fn what_was_merely_lost_has_not_ended() {
        let change = |key: &str, value: Value| {
            let mut state = ended();
            state["terminated"][key] = value;
            state
        };
        for state in [
            change("reason", json!("ContainerStatusUnknown")),
            change("reason", json!("Unknown")),
            change("exitCode", json!(255)),
            change("containerID", json!("")),
            change("finishedAt", Value::Null),
        ] {
            let status = json!({ "phase": "Failed", "containerStatuses": both(&state, &ended()) });
            assert!(!has_ended(&pod(true, &status)), "{state}");
        }
    }

    #[test]
    fn deletion_and_phase_prove_nothing() {
        for phase in ["Pending", "Running", "Succeeded", "Failed", "Unknown"] {
            assert!(!has_ended(&pod(true, &json!({ "phase": phase }))), "{phase}");
        }
        assert!(!has_ended(&pod(true, &Value::Null)));
        let collected = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC" }]);
        let waiting = json!({ "waiting": { "reason": "ContainerCreating" } });
        for state in [&waiting, &ended()] {
            let status = json!({ "phase": "Failed", "conditions": collected, "containerStatuses": both(state, state) });
            assert!(!has_ended(&pod(true, &status)), "the collector of pods has said it");
        }
        let lost = json!({ "phase": "Failed", "reason": "NodeLost" });
        assert!(!has_ended(&pod(true, &lost)));
    }

    /// A node is out of service: the collector of pods writes the phase, beside what the kubelet said before.
    #[test]
    fn a_phase_that_is_not_the_kubelets_proves_nothing() {
        let creating = json!({ "waiting": { "reason": "ContainerCreating" } });
        for state in [&creating, &ended()] {
            let statuses = both(state, state);
            let lost = |conditions: Value| {
                let status = json!({ "phase": "Failed", "conditions": conditions, "containerStatuses": statuses });
                pod_as_it_is(true, &status)
            };
            let condition =
                |status: &str, reason: &str| json!([{ "type": "ContainersReady", "status": status, "reason": reason }]);
            for conditions in [Value::Null, condition("False", "ContainersNotReady"), condition("True", "PodFailed")] {
                let pod = lost(conditions);
                assert!(!has_ended(&pod) && is_lost(&pod), "{pod:?}");
            }
            let pod = lost(condition("False", "PodFailed"));
            assert!(has_ended(&pod) && !is_lost(&pod), "{pod:?}");
        }
    }

    #[test]
    fn what_never_started_has_ended_when_the_kubelet_says_so() {
        let unknown = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
        let waiting = json!({ "waiting": { "reason": "PodInitializing" } });
        for state in [&unknown, &waiting] {
            let of = |phase: &str| json!({ "phase": phase, "containerStatuses": both(state, &ended()) });
            assert!(has_ended(&pod(true, &of("Failed"))), "{state}");
            assert!(!has_ended(&pod(true, &of("Running"))), "{state}");
        }
        // There are traces of a start.
        for (key, value) in [
            ("restartCount", json!(1)),
            ("started", json!(true)),
            ("containerID", json!("containerd://2")),
            ("lastState", ended()),
        ] {
            let mut app = container("app", &unknown);
            app[key] = value;
            let statuses = json!([app, container("proxy", &ended())]);
            assert!(!has_ended(&pod(true, &json!({ "phase": "Failed", "containerStatuses": statuses }))), "{key}");
        }
        assert!(
            has_ended(&pod(false, &json!({ "phase": "Failed", "reason": "OutOfcpu" }))),
            "its node did not take it"
        );
    }
}
