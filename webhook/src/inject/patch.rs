//! The JSON Patch of an injection.
//!
//! Made so that it means the same on the file that a user has and on the object that the API server holds, where defaults are
//! filled in: what is added to a list is added, never moved through the items that stand there.

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::{Map, Value};

/// The patch that makes `after` of `before`.
pub fn patch(before: &Value, after: &Value) -> Patch {
    let mut operations = Vec::new();
    value(&mut PointerBuf::new(), before, after, &mut operations);
    Patch(operations)
}

fn value(path: &mut PointerBuf, before: &Value, after: &Value, operations: &mut Vec<PatchOperation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(before), Value::Object(after)) => map(path, before, after, operations),
        (Value::Array(before), Value::Array(after)) if list(path, before, after, operations) => {}
        _ => operations.push(PatchOperation::Replace(ReplaceOperation { path: path.clone(), value: after.clone() })),
    }
}

fn map(
    path: &mut PointerBuf,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    operations: &mut Vec<PatchOperation>,
) {
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        operations.push(PatchOperation::Remove(RemoveOperation { path: path.with_trailing_token(key) }));
    }
    for (key, new) in after {
        match before.get(key) {
            Some(old) => {
                path.push_back(key);
                value(path, old, new, operations);
                path.pop_back();
            }
            None => operations
                .push(PatchOperation::Add(AddOperation { path: path.with_trailing_token(key), value: new.clone() })),
        }
    }
}

/// Patches a list of objects by what was added, or by what was taken out, or item by item; `false` when the change is none of
/// these.
fn list(path: &mut PointerBuf, before: &[Value], after: &[Value], operations: &mut Vec<PatchOperation>) -> bool {
    if !before.iter().chain(after).all(Value::is_object) {
        return false;
    }
    let names = |list: &[Value]| list.iter().map(|item| item["name"].clone()).collect::<Vec<_>>();
    let (old, new) = (names(before), names(after));
    if old == new {
        for (index, (before, after)) in before.iter().zip(after).enumerate() {
            path.push_back(index);
            value(path, before, after, operations);
            path.pop_back();
        }
        return true;
    }
    let Some(rest) = after.len().checked_sub(before.len()) else {
        let kept = before.iter().filter(|item| after.contains(item)).eq(after);
        for (index, _) in before.iter().enumerate().rev().filter(|(_, item)| kept && !after.contains(item)) {
            operations.push(PatchOperation::Remove(RemoveOperation { path: path.with_trailing_token(index) }));
        }
        return kept;
    };
    // Injection adds at one end.
    let start = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    if before[start..] != after[start + rest..] {
        return false;
    }
    for (index, item) in after.iter().enumerate().skip(start).take(rest) {
        operations
            .push(PatchOperation::Add(AddOperation { path: path.with_trailing_token(index), value: item.clone() }));
    }
    true
}
