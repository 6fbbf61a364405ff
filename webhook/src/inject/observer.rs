//! The observer: a native sidecar that campaigns beside an app which runs whoever leads (mode `observe`).

use leader_agent::names::{self, env};
use serde_json::{Map, Value, json};

use super::{
    json::{items, texts},
    parts,
};

/// Its command.
const OBSERVE: [&str; 2] = [names::AGENT_IMAGE_PATH, "observe"];
/// What it may use where the app has a limit: a renewal takes a millisecond of a processor, and the program less than 10 MB.
const LIMITS: [(&str, &str); 3] = [("cpu", "100m"), ("memory", "32Mi"), ("ephemeral-storage", "16Mi")];
/// What it asks for where the app asks and has no limit.
const REQUESTS: [(&str, &str); 3] = [("cpu", "10m"), ("memory", "16Mi"), ("ephemeral-storage", "16Mi")];

/// The container as JSON. `beside` is the app's, `status` the mount of the status file's folder.
pub(super) fn container(
    image: &str,
    beside: &Value,
    environment: &[Value],
    port: Option<u16>,
    status: &Value,
) -> Value {
    let mut container = json!({
        "name": names::INIT_CONTAINER,
        "image": image,
        "command": OBSERVE,
        // Started first, runs beside all others, and ends after them.
        "restartPolicy": "Always",
        "env": environment,
    });
    let resources = resources(beside);
    if resources != json!({}) {
        container["resources"] = resources;
    }
    if let Some(port) = port {
        // Once true, always true: a pod that can never elect stops a rollout, and an outage later makes nobody unready.
        container["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": port, "scheme": "HTTP"}, "periodSeconds": 5, "timeoutSeconds": 5});
    }
    container["securityContext"] = parts::security();
    container["volumeMounts"] = json!([
        {"name": names::TOKEN_VOLUME, "mountPath": names::TOKEN_PATH, "readOnly": true},
        status,
    ]);
    container
}

/// Its variables, in their order.
pub(super) fn environment(place: bool) -> Vec<Value> {
    let all = [env::POD_NAME, env::POD_UID, env::NAMESPACE, env::CREDENTIALS_DIR, env::RECORD];
    all.into_iter().chain(parts::PLACE.into_iter().filter(|_| place)).map(|name| parts::variable(name, "")).collect()
}

/// Its resources: the same kinds of requests and limits as the app's, which quota, `LimitRange` and quality of service look
/// at, and equal ones where the app's may be.
pub(super) fn resources(beside: &Value) -> Value {
    let of = |kind: &str, name: &str| beside["resources"][kind].get(name).is_some_and(|quantity| !quantity.is_null());
    let mut taken = Map::new();
    for kind in ["limits", "requests"] {
        let mut some = Map::new();
        for ((name, limit), (_, request)) in LIMITS.into_iter().zip(REQUESTS) {
            if of(kind, name) {
                let quantity = if of("limits", name) { limit } else { request };
                some.insert(name.to_owned(), quantity.into());
            }
        }
        if !some.is_empty() {
            taken.insert(kind.to_owned(), some.into());
        }
    }
    taken.into()
}

/// Whether an init container of ours does what it is there for.
pub(super) fn observes(item: &Value) -> bool {
    texts(item, "command") == OBSERVE && items(item, "args").is_empty() && item["restartPolicy"] == "Always"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_quality_of_service_stays_as_it_was() {
        let of = |app: Value| resources(&json!({"resources": app}));
        assert_eq!(of(json!({})), json!({}));
        let both = json!({"cpu": "2", "memory": "1Gi"});
        let ours = json!({"cpu": "100m", "memory": "32Mi"});
        assert_eq!(of(json!({"requests": both, "limits": both})), json!({"limits": ours, "requests": ours}));
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), json!({"requests": {"cpu": "10m"}}));
        assert_eq!(
            of(json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": 1}})),
            json!({"limits": {"memory": "32Mi"}, "requests": {"cpu": "10m"}})
        );
    }
}
