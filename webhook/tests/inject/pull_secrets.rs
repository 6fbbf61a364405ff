//! A private image of the agent: its pull secret comes and goes with the rest. The properties hold with it too ([`super::images`]).

use leader_webhook::inject::{Defaults, Facts, Refusal};
use serde_json::{Value, json};

use super::{AGENT_IMAGE, configured, deployment, review, template, without_id};

fn defaults() -> Defaults {
    Defaults { agent_image: AGENT_IMAGE.to_owned(), agent_pull_secret: Some("agent".to_owned()) }
}

fn decide(object: &Value, old: Option<&Value>) -> Value {
    let facts = Facts { account_pull_secrets: vec!["registry".to_owned()], ..Facts::default() };
    configured(object, old, &defaults(), &facts).unwrap().object
}

/// A template with these fields beside its container.
fn plain(more: &Value) -> Value {
    let mut spec = json!({ "containers": [{ "name": "app", "image": "registry.example/app:1", "command": ["/app"] }] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "metadata": { "labels": { "app": "billing" } }, "spec": spec })
}

fn names(object: &Value) -> Vec<&str> {
    let secrets = template(object)["spec"]["imagePullSecrets"].as_array();
    secrets.into_iter().flatten().filter_map(|secret| secret["name"].as_str()).collect()
}

#[test]
fn it_comes_and_goes() {
    for (more, expected) in [
        (json!({ "imagePullSecrets": [{ "name": "own" }] }), vec!["own", "agent"]),
        (json!({ "imagePullSecrets": [{ "name": "agent" }, { "name": "own" }] }), vec!["agent", "own"]),
        (json!({ "serviceAccountName": "robot" }), vec!["registry", "agent"]),
        (json!({ "serviceAccountName": "robot", "imagePullSecrets": [] }), vec!["registry", "agent"]),
        // The dedicated account gives it.
        (json!({}), vec![]),
    ] {
        let manifest = deployment(&plain(&more), Some("billing"));
        let injected = decide(&manifest, None);
        assert_eq!(names(&injected), expected, "{more}");
        assert_eq!(decide(&injected, Some(&injected)), injected, "{more}");
        assert_eq!(decide(&manifest, Some(&injected)), injected, "{more}");
        assert_eq!(decide(&without_id(&injected), Some(&injected)), without_id(&manifest), "{more}");
    }
}

#[test]
fn one_that_was_taken_out_comes_back_and_one_that_was_added_stays() {
    let manifest = deployment(&plain(&json!({ "imagePullSecrets": [{ "name": "own" }] })), Some("billing"));
    let injected = decide(&manifest, None);
    let mut edited = injected.clone();
    edited["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{ "name": "own" }, { "name": "new" }]);
    let again = decide(&edited, Some(&injected));
    assert_eq!(names(&again), ["own", "new", "agent"]);
    assert_eq!(names(&decide(&without_id(&again), Some(&again))), ["own", "new"]);
}

#[test]
fn turning_it_on_or_off_for_the_cluster_starts_no_rollout() {
    let manifest = deployment(&plain(&json!({ "imagePullSecrets": [{ "name": "own" }] })), Some("billing"));
    let public = review(&manifest, None).unwrap().object;
    assert_eq!(decide(&manifest, Some(&public)), public);
    let private = decide(&manifest, None);
    assert_eq!(review(&manifest, Some(&private)).unwrap().object, private);
}

#[test]
fn without_the_secret_nothing_new_is_injected_and_what_runs_stays() {
    let manifest = deployment(&plain(&json!({})), Some("billing"));
    let facts = Facts { lacks_agent_pull_secret: true, ..Facts::default() };
    let refused = configured(&manifest, None, &defaults(), &facts).unwrap_err();
    assert!(matches!(refused, Refusal::NoPullSecret { .. }), "{refused}");
    let injected = decide(&manifest, None);
    assert_eq!(configured(&manifest, Some(&injected), &defaults(), &facts).unwrap().object, injected);
    // On the pod template it is refused where a person sees it.
    let mut by_pods = deployment(&plain(&json!({})), None);
    by_pods["spec"]["template"]["metadata"]["annotations"] = json!({ "leader.io/id": "billing" });
    let refused = configured(&by_pods, None, &defaults(), &facts).unwrap_err();
    assert!(matches!(refused, Refusal::NoPullSecret { .. }), "{refused}");
}
