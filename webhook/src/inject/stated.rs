//! What people state, where the object alone does not tell: by `metadata.managedFields`, and by what `kubectl apply` was given last.
//!
//! A field that a webhook adds has no owner, and one that it takes away keeps its owner until that one lets go (measured with
//! Kubernetes 1.36). `managedFields` are up to date when a webhook is asked (k8s.io/apiserver/pkg/endpoints/handlers/patch.go).

use leader_agent::names;
use serde_json::{Value, json};

use super::json::{annotation, containers, items, text};

/// What `kubectl apply` was given last, as JSON.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whether somebody states this field of a container in `spec.template`.
pub(super) fn states(object: &Value, container: &str, field: &str) -> bool {
    let item = format!("k:{}", json!({ "name": container }));
    let field_path = ["f:spec", "f:template", "f:spec", "f:containers", &item, &format!("f:{field}")];
    let of_last = |last: &Value| {
        let all = containers(&last["spec"]["template"]);
        all.iter().any(|item| text(item, "name") == Some(container) && !item[field].is_null())
    };
    is_owned(object, &field_path) || last_applied(object).as_ref().is_some_and(of_last)
}

/// Whether a manifest that was applied has this field of a container in `spec.template`, and is not one of an injected template.
pub(super) fn declares(object: &Value, container: &str, field: &str) -> bool {
    let item = format!("k:{}", json!({ "name": container }));
    let field_path = ["f:spec", "f:template", "f:spec", "f:containers", &item, &format!("f:{field}")];
    let record = format!("f:{}", names::INJECTED);
    let record_path = ["f:spec", "f:template", "f:metadata", "f:annotations", &record];
    let managers = items(&object["metadata"], "managedFields").iter();
    let mut applied = managers.filter(|manager| manager["operation"] == "Apply");
    let of_last = |last: &Value| {
        let template = &last["spec"]["template"];
        let of_it = |item: &Value| text(item, "name") == Some(container) && !item[field].is_null();
        annotation(template, names::INJECTED).is_none() && containers(template).iter().any(of_it)
    };
    applied.any(|manager| owns(manager, &field_path) && !owns(manager, &record_path))
        || last_applied(object).as_ref().is_some_and(of_last)
}

/// Whether the template's annotation, which injection has taken off, is no longer asked for by who had asked for it.
pub(super) fn is_released(object: &Value, old: Option<&Value>, key: &str) -> bool {
    let path = ["f:spec", "f:template", "f:metadata", "f:annotations", &format!("f:{key}")];
    let last = last_applied(object);
    let of_last = last.as_ref().is_some_and(|last| annotation(&last["spec"]["template"], key).is_some());
    let was_stated = last.is_some() || old.is_some_and(|old| is_owned(old, &path));
    was_stated && !of_last && !is_owned(object, &path)
}

fn last_applied(object: &Value) -> Option<Value> {
    serde_json::from_str(annotation(object, LAST_APPLIED)?).ok()
}

/// Whether anybody owns a field, written as structured-merge-diff does: `f:` before a name, `k:` before the key of an item.
fn is_owned(object: &Value, path: &[&str]) -> bool {
    items(&object["metadata"], "managedFields").iter().any(|manager| owns(manager, path))
}

fn owns(manager: &Value, path: &[&str]) -> bool {
    let fields = &manager["fieldsV1"];
    path.iter().try_fold(fields, |fields, step| fields.get(step)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(fields: &Value) -> Value {
        json!({"metadata": {"managedFields": [{"operation": "Apply"}, {"operation": "Apply", "fieldsV1": fields}]}})
    }

    fn applied(template: &Value) -> Value {
        let last = json!({"spec": {"template": template}}).to_string();
        json!({"metadata": {"annotations": {LAST_APPLIED: last}}})
    }

    #[test]
    fn a_field_is_stated_by_its_owner_or_the_last_manifest() {
        let fields = |field: &str| {
            owned(
                &json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {field: {}}}}}}}),
            )
        };
        assert!(states(&fields("f:args"), "app", "args"));
        assert!(!states(&fields("f:args"), "other", "args"));
        assert!(!states(&fields("f:image"), "app", "args"));
        let manifest = |field: &str| applied(&json!({"spec": {"containers": [{"name": "app", field: ["x"]}]}}));
        assert!(states(&manifest("args"), "app", "args"));
        assert!(!states(&manifest("args"), "other", "args"));
        assert!(!states(&manifest("command"), "app", "args"));
        assert!(!states(&json!({}), "app", "args"));
    }

    #[test]
    fn an_annotation_is_released_when_it_was_stated_and_is_no_longer() {
        let key = "leader.io/id";
        let holds =
            owned(&json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:leader.io/id": {}}}}}}));
        let not = owned(&json!({}));
        assert!(is_released(&not, Some(&holds), key));
        assert!(!is_released(&holds, Some(&holds), key));
        assert!(!is_released(&not, Some(&not), key));
        assert!(!is_released(&not, None, key));
        let manifest = |annotations: Value| applied(&json!({"metadata": {"annotations": annotations}}));
        assert!(is_released(&manifest(json!({})), None, key));
        assert!(!is_released(&manifest(json!({"leader.io/id": "x"})), None, key));
    }
}
