//! Entry points and stop signals that come from the image.

use leader_webhook::inject::{Decision, Defaults, Facts, ImageAnswer, ImageFacts, ImageRequest, Outcome, workload};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{AGENT_IMAGE, cluster::defaulted, deployment, done, inject, record, review, template, without_id};

const DIGEST: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000ff";

fn facts(entrypoint: &[&str], cmd: &[&str]) -> ImageFacts {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    ImageFacts { digest: DIGEST.to_owned(), entrypoint: words(entrypoint), cmd: words(cmd), stop_signal: None }
}

fn found(facts: &ImageFacts) -> Facts {
    Facts { image: Some(ImageAnswer::Found(facts.clone())), ..Facts::default() }
}

fn failed() -> Facts {
    Facts { image: Some(ImageAnswer::Failed("the registry answered 503".to_owned())), ..Facts::default() }
}

fn with(object: &Value, old: Option<&Value>, facts: &Facts) -> Outcome {
    done(object, old, AGENT_IMAGE, facts).unwrap()
}

fn request(object: &Value, old: Option<&Value>) -> Option<ImageRequest> {
    let defaults = Defaults { agent_image: AGENT_IMAGE.to_owned(), agent_pull_secret: None };
    match workload(object, old, &defaults, &Facts::default()).unwrap() {
        Decision::NeedsImage(request) => Some(request),
        Decision::Done(_) => None,
    }
}

/// A Deployment whose container is of `image` and has these fields, too.
fn of_image(image: &str, fields: Value) -> Value {
    let mut container = json!({"name": "app", "image": image});
    if let Value::Object(fields) = fields {
        container.as_object_mut().unwrap().extend(fields);
    }
    deployment(
        &json!({"metadata": {"labels": {"app": "billing"}}, "spec": {"containers": [container]}}),
        Some("billing"),
    )
}

fn tagged(fields: Value) -> Value {
    of_image("registry.example/billing:1", fields)
}

fn by_digest(fields: Value) -> Value {
    of_image(&format!("registry.example/billing@{DIGEST}"), fields)
}

fn app(object: &Value) -> &Value {
    &template(object)["spec"]["containers"][0]
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// `$(X)` with X=value, `$$` is `$`: k8s.io/kubernetes `third_party/forked/golang/expansion`.
fn expanded(word: &str) -> String {
    let mut done = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        let (text, taken) = if rest.starts_with("$$") {
            ("$".to_owned(), 2)
        } else if rest.starts_with("$(X)") {
            ("value".to_owned(), 4)
        } else {
            ("$".to_owned(), 1)
        };
        done.push_str(&text);
        rest = &rest[taken..];
    }
    done + rest
}

/// What the kubelet and containerd run: `ExpandContainerCommandAndArgs`, then `WithProcessArgs`.
fn process(container: &Value, image: &ImageFacts) -> Option<Vec<String>> {
    let of = |key: &str| words(&container[key]).iter().map(|word| expanded(word)).collect::<Vec<_>>();
    let (mut command, mut args) = (of("command"), of("args"));
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        if image.entrypoint != [""] {
            command.clone_from(&image.entrypoint);
        }
    }
    Some([command, args].concat()).filter(|words| !words.is_empty())
}

fn list(words: impl Strategy<Value = Vec<String>> + 'static) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![Just(None), Just(Some(Value::Null)), Just(Some(json!([]))), words.prop_map(|words| Some(words.into()))]
}

fn some_words() -> impl Strategy<Value = Vec<String>> {
    let word = prop_oneof![Just("/app"), Just("serve"), Just("$(X)"), Just("$$(X)"), Just("$X $"), Just("")];
    proptest::collection::vec(word.prop_map(str::to_owned), 1..4)
}

fn image() -> impl Strategy<Value = ImageFacts> {
    let words = || prop_oneof![Just(Vec::new()), Just(vec![String::new()]), some_words()];
    let shell = ["/bin/sh", "-c", "exec app $HOME"].map(str::to_owned).to_vec();
    let signal = proptest::option::of(Just("SIGQUIT".to_owned()));
    (prop_oneof![4 => words(), 1 => Just(shell)], words(), signal).prop_map(|(entrypoint, cmd, stop_signal)| {
        ImageFacts { digest: DIGEST.to_owned(), entrypoint, cmd, stop_signal }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_agent_runs_what_would_have_run(
        command in list(some_words()),
        args in list(some_words()),
        image in image(),
        stated in proptest::option::of(Just("SIGUSR1")),
    ) {
        let mut fields = json!({});
        for (key, value) in [("args", &args), ("command", &command)] {
            if let Some(value) = value {
                fields[key] = value.clone();
            }
        }
        if let Some(signal) = stated {
            fields["lifecycle"] = json!({"stopSignal": signal});
        }
        let object = tagged(fields);
        let Some(expected) = process(app(&object), &image) else {
            let refusal = done(&object, None, AGENT_IMAGE, &found(&image)).unwrap_err().to_string();
            prop_assert!(refusal.contains("there is nothing to run"), "{}", refusal);
            return Ok(());
        };
        let injected = with(&object, None, &found(&image)).object;
        let mut wrapped = ["/leader/agent", "run", "--"].map(str::to_owned).to_vec();
        wrapped.extend(expected);
        prop_assert_eq!(process(app(&injected), &image).unwrap(), wrapped);

        let signal = stated.or(image.stop_signal.as_deref());
        prop_assert_eq!(&record(&injected)["stopSignal"], &json!(signal));

        let ejected = review(&without_id(&injected), Some(&injected)).unwrap().object;
        prop_assert_eq!(ejected.to_string(), without_id(&object).to_string());
        // Again, with and without the live object, and after the API server has stored it: nothing changes, nobody is asked.
        let stored = defaulted(&injected);
        for object in [&injected, &stored] {
            for old in [None, Some(object)] {
                prop_assert_eq!(request(object, old), None);
                prop_assert_eq!(review(object, old).unwrap().object.to_string(), object.to_string());
            }
        }
    }
}

#[test]
fn an_image_is_asked_for_what_the_template_leaves_open_and_after_what_is_refused() {
    let mut object = tagged(json!({}));
    let spec = &mut object["spec"]["template"]["spec"];
    spec["imagePullSecrets"] = json!([{"name": "registry"}, {}]);
    spec["nodeSelector"] = json!({"kubernetes.io/arch": "arm64"});
    let expected = ImageRequest {
        image: "registry.example/billing:1".to_owned(),
        pull_secrets: vec!["registry".to_owned()],
        service_account: "default".to_owned(),
        node_selector: [("kubernetes.io/arch".to_owned(), "arm64".to_owned())].into(),
        required: true,
    };
    assert_eq!(request(&object, None), Some(expected.clone()));
    object["spec"]["template"]["spec"]["serviceAccountName"] = "robot".into();
    assert_eq!(request(&object, None), Some(ImageRequest { service_account: "robot".to_owned(), ..expected }));

    let required = |object: &Value| request(object, None).map(|request| request.required);
    assert_eq!(required(&tagged(json!({"command": ["/app"]}))), Some(false));
    assert_eq!(required(&tagged(json!({"args": ["x"]}))), Some(true));
    assert_eq!(required(&tagged(json!({"lifecycle": {"stopSignal": "SIGINT"}}))), Some(true));
    assert_eq!(required(&tagged(json!({"command": ["/app"], "lifecycle": {"stopSignal": "SIGINT"}}))), None);
    let mut told = tagged(json!({}));
    told["metadata"]["annotations"]["leader.io/command"] = r#"["/app"]"#.into();
    assert_eq!(required(&told), Some(false));

    object["spec"]["template"]["spec"]["os"] = json!({"name": "windows"});
    assert!(review(&object, None).unwrap_err().to_string().contains("windows"));
}

#[test]
fn the_annotation_goes_before_the_image() {
    let mut object = tagged(json!({}));
    object["metadata"]["annotations"]["leader.io/command"] = r#"["/app", "$(X)"]"#.into();
    let injected = with(&object, None, &found(&facts(&["/entry"], &["serve"]))).object;
    assert_eq!(app(&injected)["command"], json!(["/leader/agent", "run", "--", "/app", "$$(X)"]));
    assert!(app(&injected).get("args").is_none());
}

#[test]
fn what_the_image_said_is_in_the_record() {
    let image = ImageFacts { stop_signal: Some("3".to_owned()), ..facts(&["/entry", "$X"], &["serve"]) };
    let injected = with(&tagged(json!({})), None, &found(&image)).object;
    let record = record(&injected);
    assert_eq!(record["digest"], DIGEST);
    assert_eq!(record["imageConfig"], json!({"entrypoint": ["/entry", "$X"], "cmd": ["serve"], "stopSignal": "3"}));
    assert_eq!((&record["command"], &record["args"]), (&json!(["/entry", "$$X"]), &json!(["serve"])));
    assert_eq!((&record["stopSignal"], &record["original"]["setsCommand"]), (&json!("3"), &json!(false)));
}

#[test]
fn a_tag_freezes_the_entry_point_which_is_said_once() {
    let image = facts(&["/entry"], &[]);
    let says = |outcome: &Outcome| outcome.warnings.iter().any(|warning| warning.contains("name the image by digest"));
    let first = with(&tagged(json!({})), None, &found(&image));
    assert!(says(&first), "{:?}", first.warnings);
    assert!(!says(&with(&by_digest(json!({})), None, &found(&image))));
    assert!(!says(&with(&tagged(json!({"command": ["/app"]})), None, &found(&image))));

    let live = defaulted(&first.object);
    let mut changed = live.clone();
    changed["spec"]["template"]["metadata"]["annotations"]["a"] = "b".into();
    let second = with(&changed, Some(&live), &found(&image));
    assert!(second.election.as_ref().unwrap().injected_afresh && !says(&second), "{:?}", second.warnings);
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    assert!(says(&with(&changed, Some(&live), &found(&image))));
}

#[test]
fn an_image_by_digest_is_asked_once() {
    let image = facts(&["/entry"], &["serve"]);
    let live = defaulted(&with(&by_digest(json!({})), None, &found(&image)).object);
    let mut changed = live.clone();
    changed["spec"]["template"]["metadata"]["annotations"]["a"] = "b".into();
    for old in [Some(&live), None] {
        assert_eq!(request(&changed, old), None);
    }
    // Replaced: the record is in the live object alone.
    let mut replaced = by_digest(json!({"args": ["run"]}));
    assert_eq!(request(&replaced, Some(&live)), None);
    let stored = review(&replaced, Some(&live)).unwrap().object;
    assert_eq!(app(&stored)["command"], json!(["/leader/agent", "run", "--", "/entry"]));
    assert_eq!(app(&stored)["args"], json!(["run"]));
    replaced["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:1".into();
    assert!(request(&replaced, Some(&live)).is_some());
}

#[test]
fn where_the_registry_fails_an_earlier_record_helps() {
    let image = ImageFacts { stop_signal: Some("SIGQUIT".to_owned()), ..facts(&["/entry"], &["serve"]) };
    let live = defaulted(&with(&tagged(json!({})), None, &found(&image)).object);
    let mut changed = live.clone();
    changed["spec"]["template"]["metadata"]["annotations"]["a"] = "b".into();
    let mut replaced = defaulted(&tagged(json!({})));
    replaced["spec"]["template"]["metadata"]["annotations"] = json!({"a": "b"});
    let text = template(&live)["metadata"]["annotations"]["leader.io/injected"].as_str().unwrap().to_owned();
    let sibling = Facts { sibling_record: Some(text), ..failed() };
    // Exported, and edited so that the init container no longer fits.
    let mut edited = live.clone();
    edited["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    for (object, old, facts) in [
        (&edited, None, &failed()),
        (&changed, Some(&live), &failed()),
        (&replaced, Some(&live), &failed()),
        (&replaced, None, &sibling),
    ] {
        let outcome = with(object, old, facts);
        assert_eq!(app(&outcome.object)["command"], json!(["/leader/agent", "run", "--", "/entry"]));
        assert_eq!(app(&outcome.object)["args"], json!(["serve"]));
        assert_eq!(record(&outcome.object)["stopSignal"], "SIGQUIT");
        let expected = "image registry.example/billing:1 could not be looked up (the registry answered 503): entry point and stop \
                        signal are what an earlier injection found";
        assert!(outcome.warnings.iter().any(|warning| warning == expected), "{:?}", outcome.warnings);
    }

    let mut other = changed.clone();
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    let refusal = done(&other, Some(&live), AGENT_IMAGE, &sibling).unwrap_err().to_string();
    for part in [
        "container `app` (spec.template.spec.containers[0]) sets no `command`",
        "its image registry.example/billing:2 could not be looked up: the registry answered 503.",
        "Set `command` there, or",
        "leader.io/command: '[\"",
    ] {
        assert!(refusal.contains(part), "{part:?} is not in: {refusal}");
    }
}

#[test]
fn a_stop_signal_that_is_not_known_is_said_unless_nobody_asks_registries() {
    let object = tagged(json!({"command": ["/app"]}));
    let says = |outcome: &Outcome| outcome.warnings.iter().any(|warning| warning.contains("SIGTERM is taken"));
    let outcome = with(&object, None, &failed());
    assert!(says(&outcome), "{:?}", outcome.warnings);
    assert!(record(&outcome.object).get("stopSignal").is_none());
    assert!(!says(&review(&object, None).unwrap()));
    // The record of the live one knows it.
    let image = ImageFacts { stop_signal: Some("SIGQUIT".to_owned()), ..facts(&[], &[]) };
    let live = defaulted(&with(&object, None, &found(&image)).object);
    let mut changed = live.clone();
    changed["spec"]["template"]["metadata"]["annotations"]["a"] = "b".into();
    assert_eq!(record(&with(&changed, Some(&live), &failed()).object)["stopSignal"], "SIGQUIT");
    // And it is the image's, also after the template had said another.
    let stated =
        with(&tagged(json!({"lifecycle": {"stopSignal": "SIGINT"}})), None, &found(&facts(&["/x"], &[]))).object;
    let mut no_longer = stated.clone();
    no_longer["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("lifecycle");
    assert!(record(&with(&no_longer, Some(&stated), &failed()).object).get("stopSignal").is_none());
}

/// A rollout of everything would ask for each image otherwise, and for the pods' pull secrets, while the API server has the most to do.
#[test]
fn a_stop_signal_is_asked_for_once_for_each_image() {
    let image = ImageFacts { stop_signal: Some("SIGQUIT".to_owned()), ..facts(&["/x"], &[]) };
    let restarted = |live: &Value| {
        let mut restarted = live.clone();
        restarted["spec"]["template"]["metadata"]["annotations"]["a"] = "b".into();
        restarted
    };
    let live = defaulted(&with(&tagged(json!({"command": ["/app"]})), None, &found(&image)).object);
    let mut changed = restarted(&live);
    assert_eq!(request(&changed, Some(&live)), None);
    assert_eq!(record(&review(&changed, Some(&live)).unwrap().object)["stopSignal"], "SIGQUIT");
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    assert!(request(&changed, Some(&live)).is_some(), "another image");
    let live = defaulted(&with(&tagged(json!({})), None, &found(&image)).object);
    assert!(request(&restarted(&live), Some(&live)).is_some(), "the image says what to start");
}

/// A change of the container and of its record.
type Change = fn(&mut Value, &mut Value);

/// An arriving record is believed where it fits what stands around it: the agent starts what stands in the container.
#[test]
fn an_arriving_record_that_leaves_words_out_is_made_anew() {
    let image = facts(&["/entry"], &["serve"]);
    let object = tagged(json!({}));
    let injected = defaulted(&with(&object, None, &found(&image)).object);
    let changes: [(&str, Change); 6] = [
        ("args taken out of both", |app, record| {
            app.as_object_mut().unwrap().shift_remove("args");
            record.as_object_mut().unwrap().shift_remove("args");
        }),
        ("another command in both", |app, record| {
            app["command"] = json!(["/leader/agent", "run", "--", "/other"]);
            record["command"] = json!(["/other"]);
        }),
        ("another stop signal", |_, record| record["stopSignal"] = "SIGKILL".into()),
        ("of another image", |_, record| record["image"] = "registry.example/other:1".into()),
        ("without what the image said", |_, record| {
            record.as_object_mut().unwrap().shift_remove("imageConfig");
        }),
        ("a stop signal in the template", |app, _| app["lifecycle"] = json!({"stopSignal": "SIGINT"})),
    ];
    for (what, change) in changes {
        let mut forged = injected.clone();
        let mut said = record(&forged);
        change(forged.pointer_mut("/spec/template/spec/containers/0").unwrap(), &mut said);
        forged["spec"]["template"]["metadata"]["annotations"]["leader.io/injected"] = said.to_string().into();
        for old in [None, Some(&injected)] {
            let outcome = with(&forged, old, &found(&image));
            let app = app(&outcome.object);
            assert_eq!(words(&app["command"])[3..], ["/entry"], "{what}");
            assert_eq!(app["args"], json!(["serve"]), "{what}");
            assert!(record(&outcome.object)["stopSignal"] != "SIGKILL", "{what}");
        }
    }
}

#[test]
fn what_is_written_over_the_images_words_is_the_users() {
    let image = facts(&["/entry"], &["serve"]);
    let live = defaulted(&with(&tagged(json!({})), None, &found(&image)).object);
    let patched = |key: &str, value: Value| {
        let mut object = live.clone();
        object["spec"]["template"]["spec"]["containers"][0][key] = value;
        let stored = with(&object, Some(&live), &found(&image)).object;
        let ejected = review(&without_id(&stored), Some(&stored)).unwrap().object;
        (words(&app(&stored)["command"])[3..].to_vec(), app(&stored)["args"].clone(), app(&ejected).clone())
    };
    let (command, args, ejected) = patched("args", json!(["migrate"]));
    assert_eq!((command, args), (vec!["/entry".to_owned()], json!(["migrate"])));
    assert_eq!((&ejected["args"], ejected.get("command")), (&json!(["migrate"]), None));
    // A container that sets `command` gets nothing of the image's CMD.
    let (command, args, ejected) = patched("command", json!(["/bin/true"]));
    assert_eq!((command, args), (vec!["/bin/true".to_owned()], Value::Null));
    assert_eq!((&ejected["command"], ejected.get("args")), (&json!(["/bin/true"]), None));
    // Both, and the same words as the image's: they are the user's where the last manifest has them.
    let mut object = live.clone();
    object["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/entry"]);
    let mut manifest = tagged(json!({"command": ["/entry"], "args": ["serve"]}));
    for (stated, expected) in [(true, json!(["serve"])), (false, Value::Null)] {
        if !stated {
            manifest["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("args");
        }
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
            manifest.to_string().into();
        let stored = with(&object, Some(&live), &found(&image)).object;
        assert_eq!((&app(&stored)["args"], &record(&stored)["original"]["setsCommand"]), (&expected, &json!(true)));
    }
    // Another image has words of its own.
    let mut object = live.clone();
    object["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    let stored = with(&object, Some(&live), &found(&facts(&[], &["other"]))).object;
    assert_eq!(
        (&app(&stored)["command"], &app(&stored)["args"]),
        (&json!(["/leader/agent", "run", "--"]), &json!(["other"]))
    );
}

#[test]
fn neither_the_image_nor_the_template_says_what_to_run() {
    let refusal = done(&tagged(json!({})), None, AGENT_IMAGE, &found(&facts(&[""], &[]))).unwrap_err().to_string();
    assert!(refusal.contains("image registry.example/billing:1 has neither ENTRYPOINT nor CMD"), "{refusal}");
}

#[test]
fn a_template_without_an_image_is_asked_about_when_it_has_one() {
    let mut object = tagged(json!({"command": ["/app"]}));
    object["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("image");
    assert_eq!(request(&object, None), None);
    let injected = inject(&object);
    assert!(review(&object, None).unwrap().warnings.iter().all(|warning| !warning.contains("stop signal")));
    let mut later = injected.clone();
    later["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:1".into();
    assert!(request(&later, None).is_some());
    object["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("command");
    let refusal = review(&object, None).unwrap_err().to_string();
    assert!(refusal.contains("could not be looked up: the container names none"), "{refusal}");
}

/// Together with another image there is nothing else by which these words could be told from the image's.
#[test]
fn args_that_the_manifest_states_are_not_taken_for_an_earlier_images() {
    let found_of = |cmd: &str| found(&facts(&["/entry"], &[cmd]));
    let live = defaulted(&with(&tagged(json!({})), None, &found_of("serve")).object);
    let applied = |manifest: &Value| {
        let mut object = live.clone();
        object["spec"]["template"]["spec"]["containers"][0]["image"] = app(manifest)["image"].clone();
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] =
            manifest.to_string().into();
        object
    };
    let mut manifest = tagged(json!({"args": ["serve"]}));
    // It says no more than was there.
    assert_eq!(template(&with(&applied(&manifest), Some(&live), &found_of("serve")).object), template(&live));
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    let stored = with(&applied(&manifest), Some(&live), &found_of("other")).object;
    assert_eq!(app(&stored)["args"], json!(["serve"]));
    assert_eq!(record(&stored).get("args"), None);
    // A manifest of what was injected states nothing by it.
    let mut exported = live.clone();
    exported["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    let stored = with(&applied(&exported), Some(&live), &found_of("other")).object;
    assert_eq!(app(&stored)["args"], json!(["other"]));
}
