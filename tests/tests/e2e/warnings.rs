//! What a person is told at kubectl: each warning of the webhook, as kubectl prints it.

use anyhow::{Result, ensure};
use leader_agent::names;
use leader_tests::command::Output;
use serde_json::{Value, json};

use crate::stage::Stage;

/// A workload of two replicas under an id that nobody else has. Nothing of it is ever run.
fn workload(kind: &str) -> Value {
    let labels = json!({"app": "billing"});
    let mut workload = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": "billing", "annotations": {names::ID: "billing"}},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [{"name": "app", "image": "registry.invalid/billing:1", "command": ["/billing"]}],
                    "nodeSelector": {"nowhere": "true"},
                },
            },
        },
    });
    if kind != "DaemonSet" {
        workload["spec"]["replicas"] = json!(2);
    }
    if kind == "StatefulSet" {
        workload["spec"]["serviceName"] = json!("billing");
    }
    workload
}

fn apply(stage: &Stage, manifest: &Value, more: &[&str]) -> Result<Output> {
    let output = stage.namespace.kubectl(&["apply", "-f", "-"]).args(more).input(manifest.to_string()).output()?;
    ensure!(output.success(), "{manifest:#} was refused: {}", output.stderr);
    Ok(output)
}

/// Every part is in a warning, each on a line of its own.
fn ensure_warned(output: &Output, parts: &[&str]) -> Result<()> {
    let warnings: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("Warning: ")).collect();
    for part in parts {
        ensure!(warnings.iter().any(|warning| warning.contains(part)), "no `{part}` among {warnings:#?}");
    }
    // The API server may cut what is longer: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/.
    let long = warnings.iter().find(|warning| warning.len() > "Warning: ".len() + 256);
    ensure!(long.is_none(), "too long to be sure to arrive: {long:?}");
    Ok(())
}

fn ensure_silent(output: &Output) -> Result<()> {
    ensure!(!output.stderr.contains("Warning: "), "{}", output.stderr);
    Ok(())
}

#[test]
fn what_was_done_is_said_once() -> Result<()> {
    Stage::bare("warned-done", &[], |stage| {
        let said = ["leader election `billing` is on: `app` runs on one replica", "--delete-emptydir-data"];
        for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
            let manifest = workload(kind);
            ensure_warned(&apply(stage, &manifest, &["--dry-run=server"])?, &said)?;
        }
        ensure_warned(&apply(stage, &workload("Deployment"), &[])?, &said)?;
        ensure_silent(&apply(stage, &workload("Deployment"), &[])?)
    })
}

#[test]
fn what_is_risky_is_said() -> Result<()> {
    Stage::bare("warned-risks", &[], |stage| {
        let cases: [(&str, fn(&mut Value), &str); 9] = [
            ("Deployment", |it| it["spec"]["replicas"] = json!(1), "one replica has no standby"),
            ("Deployment", |it| it["spec"]["paused"] = json!(true), "spec.paused: nothing is rolled out"),
            (
                "StatefulSet",
                |it| it["spec"]["updateStrategy"] = json!({"type": "OnDelete"}),
                "OnDelete replaces no pod",
            ),
            ("DaemonSet", |it| it["spec"]["updateStrategy"] = json!({"type": "OnDelete"}), "OnDelete replaces no pod"),
            (
                "StatefulSet",
                |it| {
                    it["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
                },
                "partition: 1 keeps pods with a lower ordinal",
            ),
            (
                "Deployment",
                |it| {
                    it["spec"]["template"]["spec"]["volumes"] =
                        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
                },
                "share the PersistentVolumeClaim of volume data",
            ),
            (
                "Deployment",
                |it| {
                    let containers = it["spec"]["template"]["spec"]["containers"].as_array_mut();
                    let second = json!({"name": "proxy", "image": "registry.invalid/proxy:1"});
                    containers.into_iter().for_each(|containers| containers.push(second.clone()));
                },
                "not elected, runs on every replica: proxy",
            ),
            (
                "Deployment",
                |it| it["spec"]["template"]["spec"]["shareProcessNamespace"] = json!(true),
                "shareProcessNamespace: true shares the PID namespace",
            ),
            (
                "Deployment",
                |it| it["metadata"]["annotations"]["leader.io/command"] = json!("[\"/other\"]"),
                "leader.io/command is not used",
            ),
        ];
        for (kind, edit, part) in cases {
            let mut manifest = workload(kind);
            edit(&mut manifest);
            ensure_warned(&apply(stage, &manifest, &["--dry-run=server"])?, &[part])?;
        }
        Ok(())
    })
}

#[test]
fn an_account_that_is_kept_is_named() -> Result<()> {
    Stage::bare("warned-account", &[], |stage| {
        let mut manifest = workload("Deployment");
        manifest["spec"]["template"]["spec"]["serviceAccountName"] = json!("robot");
        let warned = apply(stage, &manifest, &["--dry-run=server"])?;
        ensure_warned(&warned, &["service account `robot` is kept"])
    })
}

#[test]
fn two_workloads_under_one_id_are_named_to_the_second() -> Result<()> {
    Stage::bare("warned-two", &[], |stage| {
        let first = apply(stage, &workload("Deployment"), &[])?;
        ensure!(!first.stderr.contains("share one leader"), "{}", first.stderr);
        let mut second = workload("StatefulSet");
        second["metadata"]["name"] = json!("reports");
        ensure_warned(&apply(stage, &second, &["--dry-run=server"])?, &["Deployment/billing", "share one leader"])
    })
}

#[test]
fn what_an_id_leaves_behind_is_said() -> Result<()> {
    Stage::bare("warned-off", &[], |stage| {
        let mut manifest = workload("Deployment");
        manifest["metadata"]["annotations"]["leader.io/lease-duration"] = json!("20s");
        apply(stage, &manifest, &[])?;
        let annotate = |keys: &[&str]| -> Result<Output> {
            stage.namespace.kubectl(&["annotate", "deployment/billing"]).args(keys).output()
        };
        let off = ["leader election `billing` is off: all 2 replicas run the app at the same time"];
        let left = "without leader.io/id these annotations do nothing: leader.io/lease-duration";
        let removed = annotate(&["leader.io/id-"])?;
        ensure_warned(&removed, &[off[0], left])?;
        ensure_silent(&annotate(&["leader.io/lease-duration-"])?)
    })
}

#[test]
fn on_a_pod_template_a_person_is_told_at_the_workload() -> Result<()> {
    Stage::bare("warned-template", &[], |stage| {
        for kind in ["Deployment", "StatefulSet"] {
            let mut manifest = workload(kind);
            let annotations = manifest["metadata"]["annotations"].take();
            manifest["metadata"]["annotations"] = json!({});
            manifest["spec"]["template"]["metadata"]["annotations"] = annotations;
            manifest["spec"]["replicas"] = json!(1);
            let warned = apply(stage, &manifest, &["--dry-run=server"])?;
            ensure_warned(&warned, &["leader election `billing`", "one replica has no standby"])?;
        }
        Ok(())
    })
}
