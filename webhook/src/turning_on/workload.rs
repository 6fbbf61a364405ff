//! A workload, and how its pods are found.

use std::{fmt, str::FromStr};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::ReplicationController,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    api::ApiResource,
    core::{Expression, Selector, SelectorExt},
};
use serde_json::Value;

/// The label that pods of a Job carry (Kubernetes 1.27): those of a `CronJob` have no label in common.
const OF_A_JOB: &str = "batch.kubernetes.io/job-name";

/// A kind whose template can begin to be elected while pods of an earlier one run.
///
/// A Job's template does not change, but pods of another one of the same name may be left. Kinds that this project does not know are not
/// reviewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Its pods are those of its `ReplicaSet`s.
    Deployment,
    /// Its pods are its own.
    StatefulSet,
    /// Its pods are its own.
    DaemonSet,
    /// Its pods are its own.
    ReplicaSet,
    /// Its pods are its own.
    ReplicationController,
    /// Its pods are those of its Jobs.
    CronJob,
    /// Its pods are its own.
    Job,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::CronJob,
        Self::Job,
    ];

    /// As the API calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::CronJob => "CronJob",
            Self::Job => "Job",
        }
    }

    /// Where the API has it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
            Self::ReplicaSet => ApiResource::erase::<ReplicaSet>(&()),
            Self::ReplicationController => ApiResource::erase::<ReplicationController>(&()),
            Self::CronJob => ApiResource::erase::<CronJob>(&()),
            Self::Job => ApiResource::erase::<Job>(&()),
        }
    }
}

/// A workload of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// The workload that an object is; `None` for other kinds, and for one that has no name yet.
    pub fn of(object: &Value) -> Option<Self> {
        let kind = object["kind"].as_str()?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        // Others may call their kinds the same.
        let group = object["apiVersion"].as_str().is_none_or(|version| version == kind.resource().api_version);
        let name = object["metadata"]["name"].as_str().filter(|name| !name.is_empty() && group)?;
        Some(Self { kind, name: name.to_owned() })
    }

    /// By which labels its pods are found, as the API takes it; other pods may have them as well. Refused where that cannot be told, or
    /// where its own pods would not have these labels: the API server stores no such object.
    pub fn selector(&self, object: &Value) -> Result<String, BadSelector> {
        let stated = &object["spec"]["selector"];
        let bad = || BadSelector { workload: self.clone(), selector: stated.to_string() };
        let selector = match self.kind {
            Kind::CronJob => return Ok(OF_A_JOB.to_owned()),
            // What it selects by itself, its uid, it is given later.
            Kind::Job => return Ok(format!("{OF_A_JOB}={}", self.name)),
            Kind::ReplicationController => {
                let labels = stated.as_object().into_iter().flatten();
                let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?)));
                labels.map(|(key, value)| Expression::Equal(key, value.to_owned())).collect::<Selector>()
            }
            _ => {
                let selector: LabelSelector = serde_json::from_value(stated.clone()).map_err(|_| bad())?;
                Selector::try_from(selector).map_err(|_| bad())?
            }
        };
        let labels = object["spec"]["template"]["metadata"]["labels"].as_object().into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        if selector.selects_all() || !selector.matches(&labels) { Err(bad()) } else { Ok(selector.to_string()) }
    }

    /// Whether a change of an object that takes part may bring pods of an earlier template back: a StatefulSet makes those below its
    /// partition, also when all were of the newest template already.
    pub fn may_go_back(&self, old: &Value, new: &Value) -> bool {
        self.kind == Kind::StatefulSet && old["spec"]["updateStrategy"] != new["spec"]["updateStrategy"]
    }
}

/// Pods of a workload cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{workload}: spec.selector is {selector}, by which its pods are not found: it must select the labels of \
     spec.template.metadata.labels, and nothing else"
)]
pub struct BadSelector {
    /// Whose.
    pub workload: Workload,
    /// What it says.
    pub selector: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind.name(), self.name)
    }
}

/// Not `Kind/name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoWorkload;

impl FromStr for Workload {
    type Err = NoWorkload;

    fn from_str(text: &str) -> Result<Self, NoWorkload> {
        let (kind, name) = text.split_once('/').ok_or(NoWorkload)?;
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).ok_or(NoWorkload)?;
        if name.is_empty() { Err(NoWorkload) } else { Ok(Self { kind, name: name.to_owned() }) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_a_workload() {
        let object = |version: &str, kind: &str| json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "billing" } });
        for (version, kind) in [
            ("apps/v1", "Deployment"),
            ("apps/v1", "StatefulSet"),
            ("apps/v1", "DaemonSet"),
            ("apps/v1", "ReplicaSet"),
            ("v1", "ReplicationController"),
            ("batch/v1", "CronJob"),
            ("batch/v1", "Job"),
        ] {
            let workload = Workload::of(&object(version, kind)).unwrap();
            assert_eq!(workload.to_string(), format!("{kind}/billing"));
            assert_eq!(workload.to_string().parse(), Ok(workload));
        }
        for (version, kind) in
            [("v1", "Pod"), ("ours/v1", "Job"), ("argoproj.io/v1alpha1", "Rollout"), ("ours/v1", "Deployment")]
        {
            assert_eq!(Workload::of(&object(version, kind)), None, "{kind}");
        }
        assert_eq!(Workload::of(&json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {} })), None);
        for text in ["", "billing", "Pod/billing", "Deployment/", "*"] {
            assert_eq!(text.parse::<Workload>(), Err(NoWorkload), "{text}");
        }
    }

    fn selector(kind: Kind, selector: &Value, labels: &Value) -> Result<String, BadSelector> {
        let spec = json!({ "selector": selector, "template": { "metadata": { "labels": labels } } });
        Workload { kind, name: "billing".to_owned() }.selector(&json!({ "spec": spec }))
    }

    #[test]
    fn how_pods_are_found() {
        let labels = json!({ "app": "billing", "tier": "back" });
        let found = |kind: Kind, stated: Value| selector(kind, &stated, &labels).unwrap();
        assert_eq!(found(Kind::Deployment, json!({ "matchLabels": { "app": "billing" } })), "app=billing");
        let expressions = json!({ "matchExpressions": [
            { "key": "tier", "operator": "In", "values": ["back"] }, { "key": "canary", "operator": "DoesNotExist" },
        ] });
        assert_eq!(found(Kind::StatefulSet, expressions), "tier in (back),!canary");
        assert_eq!(found(Kind::ReplicationController, json!({ "app": "billing" })), "app=billing");
        assert_eq!(found(Kind::CronJob, Value::Null), OF_A_JOB);
        assert_eq!(found(Kind::Job, Value::Null), format!("{OF_A_JOB}=billing"));
    }

    /// It would be all pods of the namespace, or somebody else's.
    #[test]
    fn pods_that_cannot_be_found_are_a_refusal() {
        let labels = json!({ "app": "billing" });
        for kind in [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet, Kind::ReplicaSet] {
            let unknown = json!({ "matchExpressions": [{ "key": "app", "operator": "Near", "values": ["billing"] }] });
            for stated in [Value::Null, json!({}), json!(7), json!({ "matchLabels": { "app": "shop" } }), unknown] {
                let error = selector(kind, &stated, &labels).unwrap_err();
                assert!(error.to_string().contains("/billing: spec.selector is"), "{error}");
            }
        }
        assert!(selector(Kind::ReplicationController, &json!({}), &labels).is_err());
    }

    #[test]
    fn what_may_bring_an_earlier_template_back() {
        let of = |kind: Kind, partition: u32| {
            let spec = |partition: u32| json!({ "spec": { "updateStrategy": { "rollingUpdate": { "partition": partition } } } });
            Workload { kind, name: "billing".to_owned() }.may_go_back(&spec(0), &spec(partition))
        };
        assert!(of(Kind::StatefulSet, 1) && !of(Kind::StatefulSet, 0) && !of(Kind::Deployment, 1));
    }
}
