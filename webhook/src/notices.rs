//! What is told about a review, on the workload itself: its writer may be a program that shows nobody the answer.
//!
//! An object that is refused when it is created does not exist, and nothing can be found by it. It is told where a person looks next: on
//! the object that makes it, as the ReplicaSet of a refused pod, or else in the namespace, under the name that it would have had
//! (`kubectl get events`, not `kubectl describe`). The log has it with the review's uid, and so has the API server's audit log.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::admission::{AdmissionResponse, Operation};
use leader_agent::names;
use serde_json::Value;

use crate::{
    events::{EventType, Recorder, reason},
    metrics,
    review::{Review, SERVICE},
};

/// What is told about one review.
#[derive(Clone, Debug, PartialEq)]
struct Notice {
    regarding: ObjectReference,
    /// The object is stored after this review, if nobody else refuses it.
    is_being_created: bool,
    type_: EventType,
    reason: &'static str,
    note: String,
}

/// Tells about a review that ended with `result`. Dry runs are not told about: nothing happened.
pub fn tell(recorder: &Recorder, review: &Review, result: metrics::Result, response: &AdmissionResponse) {
    let Some(notice) = notice(review, result, &response.result.message) else { return };
    let Notice { regarding, is_being_created, type_, reason, note } = notice;
    if is_being_created {
        recorder.publish_once_stored(&regarding, type_, reason, note);
    } else {
        recorder.publish(&regarding, type_, reason, note);
    }
}

/// Tells that somebody keeps writing a workload that is as it should be. `writes` have arrived within a minute.
pub fn tell_of_rewrites(recorder: &Recorder, review: &Review, writes: usize) {
    let Some(object) = &review.object else { return };
    let user = review.request.user_info.username.as_deref().unwrap_or("somebody");
    let note = format!(
        "{user} wrote this {} more than {} times within a minute and changed nothing: a tool takes the injected template for a \
         deviation and puts its own back, over and over. Let it ignore the injected fields, or put {} on the pod template, which \
         stays as it is (docs/gitops.md)",
        review.request.kind.kind,
        writes.saturating_sub(1),
        names::ID,
    );
    recorder.publish(&reference(review, object), EventType::Warning, reason::REWRITTEN, note);
}

fn notice(review: &Review, result: metrics::Result, message: &str) -> Option<Notice> {
    if review.request.dry_run {
        return None;
    }
    let object = review.object.as_ref()?;
    let is_created = review.request.operation == Operation::Create;
    let kind = review.request.kind.kind.as_str();
    let (type_, reason, note) = match result {
        metrics::Result::Injected if kind == SERVICE => (
            EventType::Normal,
            reason::LEADER_ONLY,
            format!("its traffic goes to the leader of `{}` only", leader_only(object)?),
        ),
        metrics::Result::Ejected if kind == SERVICE => {
            let note = "it is not leader-only any more: its traffic goes to all ready pods of its selector";
            (EventType::Normal, reason::LEADER_ONLY, note.to_owned())
        }
        metrics::Result::Injected => (EventType::Normal, reason::INJECTED, injected(review, object)?),
        metrics::Result::Ejected => (EventType::Normal, reason::EJECTED, ejected(object)),
        metrics::Result::Refused => (EventType::Warning, reason::REFUSED, format!("not stored: {message}")),
        metrics::Result::Failed => (EventType::Warning, reason::FAILED, format!("not stored: {message}")),
        metrics::Result::Kept | metrics::Result::Passed | metrics::Result::Malformed => return None,
    };
    let maker = if kind == "Pod" { maker(review, object) } else { None };
    let of_maker = maker.is_some();
    let mut regarding = maker.unwrap_or_else(|| reference(review, object));
    let is_stored = matches!(result, metrics::Result::Injected | metrics::Result::Ejected);
    if regarding.name.is_none() {
        // Its name is not known before it is stored. What never is has the beginning of one, which is enough for people.
        let beginning = object["metadata"]["generateName"].as_str().filter(|_| !is_stored)?;
        regarding.name = Some(beginning.to_owned());
    }
    Some(Notice { is_being_created: is_created && is_stored && !of_maker, regarding, type_, reason, note })
}

/// The id whose leader gets a Service's traffic.
fn leader_only(service: &Value) -> Option<&str> {
    service["metadata"]["annotations"][names::LEADER_ONLY].as_str()
}

fn injected(review: &Review, object: &Value) -> Option<String> {
    let spec = &object["spec"];
    let holders =
        [&object["metadata"], &spec["template"]["metadata"], &spec["jobTemplate"]["spec"]["template"]["metadata"]];
    let id = holders.into_iter().find_map(|metadata| metadata["annotations"][names::ID].as_str())?;
    let what = match review.request.kind.kind.as_str() {
        "Pod" => "a pod was injected: it takes",
        _ => "the pod template was injected: its pods take",
    };
    Some(format!("{what} part in the election of Lease {}/{id}", review.namespace()))
}

fn ejected(object: &Value) -> String {
    let each = match object["spec"]["replicas"].as_i64() {
        Some(replicas) => format!("each of its {replicas} pods"),
        None => "each of its pods".to_owned(),
    };
    format!("leader election was taken out of the pod template: {each} runs the application, as it did before")
}

/// The object that a review is about. It has a name and a uid as far as they are known.
fn reference(review: &Review, object: &Value) -> ObjectReference {
    let kind = &review.request.kind;
    let api_version =
        if kind.group.is_empty() { kind.version.clone() } else { format!("{}/{}", kind.group, kind.version) };
    let text = |key: &str| {
        let stored = review.old.as_ref().and_then(|old| old["metadata"][key].as_str());
        let text = object["metadata"][key].as_str().or(stored).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: Some(kind.kind.clone()),
        namespace: Some(review.namespace().to_owned()).filter(|namespace| !namespace.is_empty()),
        name: text("name"),
        uid: text("uid"),
        ..ObjectReference::default()
    }
}

/// The object that makes a pod.
fn maker(review: &Review, pod: &Value) -> Option<ObjectReference> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let text = |key: &str| owner[key].as_str().map(str::to_owned);
    Some(ObjectReference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
        namespace: Some(review.namespace().to_owned()),
        ..ObjectReference::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review(operation: &str, kind: &str, object: &Value) -> Review {
        let group = if kind == "Pod" { "" } else { "apps" };
        let mut request = json!({
            "uid": "1", "operation": operation, "namespace": "shop", "name": "billing",
            "kind": { "group": group, "version": "v1", "kind": kind },
            "resource": { "group": group, "version": "v1", "resource": "any" },
            "userInfo": { "username": "flux" }, "object": object, "options": {},
        });
        if operation == "UPDATE" {
            request["oldObject"] = object.clone();
        }
        let body = json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request });
        Review::parse(body.to_string().as_bytes()).unwrap()
    }

    fn deployment(uid: &Value) -> Value {
        json!({
            "metadata": { "name": "billing", "namespace": "shop", "uid": uid, "annotations": { "leader.io/id": "billing" } },
            "spec": { "replicas": 3 },
        })
    }

    #[test]
    fn an_update_is_told_on_the_object_and_a_creation_once_it_is_stored() {
        let update = review("UPDATE", "Deployment", &deployment(&json!("u1")));
        let told = notice(&update, metrics::Result::Injected, "").unwrap();
        assert_eq!((told.reason, told.type_, told.is_being_created), (reason::INJECTED, EventType::Normal, false));
        assert_eq!(told.regarding.uid.as_deref(), Some("u1"));
        assert_eq!(told.regarding.api_version.as_deref(), Some("apps/v1"));
        assert!(told.note.ends_with("the election of Lease shop/billing"), "{}", told.note);

        let create = review("CREATE", "Deployment", &deployment(&Value::Null));
        let told = notice(&create, metrics::Result::Injected, "").unwrap();
        assert!(told.is_being_created && told.regarding.uid.is_none());

        let told = notice(&update, metrics::Result::Ejected, "").unwrap();
        assert!(told.note.contains("each of its 3 pods runs the application"), "{}", told.note);
    }

    #[test]
    fn a_refused_creation_is_told_under_the_name_that_it_would_have_had() {
        let create = review("CREATE", "Deployment", &deployment(&Value::Null));
        let told = notice(&create, metrics::Result::Refused, "unknown key").unwrap();
        assert_eq!((told.reason, told.type_, told.is_being_created), (reason::REFUSED, EventType::Warning, false));
        assert_eq!((told.regarding.name.as_deref(), told.regarding.uid), (Some("billing"), None));
        assert_eq!(told.note, "not stored: unknown key");
        let failed = notice(&create, metrics::Result::Failed, "no answer").unwrap();
        assert_eq!(failed.reason, reason::FAILED);
    }

    #[test]
    fn pods_are_told_about_on_what_makes_them() {
        let mut pod = json!({
            "metadata": { "generateName": "billing-", "annotations": { "leader.io/id": "billing" } }, "spec": {},
        });
        let lone = review("CREATE", "Pod", &pod);
        assert_eq!(notice(&lone, metrics::Result::Injected, ""), None, "it has no name yet");
        let refused = notice(&lone, metrics::Result::Refused, "no").unwrap();
        assert_eq!(refused.regarding.name.as_deref(), Some("billing-"));
        pod["metadata"]["ownerReferences"] = json!([
            { "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u0" },
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "billing-1", "uid": "u1", "controller": true },
        ]);
        let made = review("CREATE", "Pod", &pod);
        for result in [metrics::Result::Injected, metrics::Result::Refused] {
            let told = notice(&made, result, "no").unwrap();
            assert_eq!(told.regarding.kind.as_deref(), Some("ReplicaSet"));
            assert_eq!(told.regarding.uid.as_deref(), Some("u1"));
            assert_eq!(told.regarding.namespace.as_deref(), Some("shop"));
            assert!(!told.is_being_created);
        }
    }

    #[test]
    fn what_changes_nothing_is_not_told() {
        let update = review("UPDATE", "Deployment", &deployment(&json!("u1")));
        for result in [metrics::Result::Kept, metrics::Result::Passed] {
            assert_eq!(notice(&update, result, ""), None);
        }
        let mut dry = review("CREATE", "Deployment", &deployment(&Value::Null));
        dry.request.dry_run = true;
        assert_eq!(notice(&dry, metrics::Result::Refused, "no"), None);
    }
}
