//! What injection puts into a pod template, and how each part is known again.
//!
//! A part is known by its name and by the one field that makes it ours, never by equality: the API server fills in
//! defaults, and `kubectl set image '*=...'` changes the image of our init container too. A part whose name is ours and
//! whose content is not is the user's, and a collision.

use leader_agent::names::{self, env};
use serde_json::{Map, Value, json};

use super::{
    json::{items, texts},
    status,
};

/// The cluster autoscaler's list of local volumes that do not keep a node from being removed.
pub(super) const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// What stands before the entry point in a wrapped command.
pub(super) const WRAPPER: [&str; 3] = [names::AGENT_PATH, "run", "--"];
/// The command of the init container.
const INSTALL: [&str; 3] = [names::AGENT_IMAGE_PATH, "install", names::MOUNT_PATH];
/// Resources that quota, `LimitRange` and quality of service look at in an init container.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// The init container that copies the agent, with the wrapped container's `resources`.
pub(super) fn init_container(image: &str, wrapped: &Value) -> Value {
    let mut container = json!({
        "name": names::INIT_CONTAINER,
        "image": image,
        "command": INSTALL,
    });
    let resources = resources(wrapped);
    if !resources.is_empty() {
        container["resources"] = Value::Object(resources);
    }
    container["securityContext"] = security();
    container["volumeMounts"] = json!([{"name": names::VOLUME, "mountPath": names::MOUNT_PATH}]);
    container
}

/// What restricted Pod Security asks of a container.
pub(super) fn security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsGroup": 65532,
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Requests and limits that the init container takes over, so that the pod's sum, ratio and quality of service stay as they were.
pub(super) fn resources(container: &Value) -> Map<String, Value> {
    let mut taken = Map::new();
    for kind in ["limits", "requests"] {
        let Some(all) = container.pointer(&format!("/resources/{kind}")).and_then(Value::as_object) else { continue };
        let some: Map<String, Value> = RESOURCES
            .iter()
            .filter_map(|&name| all.get(name).map(|quantity| (name.to_owned(), quantity.clone())))
            .collect();
        if !some.is_empty() {
            taken.insert(kind.to_owned(), Value::Object(some));
        }
    }
    taken
}

/// The volume of this name, one of ours.
pub(super) fn volume(name: &str) -> Value {
    match name {
        names::TOKEN_VOLUME => json!({"name": names::TOKEN_VOLUME, "projected": {
            // Readable for whatever user the app runs as: 0400 would be root's alone when the containers differ in their users.
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": names::TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
                {"downwardAPI": {"items": [{
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace",
                }]}},
            ],
        }}),
        name => json!({"name": name, "emptyDir": {}}),
    }
}

pub(super) fn mounts() -> [Value; 2] {
    [
        json!({"name": names::VOLUME, "mountPath": names::MOUNT_PATH}),
        json!({"name": names::TOKEN_VOLUME, "mountPath": names::TOKEN_PATH, "readOnly": true}),
    ]
}

/// The variables that tell the agent where it runs.
pub(super) const PLACE: [&str; 3] = [env::NODE, env::ZONE, env::REGION];

/// The names of the agent's variables; `address` adds the pod's, `place` those of [`PLACE`].
pub(super) fn variables(address: bool, place: bool) -> impl Iterator<Item = &'static str> {
    let address = env::OPTIONAL.into_iter().filter(move |_| address);
    env::INJECTED.into_iter().chain(address).chain(PLACE.into_iter().filter(move |_| place))
}

/// One of the agent's variables, for the wrapped container of this name.
pub(super) fn variable(name: &str, container: &str) -> Value {
    match field_path(name) {
        Some(path) => json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}),
        None => json!({"name": name, "value": plain_value(name, container)}),
    }
}

/// The field of the pod that an injected variable shows.
fn field_path(name: &str) -> Option<String> {
    Some(match name {
        env::POD_NAME => "metadata.name".to_owned(),
        env::POD_UID => "metadata.uid".to_owned(),
        env::NAMESPACE => "metadata.namespace".to_owned(),
        env::POD_IP => "status.podIP".to_owned(),
        env::NODE => "spec.nodeName".to_owned(),
        env::ZONE => "metadata.labels['topology.kubernetes.io/zone']".to_owned(),
        env::REGION => "metadata.labels['topology.kubernetes.io/region']".to_owned(),
        env::RECORD => format!("metadata.annotations['{}']", names::INJECTED),
        _ => return None,
    })
}

fn plain_value<'a>(name: &str, container: &'a str) -> &'a str {
    match name {
        env::STATE_DIR => names::MOUNT_PATH,
        env::CREDENTIALS_DIR => names::TOKEN_PATH,
        // The only other plain one is CONTAINER.
        _ => container,
    }
}

pub(super) fn is_init_container(item: &Value) -> bool {
    item["name"] == names::INIT_CONTAINER && item["command"][0] == names::AGENT_IMAGE_PATH
}

/// Whether an init container of ours does what it is there for.
pub(super) fn installs(item: &Value) -> bool {
    texts(item, "command") == INSTALL && items(item, "args").is_empty()
}

pub(super) fn is_volume(item: &Value) -> bool {
    let source = match item["name"].as_str() {
        Some(names::VOLUME | status::VOLUME) => "emptyDir",
        Some(names::TOKEN_VOLUME) => "projected",
        _ => return false,
    };
    // Two sources in one volume are a merge of ours and the user's.
    item.as_object().is_some_and(|volume| volume.keys().all(|key| key == "name" || key == source))
}

pub(super) fn is_mount(item: &Value) -> bool {
    // Where that one is mounted is the user's choice.
    is_agents_mount(item) || item["name"] == status::VOLUME
}

/// Whether a mount of ours is for the agent alone.
pub(super) fn is_agents_mount(item: &Value) -> bool {
    match item["name"].as_str() {
        Some(names::VOLUME) => item["mountPath"] == names::MOUNT_PATH,
        Some(names::TOKEN_VOLUME) => item["mountPath"] == names::TOKEN_PATH,
        _ => false,
    }
}

fn is_ours(variable: &str) -> bool {
    variables(true, true).any(|ours| ours == variable)
}

/// Whether an item of `env` is ours, in a container that has, or had when it was wrapped, one of these names.
pub(super) fn is_variable(item: &Value, containers: &[&str]) -> bool {
    let Some(name) = item["name"].as_str().filter(|name| is_ours(name)) else { return false };
    match field_path(name) {
        // A `value` beside it is the user's, merged field by field.
        Some(path) => item["valueFrom"]["fieldRef"]["fieldPath"] == path.as_str() && item.get("value").is_none(),
        None => {
            item.get("valueFrom").is_none()
                && containers.iter().any(|&container| item["value"] == plain_value(name, container))
        }
    }
}

/// Whether an item of `env` hands the record over, as only injection does.
pub(super) fn is_record(item: &Value) -> bool {
    item["name"] == env::RECORD && is_variable(item, &[])
}

/// The command that runs `entry` under the agent.
pub(super) fn wrap(entry: &[String]) -> Vec<String> {
    WRAPPER.iter().map(|&word| word.to_owned()).chain(entry.iter().cloned()).collect()
}

/// Takes the wrapper out of a command, also one that another program was put in front of; `None` when it is not there.
pub(super) fn unwrap(command: &[String]) -> Option<Vec<String>> {
    // One pass, however deep they stand in each other: taking one out may close another one around it.
    let mut rest: Vec<String> = Vec::with_capacity(command.len());
    for word in command {
        rest.push(word.clone());
        if let Some(start) = rest.len().checked_sub(WRAPPER.len())
            && rest[start..] == WRAPPER
        {
            rest.truncate(start);
        }
    }
    (rest.len() != command.len()).then_some(rest)
}

/// Writes an image's entry point so that the kubelet, which expands `$(NAME)` in a `command` but not in an image's
/// configuration, hands it on as it is: `$$` becomes `$` (kubernetes `third_party/forked/golang/expansion`).
pub(super) fn escape(word: &str) -> String {
    word.replace('$', "$$")
}

/// The autoscaler's list with those of our `volumes` in it that lose nothing with their node; `None` where there are none, and no list.
pub(super) fn with_our_volumes(list: Option<&str>, volumes: &[&str]) -> Option<String> {
    let missing = |name: &&str| EVICTABLE.contains(name) && !list.is_some_and(|list| has_volume(list, name));
    let ours: Vec<&str> = volumes.iter().copied().filter(missing).collect();
    match list {
        Some(list) if ours.is_empty() => Some(list.to_owned()),
        Some(list) if !list.trim().is_empty() => Some(format!("{list},{}", ours.join(","))),
        _ => Some(ours.join(",")).filter(|list| !list.is_empty()),
    }
}

/// Our emptyDirs.
const EVICTABLE: [&str; 2] = [names::VOLUME, status::VOLUME];

fn has_volume(list: &str, volume: &str) -> bool {
    list.split(',').any(|name| name.trim() == volume)
}

/// A list that the user changed, without our volumes; `None` when nothing else was in it.
pub(super) fn without_our_volumes(list: &str) -> Option<String> {
    if !EVICTABLE.into_iter().any(|volume| has_volume(list, volume)) {
        return Some(list.to_owned());
    }
    let names: Vec<&str> = list.split(',').filter(|name| !EVICTABLE.contains(&name.trim())).collect();
    Some(names.join(",")).filter(|list| !list.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kubelet makes of a word in `command` when no variable is known: k8s.io/kubernetes
    /// `third_party/forked/golang/expansion`, byte by byte.
    fn expanded(word: &str) -> String {
        let mut rest = word;
        let mut done = String::new();
        while let Some(at) = rest.find('$') {
            done.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (taken, text) = match after.chars().next() {
                Some('$') => (1, "$".to_owned()),
                Some('(') => match after.find(')') {
                    Some(end) => (end + 1, format!("<{}>", &after[1..end])),
                    None => (1, "$(".to_owned()),
                },
                Some(letter) => (letter.len_utf8(), format!("${}", char::from(after.as_bytes()[0]))),
                None => (0, "$".to_owned()),
            };
            done.push_str(&text);
            rest = &after[taken..];
        }
        done + rest
    }

    proptest! {
        #[test]
        fn an_escaped_word_reaches_the_program_as_it_is(word in "[$()aé ]{0,12}") {
            prop_assert_eq!(expanded(&escape(&word)), word);
        }

        #[test]
        fn a_wrapped_command_unwraps_to_itself(entry in proptest::collection::vec("[a-z/$-]{0,5}", 0..4)) {
            prop_assert_eq!(unwrap(&wrap(&entry)), Some(entry.clone()));
            prop_assert_eq!(unwrap(&wrap(&wrap(&entry))), Some(entry.clone()));
            prop_assert_eq!(unwrap(&entry), None);
        }

        #[test]
        fn no_wrapper_is_left_in_any_mixture_of_them(
            command in proptest::collection::vec(prop::sample::select(vec!["/leader/agent", "run", "--", "x"]), 0..24),
        ) {
            let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
            let mut expected = command.clone();
            while let Some(at) = expected.windows(3).position(|words| words == WRAPPER) {
                expected.drain(at..at + 3);
            }
            prop_assert_eq!(unwrap(&command), (expected != command).then_some(expected));
        }
    }

    /// Work that grows with the square of the words would take minutes.
    #[test]
    fn wrappers_inside_of_each_other_are_taken_out_in_one_pass() {
        let depth = 100_000;
        let mut command = vec![names::AGENT_PATH.to_owned(); depth];
        command.extend(["run", "--"].map(str::to_owned).into_iter().cycle().take(2 * depth));
        let started = std::time::Instant::now();
        assert_eq!(unwrap(&command), Some(Vec::new()));
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    }
}
