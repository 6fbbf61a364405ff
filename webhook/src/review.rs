//! One admission review, from bytes to what has to be done, and from the result to the answer.
//!
//! It does no I/O: looking up facts, injecting and making objects is [`crate::handler`]'s order of work.

use std::collections::BTreeMap;

use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, META_KIND, Operation},
};
use leader_agent::names;
use serde_json::Value;

use crate::inject::{self, Outcome};

/// Kinds that other objects make, with annotations that stand on those (deploy/base/webhook-configuration.yaml has the same list).
const MADE_BY_OTHERS: [&str; 3] = ["ReplicaSet", "ReplicationController", "Job"];
/// The kind that is steered, not injected.
pub(crate) const SERVICE: &str = "Service";
/// The namespace of the cluster's own workloads and Services.
pub(crate) const KUBE_SYSTEM: &str = "kube-system";
/// By this annotation a kubelet marks what it shows of a static pod:
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-config-mirror>.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the API server asked.
#[derive(Debug)]
pub struct Review {
    /// The request without its objects: as typed values they would lose fields newer than this program.
    pub request: AdmissionRequest<DynamicObject>,
    /// The object that is to be stored.
    pub object: Option<Value>,
    /// The object as it is stored.
    pub old: Option<Value>,
}

/// Why a body is no review that can be worked on.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not JSON at all, or nested too deeply.
    #[error("the body is not JSON: {0}")]
    Json(serde_json::Error),
    /// Another kind of object.
    #[error("expected an object of kind {META_KIND}, got {found}")]
    Kind {
        /// The kind that was found.
        found: String,
    },
    /// A version of the API that is not spoken here.
    #[error("expected {META_KIND} in version {META_API_VERSION_V1}, got {found}")]
    Version {
        /// The version that was found.
        found: String,
    },
    /// The request inside is missing or not as the API says. With a uid it can be answered by a refusal.
    #[error("the request of the {META_KIND} cannot be read: {reason}")]
    Request {
        /// The request's uid, where it has one.
        uid: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a review needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing of ours: it is stored as it is.
    Pass(&'static str),
    /// It must not be stored, for the reason given.
    Refuse(String),
    /// It is a workload or a pod: inject, eject, or refuse it.
    Inject,
    /// It is a Service: take it over, give it back, or refuse it.
    Service,
}

impl Review {
    /// Reads a body as the API server sends it.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut review: Value = serde_json::from_slice(body).map_err(Malformed::Json)?;
        let field = |key: &str| match review.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => format!("the value {other}"),
            None => "none".to_owned(),
        };
        let (kind, version) = (field("kind"), field("apiVersion"));
        if kind != META_KIND {
            return Err(Malformed::Kind { found: kind });
        }
        if version != META_API_VERSION_V1 {
            return Err(Malformed::Version { found: version });
        }
        let Some(Value::Object(request)) = review.get_mut("request") else {
            return Err(Malformed::Request { uid: None, reason: "it is missing or not an object".to_owned() });
        };
        let uid = request.get("uid").and_then(Value::as_str).filter(|uid| !uid.is_empty()).map(str::to_owned);
        let malformed = |reason: String| Malformed::Request { uid: uid.clone(), reason };
        if uid.is_none() {
            return Err(malformed("it has no uid".to_owned()));
        }
        let mut take = |key: &str| match request.insert(key.to_owned(), Value::Null) {
            None | Some(Value::Null) => Ok(None),
            Some(object @ Value::Object(_)) => Ok(Some(object)),
            Some(_) => Err(malformed(format!("its {key} is not an object"))),
        };
        let (object, old) = (take("object")?, take("oldObject")?);
        let review: AdmissionReview<DynamicObject> =
            serde_json::from_value(review).map_err(|error| malformed(error.to_string()))?;
        let request: AdmissionRequest<DynamicObject> =
            review.try_into().map_err(|_| malformed("it is missing".to_owned()))?;
        let needed = match request.operation {
            Operation::Create => object.is_some(),
            Operation::Update => object.is_some() && old.is_some(),
            Operation::Delete | Operation::Connect => true,
        };
        if !needed {
            return Err(malformed(format!("{:?} without its objects", request.operation)));
        }
        Ok(Self { request, object, old })
    }

    /// Decides what has to be done. `own_namespace` is the one that the webhook runs in.
    pub fn plan(&self, own_namespace: &str) -> Plan {
        let Some(object) = &self.object else { return Plan::Pass("nothing is stored") };
        if self.request.sub_resource.as_deref().is_some_and(|name| !name.is_empty()) {
            return Plan::Pass("only a subresource is written");
        }
        let named = has_our_annotations(object);
        if !named && !self.old.as_ref().is_some_and(has_our_annotations) {
            return Plan::Pass("it has no annotations of ours");
        }
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return Plan::Pass("it is being deleted");
        }
        let kind = self.request.kind.kind.as_str();
        // Before is asked too: deleting a Deployment with `--cascade=orphan` takes the owner away.
        let controlled = is_controlled(object) || self.old.as_ref().is_some_and(is_controlled);
        if controlled && MADE_BY_OTHERS.contains(&kind) {
            return Plan::Pass("what makes it was reviewed, and its pods are");
        }
        let namespace = self.namespace();
        let is_excluded = namespace == KUBE_SYSTEM || namespace == own_namespace;
        if kind == SERVICE {
            // What a Service keeps of an earlier taking over asks for nothing: it is given back.
            let asks = !object["metadata"]["annotations"][names::LEADER_ONLY].is_null();
            return if asks && is_excluded { Plan::Refuse(not_steered(namespace)) } else { Plan::Service };
        }
        if asks_for_something(object) && is_excluded {
            return Plan::Refuse(format!(
                "workloads in namespace {namespace} are not injected, because the webhook's own way to work depends on it: \
                 remove the annotations that start with {}",
                names::PREFIX
            ));
        }
        if kind == "Pod" { self.plan_of_pod(object) } else { Plan::Inject }
    }

    /// A pod can be injected only while it is created.
    fn plan_of_pod(&self, object: &Value) -> Plan {
        let annotation = |object: &Value, key: &str| object["metadata"]["annotations"][key].as_str().map(str::to_owned);
        if annotation(object, MIRROR).is_some() {
            return Plan::Refuse(
                "a static pod is run by its kubelet from a file, whatever is stored here: it cannot be injected; remove the \
                 annotations that start with leader.io/ from the file"
                    .to_owned(),
            );
        }
        let Some(old) = &self.old else { return Plan::Inject };
        match annotation(object, names::ID) {
            Some(id) if annotation(old, names::ID).as_ref() != Some(&id) => Plan::Refuse(format!(
                "a pod takes part in an election from its creation on: {} can neither be put on a pod that exists nor be changed \
                 there; annotate the workload that makes the pods, or its pod template",
                names::ID
            )),
            _ => Plan::Pass("a pod that exists is not injected"),
        }
    }

    /// The object's namespace, empty where it has none.
    pub fn namespace(&self) -> &str {
        self.request.namespace.as_deref().unwrap_or_default()
    }

    /// The object's name, or the beginning of the one that it will be given.
    pub fn name(&self) -> &str {
        let metadata = &self.object.as_ref().unwrap_or(&Value::Null)["metadata"];
        [Some(self.request.name.as_str()), metadata["name"].as_str(), metadata["generateName"].as_str()]
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
            .unwrap_or("(without a name)")
    }

    /// The answer that lets the object be stored as it arrived.
    pub fn pass(&self) -> AdmissionResponse {
        AdmissionResponse::from(&self.request)
    }

    /// The answer that keeps the object from being stored.
    pub fn refuse(&self, reason: &str) -> AdmissionResponse {
        AdmissionResponse::from(&self.request).deny(printable(reason))
    }

    /// The answer that stores `outcome`.
    ///
    /// It refuses what must not happen: an object that asks for an election and would be stored without one.
    pub fn accept(&self, outcome: Outcome) -> AdmissionResponse {
        let arrived = self.object.as_ref().unwrap_or(&Value::Null);
        if outcome.election.is_none() && asks_for_an_election(arrived) {
            return self.refuse("internal error: an annotated object was not injected; please report this");
        }
        self.store(&outcome.object, &outcome.warnings, outcome.audit)
    }

    /// The answer that stores `object`, whatever it is.
    pub fn store(&self, object: &Value, warnings: &[String], audit: BTreeMap<String, String>) -> AdmissionResponse {
        let arrived = self.object.as_ref().unwrap_or(&Value::Null);
        let mut response = AdmissionResponse::from(&self.request);
        if object != arrived {
            response = match response.with_patch(inject::patch(arrived, object)) {
                Ok(response) => response,
                Err(error) => return self.refuse(&format!("internal error: {error}; please report this")),
            };
        }
        let warnings: Vec<String> = warnings.iter().map(|warning| printable(warning)).collect();
        response.warnings = (!warnings.is_empty()).then_some(warnings);
        response.audit_annotations = audit.into_iter().map(|(name, value)| (name, printable(&value))).collect();
        response
    }
}

/// Whether a terminal shows this character, and does nothing else.
pub(crate) fn is_printable(letter: char) -> bool {
    // Characters that turn the direction of what follows: https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters
    let turns = matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}');
    !letter.is_control() && !turns
}

/// A text of one line for a terminal or a log. Values that it quotes come from whoever wrote the object, and must neither begin a line of
/// their own nor change how the rest is shown.
pub fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_printable(letter) {
            printed.push(letter);
        } else {
            printed.extend(letter.escape_default());
        }
    }
    printed
}

/// Why no Service of an excluded namespace is taken over.
fn not_steered(namespace: &str) -> String {
    format!(
        "Services in namespace {namespace} are not taken over, because the cluster and the webhook's own way to work depend on them: remove \
         the annotation {}",
        names::LEADER_ONLY
    )
}

/// The refusal of a request of which only the uid could be read.
pub fn refuse_unread(uid: &str, reason: &str) -> AdmissionResponse {
    let mut response = AdmissionResponse::invalid(reason);
    uid.clone_into(&mut response.uid);
    response
}

/// Any annotation of ours, on the object or on its templates.
pub(crate) fn has_our_annotations(object: &Value) -> bool {
    holders(object).into_iter().any(|metadata| our_keys(metadata).next().is_some())
}

/// Any annotation of ours by which somebody asks for something; the record of an injection says only what was done.
fn asks_for_something(object: &Value) -> bool {
    holders(object).into_iter().any(|metadata| our_keys(metadata).any(|key| key != names::INJECTED))
}

/// Whether an election is asked for: by the object's own metadata, or by those of its pod template.
pub(crate) fn asks_for_an_election(object: &Value) -> bool {
    holders(object).into_iter().any(|metadata| !metadata["annotations"][names::ID].is_null())
}

/// Where annotations of ours may stand: on the object and on its templates; a `CronJob` has one of a Job and one of a pod.
fn holders(object: &Value) -> [&Value; 4] {
    let job = &object["spec"]["jobTemplate"];
    [
        &object["metadata"],
        &object["spec"]["template"]["metadata"],
        &job["metadata"],
        &job["spec"]["template"]["metadata"],
    ]
}

fn our_keys(metadata: &Value) -> impl Iterator<Item = &str> {
    let keys = metadata["annotations"].as_object().into_iter().flat_map(|annotations| annotations.keys());
    keys.map(String::as_str).filter(|key| key.starts_with(names::PREFIX))
}

fn is_controlled(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_on_its_line() {
        assert_eq!(printable("`app\nerror: fine\r\u{1b}[2J\u{202e}`"), r"`app\nerror: fine\r\u{1b}[2J\u{202e}`");
        assert_eq!(printable("gr\u{fc}n `a`"), "gr\u{fc}n `a`");
    }
}
