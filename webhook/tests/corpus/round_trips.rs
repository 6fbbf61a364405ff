//! Injected, injected again, ejected: every manifest, as the webhook and as the command line see it.

use leader_agent::names;
use leader_webhook::inject::{Decision, Defaults, Facts, ImageAnswer, ImageFacts, Outcome, Refusal, off, workload};
use serde_json::{Value, json};

use super::{Manifest, id, manifests, plain, pod_of};

/// A decision with an image whose entry point is known.
fn decide(object: &Value, old: Option<&Value>) -> Result<Outcome, Refusal> {
    let defaults = Defaults { agent_image: "ghcr.io/leader-io/leader-agent:0.1.0".to_owned(), agent_pull_secret: None };
    let mut facts = Facts::default();
    for _ in 0..2 {
        match workload(object, old, &defaults, &facts)? {
            Decision::Done(outcome) => return Ok(outcome),
            Decision::NeedsImage(_) => {
                facts.image = Some(ImageAnswer::Found(ImageFacts {
                    digest: format!("sha256:{}", "0".repeat(64)),
                    entrypoint: vec!["/entry point".to_owned(), "--price=$5".to_owned()],
                    cmd: vec!["$(NOT_EXPANDED)".to_owned()],
                    stop_signal: Some("SIGQUIT".to_owned()),
                }));
            }
        }
    }
    panic!("it asks for an image that it was told about");
}

/// The objects of all manifests, each with the name of its file.
fn objects() -> impl Iterator<Item = (String, Value)> {
    manifests(".").into_iter().flat_map(|manifest: Manifest| {
        let objects = manifest.objects();
        objects.into_iter().map(move |object| (manifest.name.clone(), object))
    })
}

/// Those that carry the id themselves.
fn by_object() -> Vec<(String, Value)> {
    objects().filter(|(_, object)| id(&object["metadata"]).is_some()).collect()
}

/// Those that carry it on their pod template alone.
fn by_template() -> Vec<(String, Value)> {
    let on_template = |object: &Value| {
        pod_of(object).and_then(|pod| object.pointer(pod)).is_some_and(|pod| id(&pod["metadata"]).is_some())
    };
    objects().filter(|(_, object)| id(&object["metadata"]).is_none() && on_template(object)).collect()
}

/// The pod that a controller makes of a template.
fn pod(template: &Value, id: &str) -> Value {
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    if pod["metadata"].is_null() {
        pod["metadata"] = json!({});
    }
    if pod["metadata"]["annotations"].is_null() {
        pod["metadata"]["annotations"] = json!({});
    }
    pod["metadata"]["generateName"] = "made-".into();
    pod["metadata"]["annotations"][names::ID] = id.into();
    pod
}

/// The same object without our annotations on it.
fn without_options(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["annotations"].as_object_mut().unwrap().retain(|key, _| !key.starts_with(names::PREFIX));
    object
}

/// Takes an object through everything that happens to it.
fn round_trip(object: &Value) -> Result<(), String> {
    let decided = |what: &str, object: &Value, old| {
        decide(object, old).map_err(|refusal| format!("{what} is refused: {refusal}"))
    };
    let same = |what: &str, left: &Value, right: &Value| {
        let (left, right) = (text(left), text(right));
        if left == right { Ok(()) } else { Err(format!("{what}: {}", difference(&right, &left))) }
    };
    let first = decided("it", object, None)?;
    if first.election.is_none() {
        return Err("there is no election".to_owned());
    }
    let injected = first.object;
    same("injected twice", &decided("the injected one", &injected, None)?.object, &injected)?;
    same("the plain one, while the injected one is live", &decided("it", object, Some(&injected))?.object, &injected)?;
    same("ejected from a file", &off(&injected).object, &plain(object))?;
    // A pod that is there stays as it was made.
    if object["kind"] == "Pod" {
        return Ok(());
    }
    same(
        "turned off",
        &decided("the one turned off", &without_options(&injected), None)?.object,
        &without_options(object),
    )
}

fn text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

/// The lines that differ.
fn difference(expected: &str, found: &str) -> String {
    similar::TextDiff::from_lines(expected, found).unified_diff().context_radius(2).to_string()
}

/// Does it to every one, and tells all that went wrong.
fn each(objects: &[(String, Value)], at_least: usize, check: impl Fn(&Value) -> Result<(), String>) {
    assert!(objects.len() >= at_least, "only {} objects", objects.len());
    let failed: Vec<String> = objects
        .iter()
        .filter_map(|(name, object)| check(object).err().map(|error| format!("{name}: {error}")))
        .collect();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), objects.len(), failed.join("\n"));
}

#[test]
fn what_is_injected_is_ejected_to_the_last_byte() {
    each(&by_object(), 45, round_trip);
}

#[test]
fn a_template_that_carries_the_id_stays_and_its_pods_are_injected() {
    each(&by_template(), 6, |object| {
        let outcome = decide(object, None).map_err(|refusal| refusal.to_string())?;
        if text(&outcome.object) != text(object) {
            return Err(difference(&text(object), &text(&outcome.object)));
        }
        if outcome.election.is_none() {
            return Err("there is no election".to_owned());
        }
        let template = object.pointer(pod_of(object).unwrap()).unwrap();
        round_trip(&pod(template, id(&template["metadata"]).unwrap()))
    });
}

#[test]
fn every_template_is_injected_as_a_pod_as_well() {
    each(&by_object(), 45, |object| {
        let mut made = pod(object.pointer(pod_of(object).unwrap()).unwrap(), id(&object["metadata"]).unwrap());
        // Options on the workload are the template's where pods are injected.
        for (key, value) in object["metadata"]["annotations"].as_object().unwrap() {
            if key.starts_with(names::PREFIX) {
                made["metadata"]["annotations"][key] = value.clone();
            }
        }
        round_trip(&made)
    });
}

#[test]
fn what_cannot_be_injected_is_refused_with_the_reason() {
    for manifest in manifests("refused") {
        let first = manifest.text.lines().next().unwrap();
        if first.starts_with("# refused by the API server: ") {
            continue;
        }
        let reason = first.strip_prefix("# refused: ").unwrap();
        for object in manifest.objects() {
            match decide(&object, None) {
                Err(refusal) => assert!(refusal.to_string().contains(reason), "{}: {refusal}", manifest.name),
                Ok(outcome) => panic!("{}: let through as {:#}", manifest.name, outcome.object),
            }
        }
    }
}
