//! Off: an object of a file without its election.

use leader_agent::names;
use serde_json::Value;

use super::{
    Outcome, advice,
    decide::{turned_off, unchanged},
    eject::{eject, is_touched},
    json::annotation,
    record::Record,
    root::Root,
};

/// The object without its election: what was injected is taken out, and so are all annotations of ours.
///
/// It is for files, where no live object tells more. Admission turns an election off when `leader.io/id` is taken away, and
/// leaves pods alone, because a pod without it may be one of an injected template.
pub fn off(object: &Value) -> Outcome {
    let Some(root) = Root::of(object) else { return unchanged(object) };
    let template = root.of_object(object);
    let id = [object, template].into_iter().find_map(|holder| annotation(holder, names::ID));
    let mut outcome = match root {
        Root::Pod => {
            let mut outcome = unchanged(object);
            if is_touched(object) {
                let record = Record::of(object).ok().flatten();
                outcome.object = eject(object, record.as_ref(), &Vec::from_iter(id));
            }
            outcome
        }
        // What no injection has touched passes through.
        _ => turned_off(object, None, root, &[]),
    };
    if outcome.warnings.is_empty() && id.is_some() {
        outcome.warnings.push(advice::turned_off(object, id));
    }
    for pointer in ["/metadata".to_owned(), format!("/{}", root.metadata().replace('.', "/"))] {
        if let Some(metadata) = outcome.object.pointer_mut(&pointer) {
            take_annotations_off(metadata);
        }
    }
    outcome
}

fn take_annotations_off(metadata: &mut Value) {
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    let before = annotations.len();
    annotations.retain(|key, _| !key.starts_with(names::PREFIX));
    if annotations.is_empty()
        && before > 0
        && let Some(metadata) = metadata.as_object_mut()
    {
        metadata.shift_remove("annotations");
    }
}
