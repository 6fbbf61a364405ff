//! The webhook's answer without what it asks of the cluster, and what an answer stores.

use std::collections::BTreeMap;

use kube::core::admission::AdmissionResponse;
use leader_agent::names;
use leader_webhook::{
    inject::{self, Decision, Defaults, Facts, ImageAnswer, Refusal},
    review::{Malformed, Plan, Review},
    services,
};
use serde_json::Value;

use super::manifests;

/// The namespace of the webhook itself.
pub(crate) const NAMESPACE: &str = "leader-system";

pub(crate) fn defaults() -> Defaults {
    Defaults {
        agent_image: "ghcr.io/leader-io/leader-agent:0.1.0".to_owned(),
        agent_pull_secret: Some("agent".to_owned()),
    }
}

/// A review that was answered.
pub(crate) struct Answered {
    pub(crate) review: Review,
    pub(crate) response: AdmissionResponse,
    /// What was made of the object, before it became a patch: in the order of its own keys.
    pub(crate) made: Option<Value>,
}

/// The answer to a body.
pub(crate) fn answer(body: &[u8], facts: &Facts) -> Result<Answered, Malformed> {
    let review = Review::parse(body)?;
    let mut made = None;
    let response = match review.plan(NAMESPACE) {
        Plan::Pass(_) => review.pass(),
        Plan::Refuse(reason) => review.refuse(&reason),
        Plan::Service => {
            let object = review.object.as_ref().expect("a plan for a Service has an object");
            match services::review(object, review.old.as_ref()) {
                Ok(outcome) => {
                    made = Some(outcome.object.clone());
                    review.store(&outcome.object, &outcome.warnings, BTreeMap::new())
                }
                Err(refusal) => review.refuse(&refusal.to_string()),
            }
        }
        Plan::Inject => {
            let object = review.object.as_ref().expect("a plan to inject has an object");
            match decide(object, review.old.as_ref(), facts) {
                Ok(outcome) => {
                    made = Some(outcome.object.clone());
                    review.accept(outcome)
                }
                Err(refusal) => review.refuse(&refusal.to_string()),
            }
        }
    };
    Ok(Answered { review, response, made })
}

/// The decision, with the image looked up when it is asked for.
pub(crate) fn decide(object: &Value, old: Option<&Value>, facts: &Facts) -> Result<inject::Outcome, Refusal> {
    match inject::workload(object, old, &defaults(), facts)? {
        Decision::Done(outcome) => Ok(outcome),
        Decision::NeedsImage(_) => {
            assert!(facts.image.is_none(), "an image is asked for once");
            let facts = Facts { image: Some(ImageAnswer::Found(inject::ImageFacts::default())), ..facts.clone() };
            match inject::workload(object, old, &defaults(), &facts)? {
                Decision::Done(outcome) => Ok(outcome),
                Decision::NeedsImage(request) => panic!("{request:?} was asked for twice"),
            }
        }
    }
}

/// What is stored for an object, or why nothing is.
pub(crate) fn stored(object: &Value, old: Option<&Value>, facts: &Facts) -> Result<Value, String> {
    let body = manifests::review(object, old).to_string();
    let Answered { review, response, .. } = answer(body.as_bytes(), facts).map_err(|error| error.to_string())?;
    patched(review.object.as_ref().unwrap_or(&Value::Null), &response)
}

/// What the API server stores for `object` after this answer.
pub(crate) fn patched(object: &Value, response: &AdmissionResponse) -> Result<Value, String> {
    if !response.allowed {
        return Err(response.result.message.clone());
    }
    let mut object = object.clone();
    if let Some(patch) = &response.patch {
        let patch: json_patch::Patch = serde_json::from_slice(patch).expect("a patch is JSON");
        json_patch::patch(&mut object, &patch).expect("a patch can be applied to the object that it was made for");
    }
    Ok(object)
}

/// The object with an id, injected where nothing is live; `None` when it is refused.
pub(crate) fn injected(plain: &Value) -> Option<Value> {
    let mut object = plain.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let annotations = metadata.entry("annotations").or_insert_with(|| serde_json::json!({}));
        annotations[names::ID] = "billing".into();
    }
    stored(&object, None, &Facts::default()).ok().filter(|object| record_of(object).is_some())
}

/// What a pod is made of: the object's template, or the pod itself.
pub(crate) fn template(object: &Value) -> &Value {
    if object["kind"] == "Pod" { object } else { &object["spec"]["template"] }
}

pub(crate) fn template_mut(object: &mut Value) -> &mut Value {
    if object["kind"] == "Pod" { object } else { &mut object["spec"]["template"] }
}

pub(crate) fn record_of(object: &Value) -> Option<&str> {
    template(object)["metadata"]["annotations"][names::INJECTED].as_str()
}

/// The annotations of ours taken off, but for the record, which is the webhook's to take.
pub(crate) fn take_ids_off(object: &mut Value) {
    for holder in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
        if let Some(annotations) = object.pointer_mut(holder).and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with(names::PREFIX) || key == names::INJECTED);
        }
    }
}
