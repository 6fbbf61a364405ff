//! Leader-only Services: what is stored for a Service that sends its traffic to the leader of an id, and the `EndpointSlices` that take
//! the place of those which its selector would have made.
//!
//! A Service without a selector is left alone by Kubernetes' own controllers, so the selector moves to an annotation ([`review`]), and
//! comes back when the Service is given back. [`slices`] says which slices such a Service needs; [`crate::controller`] makes them, because
//! neither a Service's uid nor its families of addresses are known before it is stored. Who is in them is the agents' alone. Pure: values
//! in, values out.

pub mod pointed;
pub mod review;
pub mod slices;

use std::collections::BTreeMap;

use leader_agent::{id::LeaderId, names};
use serde_json::Value;

pub use self::review::{ServiceOutcome, ServiceRefusal, review};

/// The id to whose leader alone a Service sends its traffic; `None` where it is an ordinary one, or names no id.
pub fn leader_only(annotations: Option<&BTreeMap<String, String>>) -> Option<LeaderId> {
    annotations?.get(names::LEADER_ONLY)?.parse().ok()
}

/// An annotation of an object.
fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}
