//! What must hold for an answer, whatever was asked.

use std::collections::BTreeSet;

use leader_agent::names;
use leader_webhook::{
    inject::Facts,
    review::{Plan, Review},
    sent::Sent,
    services,
};
use serde_json::Value;

use super::{
    judge::{self, Answered, NAMESPACE, template},
    manifests, shown,
};

/// How the entry point of a wrapped container begins.
const WRAPPER: [&str; 3] = ["/leader/agent", "run", "--"];

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Depth {
    /// The answer: that there is one, that its patch applies, that nothing is wrapped twice.
    Answer,
    /// And what further reviews make of what was stored, which takes five times as long.
    Everything,
}

/// The review of an object.
pub(crate) fn object(object: &Value, old: Option<&Value>, facts: &Facts) {
    body(manifests::review(object, old).to_string().as_bytes(), facts, Depth::Everything);
}

/// A body that claims to be a review.
pub(crate) fn body(body: &[u8], facts: &Facts, depth: Depth) {
    let Answered { review, response, made } = match judge::answer(body, facts) {
        Ok(answered) => answered,
        Err(malformed) => return assert!(!malformed.to_string().is_empty()),
    };
    assert_eq!(response.uid, review.request.uid);
    let message = response.result.message.clone();
    let stored = review.object.as_ref().map(|object| judge::patched(object, &response));
    let sent = serde_json::to_string(&Sent::from(response)).expect("an answer can be sent");
    assert!(sent.contains(&serde_json::to_string(&review.request.uid).expect("a text is JSON")), "{sent}");
    match stored {
        Some(Ok(stored)) => accepted(&review, &stored, made.as_ref(), facts, depth),
        Some(Err(_)) => assert!(
            !message.is_empty() && (!message.contains("internal error") || !is_typed(review.object.as_ref())),
            "refused: {message:?}\n{}\nover\n{}",
            shown(review.object.as_ref().unwrap_or(&Value::Null)),
            shown(review.old.as_ref().unwrap_or(&Value::Null)),
        ),
        None => {}
    }
}

/// `made` is what was made of the object, and `stored` what the API server has after its patch.
fn accepted(review: &Review, stored: &Value, made: Option<&Value>, facts: &Facts, depth: Depth) {
    let arrived = review.object.as_ref().expect("something is stored");
    let Some(made) = made else {
        assert!(matches!(review.plan(NAMESPACE), Plan::Pass(_)));
        assert_eq!(stored, arrived);
        return;
    };
    // The order of keys is lost where a patch is applied, and means nothing to the API server.
    assert!(stored == made, "the patch gives\n{}\ninstead of\n{}", shown(stored), shown(made));
    if review.plan(NAMESPACE) == Plan::Service {
        return steered(made, arrived);
    }
    if !is_injected_itself(arrived) {
        assert!(wrappers(made).is_empty() || !is_workload(arrived) || arrived == made, "{}", shown(made));
        return;
    }
    wrapped_once(made);
    let containers = list(&template(made)["spec"]["containers"]);
    // A container without a name is refused by the API server, and a record cannot find it.
    if depth == Depth::Answer || containers.iter().any(|container| container["name"] == "") {
        return;
    }
    for old in [None, Some(made)] {
        let again = judge::decide(made, old, facts).unwrap_or_else(|refusal| {
            panic!("what was stored is refused: {refusal}\n{}\nmade of\n{}", shown(made), shown(arrived))
        });
        assert_same(&again.object, made, arrived);
    }
    let mut plain = made.clone();
    judge::take_ids_off(&mut plain);
    let back = ejected(&plain, Some(made));
    // A pod cannot be ejected.
    if is_workload(arrived) && review.old.is_none() && !has_traces(arrived) {
        assert_same(template(&back), template(arrived), made);
    }
}

/// What is stored for a leader-only Service has no selector, and what is stored for any is stored again as it is.
fn steered(made: &Value, arrived: &Value) {
    assert!(
        made["metadata"]["annotations"][names::LEADER_ONLY].is_null() || made["spec"]["selector"].is_null(),
        "{}",
        shown(made)
    );
    let again = services::review(made, Some(made)).unwrap_or_else(|refusal| {
        panic!("what was stored is refused: {refusal}\n{}\nmade of\n{}", shown(made), shown(arrived))
    });
    assert_same(&again.object, made, arrived);
}

/// What a workload without our annotations becomes. It holds nothing of ours any more, and becomes nothing else the next time.
pub(crate) fn ejected(object: &Value, old: Option<&Value>) -> Value {
    let facts = Facts::default();
    let Ok(outcome) = judge::decide(object, old, &facts) else { return object.clone() };
    let ejected = outcome.object;
    if !is_workload(object) {
        assert_same(&ejected, object, object);
        return ejected;
    }
    // Annotations of its own came back with the user's template: its pods ask now.
    let asks = template(&ejected)["metadata"]["annotations"][names::ID].is_string();
    assert!(asks || outcome.election.is_none(), "{}", shown(&ejected));
    assert!(!has_traces(&ejected), "{}\nbecame\n{}", shown(object), shown(&ejected));
    for old in [None, Some(&ejected)] {
        let again = judge::decide(&ejected, old, &facts).unwrap_or_else(|refusal| {
            panic!("what was ejected is refused: {refusal}\n{}", shown(&ejected));
        });
        assert_same(&again.object, &ejected, object);
    }
    ejected
}

/// Whether an object is one as the API server sends it: it says what it is, is of a group that has this kind, and its annotations are
/// texts. Others are refused by the last check at the latest, which says that it should not have come to that.
fn is_typed(object: Option<&Value>) -> bool {
    let says = |key: &str| object.and_then(|object| object[key].as_str()).is_some_and(|text| !text.is_empty());
    // Only somebody else's kind has both, and one of them is no pod template.
    let has_two = |object: &Value| !object["spec"]["template"].is_null() && !object["spec"]["jobTemplate"].is_null();
    let is_kind = |object: &Value| !has_two(object) && (!is_workload(object) || object["apiVersion"] == "apps/v1");
    says("apiVersion") && says("kind") && object.is_some_and(|object| is_kind(object) && has_texts_for_ids(object))
}

fn has_texts_for_ids(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.get(names::ID).is_none_or(Value::is_string) && map.values().all(has_texts_for_ids),
        Value::Array(list) => list.iter().all(has_texts_for_ids),
        _ => true,
    }
}

/// Whether the id asks for the injection of this very object, not of pods that are made later.
fn is_injected_itself(object: &Value) -> bool {
    let is_of = |version: &str| object["apiVersion"] == version;
    let is_kind = is_workload(object) && is_of("apps/v1") || object["kind"] == "Pod" && is_of("v1");
    is_kind && object["metadata"]["annotations"][names::ID].is_string()
}

fn is_workload(object: &Value) -> bool {
    let kinds = ["Deployment", "StatefulSet", "DaemonSet"];
    object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind))
}

fn wrapped_once(stored: &Value) {
    let inits = list(&template(stored)["spec"]["initContainers"]);
    assert_eq!(inits.iter().filter(|container| is_agent(container)).count(), 1, "{}", shown(stored));
    // The API server refuses two containers of one name, and is asked after the webhook.
    let wrapped: BTreeSet<_> = wrappers(stored).into_iter().collect();
    let record = judge::record_of(stored).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let observes = record.is_some_and(|record| record["mode"] == "observe");
    assert_eq!(wrapped.len(), usize::from(!observes), "{}", shown(stored));
    assert!(wrapped.iter().all(|(_, twice)| !twice), "{}", shown(stored));
}

fn is_agent(container: &Value) -> bool {
    container["name"] == "leader-agent" && container["command"][0] == "/leader-agent"
}

/// The names of the containers that are wrapped, and whether the program in a wrapper is the wrapper once more.
fn wrappers(object: &Value) -> Vec<(String, bool)> {
    let containers = list(&template(object)["spec"]["containers"]);
    let wrapped = containers.iter().filter_map(|container| {
        let program = strip(list(&container["command"]))?;
        Some((container["name"].to_string(), strip(program).is_some()))
    });
    wrapped.collect()
}

fn strip(command: &[Value]) -> Option<&[Value]> {
    let (first, rest) = command.split_at_checked(WRAPPER.len())?;
    first.iter().zip(WRAPPER).all(|(word, expected)| word == expected).then_some(rest)
}

/// Whether anything by which an injection is known is in the object's pods: the record, the init container, the wrapper, or a
/// handler that goes to the agent.
fn has_traces(object: &Value) -> bool {
    let spec = &template(object)["spec"];
    judge::record_of(object).is_some()
        || !wrappers(object).is_empty()
        || list(&spec["initContainers"]).iter().any(is_agent)
        || list(&spec["containers"]).iter().any(|container| {
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|key| &container[key]);
            let hooks = ["postStart", "preStop"].map(|key| &container["lifecycle"][key]);
            probes.iter().chain(&hooks).any(|handler| goes_to_the_agent(handler))
        })
}

fn goes_to_the_agent(handler: &Value) -> bool {
    let command = list(&handler["exec"]["command"]);
    let is_agents = |words: &[Value]| words[0] == WRAPPER[0] && (words[1] == "probe" || words[1] == "hook");
    handler["httpGet"]["path"].as_str().is_some_and(|path| path.starts_with("/leader.io/probe/"))
        || command.windows(2).any(is_agents)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The same bytes, key order included.
fn assert_same(found: &Value, expected: &Value, made_of: &Value) {
    let bytes = |value: &Value| serde_json::to_vec(value).expect("a value is JSON");
    assert!(
        bytes(found) == bytes(expected),
        "found\n{}\nexpected\n{}\nmade of\n{}",
        shown(found),
        shown(expected),
        shown(made_of)
    );
}
