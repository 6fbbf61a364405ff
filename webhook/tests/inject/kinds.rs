//! `StatefulSet` and `DaemonSet` beside `Deployment`, and pods of every shape.

use serde_json::{Value, json};

use super::{
    cluster::defaulted,
    deployment, images, inject, of_kind, review, template,
    templates::KINDS,
    upgraded, without_id,
    writes::{SAME, live, user},
};

fn has(warnings: &[String], part: &str) -> bool {
    warnings.iter().any(|warning| warning.contains(part))
}

#[test]
fn every_write_of_the_same_template_keeps_it_whatever_the_kind() {
    for kind in KINDS {
        let user = defaulted(&of_kind(&user(), kind));
        let live = defaulted(&inject(&user));
        for write in SAME {
            for decide in [review, upgraded, images::review] {
                let answer = decide(&write.arriving(&user, &live), Some(&live)).unwrap();
                assert_eq!(template(&answer.object), template(&live), "{kind} {write:?}");
                assert_eq!(answer.warnings, Vec::<String>::new(), "{kind} {write:?}");
            }
        }
        let ejected = review(&without_id(&live), Some(&live)).unwrap().object;
        assert_eq!(ejected, defaulted(&without_id(&user)), "{kind}");
    }
}

#[test]
fn what_is_said_fits_the_kind() {
    for (kind, replicas, standby, off) in [
        ("Deployment", Some(3), false, "all 3 replicas run the app at the same time"),
        ("Deployment", None, true, "leader election `billing` is off"),
        ("StatefulSet", Some(1), true, "leader election `billing` is off"),
        ("StatefulSet", Some(2), false, "all 2 replicas run the app at the same time"),
        ("DaemonSet", None, false, "the app runs in all pods at the same time"),
    ] {
        let mut object = of_kind(&user(), kind);
        match replicas {
            Some(replicas) => object["spec"]["replicas"] = json!(replicas),
            None => drop(object["spec"].as_object_mut().unwrap().shift_remove("replicas")),
        }
        let outcome = review(&object, None).unwrap();
        assert_eq!(has(&outcome.warnings, "one replica has no standby"), standby, "{kind} {:?}", outcome.warnings);
        let injected = outcome.object;
        let warnings = review(&without_id(&injected), Some(&injected)).unwrap().warnings;
        assert!(warnings[0].ends_with(off), "{kind} {warnings:?}");
    }
}

#[test]
fn a_claim_template_that_would_take_the_agents_volume_is_refused() {
    let mut object = of_kind(&user(), "StatefulSet");
    object["spec"]["volumeClaimTemplates"] =
        json!([{"metadata": {"name": "data"}}, {"metadata": {"name": "leader-io-token"}}]);
    let error = review(&object, None).unwrap_err().to_string();
    assert!(error.starts_with("spec.volumeClaimTemplates[1] uses the name `leader-io-token`"), "{error}");
}

/// A pod's other fields, each of which injection neither needs nor breaks.
#[test]
fn pods_of_every_shape_are_injected_and_given_back() {
    let app = json!({"name": "app", "image": "registry.example/billing:1", "command": ["/billing"]});
    let with = |pod: Value, container: Value| {
        let mut app = app.clone();
        app.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let mut spec = json!({"containers": [app]});
        spec.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
        deployment(&json!({"metadata": {"labels": {"app": "billing"}}, "spec": spec}), Some("billing"))
    };
    let context = |context: Value| json!({"securityContext": context});
    let shapes = [
        ("host PID namespace", with(json!({"hostPID": true}), json!({}))),
        ("shared PID namespace", with(json!({"shareProcessNamespace": true}), json!({}))),
        ("terminal", with(json!({}), json!({"stdin": true, "stdinOnce": true, "tty": true}))),
        ("read-only root", with(json!({}), context(json!({"readOnlyRootFilesystem": true})))),
        ("root", with(json!({}), context(json!({"runAsUser": 0, "runAsGroup": 0})))),
        ("some user", with(json!({}), context(json!({"runAsUser": 1_000_650_000, "runAsNonRoot": true})))),
        ("the pod's user", with(context(json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000})), json!({}))),
        ("users of its own", with(json!({"hostUsers": false}), json!({}))),
        ("privileged", with(json!({}), context(json!({"privileged": true})))),
        (
            "restricted",
            with(json!({}), context(json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}))),
        ),
        ("no token", with(json!({"automountServiceAccountToken": false}), json!({}))),
        ("Linux", with(json!({"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}}), json!({}))),
        (
            "debug container",
            with(json!({"ephemeralContainers": [{"name": "debug", "image": "busybox", "tty": true}]}), json!({})),
        ),
        ("resources of the pod", with(json!({"resources": {"limits": {"cpu": "2"}}}), json!({}))),
        ("working directory", with(json!({}), json!({"workingDir": "/srv"}))),
        (
            "host network",
            with(json!({"hostNetwork": true}), json!({"ports": [{"containerPort": 8080, "hostPort": 8080}]})),
        ),
    ];
    for (shape, object) in shapes {
        let outcome = images::review(&object, None).unwrap_or_else(|refusal| panic!("{shape}: {refusal}"));
        let (before, after) = (&template(&object)["spec"], &template(&outcome.object)["spec"]);
        let untouched = |(key, value): (&String, &Value), after: &Value| {
            let ours = ["containers", "initContainers", "volumes", "command", "args", "env", "volumeMounts"];
            assert!(ours.contains(&key.as_str()) || after[key] == *value, "{shape}: {key}");
        };
        before.as_object().unwrap().iter().for_each(|field| untouched(field, after));
        let container = before["containers"][0].as_object().unwrap();
        container.iter().for_each(|field| untouched(field, &after["containers"][0]));
        let ejected = review(&without_id(&outcome.object), None).unwrap().object;
        assert_eq!(ejected.to_string(), without_id(&object).to_string(), "{shape}");
    }
}

#[test]
fn init_containers_and_native_sidecars_keep_their_order_behind_ours() {
    let mut object = user();
    object["spec"]["template"]["spec"]["initContainers"] = json!([
        {"name": "certificates", "image": "x"},
        {"name": "proxy", "image": "x", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["true"]}}},
        {"name": "migrate", "image": "x"},
    ]);
    let injected = inject(&object);
    let all = template(&injected)["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(all[0]["name"], "leader-agent");
    assert_eq!(all[1..], template(&object)["spec"]["initContainers"].as_array().unwrap()[..]);
    // A webhook that runs later may put its own in front.
    let mut later = injected.clone();
    let list = later.pointer_mut("/spec/template/spec/initContainers").unwrap().as_array_mut().unwrap();
    list.insert(0, json!({"name": "mesh", "image": "x", "restartPolicy": "Always"}));
    let ejected = review(&without_id(&later), Some(&injected)).unwrap().object;
    let names: Vec<_> =
        template(&ejected)["spec"]["initContainers"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["mesh", "certificates", "proxy", "migrate"]);

    object["metadata"]["annotations"]["leader.io/container"] = "proxy".into();
    let error = review(&object, None).unwrap_err().to_string();
    assert!(error.contains("it has app. `proxy` is an init container, which cannot be elected"), "{error}");
}

#[test]
fn windows_is_refused_by_each_field_that_says_so() {
    for (pointer, key, value, path) in [
        ("/spec/template/spec", "os", json!({"name": "windows"}), "spec.template.spec.os.name is `windows`"),
        (
            "/spec/template/spec",
            "securityContext",
            json!({"windowsOptions": {"hostProcess": true}}),
            "spec.template.spec.securityContext.windowsOptions is set",
        ),
        (
            "/spec/template/spec/containers/0",
            "securityContext",
            json!({"windowsOptions": {"runAsUserName": "ContainerUser"}}),
            "spec.template.spec.containers[0].securityContext.windowsOptions is set",
        ),
        (
            "/spec/template/spec",
            "affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [
                    {"key": "disk", "operator": "Exists"},
                    {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]},
                ]},
            ]}}}),
            "spec.template.spec.affinity.nodeAffinity is `windows`",
        ),
    ] {
        let mut object = user();
        object.pointer_mut(pointer).unwrap()[key] = value;
        let error = review(&object, None).unwrap_err().to_string();
        assert_eq!(error, format!("{path}: the agent runs on Linux only; remove leader.io/id"));
    }
}

#[test]
fn a_second_workload_under_the_id_is_pointed_out_once() {
    let facts =
        leader_webhook::inject::Facts { other_workloads: vec!["StatefulSet/ledger".to_owned()], ..Default::default() };
    let outcome = super::done(&user(), None, super::AGENT_IMAGE, &facts).unwrap();
    let expected = "two workloads under one id share one leader: `billing` is the id of StatefulSet/ledger too";
    assert!(has(&outcome.warnings, expected), "{:?}", outcome.warnings);
    let again = super::done(&live(), Some(&live()), super::AGENT_IMAGE, &facts).unwrap();
    assert_eq!(again.warnings, Vec::<String>::new());
}

#[test]
fn a_service_that_reaches_standbys_is_pointed_out_once_with_the_command_that_mends_it() {
    let facts = leader_webhook::inject::Facts { reaching_services: vec!["web".to_owned()], ..Default::default() };
    let outcome = super::done(&user(), None, super::AGENT_IMAGE, &facts).unwrap();
    let expected = "`kubectl annotate service/web leader.io/leader-only=billing`";
    assert!(outcome.warnings.iter().any(|warning| warning.contains(expected)), "{:?}", outcome.warnings);
    let again = super::done(&live(), Some(&live()), super::AGENT_IMAGE, &facts).unwrap();
    assert_eq!(again.warnings, Vec::<String>::new());
}

#[test]
fn the_port_is_an_option_like_the_others() {
    let mut chosen = user();
    chosen["metadata"]["annotations"]["leader.io/port"] = "7000".into();
    let injected = defaulted(&inject(&chosen));
    assert_eq!(super::record(&injected)["port"], 7000);
    assert_eq!(template(&injected)["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], 7000);
    // Stating the default changes nothing, except on the node's network, where none is opened unless it is asked for.
    let mut stated = user();
    stated["metadata"]["annotations"]["leader.io/port"] = "9809".into();
    assert_eq!(template(&review(&stated, Some(&live())).unwrap().object), template(&live()));
    for object in [&mut chosen, &mut stated] {
        object["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    }
    assert_eq!(super::record(&inject(&stated))["port"], 9809);
    assert!(super::record(&inject(&stated))["options"]["port"] == "9809");
    chosen["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/port");
    assert!(super::record(&inject(&chosen)).get("port").is_none());
}

#[test]
fn a_port_that_another_container_listens_on_is_refused_with_both_ways_out() {
    let mut object = user();
    let containers = object.pointer_mut("/spec/template/spec/containers").unwrap().as_array_mut().unwrap();
    containers.push(json!({"name": "metrics", "image": "x", "ports": [{"containerPort": 9809}]}));
    let error = review(&object, None).unwrap_err().to_string();
    assert!(error.contains("spec.template.spec.containers[1].ports[0] uses the port 9809"), "{error}");
    assert!(error.contains("the annotation leader.io/port, or the container another"), "{error}");
    object["metadata"]["annotations"]["leader.io/port"] = "9810".into();
    assert!(review(&object, None).is_ok());
}
