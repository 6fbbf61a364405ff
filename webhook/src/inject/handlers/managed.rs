//! What the managers of fields say: whether a handler of the agent's stands for one that its applier has dropped.
//!
//! A field that a webhook adds has no owner, and the fields that it takes away keep theirs until the owner lets go. So a
//! server-side apply that drops a probe with which another manager has had to do leaves the agent's handler behind, and
//! only `metadata.managedFields` tells that from a write of something else. Measured with the field manager of Kubernetes 1.36
//! (k8s.io/apimachinery/pkg/util/managedfields); `managedFields` are up to date when a webhook is asked
//! (k8s.io/apiserver/pkg/endpoints/handlers/patch.go and update.go).

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{
    HTTP_GET, LIFECYCLE, PLACES, Place, READINESS, added_timing,
    restore::{has_agents, is_agents_path},
};
use crate::inject::{
    json::{annotation, containers, containers_mut, is_empty, items, text},
    record::Record,
};

/// What `kubectl apply` was given last, as JSON.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The arriving template of `object` without what nobody asks for any more: handlers of the agent's in the place of one that
/// server-side apply dropped, the agent's path in a request that is declared without one, and the added readiness probe's
/// timing under a handler of the user's own.
pub(in crate::inject) fn without_released<'a>(
    template: &'a Value,
    object: &Value,
    old: Option<&Value>,
    record: Option<&Record>,
) -> Cow<'a, Value> {
    let Some(record) = record else { return Cow::Borrowed(template) };
    let all = containers(template);
    let Some(index) = all.iter().position(|container| text(container, "name") == Some(&record.container)) else {
        return Cow::Borrowed(template);
    };
    let released: Vec<Place> = PLACES
        .into_iter()
        .filter(|&place| {
            let original = record.original.handlers.get(place.field).and_then(Value::as_object);
            let kind = original.and_then(|original| original.keys().next());
            let (Some(kind), Some(old)) = (kind, old) else { return false };
            has_agents(place, place.of(&all[index])) && is_released(old, object, &record.container, place, kind)
        })
        .collect();
    let timing = added_timing(record.mode).into_iter().filter(|(field, seconds)| {
        record.original.handlers.get(READINESS).is_some_and(Value::is_null)
            && all[index][READINESS][field] == *seconds
            && leaves_out(object, &record.container, &[READINESS], field)
    });
    let timing: Vec<&str> = timing.map(|(field, _)| field).collect();
    let requests: Vec<Place> = PLACES
        .into_iter()
        .filter(|&place| {
            let original = record.original.handlers.get(place.field).unwrap_or(&Value::Null);
            let path = original[HTTP_GET]["path"].as_str().unwrap_or_default();
            let request = &place.of(&all[index])[HTTP_GET];
            // Its other fields are then the declared ones, or defaults.
            ["", "/"].contains(&path)
                && is_agents_path(request)
                && !is_empty(&request["port"])
                && request["port"] != 0
                && request["port"] != json!(record.port)
                && leaves_out(object, &record.container, &[place.field, HTTP_GET], "path")
        })
        .collect();
    if released.is_empty() && timing.is_empty() && requests.is_empty() {
        return Cow::Borrowed(template);
    }
    let mut template = template.clone();
    if let Some(container) = containers_mut(&mut template).get_mut(index).and_then(Value::as_object_mut) {
        for place in released {
            if let Some(holder) = place.of_mut(container) {
                let agents = |kind: &&str| has_agents(place, &json!({ *kind: holder[*kind] }));
                let agents: Vec<_> = place.present(holder).into_iter().filter(agents).collect();
                holder.retain(|key, _| !agents.contains(&key.as_str()));
            }
        }
        for place in requests {
            if let Some(request) = place.of_mut(container).and_then(|holder| holder.get_mut(HTTP_GET)) {
                request["path"] = "/".into();
            }
        }
        if let Some(probe) = container.get_mut(READINESS).and_then(Value::as_object_mut) {
            probe.retain(|key, _| !timing.contains(&key.as_str()));
        }
    }
    Cow::Owned(template)
}

/// Whether server-side apply owned this kind of handler in `old`, and nobody does in `new`.
fn is_released(old: &Value, new: &Value, container: &str, place: Place, kind: &str) -> bool {
    let path: &[&str] = if place.is_probe { &[place.field, kind] } else { &[LIFECYCLE, place.field, kind] };
    let applied = managers(old).iter().filter(|manager| manager["operation"] == "Apply");
    applied.into_iter().any(|manager| owns(manager, container, path))
        && !managers(new).iter().any(|manager| owns(manager, container, path))
}

/// Whether someone who declares `parent` in this container declares it without `field`.
fn leaves_out(object: &Value, container: &str, parent: &[&str], field: &str) -> bool {
    let applied = managers(object).iter().filter(|manager| manager["operation"] == "Apply");
    let applied: Vec<_> = applied.filter(|manager| owns(manager, container, parent)).collect();
    if !applied.is_empty() {
        let path = [parent, &[field]].concat();
        return !applied.iter().any(|manager| owns(manager, container, &path));
    }
    let last: Option<Value> = annotation(object, LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
    let last = last.unwrap_or_default();
    let of_it = containers(&last["spec"]["template"]).iter().find(|item| text(item, "name") == Some(container));
    let declared = of_it.map(|container| parent.iter().fold(container, |value, field| &value[field]));
    declared.and_then(Value::as_object).is_some_and(|declared| !declared.contains_key(field))
}

fn managers(object: &Value) -> &[Value] {
    items(&object["metadata"], "managedFields")
}

/// Whether a manager owns a field of a container in `spec.template`, or something in it.
fn owns(manager: &Value, container: &str, path: &[&str]) -> bool {
    // The format is that of structured-merge-diff: `f:` before the name of a field, `k:` before the key of an item.
    let start = ["spec", "template", "spec", "containers"].map(|field| format!("f:{field}"));
    let item = format!("k:{}", json!({ "name": container }));
    let rest = path.iter().map(|field| format!("f:{field}"));
    let nothing = Map::new();
    let mut fields = manager["fieldsV1"].as_object().unwrap_or(&nothing);
    for step in start.into_iter().chain([item]).chain(rest) {
        match fields.get(&step).and_then(Value::as_object) {
            Some(inner) => fields = inner,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(managers: &Value) -> Value {
        json!({"metadata": {"managedFields": managers}})
    }

    fn manager(operation: &str, container: &Value) -> Value {
        json!({"manager": "kubectl", "operation": operation, "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"app\"}": container,
        }}}}}})
    }

    fn released(old: &Value, new: &Value) -> bool {
        is_released(&object(old), &object(new), "app", PLACES[0], "exec")
    }

    #[test]
    fn a_handler_is_released_when_its_applier_lets_go_and_nobody_else_holds_it() {
        let exec = json!({"f:livenessProbe": {"f:exec": {"f:command": {}}}});
        let none = json!({".": {}, "f:image": {}});
        let holds = || manager("Apply", &exec);
        assert!(released(&json!([holds()]), &json!([manager("Apply", &none)])));
        assert!(released(&json!([holds()]), &json!([])));
        // What is left of the one who created the object, as it was measured.
        assert!(released(&json!([holds()]), &json!([manager("Update", &json!({"f:livenessProbe": {}}))])));
        assert!(!released(&json!([holds()]), &json!([holds()])));
        assert!(!released(&json!([holds()]), &json!([manager("Update", &exec)])));
        // `kubectl create` and client-side apply delete what they drop.
        assert!(!released(&json!([manager("Update", &exec)]), &json!([manager("Update", &none)])));
        assert!(!released(&Value::Null, &Value::Null));
        assert!(!is_released(&object(&json!([holds()])), &object(&json!([])), "other", PLACES[0], "exec"));
        assert!(!is_released(&object(&json!([holds()])), &object(&json!([])), "app", PLACES[1], "exec"));
    }

    #[test]
    fn a_hook_stands_one_level_deeper() {
        let hook = json!({"f:lifecycle": {"f:preStop": {"f:exec": {"f:command": {}}}}});
        let old = object(&json!([manager("Apply", &hook)]));
        assert!(is_released(&old, &object(&json!([])), "app", PLACES[4], "exec"));
        assert!(!is_released(&old, &object(&json!([])), "app", PLACES[3], "exec"));
    }

    #[test]
    fn a_timing_field_is_left_out_when_the_probe_is_declared_without_it() {
        let probe = |timing: bool| {
            let mut probe = json!({"f:exec": {"f:command": {}}});
            if timing {
                probe["f:periodSeconds"] = json!({});
            }
            object(&json!([manager("Apply", &json!({"f:readinessProbe": probe}))]))
        };
        assert!(leaves_out(&probe(false), "app", &[READINESS], "periodSeconds"));
        assert!(!leaves_out(&probe(true), "app", &[READINESS], "periodSeconds"));
        assert!(!leaves_out(&json!({}), "app", &[READINESS], "periodSeconds"));
        let applied = |probe: Value| {
            let last =
                json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "readinessProbe": probe}]}}}});
            json!({"metadata": {"annotations": {LAST_APPLIED: last.to_string()}}})
        };
        assert!(leaves_out(&applied(json!({"exec": {}})), "app", &[READINESS], "periodSeconds"));
        assert!(!leaves_out(&applied(json!({"exec": {}, "periodSeconds": 5})), "app", &[READINESS], "periodSeconds"));
        assert!(!leaves_out(&applied(Value::Null), "app", &[READINESS], "periodSeconds"));
    }
}
