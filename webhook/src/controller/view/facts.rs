//! What is read of workloads and pods: which id they take part in, and as whom.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1::{ObjectReference, Pod, PodSpec, PodTemplateSpec},
};
use kube::{
    Resource, ResourceExt,
    api::{ObjectMeta, PartialObjectMeta},
};
use leader_agent::names;

use super::super::{Key, fail_over::proof::ended_containers, succession};
use crate::{
    inject::{Account, Recorded},
    services::{
        pointed::reaches_standbys,
        slices::{ServiceFacts, addresses},
    },
};

/// The account of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";

/// How a workload takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its template is injected.
    Injected,
    /// Its template asks for pods to be injected when they are created.
    ByPods,
    /// It asks for an election, and is not injected: the webhook did not see it.
    Bare,
}

/// A workload that names an id.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadFacts {
    /// The object.
    pub reference: ObjectReference,
    /// How it takes part.
    pub part: Part,
    /// The account of its pods, where it is settled: that of pods that are injected one by one is settled for each.
    pub account: Option<Account>,
    /// L, where it is injected.
    pub lease_duration: Option<Duration>,
    /// Its pods are about to be deleted.
    pub is_being_deleted: bool,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// The Service that gives its pods their names, where it has one.
    pub governing: Option<String>,
    /// The app runs on the leader only.
    pub runs_on_leader: bool,
}

impl WorkloadFacts {
    /// E.g. `Deployment/billing`.
    pub fn place(&self) -> String {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        format!("{}/{}", text(&self.reference.kind), text(&self.reference.name))
    }

    /// Whether an ordinary Service sends traffic to its standbys, where nothing listens.
    pub fn is_reached_by(&self, service: &ServiceFacts) -> bool {
        self.runs_on_leader
            && self.part != Part::Bare
            && !self.is_being_deleted
            && reaches_standbys(service, &self.labels, self.governing.as_deref())
    }
}

/// A pod with an id's label.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When it was made, in whole seconds.
    pub created: Option<Timestamp>,
    /// Its account.
    pub account: Account,
    /// It has the time that is left to it to end.
    pub is_being_deleted: bool,
    /// Its containers have ended, and none will be started again.
    pub has_ended: bool,
    /// It is injected.
    pub is_injected: bool,
    /// The ids of its containers that have ended, as its status says: what to look at, and no proof.
    pub ended_containers: Vec<String>,
    /// A `ReplicaSet` controls it.
    pub is_of_replica_set: bool,
    /// What its deletion costs, where anybody says so.
    pub deletion_cost: Option<String>,
    /// Its addresses, as far as they are reported.
    pub addresses: Vec<IpAddr>,
}

/// A kind of workload.
pub(in super::super) trait Workload: Resource<DynamicType = ()> {
    fn template(&self) -> Option<&PodTemplateSpec>;

    /// The Service that gives its pods their names.
    fn governing(&self) -> Option<&str> {
        None
    }
}

impl Workload for Deployment {
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }
}

impl Workload for StatefulSet {
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }

    fn governing(&self) -> Option<&str> {
        self.spec.as_ref()?.service_name.as_deref()
    }
}

impl Workload for DaemonSet {
    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }
}

/// The id that a workload's pods take part in, and what is read of the workload; `None` where there is no id.
pub(super) fn workload<K: Workload>(object: &K) -> Option<(Key, WorkloadFacts)> {
    let template = object.template();
    let metadata = template.and_then(|template| template.metadata.as_ref());
    let recorded = metadata.and_then(|metadata| Recorded::parse(annotation(metadata, names::INJECTED)?));
    let own = annotation(object.meta(), names::ID);
    let (id, part) = match (&recorded, own, metadata.and_then(|metadata| annotation(metadata, names::ID))) {
        (Some(recorded), ..) => (recorded.id.as_str(), Part::Injected),
        (None, None, Some(id)) => (id, Part::ByPods),
        (None, Some(id), _) => (id, Part::Bare),
        (None, None, None) => return None,
    };
    let key = Key::parse(&object.namespace()?, id)?;
    let spec = template.and_then(|template| template.spec.as_ref());
    let facts = WorkloadFacts {
        reference: ObjectReference { resource_version: None, ..object.object_ref(&()) },
        part,
        account: recorded.as_ref().map(|recorded| account(recorded, spec)),
        lease_duration: recorded.and_then(|recorded| recorded.lease_duration),
        is_being_deleted: object.meta().deletion_timestamp.is_some(),
        labels: metadata.and_then(|metadata| metadata.labels.clone()).unwrap_or_default(),
        governing: object.governing().map(str::to_owned),
        runs_on_leader: [Some(object.meta()), metadata]
            .into_iter()
            .flatten()
            .all(|metadata| annotation(metadata, names::MODE).is_none_or(|mode| mode == "run")),
    };
    Some((key, facts))
}

/// The id of a pod's label, and what is read of the pod.
pub(super) fn pod(object: &Pod) -> Option<(Key, PodFacts)> {
    let key = Key::parse(&object.namespace()?, object.labels().get(names::ID)?)?;
    let recorded = annotation(&object.metadata, names::INJECTED).and_then(Recorded::parse);
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let facts = PodFacts {
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
        account: match &recorded {
            Some(recorded) => account(recorded, object.spec.as_ref()),
            None => Account::Keep(named(object.spec.as_ref()).to_owned()),
        },
        is_being_deleted: object.metadata.deletion_timestamp.is_some(),
        has_ended: matches!(phase, Some("Succeeded" | "Failed")),
        is_injected: recorded.is_some(),
        ended_containers: ended_containers(object),
        is_of_replica_set: succession::is_of_replica_set(object),
        deletion_cost: annotation(&object.metadata, succession::COST).map(str::to_owned),
        addresses: addresses(object),
    };
    Some((key, facts))
}

/// Whether anything in an object's own metadata says that it takes part in the election `id`: label, annotation or record.
pub(in super::super) fn names_id(metadata: &ObjectMeta, id: &str) -> bool {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(names::ID));
    label.is_some_and(|label| label == id)
        || annotation(metadata, names::ID) == Some(id)
        || annotation(metadata, names::INJECTED)
            .and_then(Recorded::parse)
            .is_some_and(|recorded| recorded.id.as_str() == id)
}

/// Whether a workload says anywhere that it, or its pods, take part in the election `id`.
pub(in super::super) fn workload_names_id<K: Workload>(object: &K, id: &str) -> bool {
    let template = object.template().and_then(|template| template.metadata.as_ref());
    names_id(object.meta(), id) || template.is_some_and(|template| names_id(template, id))
}

/// Whether a pod, of which only the metadata are known, takes part in the election `id`.
pub(in super::super) fn pod_names_id(object: &PartialObjectMeta<Pod>, id: &str) -> bool {
    names_id(&object.metadata, id)
}

fn account(recorded: &Recorded, spec: Option<&PodSpec>) -> Account {
    if recorded.is_dedicated {
        Account::Dedicated(recorded.dedicated_account())
    } else {
        Account::Keep(named(spec).to_owned())
    }
}

/// The account that a specification of pods names.
fn named(spec: Option<&PodSpec>) -> &str {
    let given = |field: fn(&PodSpec) -> Option<&String>| spec.and_then(field).filter(|name| !name.is_empty());
    let name = given(|spec| spec.service_account_name.as_ref()).or_else(|| given(|spec| spec.service_account.as_ref()));
    name.map_or(DEFAULT_ACCOUNT, String::as_str)
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn record(id: &str, account: &str) -> String {
        json!({ "version": 1, "id": id, "container": "app", "leaseDuration": "20s", "serviceAccount": account,
            "command": ["/app"], "agentImage": "agent:1" })
        .to_string()
    }

    fn deployment(own: &Value, on_template: &Value, account: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "billing", "namespace": "shop", "uid": "u1", "resourceVersion": "7", "annotations": own },
            "spec": {
                "selector": {},
                "template": { "metadata": { "annotations": on_template }, "spec": { "containers": [], "serviceAccountName": account } },
            },
        }))
        .unwrap()
    }

    #[test]
    fn how_a_workload_takes_part() {
        let id = json!({ "leader.io/id": "billing" });
        let injected = json!({ "leader.io/injected": record("billing", "dedicated") });
        let of = |own: &Value, on_template: &Value| workload(&deployment(own, on_template, "robot"));
        let (key, facts) = of(&id, &injected).unwrap();
        assert_eq!(key, Key::parse("shop", "billing").unwrap());
        assert_eq!(facts.part, Part::Injected);
        assert_eq!(facts.account, Some(Account::Dedicated("leader-billing".to_owned())));
        assert_eq!(facts.lease_duration, Some(Duration::from_secs(20)));
        assert_eq!((facts.place().as_str(), facts.reference.uid.as_deref()), ("Deployment/billing", Some("u1")));
        // Versions come and go; the workload is the same.
        assert_eq!(facts.reference.resource_version, None);

        let nothing = json!({});
        let part =
            |own: &Value, on_template: &Value| of(own, on_template).map(|(_, facts)| (facts.part, facts.account));
        assert_eq!(part(&nothing, &id), Some((Part::ByPods, None)));
        assert_eq!(part(&id, &nothing), Some((Part::Bare, None)));
        assert_eq!(part(&nothing, &nothing), None);
        assert_eq!(part(&json!({ "leader.io/id": "Not_A_Label" }), &nothing), None);
        // What its pods do counts, not what is asked for.
        let other = json!({ "leader.io/id": "other" });
        assert_eq!(of(&other, &injected).unwrap().0, key);
        let kept = json!({ "leader.io/injected": record("billing", "keep") });
        assert_eq!(part(&id, &kept).unwrap().1, Some(Account::Keep("robot".to_owned())));
    }

    #[test]
    fn what_names_an_id() {
        let nothing = json!({});
        for (own, on_template) in [
            (json!({ "leader.io/id": "billing" }), nothing.clone()),
            (nothing.clone(), json!({ "leader.io/id": "billing" })),
            (json!({ "leader.io/id": "other" }), json!({ "leader.io/injected": record("billing", "keep") })),
        ] {
            let object = deployment(&own, &on_template, "");
            assert!(workload_names_id(&object, "billing") && !workload_names_id(&object, "bill"), "{object:?}");
        }
        assert!(!workload_names_id(&deployment(&nothing, &nothing, ""), "billing"));
        let labelled =
            ObjectMeta { labels: Some([(names::ID.to_owned(), "billing".to_owned())].into()), ..ObjectMeta::default() };
        assert!(names_id(&labelled, "billing") && !names_id(&labelled, "other"));
    }

    #[test]
    fn what_is_read_of_a_pod() {
        let of = |annotations: Value, phase: &str| {
            let object = json!({
                "metadata": { "name": "billing-1", "namespace": "shop", "uid": "u1", "labels": { "leader.io/id": "billing" },
                    "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations },
                "spec": { "containers": [], "serviceAccountName": "robot" },
                "status": { "phase": phase },
            });
            pod(&serde_json::from_value(object).unwrap()).unwrap()
        };
        let (key, facts) = of(json!({ "leader.io/injected": record("billing", "dedicated") }), "Running");
        assert_eq!(key.to_string(), "shop/billing");
        assert_eq!(facts.account, Account::Dedicated("leader-billing".to_owned()));
        assert!(facts.is_injected && !facts.has_ended && !facts.is_being_deleted);
        assert!(facts.ended_containers.is_empty() && !facts.is_of_replica_set && facts.deletion_cost.is_none());
        let (_, facts) = of(json!({}), "Succeeded");
        assert_eq!(facts.account, Account::Keep("robot".to_owned()));
        assert!(!facts.is_injected && facts.has_ended);

        let object = json!({
            "metadata": { "name": "billing-1", "namespace": "shop", "labels": { "leader.io/id": "billing" },
                "annotations": { "controller.kubernetes.io/pod-deletion-cost": "7" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "billing-5d", "uid": "r1", "controller": true }] },
            "spec": { "containers": [] },
            "status": { "containerStatuses": [{ "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 137, "containerID": "containerd://1" } } }] },
        });
        let (_, facts) = pod(&serde_json::from_value(object).unwrap()).unwrap();
        assert!(facts.is_of_replica_set);
        assert_eq!(
            (facts.ended_containers, facts.deletion_cost.as_deref()),
            (vec!["containerd://1".to_owned()], Some("7"))
        );
    }
}
