//! What an admin's overlay of `deploy/` may be made of: each component of `deploy/components`, as kustomize renders it, and the names in
//! them, which are the program's.
//!
//! Left out, which is said, where there is no kubectl.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::CommandFactory;
use leader_agent::names;
use leader_webhook::settings::Settings;
use serde_json::{Value, json};

/// What the overlay of `registry-mirror` has to have.
const MIRROR: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: registry-mirror\n  annotations:\n    \
    config.kubernetes.io/local-config: 'true'\ndata:\n  registry: registry.example.com/mirror\n";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

/// The objects of an overlay of `deploy/`: `more` is the rest of its kustomization, in which `DEPLOY` stands for the way to `deploy/`;
/// `files` stand beside it.
fn overlay(name: &str, more: &str, files: &[(&str, &str)]) -> Option<Vec<Value>> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("components-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    // kustomize takes a base by a relative path only.
    let up = "../".repeat(folder.components().count() - 1);
    let base = format!("{up}{}", deploy().strip_prefix("/").unwrap().display());
    let more = more.replace("DEPLOY", &base);
    let mut resources = vec![base];
    for (file, content) in files {
        fs::write(folder.join(file), content).unwrap();
        resources.push((*file).to_owned());
    }
    let resources = serde_json::to_string(&resources).unwrap();
    fs::write(folder.join("kustomization.yaml"), format!("resources: {resources}\n{more}")).unwrap();
    rendered(name, &folder)
}

/// What `kubectl kustomize` makes of a folder, or nothing where there is no kubectl.
fn rendered(name: &str, folder: &Path) -> Option<Vec<Value>> {
    match Command::new("kubectl").arg("kustomize").arg(folder).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8(output.stdout).unwrap();
            Some(serde_saphyr::from_multiple(&text).unwrap())
        }
        Ok(output) => panic!("{name}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("left out: kubectl cannot be run ({error})");
            None
        }
    }
}

fn with_component(component: &str, files: &[(&str, &str)]) -> Option<Vec<Value>> {
    overlay(component, &format!("components: [DEPLOY/components/{component}]\n"), files)
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn pod(objects: &[Value]) -> &Value {
    &find(objects, "Deployment", "leader-webhook")["spec"]["template"]
}

/// Everything but the objects of one kind.
fn without<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] != kind).collect()
}

#[test]
fn namespaces_that_are_served_are_chosen_and_nothing_is_let_through_in_the_others() {
    let Some(base) = overlay("base", "", &[]) else { return };
    let Some(chosen) = with_component("namespaces", &[]) else { return };
    let selector = json!({ "matchLabels": { "leader.io/enabled": "true" } });
    let webhooks = find(&chosen, "MutatingWebhookConfiguration", "leader-webhook")["webhooks"].as_array().unwrap();
    assert_eq!(webhooks.len(), 3);
    for webhook in webhooks {
        assert_eq!(webhook["namespaceSelector"], selector, "{}", webhook["name"]);
    }
    // The policies with them.
    let kind = "MutatingWebhookConfiguration";
    assert_eq!(without(&chosen, kind), without(&base, kind));
}

#[test]
fn replicas_on_nodes_of_their_own() {
    let Some(objects) = with_component("replicas", &[]) else { return };
    assert_eq!(find(&objects, "Deployment", "leader-webhook")["spec"]["replicas"], 3);
    let spread = &pod(&objects)["spec"]["topologySpreadConstraints"];
    assert_eq!(spread[0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(spread[0]["whenUnsatisfiable"], "DoNotSchedule");
    // Zones are wished for: a cluster may have fewer than three.
    assert_eq!(spread[1]["whenUnsatisfiable"], "ScheduleAnyway");

    let more = "components: [DEPLOY/components/replicas]\nreplicas: [{name: leader-webhook, count: 5}]\n";
    let Some(objects) = overlay("replicas-more", more, &[]) else { return };
    assert_eq!(find(&objects, "Deployment", "leader-webhook")["spec"]["replicas"], 5);
}

#[test]
fn a_registry_mirror_has_both_images() {
    let Some(objects) = with_component("registry-mirror", &[("mirror.yaml", MIRROR)]) else { return };
    let version = env!("CARGO_PKG_VERSION");
    let image = |name: &str| json!(format!("registry.example.com/mirror/leader-io/{name}:{version}"));
    let spec = &pod(&objects)["spec"];
    assert_eq!(spec["initContainers"][0]["image"], image("leader-agent"));
    assert_eq!(spec["containers"][0]["image"], image("leader-webhook"));
    assert!(objects.iter().all(|object| object["kind"] != "ConfigMap"), "the mirror's name is for kustomize alone");
}

#[test]
fn pull_secrets_are_for_the_webhook_and_for_what_it_injects() {
    let Some(objects) = with_component("pull-secrets", &[]) else { return };
    let spec = &pod(&objects)["spec"];
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "leader-registry" }]));
    let variables = spec["containers"][0]["env"].as_array().unwrap();
    let secret = variables.iter().find(|variable| variable["name"] == "LEADER_AGENT_PULL_SECRET").unwrap();
    assert_eq!(secret["value"], "leader-registry");
    assert!(variables.iter().any(|variable| variable["name"] == "LEADER_WEBHOOK_POD"), "others were lost");
}

#[test]
fn what_prometheus_and_grafana_read_stands_beside_the_rest() {
    let (Some(base), Some(objects)) = (overlay("base-alone", "", &[]), with_component("monitoring", &[])) else {
        return;
    };
    assert_eq!(objects.len(), base.len() + 4);
    for object in &base {
        assert!(objects.contains(object), "{object:#}");
    }
    let pods = |monitor: &str| find(&objects, "PodMonitor", monitor)["spec"]["selector"].clone();
    let labels = &pod(&objects)["metadata"]["labels"];
    for (key, value) in pods("leader-webhook")["matchLabels"].as_object().unwrap() {
        assert_eq!(labels[key], *value, "the webhook's pods have no such label {key}");
    }
    assert_eq!(pods("leader-agents")["matchExpressions"], json!([{ "key": names::ID, "operator": "Exists" }]));
    assert!(find(&objects, "PrometheusRule", "leader")["spec"]["groups"].is_array());
    let dashboard = find(&objects, "ConfigMap", "leader-dashboard");
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = dashboard["data"]["leader.json"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["panels"].is_array());
}

#[test]
fn another_namespace_is_one_field() {
    let Some(objects) = overlay("elsewhere", "namespace: elections\n", &[]) else { return };
    find(&objects, "Namespace", "elections");
    let text = serde_json::to_string(&objects).unwrap();
    assert!(!text.contains("leader-system"), "something stays behind");
    let configuration = find(&objects, "MutatingWebhookConfiguration", "leader-webhook");
    for webhook in configuration["webhooks"].as_array().unwrap() {
        assert_eq!(webhook["clientConfig"]["service"]["namespace"], "elections");
    }
    for (kind, name) in [("ClusterRoleBinding", "leader-webhook"), ("RoleBinding", "leader-webhook-certificates")] {
        assert_eq!(find(&objects, kind, name)["subjects"][0]["namespace"], "elections");
    }
}

#[test]
fn the_webhooks_own_pods_never_wait_for_the_webhook() {
    let Some(objects) = overlay("own", "", &[]) else { return };
    let template = pod(&objects);
    for object in objects.iter().chain([template]) {
        let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
        for (key, _) in annotations {
            assert!(!key.starts_with(names::PREFIX), "{key} on {} {}", object["kind"], object["metadata"]["name"]);
        }
    }
}

#[test]
fn every_variable_is_one_of_the_programs() {
    let known: BTreeSet<String> = Settings::command()
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    for component in folders("components") {
        let files: &[(&str, &str)] = if component == "registry-mirror" { &[("mirror.yaml", MIRROR)] } else { &[] };
        let Some(objects) = with_component(&component, files) else { return };
        variables_are_known(&component, &objects, &known);
    }
    for name in folders("overlays") {
        let Some(objects) = rendered(&name, &deploy().join("overlays").join(&name)) else { return };
        variables_are_known(&name, &objects, &known);
    }
}

fn variables_are_known(of: &str, objects: &[Value], known: &BTreeSet<String>) {
    for variable in pod(objects)["spec"]["containers"][0]["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(known.contains(name), "{of}: leader-webhook knows no {name}, but {known:?}");
    }
}

/// The names of the folders in a folder of `deploy/`.
fn folders(of: &str) -> Vec<String> {
    let entries = fs::read_dir(deploy().join(of)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_right_has_its_reason() {
    let text = fs::read_to_string(deploy().join("base/access.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (before, rule) in lines.iter().zip(&lines[1..]) {
        if rule.starts_with("- apiGroups:") {
            assert!(before.starts_with("# "), "no reason stands before `{rule}` (after `{before}`)");
        }
    }
    assert!(!text.contains('*'), "a right to everything");
}

#[test]
fn no_right_at_home_is_one_that_is_given_everywhere() {
    let Some(objects) = overlay("rights", "", &[]) else { return };
    let rules = |kind: &str| -> Vec<Value> {
        let roles = objects.iter().filter(|object| object["kind"] == kind);
        roles.flat_map(|role| role["rules"].as_array().unwrap().clone()).collect()
    };
    let (everywhere, at_home) = (rules("ClusterRole"), rules("Role"));
    assert!(!everywhere.is_empty() && !at_home.is_empty());
    let contains = |some: &Value, all: &Value| {
        let all = all.as_array().unwrap();
        some.as_array().unwrap().iter().all(|one| all.contains(one))
    };
    for rule in at_home {
        let covers = |other: &&Value| {
            other["resourceNames"].is_null()
                && ["apiGroups", "resources", "verbs"].iter().all(|part| contains(&rule[*part], &other[*part]))
        };
        assert_eq!(everywhere.iter().find(covers), None, "the ClusterRole gives what this rule gives: {rule}");
    }
}

/// What a person reads in the page is what is rendered here.
#[test]
fn the_page_about_installing_names_every_component() {
    let page = fs::read_to_string(deploy().join("../docs/install.md")).unwrap();
    for kind in ["components", "overlays"] {
        for name in folders(kind) {
            assert!(page.contains(&format!("`deploy/{kind}/{name}`")), "docs/install.md does not say what {name} does");
        }
    }
}
