//! What a person is told at kubectl: each warning of the webhook, as kubectl prints it.

use std::fs;

use anyhow::{Result, ensure};
use leader_agent::names;
use leader_tests::command::Output;
use leader_tests::image::{Format, Image};
use serde_json::{Value, json};

use crate::stage::{Stage, until};

/// Where no registry answers, which is known at once.
const IMAGE: &str = "127.0.0.1:1/billing:1";

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
                    "containers": [{"name": "app", "image": IMAGE, "command": ["/billing"]}],
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

/// A kind, what makes one of it risky, and what is said about that.
type Risk = (&'static str, fn(&mut Value), &'static str);

#[test]
fn what_is_risky_is_said() -> Result<()> {
    Stage::bare("warned-risks", &[], |stage| {
        let cases: [Risk; 12] = [
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
                    let main = it["spec"]["template"]["spec"]["containers"][0].clone();
                    it["spec"]["template"]["spec"]["containers"] = json!([main, {"name": "proxy", "image": IMAGE}]);
                },
                "not elected, runs on every replica: `proxy`",
            ),
            (
                "Deployment",
                |it| it["spec"]["template"]["spec"]["shareProcessNamespace"] = json!(true),
                "shareProcessNamespace: true shares the PID namespace",
            ),
            (
                "Deployment",
                |it| {
                    it["spec"]["template"]["spec"]["containers"][0]["securityContext"] =
                        json!({"runAsUser": 0, "capabilities": {"drop": ["KILL"]}});
                },
                "`app` may run as root and SETUID without the capability KILL",
            ),
            (
                "Deployment",
                |it| {
                    it["spec"]["template"]["metadata"]["annotations"] =
                        json!({"kubectl.kubernetes.io/default-container": "nobody"});
                },
                "names `nobody`, which does not exist",
            ),
            ("Deployment", |_| (), "stop signal of image 127.0.0.1:1/billing:1 is not known"),
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
fn an_entry_point_of_a_tag_is_said_to_be_frozen() -> Result<()> {
    Stage::bare("warned-frozen", &[], |stage| {
        let registry = stage.namespace.cluster().image_registry();
        let specimen = Image::from(&registry, stage.image("leader-specimen")?)?;
        let configured = specimen.configured(json!({"Entrypoint": ["/specimen"]}));
        let image = configured.push(&registry, "warnings:1", Format::Oci)?;
        let mut manifest = workload("Deployment");
        let container = &mut manifest["spec"]["template"]["spec"]["containers"][0];
        *container = json!({"name": "app", "image": image});
        let warned = apply(stage, &manifest, &["--dry-run=server"])?;
        ensure_warned(&warned, &["`app` sets no `command`", "name the image by digest"])
    })
}

#[test]
fn a_record_that_was_lost_is_told() -> Result<()> {
    Stage::bare("warned-record", &[], |stage| {
        apply(stage, &workload("Deployment"), &[])?;
        let without = json!({"spec": {"template": {"metadata": {"annotations": {names::INJECTED: null}}}}}).to_string();
        // The image is changed too, or else the template would be put back as it was.
        let image = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "127.0.0.1:1/new:1"},
            {"op": "remove", "path": "/spec/template/metadata/annotations/leader.io~1injected"}]);
        let patch = |kind: &str, patch: &str| {
            let arguments = ["patch", "deployment/billing", "--type", kind, "--patch", patch];
            stage.namespace.kubectl(&arguments).output()
        };
        let kept = patch("merge", &without)?;
        ensure!(kept.success(), "{}", kept.stderr);
        let warned = patch("json", &image.to_string())?;
        ensure!(warned.success(), "{}", warned.stderr);
        ensure_warned(&warned, &["the annotation leader.io/injected on the pod template is missing"])
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
            ensure_warned(&warned, &["the pod template stays as it is", "one replica has no standby"])?;
        }
        let mut job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "billing"},
            "spec": {"template": workload("Deployment")["spec"]["template"]},
        });
        let template = &mut job["spec"]["template"];
        template["metadata"]["annotations"] = json!({names::ID: "billing"});
        template["spec"]["restartPolicy"] = json!("Never");
        let warned = apply(stage, &job, &["--dry-run=server"])?;
        ensure_warned(&warned, &["the pod template stays as it is", "restartPolicy: Never"])
    })
}

#[test]
fn what_was_decided_is_in_the_audit_log() -> Result<()> {
    Stage::bare("audited", &[], |stage| {
        apply(stage, &workload("Deployment"), &[])?;
        apply(stage, &workload("Deployment"), &[])?;
        stage.namespace.run(&["annotate", "deployment/billing", "leader.io/id-"])?;
        until("the audit log to have the three decisions", || {
            let files = stage.namespace.cluster().audit_logs()?;
            let text = files.iter().map(fs::read_to_string).collect::<std::io::Result<String>>()?;
            let ours: Vec<&str> = text.lines().filter(|line| line.contains(stage.namespace.name())).collect();
            for action in ["injected", "kept-live", "ejected"] {
                let action = format!("\"inject.leader.io/action\":\"{action}\"");
                let id = "\"inject.leader.io/id\":\"billing\"";
                ensure!(ours.iter().any(|line| line.contains(&action) && line.contains(id)), "no line has {action}");
            }
            Ok(())
        })
    })
}
