//! What a user's pod template must not have, and what is risky in it.

use std::collections::BTreeSet;

use leader_agent::{
    mode::Mode,
    names::{self, env},
};
use serde_json::Value;

use super::{
    Refusal, follow,
    handlers::{self, Way},
    json::{annotation, containers, is_empty, items, text, texts},
    options::{self, Asked, Chosen, Holder, Options},
    root::Root,
    status,
};

/// Volumes that the kubelet mounts read-only, whatever the mount says (`GetAttributes` in pkg/volume/{configmap,downwardapi,
/// projected,secret}; `image` in docs/concepts/storage/volumes).
const READ_ONLY: [&str; 5] = ["configMap", "downwardAPI", "image", "projected", "secret"];

/// Everything for which a template, with nothing injected in it, is refused. `object` is the workload around it,
/// `way` the one that the kubelet will take to the agent.
pub(super) fn refuse(
    object: &Value,
    template: &Value,
    chosen: Chosen<'_>,
    way: Way,
    options: &Options,
) -> Result<(), Refusal> {
    let mode = options.mode;
    windows(template, chosen)?;
    collisions(object, template, chosen, mode)?;
    let spec = &template["spec"];
    handlers::check(spec, chosen, way, mode)?;
    follow::refuse(template, chosen, &options.follow)?;
    if let Some(path) = &options.status_file {
        status::share(template, chosen, path)?;
    }
    if mode.excludes()
        && let Some(shared) = shared_pid_namespace(spec)
        && lacks_kill(spec, chosen.container)
    {
        return Err(Refusal::CannotKill { container: chosen.name.to_owned(), path: chosen.path(), shared });
    }
    Ok(())
}

/// The field that makes the container's processes share a PID namespace with others.
pub(super) fn shared_pid_namespace(spec: &Value) -> Option<&'static str> {
    ["hostPID", "shareProcessNamespace"].into_iter().find(|&key| spec[key] == true)
}

/// Whether the container may run as root and SETUID, but not KILL: then a process that changed its user cannot be stopped.
pub(super) fn lacks_kill(spec: &Value, container: &Value) -> bool {
    let setting = |key: &str| {
        [container, spec].into_iter().map(|holder| &holder["securityContext"][key]).find(|value| !value.is_null())
    };
    let root = match setting("runAsUser").and_then(Value::as_i64) {
        Some(user) => user == 0,
        None => setting("runAsNonRoot") != Some(&Value::Bool(true)),
    };
    let context = &container["securityContext"];
    let capabilities = &context["capabilities"];
    let has = |name: &str| {
        let listed = |key: &str, name: &str| {
            texts(capabilities, key).iter().any(|entry| entry.trim_start_matches("CAP_").eq_ignore_ascii_case(name))
        };
        // A runtime takes `drop` first, then `add`; KILL and SETUID are among its defaults.
        listed("add", name) || listed("add", "ALL") || !(listed("drop", name) || listed("drop", "ALL"))
    };
    root && context["privileged"] != true && has("SETUID") && !has("KILL")
}

/// Whether a pod template with nothing injected in it has annotations of ours.
pub(super) fn has_annotations(template: &Value) -> bool {
    ours(template).next().is_some()
}

/// Our annotations on a template with nothing injected in it, beside those of the workload around it: they must be the same.
pub(super) fn annotations(object: &Value, template: &Value, root: Root, options: &Options) -> Result<(), Refusal> {
    if root == Root::Pod || !has_annotations(template) {
        return Ok(());
    }
    let holder = Holder { object: template, kind: "pod template", path: root.metadata() };
    if let Asked::Election(others) = options::read(&holder, &template["spec"])?
        && others.id == options.id
        && others.written == options.written
    {
        return Ok(());
    }
    let said = |holder: &Value, key: &str| annotation(holder, key).map(|value| format!("`{value}`"));
    let is_elected = annotation(template, names::ID).is_some();
    let keys = ours(template).chain(ours(object).filter(|_| is_elected));
    let differing = keys.map(String::as_str).find(|&key| said(object, key) != said(template, key));
    match differing {
        Some(key) => Err(Refusal::Contradiction {
            key: key.to_owned(),
            own: said(object, key).unwrap_or_else(|| "missing".to_owned()),
            template: said(template, key).unwrap_or_else(|| "missing".to_owned()),
        }),
        None => Ok(()),
    }
}

/// Our annotations on the template of a `CronJob`'s Jobs, which mean nothing there.
pub(super) fn job_annotations(object: &Value) -> Result<(), Refusal> {
    match ours(&object["spec"]["jobTemplate"]).next() {
        Some(key) => Err(Refusal::OnJobTemplate { key: key.clone() }),
        None => Ok(()),
    }
}

fn ours(holder: &Value) -> impl Iterator<Item = &String> {
    let annotations = holder["metadata"]["annotations"].as_object();
    annotations.into_iter().flat_map(|all| all.keys()).filter(|key| key.starts_with(names::PREFIX))
}

fn windows(template: &Value, chosen: Chosen<'_>) -> Result<(), Refusal> {
    let spec = &template["spec"];
    for (path, value) in [
        ("os.name", &spec["os"]["name"]),
        ("nodeSelector[kubernetes.io/os]", &spec["nodeSelector"]["kubernetes.io/os"]),
    ] {
        if value == "windows" {
            return Err(Refusal::Windows { path: format!("{}.{path}", chosen.root.spec()) });
        }
    }
    if needs_windows(&spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]) {
        return Err(Refusal::Windows { path: format!("{}.affinity.nodeAffinity", chosen.root.spec()) });
    }
    let lists = ["initContainers", "containers"].into_iter();
    let containers = lists.flat_map(|key| {
        let all = items(spec, key).iter().enumerate();
        all.map(move |(index, container)| (format!(".{key}[{index}]"), container))
    });
    for (place, holder) in containers.chain([(String::new(), spec)]) {
        if !is_empty(&holder["securityContext"]["windowsOptions"]) {
            let path = format!("{}{place}.securityContext.windowsOptions", chosen.root.spec());
            return Err(Refusal::Windows { path });
        }
    }
    Ok(())
}

/// Whether each of the terms, of which a node must satisfy one, asks for Windows.
fn needs_windows(selector: &Value) -> bool {
    let is_windows = |rule: &Value| {
        rule["key"] == "kubernetes.io/os" && rule["operator"] == "In" && texts(rule, "values") == ["windows"]
    };
    let terms = items(selector, "nodeSelectorTerms");
    !terms.is_empty() && terms.iter().all(|term| items(term, "matchExpressions").iter().any(is_windows))
}

/// Names and paths of the user's that injection needs for itself.
fn collisions(object: &Value, template: &Value, chosen: Chosen<'_>, mode: Mode) -> Result<(), Refusal> {
    let spec = &template["spec"];
    for key in ["initContainers", "containers"] {
        for (index, container) in items(spec, key).iter().enumerate() {
            let path = format!("{}.{key}[{index}]", chosen.root.spec());
            if text(container, "name") == Some(names::INIT_CONTAINER) {
                return Err(collision(&path, format!("the name `{}`", names::INIT_CONTAINER), "rename it"));
            }
            volume_mounts(container, &path)?;
        }
    }
    let claims = items(&object["spec"], "volumeClaimTemplates").iter().enumerate();
    let claims =
        claims.map(|(index, claim)| (format!("spec.volumeClaimTemplates[{index}]"), &claim["metadata"]["name"]));
    let volumes = items(spec, "volumes").iter().enumerate();
    let volumes = volumes.map(|(index, volume)| (format!("{}.volumes[{index}]", chosen.root.spec()), &volume["name"]));
    for (path, name) in volumes.chain(claims) {
        if let Some(name) = name.as_str().filter(|name| is_our_volume(name)) {
            return Err(collision(&path, format!("the name `{name}`"), "rename the volume"));
        }
    }
    if template["metadata"]["labels"].get(names::ID).is_some() {
        let path = format!("{}.labels", chosen.root.metadata());
        return Err(collision(&path, format!("the label {}", names::ID), "remove it, it is set by injection"));
    }
    // The observer is a container of its own.
    if mode == Mode::Observe { wrapped_command(chosen) } else { wrapped_container(template, chosen) }
}

fn volume_mounts(container: &Value, path: &str) -> Result<(), Refusal> {
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        if let Some(name) = text(mount, "name").filter(|name| is_our_volume(name)) {
            let path = format!("{path}.volumeMounts[{index}]");
            return Err(collision(&path, format!("the volume `{name}`"), "mount a volume of your own"));
        }
    }
    Ok(())
}

pub(super) fn wrapped_container(template: &Value, chosen: Chosen<'_>) -> Result<(), Refusal> {
    let path = chosen.path();
    for (index, mount) in items(chosen.container, "volumeMounts").iter().enumerate() {
        let mounted = text(mount, "mountPath").unwrap_or_default();
        if let Some(ours) = [names::MOUNT_PATH, names::TOKEN_PATH].into_iter().find(|ours| is_within(mounted, ours)) {
            let path = format!("{path}.volumeMounts[{index}]");
            return Err(collision(&path, format!("the path `{mounted}`"), &format!("mount it outside of {ours}")));
        }
    }
    let is_read_only = |volume: &&Value| READ_ONLY.iter().any(|&source| volume[source].is_object());
    let volumes = items(&template["spec"], "volumes").iter().filter(is_read_only);
    let read_only: BTreeSet<&str> = volumes.filter_map(|volume| text(volume, "name")).collect();
    for (index, mount) in items(chosen.container, "volumeMounts").iter().enumerate() {
        let mounted = text(mount, "mountPath").unwrap_or_default();
        // The runtime makes the folder to mount on, which it cannot inside of a volume that is read-only.
        let always = text(mount, "name").is_some_and(|name| read_only.contains(name));
        if (always || mount["readOnly"] == true) && is_within(names::TOKEN_PATH, mounted) {
            let path = format!("{path}.volumeMounts[{index}]");
            let or = if always { "" } else { ", or without readOnly" };
            let fix = &format!("mount it on a folder of its own{or}");
            return Err(collision(&path, format!("the folder `{mounted}` of {} read-only", names::TOKEN_PATH), fix));
        }
    }
    for (index, variable) in items(chosen.container, "env").iter().enumerate() {
        // The log filter is not injected: it is the user's to set.
        if let Some(name) = text(variable, "name").filter(|name| env::ALL.contains(name) && *name != env::LOG) {
            let fix = match name {
                env::LEASE_DURATION => "use the annotation leader.io/lease-duration",
                env::STOP_GRACE => "use the annotation leader.io/stop-grace",
                env::TERMINATION_GRACE => "set the pod's terminationGracePeriodSeconds",
                env::ID => "use the annotation leader.io/id; the app gets the variable from the agent",
                _ => "rename or remove it",
            };
            return Err(collision(&format!("{path}.env[{index}]"), format!("the variable {name}"), fix));
        }
    }
    wrapped_command(chosen)
}

fn wrapped_command(chosen: Chosen<'_>) -> Result<(), Refusal> {
    let path = chosen.path();
    for key in ["command", "args"] {
        if let Some(index) = texts(chosen.container, key).iter().position(|word| word == names::AGENT_PATH) {
            let fix = "give the app's own command, the agent is put before it by injection";
            return Err(collision(&format!("{path}.{key}[{index}]"), format!("the path `{}`", names::AGENT_PATH), fix));
        }
    }
    Ok(())
}

fn collision(path: &str, what: String, fix: &str) -> Refusal {
    Refusal::Collision { path: path.to_owned(), what, fix: fix.to_owned() }
}

fn is_our_volume(name: &str) -> bool {
    [names::VOLUME, names::TOKEN_VOLUME, status::VOLUME].contains(&name)
}

/// Whether a path is `folder` or lies in it; `/leader/` and `//leader` are `/leader`.
pub(super) fn is_within(path: &str, folder: &str) -> bool {
    let parts = |path: &str| {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect::<Vec<_>>()
    };
    parts(path).starts_with(&parts(folder))
}

/// Names of the app containers beside the wrapped one.
pub(super) fn other_containers(template: &Value, chosen: Chosen<'_>) -> Vec<String> {
    let all = containers(template).iter().enumerate();
    all.filter(|&(index, _)| index != chosen.index)
        .filter_map(|(_, container)| text(container, "name"))
        .map(|name| format!("`{name}`"))
        .collect()
}
