//! Warnings: what was done and what is risky, for the person at kubectl.
//!
//! Said when it becomes true, not at every write: what the live object had already is not repeated.

use leader_agent::mode::Mode;
use serde_json::Value;

use super::{
    Facts, check,
    json::{annotation, text, texts},
    options::{self, Chosen, Options},
    progress,
    root::Root,
};
use crate::services::pointed;

/// A workload together with the template that its user wrote.
pub(super) struct View<'a> {
    pub object: &'a Value,
    pub template: &'a Value,
    pub root: Root,
}

/// What is said about `now` that was not true of `before`, the live object that is injected with this id.
pub(super) fn new_risks(now: &View<'_>, before: Option<&View<'_>>, options: &Options, facts: &Facts) -> Vec<String> {
    let known = before.map(|view| risks(view, options)).unwrap_or_default();
    let mut said = Vec::new();
    if before.is_none()
        && let Ok(chosen) = options::container(options, now.template, now.root)
    {
        said.push(turned_on(options, chosen.name));
        if !options.mode.excludes() {
            said.push(format!(
                "mode {} informs and does not exclude: at a change two pods may believe for a moment that they lead; what must never be \
                 done twice needs mode run, or whoever receives it checks the fencing token",
                options.mode
            ));
        }
    }
    if before.is_none() && !facts.other_workloads.is_empty() {
        said.push(format!(
            "two workloads under one id share one leader: `{}` is the id of {} too",
            options.id,
            facts.other_workloads.join(", ")
        ));
    }
    if before.is_none() && options.mode.excludes() {
        said.extend(facts.reaching_services.iter().map(|service| pointed::sentence(service, options.id.as_str())));
    }
    said.extend(risks(now, options).into_iter().filter(|risk| !known.contains(risk)));
    if before.is_none() {
        said.push("the agent's emptyDir counts as local data: `kubectl drain` needs --delete-emptydir-data".to_owned());
    }
    said
}

fn risks(view: &View<'_>, options: &Options) -> Vec<String> {
    let mut risks = Vec::new();
    let Ok(chosen) = options::container(options, view.template, view.root) else { return risks };
    if options.mode.excludes() {
        risks.extend(running_twice(view, chosen, &options.follow));
    }
    if options.container.is_none()
        && let Some(name) = annotation(view.template, options::DEFAULT_CONTAINER)
        && name != chosen.name
    {
        risks.push(format!(
            "{} names `{name}`, which does not exist: `{}` is elected",
            options::DEFAULT_CONTAINER,
            chosen.name
        ));
    }
    if options.command.is_some() && !texts(chosen.container, "command").is_empty() {
        risks.push(format!("{} is not used: `{}` sets `command`", options::COMMAND, chosen.name));
    }
    risks.extend(progress::obstacles(view.object, view.template, options.mode));
    if replicas(view.object) == Some(1) {
        risks.push("one replica has no standby: set spec.replicas to 2 or more".to_owned());
    }
    if options.mode.excludes() {
        risks.extend(never_again(view, chosen));
    }
    risks
}

/// What is risky only where the app must not run twice.
fn running_twice(view: &View<'_>, chosen: Chosen<'_>, follow: &[String]) -> Vec<String> {
    let mut risks = Vec::new();
    let spec = &view.template["spec"];
    if let Some(shared) = check::shared_pid_namespace(spec) {
        risks.push(format!(
            "{shared}: true shares the PID namespace: if stub and agent are both killed there, only the app's first process is bound to die"
        ));
    }
    if check::lacks_kill(spec, chosen.container) {
        risks.push(format!(
            "`{}` may run as root and SETUID without the capability KILL: a process that changed its user cannot be stopped but with the whole container",
            chosen.name
        ));
    }
    let mut others = check::other_containers(view.template, chosen);
    others.retain(|other| !follow.iter().any(|name| other.trim_matches('`') == name));
    if !others.is_empty() {
        risks.push(format!(
            "not elected, runs on every replica: {} (leader.io/container chooses another one)",
            others.join(", ")
        ));
    }
    risks
}

/// A container that is stopped and not started again.
fn never_again(view: &View<'_>, chosen: Chosen<'_>) -> Option<String> {
    // A container's own goes before the pod's.
    let policy =
        [chosen.container, &view.template["spec"]].into_iter().find_map(|holder| text(holder, "restartPolicy"));
    (policy == Some("Never")).then(|| {
        format!(
            "restartPolicy: Never: where `{}` is stopped because its lease is lost, it is not started again, and its pod has failed",
            chosen.name
        )
    })
}

/// What an election does that was not there before.
fn turned_on(options: &Options, container: &str) -> String {
    let (id, file) = (&options.id, options.status_file.as_deref().unwrap_or_default());
    match options.mode {
        Mode::Run => {
            format!("leader election `{id}` is on: `{container}` runs on one replica at a time, the others stand by")
        }
        Mode::Observe => {
            format!(
                "leader election `{id}` is on: the app runs on every replica, and {file} is there on the leader only"
            )
        }
        Mode::Ready => {
            format!("leader election `{id}` is on: `{container}` runs on every replica, and only the leader is ready")
        }
    }
}

/// How many pods the object wants; `None` where that is not a number of its own.
fn replicas(object: &Value) -> Option<i64> {
    // What the API server takes for a kind that it knows when nothing is stated.
    let default =
        matches!(text(object, "kind"), Some("Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController"));
    object["spec"]["replicas"].as_i64().or(default.then_some(1))
}

/// The pod template asks for the election, not the workload.
pub(super) fn in_pods(path: &str) -> String {
    format!(
        "the pod template stays as it is: pods are injected when they are created, because {path} carries leader.io/id"
    )
}

/// The record was missing or unreadable where something was injected.
pub(super) fn without_record(error: Option<&String>) -> String {
    let why = error.map_or("is missing".to_owned(), |error| format!("cannot be read ({error})"));
    format!(
        "the annotation leader.io/injected on the pod template {why}: what looked injected was made anew, check the pod template"
    )
}

/// Another container stands first now.
pub(super) fn stays(container: &str) -> String {
    format!(
        "`{container}` stays the container that runs on the leader only, although another one stands first now; {} names another one",
        options::CONTAINER
    )
}

/// The image may change under its name, and its entry point with it.
pub(super) fn frozen(container: &str, image: &str) -> String {
    format!(
        "`{container}` sets no `command`: the entry point of image {image} is the one of now, also when the tag moves; name the image by digest"
    )
}

/// The template's account stays because nothing else was asked for.
pub(super) fn kept_account(named: Option<&str>, id: &str) -> String {
    let name = named.unwrap_or("default");
    format!(
        "service account `{name}` is kept and may use the Lease `{id}` from now on; {}: dedicated gives the pods one of their own",
        options::SERVICE_ACCOUNT
    )
}

/// The id was taken off an injected workload.
pub(super) fn turned_off(object: &Value, id: Option<&str>) -> String {
    let id = id.map(|id| format!(" `{id}`")).unwrap_or_default();
    match replicas(object) {
        Some(replicas) if replicas > 1 => {
            format!("leader election{id} is off: all {replicas} replicas run the app at the same time")
        }
        None => format!("leader election{id} is off: the app runs in all pods at the same time"),
        _ => format!("leader election{id} is off"),
    }
}

/// Options without an id.
pub(super) fn left_behind(keys: &[String]) -> Option<String> {
    (!keys.is_empty()).then(|| format!("without leader.io/id these annotations do nothing: {}", keys.join(", ")))
}
