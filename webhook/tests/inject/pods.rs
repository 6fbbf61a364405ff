//! Pods, and pod templates that ask for an election themselves.

use leader_webhook::inject::{
    Account, Decision, Defaults, Facts, ImageAnswer, ImageFacts, Outcome, off, patch, workload,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    AGENT_IMAGE,
    cluster::{defaulted, defaulted_pod},
    deployment, done, inject, review, template,
    templates::{account_option, pod_template},
    without_id,
};

/// A pod of this template as its creator sends it, with this annotation of ours, or none.
fn pod(template: &Value, id: Option<&str>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod"});
    pod.as_object_mut().unwrap().extend(template.as_object().unwrap().clone());
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    pod["metadata"]["generateName"] = "billing-".into();
    if let Some(id) = id {
        if !pod["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"]["leader.io/id"] = id.into();
    }
    pod
}

fn plain() -> Value {
    json!({
        "metadata": {"labels": {"app": "billing"}},
        "spec": {"containers": [{"name": "app", "image": "registry.example/billing:1", "command": ["/billing"]}]},
    })
}

/// An object of another kind around the template.
fn owner(version: &str, kind: &str, template: &Value) -> Value {
    let mut object = without_id(&deployment(template, None));
    (object["apiVersion"], object["kind"]) = (version.into(), kind.into());
    if kind == "CronJob" {
        object["spec"] = json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}});
    }
    object
}

fn elected(template: &Value) -> Value {
    let mut template = template.clone();
    template["metadata"]["annotations"]["leader.io/id"] = "billing".into();
    template
}

fn record(pod: &Value) -> Value {
    serde_json::from_str(pod["metadata"]["annotations"]["leader.io/injected"].as_str().unwrap()).unwrap()
}

fn error(object: &Value) -> String {
    review(object, None).unwrap_err().to_string()
}

/// What the pod was before it asked for anything.
fn ejected(pod: &Value) -> Value {
    off(pod).object
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_pod_is_injected_once_and_ejected_to_what_it_was(plain in pod_template(), account in account_option()) {
        let mut pod = pod(&plain, Some("billing"));
        pod["metadata"]["annotations"]["a"] = "b".into();
        if let Some(account) = account {
            pod["metadata"]["annotations"]["leader.io/service-account"] = account.into();
        }
        let once = inject(&pod);
        prop_assert_eq!(&once["metadata"]["annotations"]["leader.io/id"], "billing");
        prop_assert_eq!(inject(&once).to_string(), once.to_string());
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch(&pod, &once)).unwrap();
        prop_assert_eq!(&patched, &once);
        let mut before = pod.clone();
        before["metadata"]["annotations"].as_object_mut().unwrap().retain(|key, _| !key.starts_with("leader.io/"));
        prop_assert_eq!(ejected(&once).to_string(), before.to_string());

        // As it is reviewed again, after the API server and its own plugins have had to do with it.
        let again = defaulted_pod(&once);
        prop_assert_eq!(inject(&again).to_string(), again.to_string());
    }

    #[test]
    fn a_template_that_asks_itself_stays_and_its_pods_are_judged_as_it_was(plain in pod_template()) {
        let mut template = plain.clone();
        if !template["metadata"].is_object() {
            template["metadata"] = json!({});
        }
        if !template["metadata"]["annotations"].is_object() {
            template["metadata"]["annotations"] = json!({});
        }
        template["metadata"]["annotations"]["leader.io/id"] = "billing".into();
        let owner = owner("batch/v1", "Job", &template);
        let ahead = review(&owner, None).unwrap();
        prop_assert_eq!(&ahead.object, &owner);
        let pod = review(&defaulted_pod(&pod(&template, None)), None).unwrap();
        let (ahead, pod) = (ahead.election.unwrap(), pod.election.unwrap());
        prop_assert_eq!(ahead.account, pod.account);
        prop_assert!(!ahead.injected_afresh && pod.injected_afresh);
    }
}

#[test]
fn the_account_default_of_a_pod_counts_as_none() {
    let arriving = defaulted_pod(&pod(&plain(), Some("billing")));
    assert_eq!(arriving["spec"]["serviceAccountName"], "default");
    let outcome = review(&arriving, None).unwrap();
    assert_eq!(outcome.election.unwrap().account, Account::Dedicated("leader-billing".to_owned()));
    let spec = &outcome.object["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("leader-billing"), &json!("leader-billing"))
    );
    let ejected = off(&outcome.object);
    assert_eq!(ejected.object["spec"], arriving["spec"]);
    assert_eq!(ejected.warnings, ["leader election `billing` is off: the app runs in all pods at the same time"]);

    let in_use = Facts { default_account_in_use: true, ..Facts::default() };
    let outcome = done(&arriving, None, AGENT_IMAGE, &in_use).unwrap();
    assert_eq!(outcome.election.unwrap().account, Account::Keep("default".to_owned()));
    assert!(outcome.warnings.iter().any(|warning| warning.contains("service account `default` is kept")));

    let mut named = arriving.clone();
    (named["spec"]["serviceAccountName"], named["spec"]["serviceAccount"]) = ("robot".into(), "robot".into());
    assert_eq!(review(&named, None).unwrap().election.unwrap().account.name(), "robot");
    named["metadata"]["annotations"]["leader.io/service-account"] = "dedicated".into();
    assert_eq!(review(&named, None).unwrap().election.unwrap().account.name(), "leader-billing");
    // On a workload it is what the user wrote.
    let mut stated = plain();
    stated["spec"]["serviceAccountName"] = "default".into();
    let outcome = review(&deployment(&stated, Some("billing")), None).unwrap();
    assert_eq!(outcome.election.unwrap().account, Account::Keep("default".to_owned()));
}

/// The same pod, exported and created again where the rule would choose differently now.
#[test]
fn an_account_that_was_decided_stays_decided() {
    let injected = inject(&defaulted_pod(&pod(&plain(), Some("billing"))));
    let mut edited = injected.clone();
    edited["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    let in_use = Facts { default_account_in_use: true, ..Facts::default() };
    let outcome = done(&edited, None, AGENT_IMAGE, &in_use).unwrap();
    let election = outcome.election.unwrap();
    assert!(election.injected_afresh);
    assert_eq!(election.account.name(), "leader-billing");
}

#[test]
fn a_pod_without_the_id_is_left_alone_whatever_it_carries() {
    // That of an injected Deployment.
    let injected = inject(&deployment(&plain(), Some("billing")));
    let made = pod(template(&injected), None);
    let outcome = review(&made, None).unwrap();
    assert_eq!((&outcome.object, outcome.election, outcome.warnings), (&made, None, Vec::new()));
    let mut left = pod(&plain(), None);
    left["metadata"]["annotations"] = json!({"leader.io/stop-grace": "2s"});
    let outcome = review(&left, None).unwrap();
    assert_eq!(outcome.object, left);
    assert!(outcome.warnings[0].contains("do nothing: leader.io/stop-grace"), "{:?}", outcome.warnings);
    left["metadata"]["annotations"] = json!({"leader.io/Id": "billing"});
    assert!(error(&left).contains("did you mean leader.io/id?"));
}

#[test]
fn a_pod_asks_for_its_image_and_a_template_does_not() {
    let mut template = elected(&plain());
    template["spec"]["containers"][0].as_object_mut().unwrap().shift_remove("command");
    let defaults = Defaults { agent_image: AGENT_IMAGE.to_owned(), agent_pull_secret: None };
    let decide = |object: &Value| workload(object, None, &defaults, &Facts::default()).unwrap();
    let job = owner("batch/v1", "Job", &template);
    assert!(matches!(decide(&job), Decision::Done(Outcome { election: Some(_), .. })));
    let Decision::NeedsImage(request) = decide(&pod(&template, None)) else { panic!("it is decided") };
    assert!(request.required);
    assert_eq!((request.image.as_str(), request.service_account.as_str()), ("registry.example/billing:1", "default"));

    let image = ImageFacts { entrypoint: vec!["/entry".to_owned()], ..ImageFacts::default() };
    let facts = Facts { image: Some(ImageAnswer::Found(image)), ..Facts::default() };
    let injected = done(&pod(&template, None), None, AGENT_IMAGE, &facts).unwrap().object;
    assert_eq!(injected["spec"]["containers"][0]["command"], json!(["/leader/agent", "run", "--", "/entry"]));
    // A pod of the same owner has been injected before.
    let sibling = Some(record(&injected).to_string());
    let failed = Some(ImageAnswer::Failed("it timed out".to_owned()));
    let facts = Facts { sibling_record: sibling, image: failed, ..Facts::default() };
    let next = done(&pod(&template, None), None, AGENT_IMAGE, &facts).unwrap();
    assert_eq!(next.object["spec"]["containers"][0]["command"], json!(["/leader/agent", "run", "--", "/entry"]));
    assert!(
        next.warnings.iter().any(|warning| warning.contains("what an earlier injection found")),
        "{:?}",
        next.warnings
    );
}

#[test]
fn refusals_and_warnings_come_where_the_template_is_written() {
    for (version, kind, spec) in [
        ("batch/v1", "Job", "spec.template.spec"),
        ("argoproj.io/v1alpha1", "Rollout", "spec.template.spec"),
        ("apps/v1", "Deployment", "spec.template.spec"),
        ("batch/v1", "CronJob", "spec.jobTemplate.spec.template.spec"),
    ] {
        let with = |change: fn(&mut Value)| {
            let mut template = elected(&plain());
            change(&mut template);
            owner(version, kind, &template)
        };
        let outcome = review(&with(|_| {}), None).unwrap();
        assert_eq!(outcome.election.unwrap().account.name(), "leader-billing", "{kind}");
        assert!(outcome.warnings[0].contains("leader election `billing` is on"), "{:?}", outcome.warnings);
        assert!(outcome.warnings.iter().any(|warning| warning.contains("pods are injected when they are created")));

        let named = error(&with(|template| template["spec"]["initContainers"] = json!([{"name": "leader-agent"}])));
        assert!(named.starts_with(&format!("{spec}.initContainers[0] uses the name `leader-agent`")), "{named}");
        let probe = error(&with(|template| template["spec"]["containers"][0]["livenessProbe"] = json!({"exec": {}})));
        assert!(probe.contains(&format!("{spec}.containers[0].livenessProbe")), "{probe}");
        let long = error(&with(|template| template["spec"]["containers"][0]["command"] = json!(["x".repeat(100_001)])));
        assert!(long.contains("at most 100000 are allowed"), "{long}");
        let windows = error(&with(|template| template["spec"]["os"] = json!({"name": "windows"})));
        assert!(windows.contains(&format!("{spec}.os.name is `windows`")), "{windows}");
        let unknown = error(&with(|template| template["metadata"]["annotations"]["leader.io/contaner"] = "x".into()));
        assert!(unknown.contains("did you mean leader.io/container?"), "{unknown}");
        let missing = error(&with(|template| template["metadata"]["annotations"]["leader.io/container"] = "x".into()));
        assert!(missing.contains(&format!("no container `x` in {spec}.containers; it has app")), "{missing}");
        let wrong = error(&with(|template| template["spec"]["containers"] = json!({})));
        assert!(wrong.contains(&format!("{spec}.containers is not a list")), "{wrong}");
    }
    let mut pod = pod(&plain(), Some("billing"));
    pod["spec"]["containers"][0]["env"] = json!([{"name": "LEADER_ID", "value": "x"}]);
    assert!(error(&pod).starts_with("spec.containers[0].env[0] uses the variable LEADER_ID"));
}

#[test]
fn off_takes_everything_out_of_any_file() {
    let mut both = deployment(&elected(&plain()), Some("billing"));
    both["metadata"]["annotations"]["leader.io/stop-grace"] = "2s".into();
    both["spec"]["template"]["metadata"]["annotations"]["leader.io/stop-grace"] = "2s".into();
    let injected = inject(&both);
    let plain_one = deployment(&plain(), None);
    for object in [&both, &injected, &plain_one] {
        assert_eq!(off(object).object, plain_one);
        assert_eq!(off(object).election, None);
    }
    assert!(off(&plain_one).warnings.is_empty());
    let said = "leader election `billing` is off: all 3 replicas run the app at the same time";
    assert_eq!((off(&both).warnings, off(&injected).warnings), (vec![said.to_owned()], vec![said.to_owned()]));
    for (version, kind) in [("batch/v1", "Job"), ("batch/v1", "CronJob"), ("example.com/v1", "Rollout")] {
        assert_eq!(off(&owner(version, kind, &elected(&plain()))).object, owner(version, kind, &plain()));
    }
    // What is not about pods is not touched.
    let service = json!({"kind": "Service", "metadata": {"annotations": {"leader.io/leader-only": "billing"}}});
    assert_eq!(off(&service).object, service);
}

#[test]
fn what_was_said_of_a_template_is_not_said_again() {
    let object = owner("batch/v1", "Job", &elected(&plain()));
    let again = review(&object, Some(&object)).unwrap();
    assert_eq!(again.warnings, Vec::<String>::new());
    assert!(again.election.unwrap().live_before);
    // Another container of it: pods of before run that one bare.
    let mut two = object.clone();
    let containers = two["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
    containers
        .push(serde_json::json!({ "name": "other", "image": "registry.example.com/other:1", "command": ["/other"] }));
    let mut changed = two.clone();
    changed["spec"]["template"]["metadata"]["annotations"]["leader.io/container"] = "other".into();
    let election = review(&changed, Some(&two)).unwrap().election.unwrap();
    assert_eq!((election.container.as_str(), election.live_before), ("other", false));
    // Nobody reads what a controller is told.
    let mut made = pod(&elected(&plain()), None);
    assert!(!review(&made, None).unwrap().warnings.is_empty());
    made["metadata"]["ownerReferences"] = json!([{"kind": "Job", "controller": true}]);
    for in_use in [false, true] {
        let facts = Facts { default_account_in_use: in_use, ..Facts::default() };
        let said = |object: &Value| done(object, None, AGENT_IMAGE, &facts).unwrap().warnings;
        assert_eq!(said(&made), Vec::<String>::new());
        assert_eq!(said(&object).iter().any(|warning| warning.contains("`default` is kept")), in_use);
    }
}

#[test]
fn annotations_where_they_mean_nothing_are_pointed_out() {
    let mut cron = owner("batch/v1", "CronJob", &plain());
    cron["spec"]["jobTemplate"]["metadata"] = json!({"annotations": {"leader.io/id": "billing"}});
    assert!(error(&cron).contains("spec.jobTemplate.spec.template.metadata.annotations"));
    let mut job = owner("batch/v1", "Job", &plain());
    job["spec"]["template"]["metadata"]["annotations"]["leader.io/stop-grace"] = "2s".into();
    assert!(review(&job, None).unwrap().warnings[0].contains("do nothing: leader.io/stop-grace"));
}

#[test]
fn a_container_that_is_not_restarted_is_pointed_out() {
    let mut template = elected(&plain());
    template["spec"]["restartPolicy"] = "Never".into();
    let warnings = review(&owner("batch/v1", "Job", &template), None).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.starts_with("restartPolicy: Never")), "{warnings:?}");
}

/// Tools that annotate all they find put the id on the workload and on its template.
mod in_both_places {
    use super::*;

    fn both() -> Value {
        let mut object = deployment(&elected(&plain()), Some("billing"));
        for place in ["/metadata/annotations", "/spec/template/metadata/annotations"] {
            object.pointer_mut(place).unwrap()["leader.io/stop-grace"] = "2s".into();
        }
        object["spec"]["template"]["metadata"]["annotations"]["a"] = "b".into();
        object
    }

    #[test]
    fn the_workload_is_injected_and_its_pods_need_no_webhook() {
        let injected = inject(&both());
        let annotations = template(&injected)["metadata"]["annotations"].as_object().unwrap();
        let ours: Vec<_> = annotations.keys().filter(|key| key.starts_with("leader.io/")).collect();
        assert_eq!(ours, ["leader.io/injected"]);
        let live = defaulted(&injected);
        assert_eq!(inject(&live), live);
        // Applied again: the template's annotations are back, and taken off again.
        let mut applied = live.clone();
        applied["spec"]["template"]["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .extend(template(&both())["metadata"]["annotations"].as_object().unwrap().clone());
        for arriving in [&applied, &defaulted(&both())] {
            let outcome = review(arriving, Some(&live)).unwrap();
            assert_eq!(template(&outcome.object), template(&live));
            assert!(!outcome.election.unwrap().injected_afresh);
        }
    }

    #[test]
    fn taking_it_off_the_workload_leaves_it_to_the_pods() {
        let mut user = both();
        user["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/stop-grace");
        let injected = inject(&both());
        let mut off = without_id(&injected);
        off["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/stop-grace");
        let outcome = review(&off, Some(&injected)).unwrap();
        assert_eq!(outcome.object.to_string(), without_id(&user).to_string(), "in the order of its keys, too");
        let election = outcome.election.unwrap();
        assert!(election.live_before && !election.injected_afresh);
    }

    #[test]
    fn taking_it_off_both_at_once_turns_it_off() {
        let live = defaulted(&inject(&both()));
        let manifest = deployment(&plain(), None).to_string();
        let mut off = without_id(&live);
        off["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/stop-grace");
        off["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = manifest.into();
        let outcome = review(&off, Some(&live)).unwrap();
        assert_eq!(outcome.election, None);
        let annotations = template(&outcome.object)["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["a"]);
        // Off the template alone: the workload stays elected, and forgets that it was there.
        let mut alone = off.clone();
        for (key, value) in [("leader.io/id", "billing"), ("leader.io/stop-grace", "2s")] {
            alone["metadata"]["annotations"][key] = value.into();
        }
        let stored = review(&alone, Some(&live)).unwrap();
        assert!(stored.election.unwrap().injected_afresh);
        assert!(super::record(template(&stored.object))["original"].get("annotations").is_none());
    }

    #[test]
    fn two_things_at_once_are_refused() {
        for (place, key, value) in [
            ("/spec/template/metadata/annotations", "leader.io/id", "other"),
            ("/spec/template/metadata/annotations", "leader.io/stop-grace", "3s"),
            ("/metadata/annotations", "leader.io/lease-duration", "30s"),
            ("/spec/template/metadata/annotations", "leader.io/lease-duration", "30s"),
        ] {
            let mut object = both();
            object.pointer_mut(place).unwrap()[key] = value.into();
            let refusal = error(&object);
            assert!(
                refusal.contains(&format!("annotation {key} is `"))
                    || refusal.contains(&format!("annotation {key} is missing")),
                "{refusal}"
            );
            assert!(refusal.contains("put it in one of the two, or the same in both"), "{refusal}");
        }
        // A default that is stated in one place only is the same.
        let mut object = both();
        object["metadata"]["annotations"]["leader.io/mode"] = "run".into();
        assert!(review(&object, None).is_ok());
        // Options alone may stand on the template if they are the workload's.
        let annotations = object.pointer_mut("/spec/template/metadata/annotations").unwrap().as_object_mut().unwrap();
        annotations.shift_remove("leader.io/id");
        assert!(review(&object, None).is_ok());
        object["spec"]["template"]["metadata"]["annotations"]["leader.io/stop-grace"] = "3s".into();
        assert!(error(&object).contains("annotation leader.io/stop-grace is `2s`"));
    }

    #[test]
    fn on_a_kind_that_is_not_injected_the_templates_counts() {
        let mut job = owner("batch/v1", "Job", &elected(&plain()));
        job["metadata"]["annotations"]["leader.io/id"] = "billing".into();
        let outcome = review(&job, None).unwrap();
        assert_eq!(outcome.object, job);
        assert!(outcome.election.is_some());
        job["metadata"]["annotations"]["leader.io/id"] = "other".into();
        assert!(error(&job).contains("leader.io/id on a Job (batch/v1) is not read"));
    }

    #[test]
    fn an_id_that_moves_to_the_template_leaves_nothing_injected() {
        let live = defaulted(&inject(&deployment(&plain(), Some("billing"))));
        let mut moved = without_id(&live);
        moved["spec"]["template"]["metadata"]["annotations"]["leader.io/id"] = "billing".into();
        let outcome = review(&moved, Some(&live)).unwrap();
        assert_eq!(outcome.object, without_id(&defaulted(&deployment(&elected(&plain()), None))));
        assert!(outcome.election.unwrap().live_before);
    }
}

/// Another webhook may put its own container before the one that was wrapped, and the pod is reviewed once more.
#[test]
fn a_container_that_comes_to_stand_first_does_not_take_the_agent_away() {
    let once = inject(&pod(&plain(), Some("billing")));
    let mut again = once.clone();
    let proxy = json!({"name": "proxy", "image": "registry.example/proxy:1", "command": ["/proxy"]});
    again["spec"]["containers"].as_array_mut().unwrap().insert(0, proxy);
    let stored = inject(&again);
    assert_eq!(stored["spec"]["containers"][0]["command"], json!(["/proxy"]));
    assert_eq!(stored["spec"]["containers"][1]["command"], json!(["/leader/agent", "run", "--", "/billing"]));
    assert_eq!(stored, again);
    // Unless somebody says which one it is.
    again["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] = "proxy".into();
    assert_eq!(record(&inject(&again))["container"], "proxy");
}

#[test]
fn an_election_that_moves_to_the_pods_is_not_said_to_be_off() {
    let live = inject(&deployment(&plain(), Some("billing")));
    let mut moved = without_id(&live);
    moved["spec"]["template"]["metadata"]["annotations"]["leader.io/id"] = "billing".into();
    let outcome = review(&moved, Some(&live)).unwrap();
    assert_eq!(outcome.object["spec"]["template"], elected(&plain()));
    assert!(outcome.warnings.iter().all(|warning| !warning.contains(" is off")), "{:?}", outcome.warnings);
    assert_eq!(outcome.audit["action"], "left-to-pods");
    // To another id, it is: nobody stands by for the pods that run.
    moved["spec"]["template"]["metadata"]["annotations"]["leader.io/id"] = "other".into();
    let warnings = review(&moved, Some(&live)).unwrap().warnings;
    assert!(warnings[0].contains("leader election `billing` is off"), "{warnings:?}");
}

#[test]
fn an_id_that_is_taken_off_a_pod_template_is_said_to_be_off() {
    for (version, kind) in [("apps/v1", "Deployment"), ("apps/v1", "ReplicaSet"), ("batch/v1", "CronJob")] {
        let (live, object) = (owner(version, kind, &elected(&plain())), owner(version, kind, &plain()));
        let outcome = review(&object, Some(&live)).unwrap();
        assert_eq!(outcome.object, object);
        assert!(outcome.warnings[0].starts_with("leader election `billing` is off"), "{kind}: {:?}", outcome.warnings);
        assert_eq!(review(&object, Some(&object)).unwrap().warnings, Vec::<String>::new());
        let mut other = live.clone();
        let template = match kind {
            "CronJob" => "/spec/jobTemplate/spec/template",
            _ => "/spec/template",
        };
        other.pointer_mut(template).unwrap()["metadata"]["annotations"]["leader.io/id"] = "other".into();
        assert!(review(&other, Some(&live)).unwrap().warnings[0].contains("`billing` is off"), "{kind}");
    }
}
