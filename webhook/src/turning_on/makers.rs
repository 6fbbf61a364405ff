//! What makes a workload's pods in its place, and which pods may still be made.

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, batch::v1::Job},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;

use super::{Kind, Seen, Verdict, Workload, look::PAGE};
use crate::inject::{self, Wanted};

/// What makes a workload's pods in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The Deployment or `CronJob` that controls it.
    pub deployment: Option<String>,
    /// Why it may make pods; `None` where it may not.
    pub makes_pods: Option<String>,
    /// Its pods do not take part in the election as they have to.
    pub is_plain: bool,
    /// Its pods take part under the id, whatever container they wrap.
    pub takes_part: bool,
}

impl Set {
    /// Whether it is the workload's, or will be, because nobody controls it.
    pub fn is_of(&self, workload: &Workload) -> bool {
        match &self.deployment {
            Some(name) => *name == workload.name,
            None => workload.kind == Kind::Deployment,
        }
    }

    fn makes(&self, which: Which) -> Option<String> {
        let is_asked = match which {
            Which::Plain => self.is_plain,
            Which::Elected => self.takes_part,
        };
        self.makes_pods.clone().filter(|_| is_asked)
    }
}

/// Which pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that run the app without the election, or with another container wrapped.
    Plain,
    /// Those that take part in it.
    Elected,
}

/// The `ReplicaSet`s with the labels of a Deployment's pods, or all Jobs of a `CronJob`'s namespace; of others none.
///
/// They have to be looked at before the pods: what makes no pods then makes none later.
pub async fn sets(
    client: &Client,
    namespace: &str,
    workload: &Workload,
    selector: &str,
    wanted: &Wanted,
) -> Result<Vec<Set>, kube::Error> {
    let (resource, selector) = match workload.kind {
        Kind::Deployment => (ApiResource::erase::<ReplicaSet>(&()), selector),
        // The labels are those of pods. Jobs have the name of what made them.
        Kind::CronJob => (ApiResource::erase::<Job>(&()), ""),
        _ => return Ok(Vec::new()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut parameters = ListParams::default().limit(PAGE);
    if !selector.is_empty() {
        parameters = parameters.labels(selector);
    }
    let mut sets = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        sets.extend(page.items.iter().map(|item| set(item, workload, wanted)));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => return Ok(sets),
        }
    }
}

fn set(object: &DynamicObject, workload: &Workload, wanted: &Wanted) -> Set {
    // A Job that a person makes of a CronJob is its own, whether it says that the CronJob controls it or not.
    let is_owner = |owner: &&OwnerReference| {
        owner.kind == workload.kind.name() && (owner.controller == Some(true) || workload.kind == Kind::CronJob)
    };
    let owner = object.owner_references().iter().find(is_owner);
    let name = object.name_any();
    let makes = if workload.kind == Kind::CronJob { job_makes(&object.data) } else { set_makes(object) };
    let template = &object.data["spec"]["template"];
    Set {
        makes_pods: makes.map(|what| format!("{name} {what}")),
        is_plain: !inject::template_is_elected(template, wanted),
        takes_part: inject::elected_container(template, &wanted.id).is_some(),
        name,
        uid: object.uid().unwrap_or_default(),
        deployment: owner.map(|owner| owner.name.clone()),
    }
}

/// Why a `ReplicaSet` may make pods. Its controller makes none once it has seen that there shall be none.
fn set_makes(object: &DynamicObject) -> Option<String> {
    let replicas = object.data["spec"]["replicas"].as_i64().unwrap_or(1);
    if replicas > 0 {
        return Some(format!("is to have {replicas} pods"));
    }
    (!is_observed(object)).then(|| "was to have pods a moment ago".to_owned())
}

fn job_makes(data: &Value) -> Option<String> {
    let conditions = data["status"]["conditions"].as_array().into_iter().flatten();
    let mut over = conditions.filter(|condition| condition["type"] == "Complete" || condition["type"] == "Failed");
    (!over.any(|condition| condition["status"] == "True")).then(|| "has not finished".to_owned())
}

/// Whether the controller of an object has taken notice of its specification.
pub(super) fn is_observed(object: &DynamicObject) -> bool {
    object.data["status"]["observedGeneration"].as_i64() >= object.metadata.generation
}

/// Why such pods may be made beside those of the template that is stored, which makes others; `None` where none may. `object` is the
/// workload, if it is there; `sets` and `seen` what was read after it.
pub fn may_make_pods(
    workload: &Workload,
    object: Option<&DynamicObject>,
    sets: &[Set],
    seen: &[Seen],
    which: Which,
) -> Option<String> {
    let ours = || sets.iter().filter(|set| set.is_of(workload));
    let by_a_set = || ours().find_map(|set| set.makes(which));
    let Some(object) = object else { return by_a_set() };
    // A CronJob does not say what it has taken notice of, and what a Job makes does not change.
    if !matches!(workload.kind, Kind::CronJob | Kind::Job) && !is_observed(object) {
        return Some(format!("{workload} has a new template, of which its controller has not taken notice"));
    }
    let (spec, status) = (&object.data["spec"], &object.data["status"]);
    // Where it is scaled while it is paused, the pods may be of the last template that was rolled out: `scale` in k8s.io/kubernetes,
    // pkg/controller/deployment/sync.go.
    if workload.kind == Kind::Deployment
        && spec["paused"] == true
        && let Some(set) = ours().find(|set| if which == Which::Plain { set.is_plain } else { set.takes_part })
    {
        return Some(format!(
            "{workload} is paused, and may make pods of {}: `kubectl rollout resume` ends that",
            set.name
        ));
    }
    // Below the partition it makes pods of the revision before, and so it may while it has pods of both: `newVersionedStatefulSetPod` in
    // k8s.io/kubernetes, pkg/controller/statefulset/stateful_set_utils.go. With OnDelete every new one is of the newest.
    if workload.kind == Kind::StatefulSet
        && spec["updateStrategy"]["type"] != "OnDelete"
        && status["currentRevision"] != status["updateRevision"]
    {
        let partition = spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64().unwrap_or_default();
        let before = status["currentReplicas"].as_i64().unwrap_or_default();
        // A pod of that revision shows what the others of it are.
        let known = seen.iter().find(|pod| {
            pod.revision.as_deref() == status["currentRevision"].as_str()
                && pod.owner.as_ref().is_some_and(|owner| owner.kind == "StatefulSet" && owner.name == workload.name)
        });
        let is_other = known.is_some_and(|pod| match which {
            Which::Plain => pod.verdict == Verdict::Elected,
            Which::Elected => !pod.takes_part && pod.verdict == Verdict::Waited,
        });
        if (partition > 0 || before > 0) && !is_other {
            return Some(format!("{workload} makes pods below its partition ({partition}) of the template before"));
        }
    }
    by_a_set()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::turning_on::Owner;

    fn dynamic(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn workload(kind: Kind) -> Workload {
        Workload { kind, name: "billing".to_owned() }
    }

    fn wanted() -> Wanted {
        Wanted::id("billing")
    }

    fn plain(workload: &Workload, object: &DynamicObject, sets: &[Set], seen: &[Seen]) -> Option<String> {
        may_make_pods(workload, Some(object), sets, seen, Which::Plain)
    }

    fn replica_set(replicas: i64, generation: i64, observed: i64, deployment: &str) -> DynamicObject {
        dynamic(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": "billing-5d", "uid": "u1", "generation": generation,
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "uid": "d1", "controller": true }] },
            "spec": { "replicas": replicas, "template": { "metadata": {}, "spec": { "containers": [{ "name": "app", "command": ["/app"] }] } } },
            "status": { "observedGeneration": observed, "replicas": 0 },
        }))
    }

    #[test]
    fn a_set_makes_no_more_pods_when_its_controller_knows_that_it_shall_not() {
        let of = |object: &DynamicObject| set(object, &workload(Kind::Deployment), &wanted());
        let idle = of(&replica_set(0, 3, 3, "billing"));
        assert_eq!((idle.makes_pods, idle.is_plain, idle.deployment.as_deref()), (None, true, Some("billing")));
        assert!(of(&replica_set(1, 3, 3, "billing")).makes_pods.unwrap().contains("billing-5d is to have 1"));
        assert!(of(&replica_set(0, 3, 2, "billing")).makes_pods.unwrap().contains("a moment ago"));
        let mut never_seen = replica_set(0, 1, 1, "billing");
        never_seen.data["status"] = Value::Null;
        assert!(of(&never_seen).makes_pods.is_some());
    }

    #[test]
    fn what_keeps_a_deployment_from_being_done() {
        let deployment = |observed: i64| {
            dynamic(
                json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "billing", "generation": 2 },
                "spec": {}, "status": { "observedGeneration": observed } }),
            )
        };
        let of = |observed: i64, sets: &[Set]| plain(&workload(Kind::Deployment), &deployment(observed), sets, &[]);
        let busy = set(&replica_set(3, 1, 1, "billing"), &workload(Kind::Deployment), &wanted());
        let foreign = set(&replica_set(3, 1, 1, "reports"), &workload(Kind::Deployment), &wanted());
        assert!(of(1, &[]).unwrap().contains("has not taken notice"));
        assert_eq!(of(2, std::slice::from_ref(&foreign)), None);
        assert!(of(2, &[foreign, busy]).unwrap().contains("is to have 3 pods"));
    }

    fn stateful(partition: i64, current: &str, before: i64) -> DynamicObject {
        dynamic(json!({ "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": { "name": "billing", "generation": 2 },
            "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": partition } } },
            "status": { "observedGeneration": 2, "currentRevision": current, "updateRevision": "new", "currentReplicas": before } }))
    }

    #[test]
    fn a_partition_keeps_the_template_before() {
        let of = |partition: i64, current: &str, before: i64| {
            plain(&workload(Kind::StatefulSet), &stateful(partition, current, before), &[], &[])
        };
        assert_eq!(of(0, "old", 0), None);
        assert!(of(0, "old", 1).is_some());
        assert!(of(2, "old", 0).unwrap().contains("partition (2)"));
        assert_eq!(of(2, "new", 3), None);
    }

    #[test]
    fn a_partition_of_a_template_that_takes_part_keeps_nobody() {
        let of = |revision: &str, verdict: Verdict| {
            let owner = Owner { kind: "StatefulSet".to_owned(), name: "billing".to_owned(), uid: "s1".to_owned() };
            let pod = Seen { revision: Some(revision.to_owned()), owner: Some(owner), verdict, ..Seen::default() };
            plain(&workload(Kind::StatefulSet), &stateful(2, "old", 2), &[], &[pod])
        };
        assert_eq!(of("old", Verdict::Elected), None);
        for (revision, verdict) in [("old", Verdict::Waited), ("old", Verdict::Ended), ("new", Verdict::Elected)] {
            assert!(of(revision, verdict).is_some(), "{revision} {verdict:?}");
        }
    }

    #[test]
    fn what_is_paused_may_be_scaled_with_the_template_before() {
        let object = dynamic(
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "billing", "generation": 2 },
            "spec": { "paused": true }, "status": { "observedGeneration": 2 } }),
        );
        let of = |is_plain: bool| {
            let before = Set { name: "billing-5d".to_owned(), is_plain, takes_part: !is_plain, ..Set::default() };
            plain(&workload(Kind::Deployment), &object, &[before], &[])
        };
        assert!(of(true).unwrap().contains("is paused, and may make pods of billing-5d"));
        assert_eq!(of(false), None, "all that it may make takes part");
    }

    #[test]
    fn what_may_still_be_elected() {
        let of = |takes_part: bool, makes: bool| {
            let makes_pods = makes.then(|| "billing-5d is to have 1 pods".to_owned());
            let set = Set { takes_part, is_plain: true, makes_pods, ..Set::default() };
            may_make_pods(&workload(Kind::Deployment), None, &[set], &[], Which::Elected).is_some()
        };
        assert!(of(true, true) && !of(true, false) && !of(false, true));
    }

    #[test]
    fn a_job_that_somebody_made_of_a_cron_job_is_one_of_it() {
        let of = |owners: Value| {
            let job = dynamic(json!({ "apiVersion": "batch/v1", "kind": "Job",
                "metadata": { "name": "by-hand", "uid": "j1", "ownerReferences": owners }, "spec": {} }));
            set(&job, &workload(Kind::CronJob), &wanted()).is_of(&workload(Kind::CronJob))
        };
        let owner =
            |kind: &str, name: &str| json!([{ "apiVersion": "batch/v1", "kind": kind, "name": name, "uid": "c1" }]);
        assert!(of(owner("CronJob", "billing")));
        assert!(!of(owner("CronJob", "reports")) && !of(owner("Workflow", "billing")) && !of(Value::Null));
    }

    #[test]
    fn a_job_that_has_finished_makes_no_pods() {
        let of = |conditions: Value| job_makes(&json!({ "status": { "conditions": conditions } }));
        assert!(of(Value::Null).is_some());
        assert!(of(json!([{ "type": "Complete", "status": "False" }])).is_some());
        assert!(of(json!([{ "type": "Failed", "status": "True" }])).is_none());
    }
}
