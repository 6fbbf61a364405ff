//! What must hold for an answer, whatever was asked.

use leader_agent::names;
use leader_webhook::{
    inject::Facts,
    review::{Plan, Review},
};
use serde_json::Value;

use super::{
    judge::{self, NAMESPACE, template},
    manifests, shown,
};

/// How the entry point of a wrapped container begins.
const WRAPPER: [&str; 3] = ["/leader/agent", "run", "--"];

/// The review of an object.
pub(crate) fn object(object: &Value, old: Option<&Value>, facts: &Facts) {
    body(manifests::review(object, old).to_string().as_bytes(), facts);
}

/// A body that claims to be a review.
pub(crate) fn body(body: &[u8], facts: &Facts) {
    let (review, response) = match judge::answer(body, facts) {
        Ok(answered) => answered,
        Err(malformed) => return assert!(!malformed.to_string().is_empty()),
    };
    assert_eq!(response.uid, review.request.uid);
    let message = response.result.message.clone();
    let stored = review.object.as_ref().map(|object| judge::patched(object, &response));
    let sent = serde_json::to_string(&response.into_review()).expect("an answer can be sent");
    let sent: Value = serde_json::from_str(&sent).expect("what is sent is JSON");
    assert_eq!(sent["response"]["uid"], *review.request.uid);
    match stored {
        Some(Ok(stored)) => accepted(&review, &stored, facts),
        Some(Err(_)) => assert!(
            !message.is_empty() && !message.contains("internal error"),
            "refused: {message:?}\n{}\nover\n{}",
            shown(review.object.as_ref().unwrap_or(&Value::Null)),
            shown(review.old.as_ref().unwrap_or(&Value::Null)),
        ),
        None => {}
    }
}

fn accepted(review: &Review, stored: &Value, facts: &Facts) {
    let arrived = review.object.as_ref().expect("something is stored");
    if review.plan(NAMESPACE) != Plan::Inject {
        assert_eq!(stored, arrived);
        return;
    }
    if !is_injected_itself(arrived) {
        assert_eq!(wrappers(stored).iter().filter(|wrapped| **wrapped).count(), 0, "{}", shown(stored));
        return;
    }
    wrapped_once(stored);
    for old in [None, Some(stored)] {
        let again = judge::decide(stored, old, facts).unwrap_or_else(|refusal| {
            panic!("what was stored is refused: {refusal}\n{}\nmade of\n{}", shown(stored), shown(arrived))
        });
        assert_same(&again.object, stored, arrived);
    }
    let mut plain = stored.clone();
    judge::take_ids_off(&mut plain);
    let back = ejected(&plain, Some(stored));
    if review.old.is_none() && !has_traces(arrived) {
        let mut arrived = arrived.clone();
        judge::take_ids_off(&mut arrived);
        assert_same(template(&back), template(&arrived), stored);
    }
}

/// What an object without our annotations becomes. It holds nothing of ours any more, and becomes nothing else the next time.
pub(crate) fn ejected(object: &Value, old: Option<&Value>) -> Value {
    let facts = Facts::default();
    let Ok(outcome) = judge::decide(object, old, &facts) else { return object.clone() };
    let ejected = outcome.object;
    assert_eq!(outcome.election, None);
    if !is_workload(object) {
        assert_same(&ejected, object, object);
        return ejected;
    }
    assert!(!has_traces(&ejected), "{}\nbecame\n{}", shown(object), shown(&ejected));
    for old in [None, Some(&ejected)] {
        let again = judge::decide(&ejected, old, &facts).unwrap_or_else(|refusal| {
            panic!("what was ejected is refused: {refusal}\n{}", shown(&ejected));
        });
        assert_same(&again.object, &ejected, object);
    }
    ejected
}

/// Whether the id asks for the injection of this very object, not of pods that are made later.
fn is_injected_itself(object: &Value) -> bool {
    (is_workload(object) || object["kind"] == "Pod") && object["metadata"]["annotations"][names::ID].is_string()
}

fn is_workload(object: &Value) -> bool {
    let kinds = ["Deployment", "StatefulSet", "DaemonSet"];
    object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind))
}

fn wrapped_once(stored: &Value) {
    let is_agent = |container: &&Value| container["name"] == "leader-agent";
    let inits = list(&template(stored)["spec"]["initContainers"]);
    assert_eq!(inits.iter().filter(is_agent).count(), 1, "{}", shown(stored));
    assert_eq!(wrappers(stored), [false], "{}", shown(stored));
}

/// The containers that are wrapped, and whether the program in a wrapper is the wrapper once more.
fn wrappers(object: &Value) -> Vec<bool> {
    let containers = list(&template(object)["spec"]["containers"]);
    let commands = containers.iter().map(|container| list(&container["command"]));
    commands.filter_map(|command| strip(command).map(|rest| strip(rest).is_some())).collect()
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
        || list(&spec["initContainers"]).iter().any(|container| container["name"] == "leader-agent")
        || list(&spec["containers"]).iter().any(|container| {
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|key| &container[key]);
            let hooks = ["postStart", "preStop"].map(|key| &container["lifecycle"][key]);
            probes.iter().chain(&hooks).any(|handler| goes_to_the_agent(handler))
        })
}

fn goes_to_the_agent(handler: &Value) -> bool {
    handler["httpGet"]["path"].as_str().is_some_and(|path| path.starts_with("/leader.io/probe/"))
        || handler["exec"]["command"][0] == WRAPPER[0]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The same bytes, key order included.
fn assert_same(found: &Value, expected: &Value, made_of: &Value) {
    if found.to_string() != expected.to_string() {
        panic!("found\n{}\nexpected\n{}\nmade of\n{}", shown(found), shown(expected), shown(made_of));
    }
}
