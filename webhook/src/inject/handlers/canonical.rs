//! The form in which two handlers are equal when the API server stores them as the same.

use serde_json::{Map, Value};

use super::{HTTP_GET, LIFECYCLE, PLACES, TIMING};
use crate::inject::json::is_empty;

/// What the API server fills in (`SetDefaults_Probe` in pkg/apis/core/v1/defaults.go of Kubernetes); zero counts as absent there.
const DEFAULTS: [(&str, i64); 5] = [
    ("initialDelaySeconds", 0),
    ("timeoutSeconds", 1),
    ("periodSeconds", 10),
    ("successThreshold", 1),
    ("failureThreshold", 3),
];

/// Brings a container's probes and hooks into that form.
pub(in crate::inject) fn canonical(container: &mut Map<String, Value>) {
    for place in PLACES {
        let Some(holder) = place.of_mut(container) else { continue };
        for &kind in place.kinds() {
            match holder.get(kind) {
                Some(Value::Null) => {
                    holder.shift_remove(kind);
                }
                Some(value) => {
                    let value = handler(kind, value);
                    holder.insert(kind.to_owned(), value);
                }
                None => {}
            }
        }
        for field in TIMING {
            if holder.get(field).is_some_and(|value| is_default(field, value)) {
                holder.shift_remove(field);
            }
        }
    }
    for place in PLACES.into_iter().filter(|place| place.is_probe) {
        drop_null(container, place.field);
    }
    if let Some(lifecycle) = container.get_mut(LIFECYCLE).and_then(Value::as_object_mut) {
        for place in PLACES.into_iter().filter(|place| !place.is_probe) {
            drop_null(lifecycle, place.field);
        }
    }
    if container.get(LIFECYCLE).is_some_and(is_empty) {
        container.shift_remove(LIFECYCLE);
    }
}

fn drop_null(parent: &mut Map<String, Value>, key: &str) {
    if parent.get(key).is_some_and(Value::is_null) {
        parent.shift_remove(key);
    }
}

/// Whether a timing field says no more than its absence.
pub(super) fn is_default(field: &str, value: &Value) -> bool {
    let default = DEFAULTS.into_iter().find(|(name, _)| *name == field).map(|(_, default)| default);
    value.is_null() || default.is_some_and(|default| value.as_i64().is_some_and(|value| value == 0 || value == default))
}

/// A handler of this kind in that form.
pub(super) fn handler(kind: &str, value: &Value) -> Value {
    let Some(fields) = value.as_object() else { return value.clone() };
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, value)| !is_empty(value)).map(|(key, value)| (key.clone(), value.clone())).collect();
    // The other defaults are empty texts: `GRPCAction.service`, and a host.
    if kind == HTTP_GET {
        // `SetDefaults_HTTPGetAction`.
        fields.entry("path").or_insert("/".into());
        if fields.get("scheme").is_some_and(|scheme| scheme == "HTTP") {
            fields.shift_remove("scheme");
        }
        // A header's value is stored even if it is empty.
        for header in fields.get_mut("httpHeaders").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(header) = header.as_object_mut() {
                let value = header.entry("value").or_insert("".into());
                if value.is_null() {
                    *value = "".into();
                }
            }
        }
    }
    fields.into()
}
