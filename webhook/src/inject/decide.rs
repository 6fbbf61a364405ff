//! The decision: whose annotations count, and whether there is an election at all.

use std::collections::BTreeMap;

use leader_agent::names;
use serde_json::Value;

use super::{
    Decision, Defaults, Facts, Outcome, Refusal, advice,
    ahead::ahead,
    check,
    eject::{eject, is_touched},
    elect::{Case, release_annotations},
    handlers,
    json::{annotation, text},
    options::{self, Asked, Holder},
    record::Record,
    root::Root,
};

/// The kinds that are injected themselves, all of `apps/v1`.
const WORKLOADS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// Decides about an object: a workload, a pod that is being created, or anything else that a file may have in it.
///
/// `object` is what arrived, `old` the live object of an update; both with `apiVersion` and `kind`.
/// - A Deployment, StatefulSet or DaemonSet with `leader.io/id` is injected, without it ejected if it was injected.
/// - A pod with it is injected. Without it a pod is left alone: it may be one of an injected template.
/// - An object with it on its pod template is left as it is, for its pods to be injected, and refused where those would be.
/// - Anything else is left alone, and refused with `leader.io/id` on it.
pub fn workload(object: &Value, old: Option<&Value>, defaults: &Defaults, facts: &Facts) -> Result<Decision, Refusal> {
    let kind = text(object, "kind").unwrap_or("object without a kind");
    let Some(root) = Root::of(object) else {
        return match annotation(object, names::ID) {
            Some(_) => Err(not_injected(object, kind, None)),
            None => Ok(Decision::Done(unchanged(object))),
        };
    };
    let spec = &root.of_object(object)["spec"];
    let asked = options::read(&Holder { object, kind, path: "metadata" }, spec)?;
    let case = |options| Case { object, old, root, options, defaults, facts };
    let is_workload = WORKLOADS.contains(&kind);
    match asked {
        Asked::Election(options) if root == Root::Pod => case(&options).elect(),
        Asked::Nothing(left) if root == Root::Pod => {
            let mut outcome = unchanged(object);
            outcome.warnings.extend(advice::left_behind(&left));
            Ok(Decision::Done(outcome))
        }
        Asked::Election(options) if is_workload && text(object, "apiVersion") == Some("apps/v1") => {
            case(&options).elect()
        }
        Asked::Nothing(left) if is_workload => {
            let outcome = turned_off(object, old, root, &left);
            if !check::has_annotations(root.of_object(&outcome.object)) {
                return Ok(Decision::Done(outcome));
            }
            let object = outcome.object.clone();
            ahead(&object, old, root, defaults, facts, outcome).map(Decision::Done)
        }
        asked => {
            if root == Root::JobTemplate {
                check::job_annotations(object)?;
            }
            let template = root.of_object(object);
            let left = match asked {
                // In both places, as tools write it that annotate whatever they find: the template's counts.
                Asked::Election(options) if annotation(template, names::ID) == Some(options.id.as_str()) => Vec::new(),
                Asked::Election(_) => return Err(not_injected(object, kind, Some(root))),
                Asked::Nothing(left) => left,
            };
            let mut outcome = unchanged(object);
            let before = old.and_then(|old| annotation(root.of_object(old), names::ID));
            if before.is_some() && before != annotation(template, names::ID) {
                is_off(&mut outcome, object, before, "turned-off");
            }
            outcome.warnings.extend(advice::left_behind(&left));
            if !check::has_annotations(template) {
                return Ok(Decision::Done(outcome));
            }
            ahead(object, old, root, defaults, facts, outcome).map(Decision::Done)
        }
    }
}

fn not_injected(object: &Value, kind: &str, root: Option<Root>) -> Refusal {
    let kind = match text(object, "apiVersion") {
        Some(version) => format!("{kind} ({version})"),
        None => format!("{kind} without an apiVersion"),
    };
    Refusal::Kind { kind, template: root.map(Root::metadata) }
}

pub(super) fn unchanged(object: &Value) -> Outcome {
    Outcome { object: object.clone(), election: None, warnings: Vec::new(), audit: BTreeMap::new() }
}

/// The id is not on the workload.
pub(super) fn turned_off(object: &Value, old: Option<&Value>, root: Root, left: &[String]) -> Outcome {
    let template = root.of_object(object);
    let mut outcome = unchanged(object);
    let live = old.and_then(|old| Record::of(root.of_object(old)).ok().flatten());
    let record = Record::of(template).ok().flatten().or(live);
    let annotated = old.and_then(|old| annotation(old, names::ID));
    let is_injected = is_touched(template);
    if is_injected {
        let label =
            template.pointer("/metadata/labels").and_then(|labels| labels.get(names::ID)).and_then(Value::as_str);
        let ids: Vec<&str> = annotated.into_iter().chain(label).collect();
        let asked_for = handlers::without_released(template, object, old, record.as_ref());
        let mut plain = eject(&asked_for, record.as_ref(), &ids);
        if let Some(record) = &record {
            release_annotations(&mut plain, root, object, old, record);
        }
        outcome.object = root.replaced(object, plain);
    }
    let left_to_pods = annotation(root.of_object(&outcome.object), names::ID);
    let of_pods = old.and_then(|old| annotation(root.of_object(old), names::ID));
    let id = record.as_ref().map(|record| record.id.as_str()).or(annotated).or(of_pods);
    // A template that brings nothing of ours along (replace, undo) turns the election off as well.
    let was_on = is_injected || id.is_some() || old.is_some_and(|old| is_touched(root.of_object(old)));
    if was_on && (id.is_none() || left_to_pods != id) {
        let action = if is_injected { "ejected" } else { "turned-off" };
        is_off(&mut outcome, object, id, action);
    }
    outcome.warnings.extend(advice::left_behind(left));
    outcome
}

fn is_off(outcome: &mut Outcome, object: &Value, id: Option<&str>, action: &str) {
    outcome.warnings.push(advice::turned_off(object, id));
    outcome.audit.insert("action".to_owned(), action.to_owned());
    outcome.audit.extend(id.map(|id| ("id".to_owned(), id.to_owned())));
}
