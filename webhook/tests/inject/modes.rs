//! The modes in which the app runs everywhere, and the options that only the agent reads.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    cluster::defaulted,
    deployment,
    images::{inject, review, upgraded},
    of_kind, record, template,
    templates::{KINDS, any_pod_template},
    without_id, wrappers,
    writes::{self, Write},
};

/// A mode, where its status file is, and what else is asked for.
fn options() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let mode = prop::sample::select(vec!["run", "observe", "ready"]);
    let file = prop_oneof![Just(None), Just(Some("/tmp/leader_status")), Just(Some("/data/deeper/leader"))];
    let place = prop_oneof![Just(None), Just(Some("zone=a,node=n1"))];
    (mode, file, place).prop_map(|(mode, file, place)| {
        let file = file.filter(|_| mode != "run").map(|path| ("leader.io/status-file", path));
        let place = place.map(|place| ("leader.io/prefer", place));
        [("leader.io/mode", mode)].into_iter().chain(file).chain(place).collect()
    })
}

fn asked(template: &Value, kind: &str, options: &[(&str, &str)]) -> Value {
    let mut object = of_kind(&deployment(template, Some("billing")), kind);
    for (key, value) in options {
        object["metadata"]["annotations"][*key] = (*value).into();
    }
    object
}

fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap()
}

/// Whether it is accepted: a user's own volume may stand where the status file is to be.
fn accepted(object: &Value) -> bool {
    match review(object, None) {
        Ok(_) => true,
        Err(refusal) => {
            let text = refusal.to_string();
            assert!(text.contains("of the status file is in the volume"), "{text}");
            false
        }
    }
}

fn kind() -> impl Strategy<Value = &'static str> {
    prop::sample::select(KINDS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn ejecting_gives_back_what_the_user_wrote(plain in any_pod_template(), kind in kind(), options in options()) {
        let user = asked(&plain, kind, &options);
        prop_assume!(accepted(&user));
        let injected = inject(&user);
        let wraps = options[0].1 != "observe";
        prop_assert_eq!(wrappers(&injected), usize::from(wraps));
        let ejected = review(&without_id(&injected), Some(&injected)).unwrap();
        prop_assert_eq!(text(template(&ejected.object)), text(&plain));
        let alone = review(&without_id(&injected), None).unwrap().object;
        prop_assert_eq!(text(template(&alone)), text(&plain));
        let live = defaulted(&injected);
        let ejected = defaulted(&review(&without_id(&live), Some(&live)).unwrap().object);
        let mut never = user;
        never["metadata"]["annotations"].as_object_mut().unwrap().retain(|key, _| !key.starts_with("leader.io/"));
        let never = defaulted(&never);
        prop_assert_eq!(template(&ejected), template(&never));
    }

    #[test]
    fn injecting_twice_is_injecting_once(plain in any_pod_template(), kind in kind(), options in options()) {
        let user = asked(&plain, kind, &options);
        prop_assume!(accepted(&user));
        let once = inject(&user);
        prop_assert_eq!(text(&inject(&once)), text(&once));
        prop_assert_eq!(text(&review(&once, Some(&once)).unwrap().object), text(&once));
        let stored = defaulted(&once);
        // Exported and created elsewhere, written again, and both after an upgrade.
        for decide in [review, upgraded] {
            prop_assert_eq!(text(template(&decide(&stored, None).unwrap().object)), text(template(&stored)));
            prop_assert_eq!(text(template(&decide(&stored, Some(&stored)).unwrap().object)), text(template(&stored)));
        }
    }

    #[test]
    fn no_write_of_the_same_template_starts_a_rollout(
        plain in any_pod_template(),
        kind in kind(),
        options in options(),
        write in prop::sample::select(writes::SAME.to_vec()),
    ) {
        let user = asked(&plain, kind, &options);
        prop_assume!(accepted(&user));
        let live = defaulted(&inject(&user));
        let arriving = write.arriving(&defaulted(&user), &live);
        for decide in [review, upgraded] {
            let answer = decide(&arriving, Some(&live)).unwrap();
            prop_assert_eq!(text(template(&answer.object)), text(template(&live)), "{:?}", write);
            prop_assert!(!answer.election.unwrap().injected_afresh);
            prop_assert_eq!(&answer.warnings, &Vec::<String>::new());
        }
    }

    #[test]
    fn a_change_of_mode_is_stored_as_if_it_had_been_asked_for_first(
        plain in any_pod_template(),
        kind in kind(),
        (before, after) in (options(), options()),
        write in prop::sample::select(vec![Write::Reapply, Write::Replace, Write::Patch]),
    ) {
        let (old, new) = (defaulted(&asked(&plain, kind, &before)), defaulted(&asked(&plain, kind, &after)));
        prop_assume!(accepted(&old) && accepted(&new));
        let live = defaulted(&inject(&old));
        let mut arriving = write.arriving(&new, &live);
        arriving["metadata"]["annotations"] = new["metadata"]["annotations"].clone();
        let stored = defaulted(&review(&arriving, Some(&live)).unwrap().object);
        // Whether pods of before run the app beside the leader is remembered.
        let mut said = record(&stored);
        said.as_object_mut().unwrap().shift_remove("bornUnderTurningOn");
        let mut fresh = record(&defaulted(&inject(&new)));
        fresh.as_object_mut().unwrap().shift_remove("bornUnderTurningOn");
        prop_assert_eq!(said, fresh);
        let without_record = |object: &Value| {
            let mut template = template(object).clone();
            template["metadata"]["annotations"]["leader.io/injected"] = Value::Null;
            template
        };
        prop_assert_eq!(without_record(&stored), without_record(&defaulted(&inject(&new))));
    }
}

/// The template with a second container that can follow; `None` where it has no second one.
fn with_follower(plain: &Value) -> Option<Value> {
    let mut plain = plain.clone();
    let proxy = plain["spec"]["containers"].as_array_mut()?.get_mut(1)?.as_object_mut()?;
    proxy.insert("command".to_owned(), json!(["/proxy", "--"]));
    for key in ["livenessProbe", "resources"] {
        proxy.shift_remove(key);
    }
    Some(plain)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn followers_are_given_back_and_written_again_without_a_rollout(
        plain in any_pod_template(),
        kind in kind(),
        write in prop::sample::select(writes::SAME.to_vec()),
    ) {
        let Some(plain) = with_follower(&plain) else { return Ok(()) };
        let user = asked(&plain, kind, &[("leader.io/follow", "proxy")]);
        let injected = inject(&user);
        prop_assert_eq!(wrappers(&injected), 2);
        prop_assert_eq!(&record(&injected)["follow"], &json!(["proxy"]));
        let ejected = review(&without_id(&injected), Some(&injected)).unwrap();
        prop_assert_eq!(text(template(&ejected.object)), text(&plain));
        prop_assert_eq!(text(template(&review(&without_id(&injected), None).unwrap().object)), text(&plain));
        prop_assert_eq!(text(&inject(&injected)), text(&injected));
        let live = defaulted(&injected);
        let arriving = write.arriving(&defaulted(&user), &live);
        for decide in [review, upgraded] {
            let answer = decide(&arriving, Some(&live)).unwrap();
            prop_assert_eq!(text(template(&answer.object)), text(template(&live)), "{:?}", write);
        }
        // Without the option it runs everywhere again.
        let mut alone = live.clone();
        alone["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/follow");
        let stored = defaulted(&review(&alone, Some(&live)).unwrap().object);
        prop_assert_eq!(wrappers(&stored), 1);
        let user = defaulted(&user);
        prop_assert_eq!(&template(&stored)["spec"]["containers"][1], &template(&user)["spec"]["containers"][1]);
    }
}

fn plain() -> Value {
    json!({
        "metadata": {"labels": {"app": "billing"}},
        "spec": {
            "containers": [
                {"name": "app", "image": "registry.example/billing:1", "command": ["/billing"],
                    "env": [{"name": "LEADER_STATUS_FILE", "value": "/tmp/leader_status"}],
                    "livenessProbe": {"exec": {"command": ["/alive"]}},
                    "readinessProbe": {"httpGet": {"path": "/ok", "port": 8080}, "failureThreshold": 2},
                    "lifecycle": {"preStop": {"exec": {"command": ["/bye"]}}},
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
                {"name": "proxy", "image": "registry.example/proxy:1"},
            ],
        },
    })
}

/// What is made of it, without the app's variable, which only a pod that is observed may have.
fn injected(options: &[(&str, &str)]) -> Value {
    let mut plain = plain();
    if !options.contains(&("leader.io/mode", "observe")) {
        plain["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("env");
    }
    template(&inject(&asked(&plain, "Deployment", options)))["spec"].clone()
}

#[test]
fn an_observer_stands_beside_an_app_that_is_left_alone() {
    let spec = injected(&[("leader.io/mode", "observe"), ("leader.io/status-file", "/tmp/leader_status")]);
    let observer = &spec["initContainers"][0];
    assert_eq!((&observer["name"], &observer["restartPolicy"]), (&json!("leader-agent"), &json!("Always")));
    assert_eq!(observer["command"], json!(["/leader-agent", "observe"]));
    assert_eq!(observer["resources"], json!({"limits": {"cpu": "100m", "memory": "32Mi"}}));
    assert_eq!(observer["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": 9809, "scheme": "HTTP"}));
    let mount = json!({"name": "leader-io-status", "mountPath": "/tmp"});
    assert!(observer["volumeMounts"].as_array().unwrap().contains(&mount), "{observer}");
    let names: Vec<_> = spec["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    assert_eq!(names, ["leader-io-token", "leader-io-status"]);
    for (index, user) in plain()["spec"]["containers"].as_array().unwrap().iter().enumerate() {
        let mut expected = user.clone();
        expected["volumeMounts"] = json!([mount]);
        assert_eq!(spec["containers"][index], expected);
    }
}

#[test]
fn in_mode_ready_readiness_alone_is_the_agents() {
    let spec = injected(&[("leader.io/mode", "ready")]);
    let (app, user) = (&spec["containers"][0], &plain()["spec"]["containers"][0]);
    assert_eq!(app["command"], json!(["/leader/agent", "run", "--", "/billing"]));
    for key in ["livenessProbe", "lifecycle"] {
        assert_eq!(app[key], user[key], "{key}");
    }
    let readiness = json!({"httpGet": {"path": "/leader.io/probe/readiness", "port": 9809, "scheme": "HTTP"}, "failureThreshold": 2});
    assert_eq!(app["readinessProbe"], readiness);
    let mut bare = plain();
    for key in ["env", "readinessProbe"] {
        bare["spec"]["containers"][0].as_object_mut().unwrap().shift_remove(key);
    }
    let spec = template(&inject(&asked(&bare, "Deployment", &[("leader.io/mode", "ready")])))["spec"].clone();
    let added = &spec["containers"][0]["readinessProbe"];
    assert_eq!((&added["periodSeconds"], &added["failureThreshold"]), (&json!(1), &json!(1)));
}

#[test]
fn what_the_agent_has_to_know_is_in_the_record() {
    let mut plain = plain();
    plain["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("env");
    let options = [("leader.io/prefer", "zone=a"), ("leader.io/unhealthy-step-down", "30s")];
    let object = inject(&asked(&plain, "Deployment", &options));
    let said = record(&object);
    assert_eq!((&said["prefer"], &said["unhealthyStepDown"]), (&json!("zone=a"), &json!("30s")));
    let names = |object: &Value| {
        let env = template(object)["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        env.iter().map(|variable| variable["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(names(&object).ends_with(&["LEADER_NODE", "LEADER_ZONE", "LEADER_REGION"].map(str::to_owned)));
    let without = inject(&asked(&plain, "Deployment", &options[1..]));
    assert!(!names(&without).contains(&"LEADER_ZONE".to_owned()));
    for (mode, file) in [("observe", "/leader-status/leader"), ("ready", "/leader-status/leader")] {
        let said = record(&inject(&asked(&plain, "Deployment", &[("leader.io/mode", mode)])));
        assert_eq!((&said["mode"], &said["statusFile"]), (&json!(mode), &json!(file)));
    }
}

#[test]
fn who_asks_for_one_ready_pod_is_told_that_the_rollout_waits_for_more() {
    let mut plain = plain();
    plain["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("env");
    let mut user = asked(&plain, "Deployment", &[("leader.io/mode", "ready")]);
    let said = |object: &Value| review(object, None).unwrap().warnings.join("\n");
    assert!(said(&user).contains("maxUnavailable 25% (0) 3 old ones stay"), "{}", said(&user));
    assert!(said(&user).contains("informs and does not exclude"), "{}", said(&user));
    user["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "100%"}});
    assert!(!said(&user).contains("cannot finish"), "{}", said(&user));
    assert!(!said(&asked(&plain, "Deployment", &[])).contains("informs"));
}

/// From a mode in which the app runs everywhere to the one in which it must not, pods of before are in the way.
#[test]
fn only_a_mode_that_excludes_has_to_wait_for_pods_of_before() {
    let mut plain = plain();
    plain["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("env");
    let of = |mode: &'static str| asked(&plain, "Deployment", &[("leader.io/mode", mode)]);
    let changed = |from: &'static str, to: &'static str| {
        let live = inject(&of(from));
        let mut arriving = live.clone();
        arriving["metadata"]["annotations"]["leader.io/mode"] = to.into();
        let election = review(&arriving, Some(&live)).unwrap().election.unwrap();
        (election.container, election.live_before)
    };
    assert_eq!(changed("observe", "run"), ("app".to_owned(), false));
    assert_eq!(changed("ready", "run"), ("app".to_owned(), false));
    assert_eq!(changed("run", "ready"), ("*".to_owned(), false));
    assert_eq!(changed("observe", "ready"), ("*".to_owned(), true));
    assert_eq!(changed("run", "run"), ("app".to_owned(), true));
}
