//! The types of the fields that injection reads, checked once, so that everything after it may read leniently.

use serde_json::Value;

use super::{Refusal, handlers, root::Root};

const LIST: &str = "a list";
const MAP: &str = "a map";

/// Checks the fields of a pod template that injection reads or changes. The API server has checked its objects; files come
/// as they are.
pub(super) fn check(template: &Value, root: Root) -> Result<(), Refusal> {
    let (metadata_path, root) = (root.metadata(), root.spec());
    map(template, metadata_path.trim_end_matches(".metadata"))?;
    let metadata = &template["metadata"];
    optional(metadata, metadata_path, map)?;
    for key in ["annotations", "labels"] {
        optional(&metadata[key], &format!("{metadata_path}.{key}"), texts_by_key)?;
    }
    let spec = &template["spec"];
    map(spec, root)?;
    for key in ["serviceAccountName", "serviceAccount"] {
        optional(&spec[key], &format!("{root}.{key}"), text)?;
    }
    named_items(&spec["volumes"], &format!("{root}.volumes"))?;
    for key in ["initContainers", "containers"] {
        let path = format!("{root}.{key}");
        named_items(&spec[key], &path)?;
        for (index, container) in spec[key].as_array().into_iter().flatten().enumerate() {
            let path = format!("{path}[{index}]");
            named_items(&container["env"], &format!("{path}.env"))?;
            named_items(&container["volumeMounts"], &format!("{path}.volumeMounts"))?;
            optional(&container["image"], &format!("{path}.image"), text)?;
            for key in ["command", "args"] {
                optional(&container[key], &format!("{path}.{key}"), texts)?;
            }
            handlers::timing(container, &path)?;
        }
    }
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err(malformed(&format!("{root}.containers"), "a list with at least one container"));
    }
    Ok(())
}

fn malformed(path: &str, expected: &'static str) -> Refusal {
    Refusal::Malformed { path: path.to_owned(), expected }
}

fn optional(value: &Value, path: &str, check: impl Fn(&Value, &str) -> Result<(), Refusal>) -> Result<(), Refusal> {
    if value.is_null() { Ok(()) } else { check(value, path) }
}

fn map(value: &Value, path: &str) -> Result<(), Refusal> {
    value.as_object().map(drop).ok_or_else(|| malformed(path, MAP))
}

fn text(value: &Value, path: &str) -> Result<(), Refusal> {
    value.as_str().map(drop).ok_or_else(|| malformed(path, "a text: put it in quotes"))
}

fn texts(value: &Value, path: &str) -> Result<(), Refusal> {
    let list = value.as_array().ok_or_else(|| malformed(path, "a list of texts"))?;
    list.iter().enumerate().try_for_each(|(index, item)| text(item, &format!("{path}[{index}]")))
}

fn texts_by_key(value: &Value, path: &str) -> Result<(), Refusal> {
    map(value, path)?;
    value.as_object().into_iter().flatten().try_for_each(|(key, item)| text(item, &format!("{path}[{key}]")))
}

/// A list of maps, each with a name, or nothing.
fn named_items(value: &Value, path: &str) -> Result<(), Refusal> {
    if value.is_null() {
        return Ok(());
    }
    let list = value.as_array().ok_or_else(|| malformed(path, LIST))?;
    list.iter().enumerate().try_for_each(|(index, item)| {
        map(item, &format!("{path}[{index}]"))?;
        text(&item["name"], &format!("{path}[{index}].name"))
    })
}
