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
        let Some(removed) = taken_out(before, after) else { return false };
        for index in removed.into_iter().rev() {
            operations.push(PatchOperation::Remove(RemoveOperation { path: path.with_trailing_token(index) }));
        }
        return true;
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

/// The places in `before` of the items that are not in `after`; `None` when `after` has others or another order.
///
/// One walk through both: a list may have as many items as fit into a request.
fn taken_out(before: &[Value], after: &[Value]) -> Option<Vec<usize>> {
    let mut rest = after.iter().peekable();
    let removed = before.iter().enumerate().filter(|(_, item)| rest.next_if(|next| next == item).is_none());
    let removed = removed.map(|(index, _)| index).collect();
    rest.next().is_none().then_some(removed)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    fn applied(before: &Value, after: &Value) -> Patch {
        let patch = patch(before, after);
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched, *after);
        patch
    }

    #[test]
    fn what_is_taken_out_of_a_list_is_removed_item_by_item() {
        let item = |name: &str| json!({ "name": name });
        let before = json!([item("a"), item("ours"), item("b"), item("b"), item("ours"), item("c")]);
        let after = json!([item("a"), item("b"), item("b"), item("c")]);
        assert_eq!(
            json!(applied(&before, &after)),
            json!([{"op": "remove", "path": "/4"}, {"op": "remove", "path": "/1"}])
        );
        let another = json!([item("b"), item("a")]);
        assert_eq!(json!(applied(&before, &another))[0]["op"], "replace");
    }

    /// Work that grows with the square of the items would take minutes.
    #[test]
    fn a_long_list_is_compared_in_one_pass() {
        let after: Vec<Value> =
            (0..100_000).map(|number| json!({"name": format!("V{number}"), "value": "x"})).collect();
        let mut before = after.clone();
        before.extend([json!({"name": "LEADER_STATE_DIR", "value": "/leader"})]);
        let started = Instant::now();
        let patch = patch(&before.into(), &after.into());
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(json!(patch), json!([{"op": "remove", "path": "/100000"}]));
    }
}
