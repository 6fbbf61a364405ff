//! Who takes part in an election: judged by what runs, not by what is asked for.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use leader_agent::{mode::Mode, names};
use serde_json::Value;

use super::{
    json::{annotation, items, text},
    keep::is_intact,
    options,
    record::Record,
    root::Root,
    shape,
};

/// Stands for the wrapped container's name where the app runs in every pod: no container can be called so, and so none of them is one that
/// must not run bare.
pub const EVERYWHERE: &str = "*";

/// Which container an election keeps from running everywhere.
pub(super) fn elected(mode: Mode, container: &str) -> &str {
    if mode.excludes() { container } else { EVERYWHERE }
}

/// What a pod has to be to run the app on the leader only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The id under which its agent takes part.
    pub id: String,
    /// The containers that elected pods wrap: where it has one of these, its agent stands before that.
    pub containers: BTreeSet<String>,
}

impl Wanted {
    /// Takes part under this id, whatever container is wrapped.
    pub fn id(id: &str) -> Self {
        Self { id: id.to_owned(), containers: BTreeSet::new() }
    }

    /// Whether something that wraps one container, and has these, leaves none of the wanted ones bare.
    fn leaves_none_bare<'a>(&self, wrapped: &str, mut all: impl Iterator<Item = &'a str>) -> bool {
        !all.any(|name| name != wrapped && self.containers.contains(name))
    }
}

/// The container before which the agents of a template's pods stand under `id`: it is injected for it, or its pods are when they are
/// created; [`EVERYWHERE`] where they keep none from running. `None` where they take no part.
pub fn elected_container(template: &Value, id: &str) -> Option<String> {
    let record = Record::of(template).ok().flatten().filter(|record| record.id == id);
    let is_injected = |record: &Record| shape::check(template, Root::Template).is_ok() && is_intact(template, record);
    if let Some(record) = record.filter(is_injected) {
        return Some(elected(record.mode, &record.container).to_owned());
    }
    let stated = (annotation(template, names::ID) == Some(id)).then(|| options::stated_container(template)).flatten();
    stated.map(|container| elected(options::stated_mode(template), &container).to_owned())
}

/// Whether the pods of a template take part as they have to.
pub fn template_is_elected(template: &Value, wanted: &Wanted) -> bool {
    let all = ["initContainers", "containers"].into_iter().flat_map(|key| items(&template["spec"], key));
    let all = all.filter_map(|container| text(container, "name"));
    elected_container(template, &wanted.id).is_some_and(|wrapped| wanted.leaves_none_bare(&wrapped, all))
}

/// Whether a pod takes part as it has to: its agent stands before the container that its record names. Another webhook may have
/// put a command of its own in front of that; a record alone proves nothing, because anybody can write one.
pub fn pod_is_elected(pod: &Pod, wanted: &Wanted) -> bool {
    let record = pod.annotations().get(names::INJECTED).and_then(|text| Record::parse(text).ok());
    let (Some(record), Some(spec)) = (record.filter(|record| record.id == wanted.id), &pod.spec) else { return false };
    let is_installed = spec.init_containers.iter().flatten().any(|container| container.name == names::INIT_CONTAINER);
    let wrapped = spec.containers.iter().find(|container| container.name == record.container);
    let all = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| container.name.as_str());
    let wraps = elected(record.mode, &record.container);
    is_installed
        && wanted.leaves_none_bare(wraps, all)
        && (record.mode == Mode::Observe
            || wrapped.is_some_and(|container| {
                let words = container.command.iter().flatten().chain(container.args.iter().flatten());
                words.into_iter().any(|word| word == names::AGENT_PATH)
            }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        let record = json!({ "version": 1, "id": "billing", "container": "app", "leaseDuration": "15s", "serviceAccount": "dedicated",
            "command": ["/app"], "agentImage": "agent:1", "original": { "setsCommand": true } });
        json!({
            "metadata": { "name": "billing-1", "annotations": { "leader.io/injected": record.to_string() } },
            "spec": {
                "initContainers": [{ "name": "leader-agent" }],
                "containers": [
                    { "name": "app", "command": ["/leader/agent", "run", "--", "/app"] },
                    { "name": "proxy", "command": ["/proxy"] },
                ],
            },
        })
    }

    #[test]
    fn a_record_without_an_agent_is_no_election() {
        let is_elected =
            |pod: &Value, id: &str| pod_is_elected(&serde_json::from_value(pod.clone()).unwrap(), &Wanted::id(id));
        assert!(is_elected(&pod(), "billing") && !is_elected(&pod(), "other"));
        let mut behind_another = pod();
        behind_another["spec"]["containers"][0]["command"] = json!(["/wrapper", "/leader/agent", "run", "--", "/app"]);
        assert!(is_elected(&behind_another, "billing"));
        for (pointer, value) in [
            ("/spec/containers/0/command", json!(["/app"])),
            ("/spec/containers/0/name", json!("other")),
            ("/spec/initContainers/0/name", json!("other")),
            ("/metadata/annotations", json!({})),
            ("/metadata/annotations/leader.io~1injected", json!("{}")),
        ] {
            let mut forged = pod();
            *forged.pointer_mut(pointer).unwrap() = value;
            assert!(!is_elected(&forged, "billing"), "{pointer}");
        }
    }
    /// Beside a pod in which another container is wrapped, one that wraps this one would run it twice.
    #[test]
    fn a_pod_that_runs_the_wanted_container_bare_is_none_of_it() {
        let pod: Pod = serde_json::from_value(pod()).unwrap();
        let is_elected = |containers: &[&str]| {
            let containers = containers.iter().map(|&name| name.to_owned()).collect();
            pod_is_elected(&pod, &Wanted { containers, ..Wanted::id("billing") })
        };
        assert!(is_elected(&["app"]));
        assert!(!is_elected(&["proxy"]) && !is_elected(&["app", "proxy"]));
        assert!(is_elected(&["renamed"]), "it does not have that one");
    }

    #[test]
    fn a_pod_whose_app_runs_whoever_leads_is_no_elected_one() {
        for (mode, command) in [("observe", "/app"), ("ready", "/leader/agent")] {
            let mut pod = pod();
            let mut record: Value =
                serde_json::from_str(pod["metadata"]["annotations"]["leader.io/injected"].as_str().unwrap()).unwrap();
            record["mode"] = mode.into();
            pod["metadata"]["annotations"]["leader.io/injected"] = record.to_string().into();
            pod["spec"]["containers"][0]["command"] = json!([command]);
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let takes_part = |containers: &[&str]| {
                let containers = containers.iter().map(|&name| name.to_owned()).collect();
                pod_is_elected(&pod, &Wanted { containers, ..Wanted::id("billing") })
            };
            assert!(takes_part(&[]) && takes_part(&[EVERYWHERE]), "{mode}");
            assert!(!takes_part(&["app"]), "{mode}: beside a leader it would be the second");
        }
        assert!(template_is_elected(
            &json!({ "metadata": { "annotations": { "leader.io/id": "billing", "leader.io/mode": "ready" } },
                "spec": { "containers": [{ "name": "app" }] } }),
            &Wanted { containers: [EVERYWHERE.to_owned()].into(), ..Wanted::id("billing") }
        ));
    }

    #[test]
    fn which_container_a_template_elects() {
        let template = |annotations: Value| json!({ "metadata": { "annotations": annotations }, "spec": { "containers": [{ "name": "app" }, { "name": "proxy" }] } });
        for (annotations, expected) in [
            (json!({}), None),
            (json!({ "leader.io/id": "other" }), None),
            (json!({ "leader.io/id": "billing" }), Some("app")),
            (json!({ "leader.io/id": "billing", "leader.io/container": "proxy" }), Some("proxy")),
            (json!({ "leader.io/id": "billing", "leader.io/mode": "observe" }), Some(EVERYWHERE)),
            (json!({ "leader.io/id": "billing", "kubectl.kubernetes.io/default-container": "proxy" }), Some("proxy")),
            (json!({ "leader.io/id": "billing", "kubectl.kubernetes.io/default-container": "gone" }), Some("app")),
        ] {
            let template = template(annotations);
            assert_eq!(elected_container(&template, "billing").as_deref(), expected, "{template}");
            let wanted = Wanted { containers: ["proxy".to_owned()].into(), ..Wanted::id("billing") };
            assert_eq!(template_is_elected(&template, &wanted), expected == Some("proxy"), "{template}");
        }
    }
}
