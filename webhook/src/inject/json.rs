//! Reading and changing a pod template as JSON, leniently: [`shape`](super::shape) has checked the types before.

use serde_json::{Map, Value};

/// The text of a field, unless it is empty.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// The items of a list, none when it is absent or null.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A list of texts, empty when it is absent or null.
pub(super) fn texts(value: &Value, key: &str) -> Vec<String> {
    list_of_texts(value.get(key))
}

/// A list of texts, empty when it is absent or null.
pub(super) fn list_of_texts(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The app containers of a pod template.
pub(super) fn containers(template: &Value) -> &[Value] {
    template.get("spec").map_or(&[], |spec| items(spec, "containers"))
}

/// The app containers of a pod template, to be changed.
pub(super) fn containers_mut(template: &mut Value) -> &mut [Value] {
    match template.pointer_mut("/spec/containers") {
        Some(Value::Array(containers)) => containers,
        _ => &mut [],
    }
}

/// An annotation, if it is a text.
pub(super) fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// Null, `[]`, `{}` or the empty text.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Remembers in `notes` that a field was present and empty.
fn note(parent: &Map<String, Value>, key: &str, notes: &mut Map<String, Value>) {
    if let Some(value) = parent.get(key).filter(|value| is_empty(value)) {
        notes.insert(key.to_owned(), value.clone());
    }
}

/// A list, made when it is absent or null; one that was present and empty is noted.
pub(super) fn open_list<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
    notes: &mut Map<String, Value>,
) -> &'a mut Vec<Value> {
    note(parent, key, notes);
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("the line above makes it a list"),
    }
}

/// A map, made when it is absent or null; one that was present and empty is noted.
pub(super) fn open_map<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
    notes: &mut Map<String, Value>,
) -> &'a mut Map<String, Value> {
    note(parent, key, notes);
    let value = parent.entry(key).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("the line above makes it a map"),
    }
}

/// Sets a field, in its old place when it is present; one that was present and empty is noted.
pub(super) fn set(parent: &mut Map<String, Value>, key: &str, value: Value, notes: &mut Map<String, Value>) {
    note(parent, key, notes);
    parent.insert(key.to_owned(), value);
}

/// Puts a field back to what it was when it was empty: what was noted, or absent.
pub(super) fn clear(parent: &mut Map<String, Value>, key: &str, notes: &Map<String, Value>) {
    match notes.get(key) {
        Some(empty) => parent.insert(key.to_owned(), empty.clone()),
        // Not `remove`, which would change the order of the other fields.
        None => parent.shift_remove(key),
    };
}

/// [`clear`]s a field that is empty.
pub(super) fn close(parent: &mut Map<String, Value>, key: &str, notes: &Map<String, Value>) {
    if parent.get(key).is_some_and(is_empty) {
        clear(parent, key, notes);
    }
}

/// Takes items out of a list, and the list away with the last of them.
pub(super) fn take_out(
    parent: &mut Map<String, Value>,
    key: &str,
    notes: &Map<String, Value>,
    ours: impl Fn(&Value) -> bool,
) {
    let Some(Value::Array(list)) = parent.get_mut(key) else { return };
    let before = list.len();
    list.retain(|item| !ours(item));
    if list.len() != before {
        close(parent, key, notes);
    }
}
