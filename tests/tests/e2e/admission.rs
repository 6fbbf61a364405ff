//! What a person sees before anything happens: dry runs, diffs, patches and refusals.

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use leader_agent::names;
use leader_tests::command::Tool;
use leader_webhook::cli;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::writer::Writer;

/// Objects of an id, as kubectl names them.
const OBJECTS: [&str; 4] =
    ["serviceaccount/leader-billing", "role/leader-billing", "rolebinding/leader-billing", "lease/billing"];

fn ensure_injected(deployment: &Value) -> Result<()> {
    let template = &deployment["spec"]["template"];
    let spec = &template["spec"];
    ensure!(spec["initContainers"][0]["name"] == names::INIT_CONTAINER, "no init container in {spec:#}");
    let command = spec["containers"][0]["command"].as_array().context("no command")?;
    ensure!(command[0] == names::AGENT_PATH, "the command is {command:?}");
    ensure!(template["metadata"]["annotations"][names::INJECTED].is_string(), "no record in {template:#}");
    Ok(())
}

#[test]
fn a_dry_run_shows_the_injected_workload_and_creates_nothing() -> Result<()> {
    Stage::test("dry-run", |stage| {
        let manifest = Writer::new("billing").elected().without_stamps().manifest(stage)?.to_string();
        let apply = |more: &[&str]| stage.namespace.kubectl(&["apply", "-f", "-"]).args(more).input(&*manifest);
        let yaml = apply(&["--dry-run=server", "-o", "yaml"]).run()?;
        for shown in
            ["name: leader-agent", "- /leader/agent", "leader.io/injected:", "serviceAccountName: leader-billing"]
        {
            ensure!(yaml.contains(shown), "no `{shown}` in\n{yaml}");
        }
        ensure_injected(&serde_json::from_str(&apply(&["--dry-run=server", "-o", "json"]).run()?)?)?;
        for object in [&["deployment/billing"], &OBJECTS[..]].concat() {
            let got = stage.namespace.kubectl(&["get", object]).output()?;
            ensure!(!got.success() && got.stderr.contains("NotFound"), "{object} is there: {got:?}");
        }

        // The same without the dry run does create them, so the names above are the right ones.
        apply(&[]).run()?;
        stage.namespace.run(&[&["get"], &OBJECTS[..]].concat()).map(drop)
    })
}

#[test]
fn kubectl_diff_shows_the_injection_and_changes_nothing() -> Result<()> {
    Stage::test("diff", |stage| {
        let plain = Writer::new("billing").without_stamps();
        stage.start(&plain)?;
        let manifest = plain.elected().manifest(stage)?.to_string();
        let diff = || stage.namespace.kubectl(&["diff", "-f", "-"]).input(&*manifest).output();
        let shown = diff()?;
        ensure!(shown.code == 1, "{shown:?}");
        for line in ["name: leader-agent", "- /leader/agent", "leader.io/injected:"] {
            let added = |text: &str| text.starts_with('+') && text.contains(line);
            ensure!(shown.stdout.lines().any(added), "no added `{line}` in\n{}", shown.stdout);
        }
        for object in OBJECTS {
            ensure!(!stage.namespace.kubectl(&["get", object]).output()?.success(), "{object} was made by a diff");
        }
        stage.namespace.apply(&manifest)?;
        let again = diff()?;
        ensure!(again.code == 0 && again.stdout.is_empty(), "a diff of what was applied: {again:?}");
        Ok(())
    })
}

/// The JSON Patch of `kubectl leader inject --id ID -o patch` for a file.
fn patch_of_cli(stage: &Stage, file: &str) -> Result<String> {
    let cluster = stage.namespace.cluster();
    let (image, registry) = (stage.image("leader-agent")?, cluster.registry());
    let words = ["kubectl-leader", "inject", "-f", "-", "--id", "billing", "-o", "patch", "--agent-image", image];
    let cli = cli::Cli::try_parse_from(words.into_iter().chain(["--plain-http-registry", &registry]))?;
    let (mut patch, mut said) = (Vec::new(), Vec::new());
    // It asks the cluster's registry, which is found in the cluster's network only.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<u8> {
            cluster.enter_network()?;
            Ok(cli::run(&cli, file.as_bytes(), &mut patch, &mut said, false)?)
        });
        inside.join().map_err(|_| anyhow!("kubectl leader panicked"))?
    })?;
    ensure!(!String::from_utf8_lossy(&said).contains("is not known"), "{}", String::from_utf8_lossy(&said));
    Ok(String::from_utf8(patch)?)
}

/// What injection is answerable for: the specification, and our annotations on the workload. Not whether the template was made while
/// pods without the agent ran: of a file nobody knows that.
fn injected_part(deployment: &Value) -> Value {
    let mut deployment = deployment.clone();
    let record = deployment.pointer_mut("/spec/template/metadata/annotations/leader.io~1injected");
    if let Some(text) = record
        && let Some(mut read) = text.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
    {
        read.as_object_mut().into_iter().for_each(|fields| drop(fields.remove("bornUnderTurningOn")));
        *text = json!(read.to_string());
    }
    let annotations = deployment["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let ours: serde_json::Map<_, _> =
        annotations.into_iter().filter(|(key, _)| key.starts_with(names::PREFIX)).collect();
    json!({"spec": deployment["spec"], "annotations": ours})
}

/// Every field of `part` is in `whole` with the same value; `whole` may have more, which the API server filled in.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|there| contains(there, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

#[test]
fn the_patch_of_kubectl_leader_stores_what_the_webhook_answers() -> Result<()> {
    Stage::test("patch", |stage| {
        let writer = Writer::new("billing").without_stamps();
        let workload = stage.start(&writer)?;
        let parse = |text: String| -> Result<Value> { Ok(serde_json::from_str(&text)?) };
        let annotated = ["leader.io/id=billing", "--dry-run=server", "-o", "json"];
        let answer = injected_part(&parse(workload.kubectl(&["annotate"], &annotated)?)?);

        let stored = workload.get()?;
        let files = [("the manifest", writer.manifest(stage)?), ("the stored object", stored.clone())];
        let mut last = None;
        for (name, file) in files {
            let patch = patch_of_cli(stage, &file.to_string())?;
            let options = ["--type=json", "--dry-run=server", "-o", "json", "--patch", &patch];
            let patched = injected_part(&parse(workload.kubectl(&["patch"], &options)?)?);
            ensure!(patched == answer, "{name} patched would be stored as {patched:#}, the webhook answers {answer:#}");

            // And it did not take the webhook to put it right.
            let mut by_hand = stored.clone();
            let operations: json_patch::Patch = serde_json::from_str(&patch)?;
            json_patch::patch(&mut by_hand, &operations)?;
            ensure!(
                contains(&patched, &injected_part(&by_hand)),
                "{name}: the webhook changed {by_hand:#} to {patched:#}"
            );
            last = Some(patch);
        }
        let patch = last.context("no file")?;
        workload.kubectl(&["patch"], &["--type=json", "--patch", &patch])?;
        let now = injected_part(&workload.get()?);
        ensure!(now == answer, "stored is {now:#}, the webhook answers {answer:#}");
        workload.wait_until_rolled_out()
    })
}

/// Sees that `manifest` cannot be applied, that a webhook of ours says so, and that it says all of `parts`.
fn ensure_refused(kubectl: Tool, manifest: &Value, webhook: &str, parts: &[&str]) -> Result<()> {
    let output = kubectl.args(["apply", "-f", "-"]).input(manifest.to_string()).output()?;
    ensure!(!output.success(), "it was let through: {}", output.stdout);
    let denied = format!("admission webhook \"{webhook}\" denied the request");
    for part in [&[denied.as_str()], parts].concat() {
        ensure!(output.stderr.contains(part), "no `{part}` in {}", output.stderr);
    }
    Ok(())
}

/// An object that makes pods, and that no node could run; `annotations` stand on its metadata, `on_template` on its pod template.
pub(crate) fn maker(kind: &str, annotations: &Value, on_template: &Value) -> Value {
    let labels = json!({"app": "refused"});
    let mut template = json!({
        "metadata": {"labels": labels, "annotations": on_template},
        "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
    });
    let metadata = json!({"name": "refused", "annotations": annotations});
    let (version, spec) = match kind {
        "Job" | "CronJob" => {
            template["spec"]["restartPolicy"] = json!("Never");
            let job = json!({"template": template});
            (
                "batch/v1",
                if kind == "Job" { job } else { json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}) },
            )
        }
        "ReplicationController" => ("v1", json!({"replicas": 1, "selector": labels, "template": template})),
        _ => ("apps/v1", json!({"selector": {"matchLabels": labels}, "serviceName": "refused", "template": template})),
    };
    let mut maker = json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec});
    if kind != "StatefulSet" && version == "apps/v1" {
        maker["spec"].as_object_mut().into_iter().for_each(|spec| drop(spec.remove("serviceName")));
    }
    maker
}

#[test]
fn what_cannot_be_injected_is_refused_with_what_to_do() -> Result<()> {
    Stage::bare("refused", &[], |stage| {
        let refused = |manifest: &Value, parts: &[&str]| {
            ensure_refused(stage.namespace.kubectl(&[]), manifest, "inject.leader.io", parts)
        };
        let writer = Writer::new("refused").without_stamps();
        refused(&writer.annotated(names::ID, "Not_A_Label").manifest(stage)?, &["Not_A_Label"])?;
        // The nearest known key, wherever the mistyped one stands.
        let mistyped = json!({"leader.io/ID": "a"});
        for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
            refused(&maker(kind, &mistyped, &json!({})), &["did you mean leader.io/id"])?;
        }
        for kind in ["Deployment", "StatefulSet", "ReplicaSet", "Job", "CronJob", "ReplicationController"] {
            refused(&maker(kind, &json!({}), &mistyped), &["did you mean leader.io/id"])?;
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "refused", "annotations": mistyped},
            "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
        });
        ensure_refused(stage.namespace.kubectl(&[]), &pod, "pods.inject.leader.io", &["did you mean leader.io/id"])?;
        // What has no say in its pods' lives.
        let asking = json!({names::ID: "a"});
        for kind in ["ReplicaSet", "Job", "CronJob", "ReplicationController"] {
            refused(&maker(kind, &asking, &json!({})), &["put it on the pod template"])?;
        }
        refused(&maker("Deployment", &asking, &json!({names::ID: "b"})), &["leader.io/id"])
    })
}

#[test]
fn nothing_is_injected_where_the_webhook_lives_or_depends_on() -> Result<()> {
    Stage::bare("excluded", &[], |stage| {
        let asking = json!({names::ID: "a"});
        for namespace in ["kube-system", "leader-system"] {
            let kubectl = || stage.namespace.cluster().kubectl(&["--namespace", namespace]);
            for (on_workload, on_template) in [(&asking, &json!({})), (&json!({}), &asking)] {
                let manifest = maker("Deployment", on_workload, on_template);
                ensure_refused(kubectl(), &manifest, "inject.leader.io", &[namespace, "remove the annotations"])?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_pod_that_runs_cannot_be_elected_and_can_be_changed() -> Result<()> {
    Stage::test("running", |stage| {
        let plain = stage.start(&Writer::new("plain").replicas(1).without_stamps())?;
        let elected = stage.start(&Writer::new("elected").replicas(1).without_stamps().elected())?;
        for (workload, id) in [(plain, "late"), (elected, "other")] {
            let pod = format!("pod/{}", workload.ready_pods()?.first().context("no pod")?);
            let id = format!("{}={id}", names::ID);
            let output = stage.namespace.kubectl(&["annotate", &pod, &id]).output()?;
            ensure!(!output.success(), "it was let through: {}", output.stdout);
            for part in ["leader-injected-pods", "from its creation on", "Annotate the workload that makes the pods"] {
                ensure!(output.stderr.contains(part), "no `{part}` in {}", output.stderr);
            }
            stage.namespace.run(&["label", &pod, "seen=yes"])?;
            stage.namespace.run(&["annotate", &pod, "team=billing"])?;
        }
        Ok(())
    })
}

/// A published Deployment whose authors had wired a supervisor in by hand; here as it was before, with the annotation.
#[test]
fn a_real_controller_is_injected() -> Result<()> {
    const MANIFEST: &str = r#"
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: controller, annotations: {leader.io/id: serving-controller}}
        spec:
          replicas: 2
          selector: {matchLabels: {app: controller}}
          template:
            metadata: {annotations: {sidecar.istio.io/inject: "false"}, labels: {app: controller}}
            spec:
              serviceAccountName: controller
              containers:
              - name: controller
                image: gcr.io/knative-releases/controller:v1
                command: [/ko-app/controller]
                env:
                - {name: SYSTEM_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
                - {name: METRICS_DOMAIN, value: knative.dev/serving}
                ports: [{containerPort: 9090, name: metrics}]
                resources: {limits: {cpu: 1000m, memory: 1000Mi}, requests: {cpu: 100m, memory: 100Mi}}
                securityContext: {allowPrivilegeEscalation: false}
    "#;
    Stage::test("controller", |stage| {
        let dry_run: Tool = stage.namespace.kubectl(&["apply", "-f", "-", "--dry-run=server", "-o", "json"]);
        let stored: Value = serde_json::from_str(&dry_run.input(MANIFEST).run()?)?;
        ensure_injected(&stored)?;
        let spec = &stored["spec"]["template"]["spec"];
        ensure!(spec["serviceAccountName"] == "controller", "the account was changed: {spec:#}");
        let (own, agents) = (&spec["containers"][0]["resources"], &spec["initContainers"][0]["resources"]);
        ensure!(own == agents, "the init container has {agents:#}, the wrapped one {own:#}");
        Ok(())
    })
}
