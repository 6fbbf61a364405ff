//! What is told about Services: once, for as long as it is so.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use leader_agent::names;

use super::super::{Context, Key, repair::tell};
use crate::{
    events::{EventType, reason},
    services::{pointed, slices::ServiceFacts},
};

/// What was told, by the uids of Services.
#[derive(Debug, Default)]
pub(super) struct Told {
    reaching: BTreeSet<String>,
    foreign: BTreeSet<String>,
}

impl Told {
    /// Points out the ordinary Services that send traffic to the id's standbys.
    pub(super) fn tell(&mut self, context: &Context, key: &Key) {
        let workloads = context.view.workloads(key);
        let services = context.view.ordinary_services(&key.namespace);
        let reaching: Vec<_> = services
            .iter()
            .filter(|service| workloads.iter().any(|workload| workload.is_reached_by(service)))
            .collect();
        for service in &reaching {
            if !self.reaching.contains(&service.uid) {
                let note = pointed::sentence(&service.name, key.id.as_str());
                tell(context, &[reference(key, service)], EventType::Warning, reason::REACHES_STANDBYS, &note);
            }
        }
        self.reaching = reaching.into_iter().map(|service| service.uid.clone()).collect();
    }

    /// Tells that a slice that a Service needs is somebody else's.
    pub(super) fn foreign(&mut self, context: &Context, key: &Key, service: &ServiceFacts, slice: &str) {
        if self.foreign.insert(service.uid.clone()) {
            let note = format!(
                "its traffic goes nowhere, because EndpointSlice {slice} is somebody else's: delete it, or take the annotation {} off this \
                 Service",
                names::LEADER_ONLY
            );
            tell(context, &[reference(key, service)], EventType::Warning, reason::NOT_STEERED, &note);
        }
    }
}

fn reference(key: &Key, service: &ServiceFacts) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(key.namespace.clone()),
        name: Some(service.name.clone()),
        uid: Some(service.uid.clone()),
        ..ObjectReference::default()
    }
}
