//! Followers: containers that are wrapped beside the elected one, and run and stop with its app.
//!
//! They are wrapped by the same words: by the record their agent knows that it follows. They have to be simple: what starts them stands in
//! their `command`, and the kubelet asks nothing of them, because it would ask on standbys as well.

use std::collections::BTreeMap;

use leader_agent::names::{self, env};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Refusal, check,
    json::{containers, containers_mut, items, list_of_texts, open_list, set, text, texts},
    options::{Chosen, cores},
    parts,
    record::{Original, Record},
};

/// What a follower's agent gets: it elects nobody, and so needs no account.
const VARIABLES: [&str; 6] = [env::POD_NAME, env::POD_UID, env::NAMESPACE, env::CONTAINER, env::STATE_DIR, env::RECORD];

/// What the record says of a follower.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Follower {
    /// Its command, as it stands behind the wrapper.
    pub command: Vec<String>,
    /// Its `lifecycle.stopSignal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Follower {
    fn of(container: &Value) -> Self {
        Self {
            command: texts(container, "command"),
            stop_signal: text(&container["lifecycle"], "stopSignal").map(str::to_owned),
            rest: Map::new(),
        }
    }
}

/// The names in an annotation: with commas, each once. `None` where these are no names.
pub(super) fn parse(value: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in value.split(',').map(str::trim) {
        if name.is_empty() || names.iter().any(|known| known == name) {
            return None;
        }
        names.push(name.to_owned());
    }
    Some(names)
}

/// Refuses followers that are none.
pub(super) fn refuse(template: &Value, chosen: Chosen<'_>, follow: &[String]) -> Result<(), Refusal> {
    let spec = &template["spec"];
    for name in follow {
        let refuse = |reason: String| Err(Refusal::Follower { container: name.clone(), reason });
        let all = containers(template);
        let Some(index) = all.iter().position(|container| text(container, "name") == Some(name)) else {
            let is_init = items(spec, "initContainers").iter().any(|init| text(init, "name") == Some(name));
            let others = check::other_containers(template, chosen).join(", ");
            return refuse(match (is_init, others.as_str()) {
                (true, _) => "is an init container, which cannot follow".to_owned(),
                (false, "") => {
                    "does not exist, and there is none beside the elected one: remove the annotation".to_owned()
                }
                (false, others) => format!("does not exist: {others} could follow"),
            });
        };
        if index == chosen.index {
            return refuse("is the elected one itself: leave it out".to_owned());
        }
        let container = &all[index];
        if texts(container, "command").is_empty() {
            return refuse("sets no `command`: its image is not asked for one, so state it there".to_owned());
        }
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().map(|key| (key, &container[key]));
        let hooks = ["postStart", "preStop"].into_iter().map(|key| (key, &container["lifecycle"][key]));
        if let Some((key, _)) = probes.chain(hooks).find(|(_, value)| !value.is_null()) {
            return refuse(format!(
                "has a {key}, which the kubelet would ask for on standbys, where it does not run: remove that"
            ));
        }
        if let Some(shared) = check::shared_pid_namespace(spec) {
            return refuse(format!(
                "cannot follow while {shared}: true shares the PID namespace: its end could not be proved"
            ));
        }
        let limit = container.pointer("/resources/limits/cpu");
        if limit.is_some_and(|limit| cores(limit).is_none_or(|cores| cores < 1.0)) {
            return refuse(
                "has a CPU limit below one core: its end could take longer than the lease allows for; raise or remove the limit".to_owned(),
            );
        }
        check::wrapped_container(template, Chosen { index, name, container, root: chosen.root })?;
    }
    Ok(())
}

/// Wraps them, and gives what the record has to say of each.
pub(super) fn add(template: &mut Value, follow: &[String], original: &mut Original) -> BTreeMap<String, Follower> {
    let mut followers = BTreeMap::new();
    for container in containers_mut(template) {
        let Some(name) = follow.iter().find(|name| container["name"] == name.as_str()) else { continue };
        let follower = Follower::of(container);
        let Some(container) = container.as_object_mut() else { continue };
        let mut notes = original.beside.remove(name).unwrap_or_default();
        set(container, "command", parts::wrap(&follower.command).into(), &mut notes);
        let variables = VARIABLES.into_iter().map(|variable| parts::variable(variable, name));
        open_list(container, "env", &mut notes).extend(variables);
        open_list(container, "volumeMounts", &mut notes)
            .push(json!({"name": names::VOLUME, "mountPath": names::MOUNT_PATH}));
        if !notes.is_empty() {
            original.beside.insert(name.clone(), notes);
        }
        followers.insert(name.clone(), follower);
    }
    followers
}

/// Whether all of a record's followers are wrapped as it says.
pub(super) fn are_wrapped(template: &Value, record: &Record) -> bool {
    record.follow.iter().all(|name| {
        let Some(follower) = record.followers.get(name) else { return false };
        let container = containers(template).iter().find(|container| text(container, "name") == Some(name));
        container.is_some_and(|container| {
            let is_variable = |item: &&Value| parts::is_variable(item, &[name]);
            list_of_texts(container.get("command")) == parts::wrap(&follower.command)
                && items(container, "volumeMounts").iter().filter(|item| parts::is_agents_mount(item)).count() == 1
                && items(container, "env").iter().filter(is_variable).count() == VARIABLES.len()
        })
    })
}

/// Whether a record's followers are what they would be if they were wrapped now. `plain` is the user's template.
pub(super) fn fit(record: &Record, plain: &Value) -> bool {
    record.follow.iter().all(|name| {
        let container = containers(plain).iter().find(|container| text(container, "name") == Some(name));
        let follower = record.followers.get(name);
        container.zip(follower).is_some_and(|(container, follower)| {
            let now = Follower::of(container);
            (&now.command, &now.stop_signal) == (&follower.command, &follower.stop_signal)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_between_commas_each_once() {
        assert_eq!(parse("a"), Some(vec!["a".to_owned()]));
        assert_eq!(parse(" a , b"), Some(vec!["a".to_owned(), "b".to_owned()]));
        for wrong in ["", ",", "a,", "a,a", "a,,b"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
