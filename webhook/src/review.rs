//! One admission review, from bytes to what has to be done, and from the result to the answer.
//!
//! It does no I/O: looking up facts, injecting and making objects is [`crate::handler`]'s order of work.

use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, META_KIND, Operation},
};
use leader_agent::names;
use serde_json::Value;

use crate::inject::{self, Outcome};

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
    /// It is a workload: inject, eject, or refuse it.
    Inject,
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
        let kind = &self.request.kind;
        // Before is asked too: deleting a Deployment with `--cascade=orphan` takes the owner away.
        let controlled = is_controlled(object) || self.old.as_ref().is_some_and(is_controlled);
        let inherits = kind.group == "apps" && kind.kind == "ReplicaSet" && controlled;
        if inherits {
            return Plan::Pass("a ReplicaSet inherits its Deployment's annotations");
        }
        let namespace = self.namespace();
        if named && (namespace == "kube-system" || namespace == own_namespace) {
            return Plan::Refuse(format!(
                "workloads in namespace {namespace} are not injected, because the webhook's own way to work depends on it: \
                 remove the annotations that start with {}",
                names::PREFIX
            ));
        }
        if kind.group == "apps" && kind.kind == "Deployment" {
            return Plan::Inject;
        }
        if !named {
            return Plan::Pass("its annotations of ours are being removed");
        }
        Plan::Refuse(format!(
            "{} {} has annotations that start with {}, but only a Deployment (apps/v1) is injected: remove them",
            kind.kind,
            self.name(),
            names::PREFIX
        ))
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
        AdmissionResponse::from(&self.request).deny(reason)
    }

    /// The answer that stores `outcome`.
    ///
    /// It refuses what must not happen: an object that asks for an election and would be stored without one.
    pub fn accept(&self, outcome: Outcome) -> AdmissionResponse {
        let arrived = self.object.as_ref().unwrap_or(&Value::Null);
        if outcome.election.is_none() && !arrived["metadata"]["annotations"][names::ID].is_null() {
            return self.refuse("internal error: an annotated workload was not injected; please report this");
        }
        let mut response = AdmissionResponse::from(&self.request);
        if outcome.object != *arrived {
            response = match response.with_patch(inject::patch(arrived, &outcome.object)) {
                Ok(response) => response,
                Err(error) => return self.refuse(&format!("internal error: {error}; please report this")),
            };
        }
        response.warnings = (!outcome.warnings.is_empty()).then_some(outcome.warnings);
        response.audit_annotations = outcome.audit.into_iter().collect();
        response
    }
}

/// The refusal of a request of which only the uid could be read.
pub fn refuse_unread(uid: &str, reason: &str) -> AdmissionResponse {
    let mut response = AdmissionResponse::invalid(reason);
    uid.clone_into(&mut response.uid);
    response
}

/// Any annotation of ours, on the object or on its templates; a `CronJob` has one of a Job and one of a pod.
fn has_our_annotations(object: &Value) -> bool {
    let job = &object["spec"]["jobTemplate"];
    our_annotation(&object["metadata"]).is_some()
        || our_annotation_on_template(object).is_some()
        || our_annotation(&job["metadata"]).is_some()
        || our_annotation_on_template(job).is_some()
}

/// The first annotation of ours on a workload's pod template.
fn our_annotation_on_template(object: &Value) -> Option<&str> {
    our_annotation(&object["spec"]["template"]["metadata"])
}

fn our_annotation(metadata: &Value) -> Option<&str> {
    let mut keys = metadata["annotations"].as_object()?.keys();
    keys.find(|key| key.starts_with(names::PREFIX)).map(String::as_str)
}

fn is_controlled(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == Value::Bool(true)))
}
