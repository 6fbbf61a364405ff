//! An answer as it is sent.
//!
//! Not kube's own form, which writes the patch as a list of numbers, one for each byte. Go reads that too, but it takes three times
//! the room of base64, which is what the API documents
//! (<https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#response>), and a fifth of the
//! time of a review.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::core::{
    Status,
    admission::{AdmissionResponse, META_API_VERSION_V1, META_KIND},
};
use serde::Serialize;

/// An AdmissionReview with its answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    kind: &'static str,
    api_version: &'static str,
    response: Response,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    audit_annotations: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
}

impl From<AdmissionResponse> for Sent {
    fn from(response: AdmissionResponse) -> Self {
        let response = Response {
            uid: response.uid,
            allowed: response.allowed,
            status: response.result,
            patch_type: response.patch.is_some().then_some("JSONPatch"),
            patch: response.patch.map(|patch| BASE64_STANDARD.encode(patch)),
            audit_annotations: response.audit_annotations,
            warnings: response.warnings,
        };
        Self { kind: META_KIND, api_version: META_API_VERSION_V1, response }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{
        DynamicObject,
        admission::{AdmissionResponse, AdmissionReview},
    };
    use serde_json::{Value, json};

    use super::*;

    /// As kube writes it, but for the patch: fields that kube learns must not be lost here.
    #[test]
    fn it_says_what_kube_would_say() {
        let mut response = AdmissionResponse::invalid("why").deny("because");
        response.uid = "1".to_owned();
        response.warnings = Some(vec!["careful".to_owned()]);
        response.audit_annotations = [("action".to_owned(), "injected".to_owned())].into();
        let patch = json_patch::Patch(vec![json_patch::PatchOperation::Remove(json_patch::RemoveOperation {
            path: json_patch::jsonptr::PointerBuf::parse("/spec").unwrap(),
        })]);
        let response = response.with_patch(patch).unwrap();
        let review: AdmissionReview<DynamicObject> = response.clone().into_review();
        let mut kubes = json!(review);
        let bytes: Vec<u8> = serde_json::from_value(kubes["response"]["patch"].take()).unwrap();
        kubes["response"]["patch"] = BASE64_STANDARD.encode(&bytes).into();
        let ours: Value = json!(Sent::from(response));
        assert_eq!(ours, kubes);
        assert_eq!(ours["response"]["patch"], "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL3NwZWMifV0=");
    }
}
