//! Each kind of write, as it was seen to arrive at a webhook: the rows of the table in the notes on admission.

use serde_json::{Value, json};

use super::{cluster::defaulted, deployment, inject, record, review, template, upgraded, without_id};

/// A write of a manifest over a live, injected object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Write {
    /// Client-side apply, or server-side by the same manager: what the manifest says is the user's again, the rest stays.
    Reapply,
    /// The same after its lists were merged in another order.
    ReapplyReordered,
    /// `kubectl replace`: the plain manifest.
    Replace,
    /// A patch of something else.
    Patch,
    /// `kubectl set image '*=...'` reached our init container as well.
    InitImage,
}

/// Writes that leave the user's template as it is.
pub(crate) const SAME: [Write; 5] =
    [Write::Reapply, Write::ReapplyReordered, Write::Replace, Write::Patch, Write::InitImage];

impl Write {
    /// What reaches the webhook when `manifest`, with defaults, is written over `live`.
    pub(crate) fn arriving(self, manifest: &Value, live: &Value) -> Value {
        let mut object = live.clone();
        let spec = object["spec"]["template"]["spec"].as_object_mut().unwrap();
        let user = &manifest["spec"]["template"]["spec"];
        match self {
            Self::Replace => return manifest.clone(),
            Self::Patch => {}
            Self::InitImage => spec["initContainers"][0]["image"] = "registry.example/app:2".into(),
            Self::Reapply | Self::ReapplyReordered => {
                if let Some(command) = user["containers"][0].get("command") {
                    spec["containers"][0]["command"] = command.clone();
                }
                if let Some(account) = user.get("serviceAccountName") {
                    spec.insert("serviceAccountName".to_owned(), account.clone());
                    spec.insert("serviceAccount".to_owned(), account.clone());
                }
                let list = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
                if let Some(value) = manifest["spec"]["template"]["metadata"]["annotations"].get(list) {
                    object["spec"]["template"]["metadata"]["annotations"][list] = value.clone();
                }
            }
        }
        if self == Self::ReapplyReordered {
            let spec = &mut object["spec"]["template"]["spec"];
            for list in ["/initContainers", "/volumes", "/containers/0/env", "/containers/0/volumeMounts"] {
                // The observer leaves the app's own lists alone.
                if let Some(Value::Array(list)) = spec.pointer_mut(list) {
                    ours_moved(list);
                }
            }
        }
        object
    }
}

/// Ours to the other end of the list, the user's in their order.
fn ours_moved(list: &mut Vec<Value>) {
    let is_ours = |item: &Value| {
        item["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("leader-") || name.starts_with("LEADER_") && name != "LEADER_ELECTION")
    };
    let first = list.first().is_some_and(is_ours);
    let (ours, users): (Vec<_>, Vec<_>) = list.drain(..).partition(is_ours);
    list.extend(if first { [users, ours].concat() } else { [ours, users].concat() });
}

fn plain() -> Value {
    json!({
        "metadata": {"labels": {"app": "billing"}},
        "spec": {
            "containers": [{
                "name": "app",
                "image": "registry.example/billing:1",
                "command": ["/billing", "--addr=$(POD_IP)"],
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }],
            "initContainers": [{"name": "migrate", "image": "registry.example/billing:1"}],
        },
    })
}

pub(crate) fn user() -> Value {
    defaulted(&deployment(&plain(), Some("billing")))
}

pub(crate) fn live() -> Value {
    defaulted(&inject(&user()))
}

/// A review that must inject afresh, and what is stored then.
fn afresh(arriving: &Value, live: &Value) -> Value {
    let answer = review(arriving, Some(live)).unwrap();
    assert!(answer.election.unwrap().injected_afresh);
    defaulted(&answer.object)
}

#[test]
fn annotating_a_running_deployment_injects_it() {
    let before = defaulted(&deployment(&plain(), None));
    let answer = review(&user(), Some(&before)).unwrap();
    let election = answer.election.unwrap();
    assert!(election.injected_afresh && !election.live_before);
    assert_eq!(election.account.name(), "leader-billing");
    // It is what is made of a new one, and says that it was not.
    let mut said = record(&answer.object);
    assert_eq!(said.as_object_mut().unwrap().shift_remove("bornUnderTurningOn"), Some(json!(true)));
    let mut stored = answer.object.clone();
    stored["spec"]["template"]["metadata"]["annotations"]["leader.io/injected"] = said.to_string().into();
    assert_eq!(stored, inject(&user()));
    assert!(answer.warnings[0].contains("leader election `billing` is on"), "{:?}", answer.warnings);
}

#[test]
fn re_apply_replace_and_a_patch_of_something_else_keep_the_live_template() {
    for write in SAME {
        let arriving = write.arriving(&user(), &live());
        for decide in [review, upgraded] {
            let answer = decide(&arriving, Some(&live())).unwrap();
            assert_eq!(template(&answer.object), template(&live()), "{write:?}");
            let election = answer.election.unwrap();
            assert!(!election.injected_afresh && election.live_before, "{write:?}");
        }
    }
}

#[test]
fn what_stands_around_the_template_is_the_arriving_one() {
    let mut arriving = Write::Reapply.arriving(&user(), &live());
    arriving["spec"]["replicas"] = json!(5);
    arriving["metadata"]["annotations"]["team"] = "checkout".into();
    let stored = review(&arriving, Some(&live())).unwrap().object;
    assert_eq!(stored["spec"]["replicas"], 5);
    assert_eq!(stored["metadata"], arriving["metadata"]);
}

/// In the pods of before `app` runs on the leader only: pods in which the new container is wrapped would all run it.
#[test]
fn a_container_that_is_put_before_the_wrapped_one_is_not_wrapped_in_its_place() {
    let mut arriving = live();
    let proxy = json!({"name": "proxy", "image": "registry.example/proxy:1", "command": ["/proxy"]});
    let containers = arriving["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
    containers.insert(0, proxy.clone());
    let answer = review(&arriving, Some(&live())).unwrap();
    let containers = &template(&answer.object)["spec"]["containers"];
    assert_eq!(containers[0], proxy);
    assert_eq!(containers[1]["command"], template(&live())["spec"]["containers"][0]["command"]);
    assert!(answer.warnings.iter().any(|warning| warning.contains("`app` stays")), "{:?}", answer.warnings);

    // From then on it is as it is, whatever is written.
    let stored = defaulted(&answer.object);
    let again = review(&stored, Some(&stored)).unwrap();
    assert_eq!((&again.object, &again.warnings[..]), (&stored, &[][..]));
    // Who says so gets another one, and who takes the wrapped one away does.
    let mut named = stored.clone();
    named["metadata"]["annotations"]["leader.io/container"] = "proxy".into();
    let named = review(&named, Some(&stored)).unwrap().object;
    assert_eq!(template(&named)["spec"]["containers"][1]["command"], plain()["spec"]["containers"][0]["command"]);
    let mut without = stored.clone();
    without["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().pop();
    let without = review(&without, Some(&stored)).unwrap().object;
    assert_ne!(template(&without)["spec"]["containers"][0], proxy);
}

#[test]
fn set_image_is_stored_with_an_init_container_of_ours() {
    let mut arriving = live();
    for container in [
        "/spec/template/spec/containers/0",
        "/spec/template/spec/initContainers/0",
        "/spec/template/spec/initContainers/1",
    ] {
        arriving.pointer_mut(container).unwrap()["image"] = "registry.example/billing:2".into();
    }
    let stored = afresh(&arriving, &live());
    let spec = &template(&stored)["spec"];
    assert_eq!(spec["containers"][0]["image"], "registry.example/billing:2");
    assert_eq!(spec["initContainers"][0]["image"], super::AGENT_IMAGE);
    assert_eq!(spec["initContainers"][1]["image"], "registry.example/billing:2");
    assert_eq!(record(&stored)["image"], "registry.example/billing:2");
}

#[test]
fn set_env_and_restart_keep_the_wrapping() {
    let mut arriving = live();
    let env = arriving.pointer_mut("/spec/template/spec/containers/0/env").unwrap().as_array_mut().unwrap();
    env.push(json!({"name": "DEBUG", "value": "1"}));
    arriving["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
        "2026-11-02T10:00:00Z".into();
    let stored = afresh(&arriving, &live());
    let names: Vec<&str> = template(&stored)["spec"]["containers"][0]["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(names[..2], ["POD_IP", "DEBUG"]);
    assert_eq!(names.len(), 2 + leader_agent::names::env::INJECTED.len());
    assert_eq!(
        template(&stored)["spec"]["containers"][0]["command"],
        template(&live())["spec"]["containers"][0]["command"]
    );
    let ejected = review(&without_id(&stored), Some(&stored)).unwrap().object;
    assert_eq!(
        template(&ejected)["metadata"]["annotations"],
        json!({"kubectl.kubernetes.io/restartedAt": "2026-11-02T10:00:00Z"})
    );
}

#[test]
fn a_patched_command_is_the_users_new_word() {
    let mut arriving = live();
    arriving["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/billing", "v2"]);
    let stored = afresh(&arriving, &live());
    assert_eq!(
        template(&stored)["spec"]["containers"][0]["command"],
        json!(["/leader/agent", "run", "--", "/billing", "v2"])
    );
    assert_eq!(record(&stored)["command"], json!(["/billing", "v2"]));
}

#[test]
fn a_command_edited_behind_the_wrapper_or_put_behind_another_one_is_wrapped_once() {
    for (edited, expected) in [
        (
            json!(["/leader/agent", "run", "--", "/billing", "v2"]),
            json!(["/leader/agent", "run", "--", "/billing", "v2"]),
        ),
        (
            json!(["/tini", "--", "/leader/agent", "run", "--", "/billing"]),
            json!(["/leader/agent", "run", "--", "/tini", "--", "/billing"]),
        ),
    ] {
        let mut arriving = live();
        arriving["spec"]["template"]["spec"]["containers"][0]["command"] = edited;
        assert_eq!(template(&afresh(&arriving, &live()))["spec"]["containers"][0]["command"], expected);
    }
}

#[test]
fn a_dropped_command_is_not_brought_back() {
    let mut arriving = live();
    arriving["spec"]["template"]["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("command");
    let error = review(&arriving, Some(&live())).unwrap_err().to_string();
    assert!(error.contains("container `app`") && error.contains("leader.io/command"), "{error}");
    arriving["metadata"]["annotations"]["leader.io/command"] = r#"["/entry", "$(X)"]"#.into();
    let stored = afresh(&arriving, &live());
    assert_eq!(
        template(&stored)["spec"]["containers"][0]["command"],
        json!(["/leader/agent", "run", "--", "/entry", "$$(X)"])
    );
    let ejected = review(&without_id(&stored), Some(&stored)).unwrap().object;
    assert!(template(&ejected)["spec"]["containers"][0].get("command").is_none());
}

#[test]
fn undo_keeps_the_old_template_and_its_record() {
    let first = live();
    let mut change = Write::Reapply.arriving(&user(), &first);
    change["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/billing", "v2"]);
    let second = afresh(&change, &first);
    let mut undo = second.clone();
    undo["spec"]["template"] = template(&first).clone();
    for decide in [review, upgraded] {
        let answer = decide(&undo, Some(&second)).unwrap();
        assert_eq!(template(&answer.object), template(&first));
        assert!(!answer.election.unwrap().injected_afresh);
    }
}

#[test]
fn undo_to_before_the_injection_takes_the_annotation_and_everything_else_away() {
    let before = defaulted(&deployment(&plain(), None));
    let answer = review(&before, Some(&live())).unwrap();
    assert_eq!((&answer.object, answer.election), (&before, None));
}

#[test]
fn turning_off_by_a_template_without_anything_injected_is_said_and_noted() {
    let plain = defaulted(&deployment(&plain(), None));
    // Injected and annotated, and either of both alone.
    for old in [live(), user(), without_id(&live())] {
        let answer = review(&plain, Some(&old)).unwrap();
        assert_eq!((&answer.object, answer.election), (&plain, None));
        let expected = "leader election `billing` is off: all 3 replicas run the app at the same time";
        assert_eq!(answer.warnings, [expected]);
        assert_eq!((answer.audit["action"].as_str(), answer.audit["id"].as_str()), ("turned-off", "billing"));
    }
    let never = review(&plain, Some(&plain)).unwrap();
    assert!(never.warnings.is_empty() && never.audit.is_empty(), "{:?}", never.warnings);
}

#[test]
fn removing_the_annotation_gives_the_template_back() {
    let answer = review(&without_id(&live()), Some(&live())).unwrap();
    assert_eq!(answer.object, defaulted(&deployment(&plain(), None)));
    assert!(answer.warnings[0].contains("all 3 replicas run the app"), "{:?}", answer.warnings);
}

#[test]
fn options_left_behind_are_pointed_out() {
    let mut live = live();
    live["metadata"]["annotations"]["leader.io/stop-grace"] = "2s".into();
    let answer = review(&without_id(&live), Some(&live)).unwrap();
    assert!(answer.warnings.iter().any(|warning| warning.contains("leader.io/stop-grace")), "{:?}", answer.warnings);
}

#[test]
fn a_changed_id_is_injected_afresh_with_an_account_of_its_own() {
    let mut arriving = live();
    arriving["metadata"]["annotations"]["leader.io/id"] = "invoices".into();
    let answer = review(&arriving, Some(&live())).unwrap();
    let election = answer.election.unwrap();
    assert!(election.injected_afresh && !election.live_before);
    let stored = defaulted(&answer.object);
    let template = template(&stored);
    assert_eq!(template["metadata"]["labels"]["leader.io/id"], "invoices");
    assert_eq!(template["spec"]["serviceAccountName"], "leader-invoices");
    assert_eq!(template["spec"]["serviceAccount"], "leader-invoices");
    assert_eq!(record(&answer.object)["id"], "invoices");
}

/// Pods of before run that container bare.
#[test]
fn another_container_is_another_election_of_the_same_id() {
    let two = |annotation: Option<&str>| {
        let mut object = user();
        let containers = object["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
        containers.push(json!({ "name": "other", "image": "registry.example.com/other:1", "command": ["/other"] }));
        if let Some(name) = annotation {
            object["metadata"]["annotations"]["leader.io/container"] = name.into();
        }
        object
    };
    let live = defaulted(&inject(&two(None)));
    let mut arriving = live.clone();
    arriving["metadata"]["annotations"]["leader.io/container"] = "other".into();
    let answer = review(&arriving, Some(&live)).unwrap();
    let election = answer.election.unwrap();
    assert_eq!((election.container.as_str(), election.live_before), ("other", false));
    assert_eq!(record(&answer.object)["bornUnderTurningOn"], true);
    // Back again, by an undo to the template of before.
    let other = defaulted(&answer.object);
    let back = review(&live, Some(&other)).unwrap().election.unwrap();
    assert!(!back.live_before && !back.injected_afresh, "{back:?}");
    // Naming the one that is wrapped anyway changes nothing.
    let first = record(&live)["container"].as_str().unwrap().to_owned();
    let named = review(&two(Some(&first)), Some(&live)).unwrap().election.unwrap();
    assert!(named.live_before, "{named:?}");
}

#[test]
fn a_changed_option_is_injected_afresh() {
    let mut arriving = live();
    arriving["metadata"]["annotations"]["leader.io/lease-duration"] = "30s".into();
    assert_eq!(record(&afresh(&arriving, &live()))["leaseDuration"], "30s");
}

#[test]
fn an_exported_renamed_and_created_one_keeps_its_template() {
    let mut export = live();
    export["metadata"]["name"] = "billing-copy".into();
    for decide in [review, upgraded] {
        let answer = decide(&export, None).unwrap();
        assert_eq!(template(&answer.object), template(&export));
        let election = answer.election.unwrap();
        assert!(!election.injected_afresh && !election.live_before);
    }
}

#[test]
fn an_export_that_was_edited_is_injected_afresh_where_it_no_longer_fits() {
    let mut export = live();
    export["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}});
    let answer = review(&export, None).unwrap();
    assert!(answer.election.unwrap().injected_afresh);
    assert_eq!(template(&answer.object)["spec"]["initContainers"][0]["resources"]["limits"], json!({"cpu": "2"}));
}

#[test]
fn a_new_account_in_the_manifest_is_the_users_new_word() {
    let mut arriving = live();
    arriving["spec"]["template"]["spec"]["serviceAccountName"] = "robot".into();
    arriving["spec"]["template"]["spec"]["serviceAccount"] = "robot".into();
    let answer = review(&arriving, Some(&live())).unwrap();
    assert_eq!(answer.election.unwrap().account.name(), "robot");
    assert_eq!(template(&answer.object)["spec"]["serviceAccountName"], "robot");
    assert_eq!(template(&answer.object)["spec"]["serviceAccount"], "robot");
}

#[test]
fn a_dedicated_account_stays_when_default_gets_a_binding_later() {
    let mut arriving = live();
    arriving["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    let answer = upgraded(&arriving, Some(&live())).unwrap();
    assert_eq!(answer.election.unwrap().account.name(), "leader-billing");
    let mut new = user();
    new["metadata"]["name"] = "other".into();
    assert_eq!(upgraded(&new, None).unwrap().election.unwrap().account.name(), "default");
}

#[test]
fn a_variable_of_ours_with_a_value_of_the_users_is_refused() {
    let mut arriving = Write::Reapply.arriving(&user(), &live());
    let env = arriving.pointer_mut("/spec/template/spec/containers/0/env").unwrap().as_array_mut().unwrap();
    env.iter_mut().find(|item| item["name"] == "LEADER_POD_NAME").unwrap()["value"] = "me".into();
    let error = review(&arriving, Some(&live())).unwrap_err().to_string();
    assert!(error.contains("the variable LEADER_POD_NAME"), "{error}");
}

#[test]
fn a_lost_record_is_taken_from_the_live_object() {
    let mut arriving = live();
    arriving["spec"]["template"]["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/injected");
    let answer = review(&arriving, Some(&live())).unwrap();
    assert_eq!(template(&answer.object), template(&live()));
    // And without one to take it from, it is made anew and said so.
    let answer = review(&arriving, None).unwrap();
    assert_eq!(template(&defaulted(&answer.object)), template(&live()));
    assert!(
        answer.warnings[0].contains("leader.io/injected") && answer.warnings[0].contains("is missing"),
        "{:?}",
        answer.warnings
    );
}

#[test]
fn fields_of_a_newer_record_survive() {
    let mut newer = live();
    let mut record = record(&newer);
    record["version"] = json!(2);
    record["bornUnderTurningOn"] = json!(true);
    newer["spec"]["template"]["metadata"]["annotations"]["leader.io/injected"] = record.to_string().into();
    assert_eq!(template(&review(&newer, Some(&newer)).unwrap().object), template(&newer));
    let mut arriving = newer.clone();
    arriving["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    assert_eq!(super::record(&afresh(&arriving, &newer))["bornUnderTurningOn"], true);
    let ejected = review(&without_id(&newer), Some(&newer)).unwrap().object;
    assert_eq!(ejected, defaulted(&deployment(&plain(), None)));
}

#[test]
fn risks_are_said_when_they_begin_and_not_again() {
    let mut arriving = live();
    arriving["spec"]["template"]["spec"]["shareProcessNamespace"] = json!(true);
    let answer = review(&arriving, Some(&live())).unwrap();
    assert!(
        answer.warnings.iter().any(|warning| warning.contains("only the app's first process is bound to die")),
        "{:?}",
        answer.warnings
    );
    let shared = defaulted(&answer.object);
    let mut again = shared.clone();
    again["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    assert_eq!(review(&again, Some(&shared)).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn scaling_down_to_one_is_pointed_out() {
    let mut arriving = Write::Reapply.arriving(&user(), &live());
    arriving["spec"]["replicas"] = json!(1);
    let answer = review(&arriving, Some(&live())).unwrap();
    assert_eq!(answer.warnings, ["one replica has no standby: set spec.replicas to 2 or more"]);
}

/// A Deployment as version 0.1.0 injected it and an API server stored it. No version may call it broken: that would
/// start a rollout of every workload at the first write after an upgrade.
#[test]
fn what_the_first_version_injected_is_kept_and_ejected() {
    let stored: Value = serde_json::from_str(include_str!("stored-by-0.1.0.json")).unwrap();
    for write in SAME {
        let answer = upgraded(&write.arriving(&user(), &stored), Some(&stored)).unwrap();
        assert_eq!(template(&answer.object), template(&stored), "{write:?}");
    }
    let ejected = review(&without_id(&stored), Some(&stored)).unwrap().object;
    assert_eq!(ejected, defaulted(&deployment(&plain(), None)));
}

/// A container beside the wrapped one may run an agent of its own, or hand its place to its program under the same names.
#[test]
fn variables_of_other_containers_are_theirs() {
    let shown = |path: &str| json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
    let side = json!({"name": "side", "image": "registry.example/side:1", "env": [
        {"name": "LEADER_POD_NAME", "valueFrom": shown("metadata.name")},
        {"name": "LEADER_NAMESPACE", "valueFrom": shown("metadata.namespace")},
        {"name": "LEADER_STATE_DIR", "value": "/leader"},
        {"name": "LEADER_CONTAINER", "value": "app"},
    ]});
    let plain = json!({"metadata": {"labels": {"app": "billing"}}, "spec": {"containers": [
        {"name": "app", "image": "registry.example/billing:1", "command": ["/billing"]}, side,
    ]}});
    let live = inject(&deployment(&plain, Some("billing")));
    assert_eq!(live["spec"]["template"]["spec"]["containers"][1], side);
    let mut object = live.clone();
    object["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    let stored = review(&object, Some(&live)).unwrap().object;
    assert_eq!(stored["spec"]["template"]["spec"]["containers"][1], side);
    assert_eq!(*template(&review(&without_id(&live), Some(&live)).unwrap().object), plain);
}

/// Nothing in the pods depends on who said it.
#[test]
fn an_option_that_states_what_is_so_starts_no_rollout() {
    let stated = |object: &Value, key: &str, value: &str| {
        let mut object = object.clone();
        object["metadata"]["annotations"][key] = value.into();
        object
    };
    for (key, value) in [("leader.io/container", "app"), ("leader.io/service-account", "dedicated")] {
        let plain = json!({"metadata": {"labels": {"app": "billing"}}, "spec": {"containers": [
            {"name": "app", "image": "registry.example/billing:1", "command": ["/billing"]},
            {"name": "side", "image": "registry.example/side:1", "command": ["/side"]},
        ]}});
        let user = defaulted(&deployment(&plain, Some("billing")));
        let live = defaulted(&inject(&user));
        for manifest in [&user, &live] {
            let outcome = review(&stated(manifest, key, value), Some(&live)).unwrap();
            assert_eq!(template(&outcome.object), template(&live), "{key}");
            assert_eq!(template(&review(manifest, Some(&outcome.object)).unwrap().object), template(&live), "{key}");
        }
        let other = if value == "app" { "side" } else { "keep" };
        assert_ne!(
            template(&review(&stated(&user, key, other), Some(&live)).unwrap().object),
            template(&live),
            "{key}"
        );
    }
    // Taken away again, where the same container is the first one anyway.
    let live = defaulted(&inject(&stated(&user(), "leader.io/container", "app")));
    assert_eq!(template(&review(&user(), Some(&live)).unwrap().object), template(&live));
}
