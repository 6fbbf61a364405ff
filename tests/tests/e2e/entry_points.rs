//! Entry points: what an app is started with under the agent is what the runtime starts it with without us.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, Result, ensure};
use leader_specimen::event::Process;
use leader_tests::image::{Format, Image, push_index};
use leader_tests::kit::{PASSWORD, PrivateRegistry};
use leader_tests::registry::Registry;
use serde_json::{Value, json};

use crate::specimen::{CONTAINER, Specimen};
use crate::stage::{Stage, until};

/// Words that somebody on the way might expand, split, drop or take for an option.
const WORDS: [&str; 14] = [
    "",
    " ",
    "a  b",
    "$HOME",
    "$(VAR)",
    "$$(VAR)",
    "$$",
    "$(UNKNOWN)",
    "\u{fc}n\u{ef} \u{2713}",
    "\"quoted\" 'too'",
    "new\nline",
    "--",
    "-x",
    "\\",
];

/// The program, and all of [`WORDS`].
fn program_with_words() -> Vec<&'static str> {
    [&["/specimen"], WORDS.as_slice()].concat()
}

/// The layers of the specimen, and beside it a shell that is one by name only, programs to be found, and a user.
fn base(stage: &Stage) -> Result<Image> {
    let files = tempfile::tempdir()?;
    let root = files.path();
    for folder in ["bin", "srv/bin", "srv/app/bin", "etc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for link in ["bin/sh", "srv/bin/run-me", "srv/app/bin/run"] {
        symlink("/specimen", root.join(link))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1234:4321::/home/app:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:4321:\n")?;
    let image = Image::from(&stage.namespace.cluster().image_registry(), stage.image("leader-specimen")?)?;
    image.with_files(root)
}

/// An image by its configuration, and the media types of its manifest.
struct Program {
    name: &'static str,
    format: Format,
    config: Value,
}

/// The entry points that images have.
fn programs() -> Vec<Program> {
    let program = |name, format, config| Program { name, format, config };
    vec![
        program("entrypoint", Format::Oci, json!({"Entrypoint": program_with_words()})),
        program("cmd", Format::Docker, json!({"Cmd": program_with_words(), "User": "1000"})),
        program(
            "both",
            Format::Docker,
            json!({"Entrypoint": ["/specimen", "$(VAR)", "-e"], "Cmd": WORDS, "Env": ["FROM_IMAGE=a $(VAR) $HOME", "EMPTY="]}),
        ),
        program(
            "shell",
            Format::Docker,
            json!({"Entrypoint": ["/bin/sh", "-c", "exec serve --home \"$HOME\" | tee $(date)"], "User": "app"}),
        ),
        program(
            "shell-cmd",
            Format::Oci,
            json!({"Cmd": ["/bin/sh", "-c", "serve --port=$PORT && echo $$"], "Env": ["PORT=80"], "WorkingDir": "/made by/the runtime"}),
        ),
        program(
            "relative",
            Format::Oci,
            json!({"Entrypoint": ["./bin/run", "x"], "Cmd": ["y"], "WorkingDir": "/srv/app"}),
        ),
        program(
            "in-path",
            Format::Docker,
            json!({"Entrypoint": ["run-me"], "Cmd": ["$(PATH)"], "Env": ["PATH=/nowhere:/srv/bin:/bin"], "User": "1000:2000"}),
        ),
        // The empty word is no entry point.
        program("emptied", Format::Oci, json!({"Entrypoint": [""], "Cmd": ["/specimen", "cmd"]})),
        program("neither", Format::Oci, json!({"WorkingDir": "/srv/app"})),
    ]
}

/// What a template says beside the image.
fn templates(program: &str) -> Vec<(&'static str, Value)> {
    let args = |words: &[&str]| json!({"args": words});
    let command = json!({"command": ["/specimen", "$(VAR)", "$$(VAR)", "$(UNKNOWN)", ""]});
    match program {
        "neither" => {
            vec![("command", command.clone()), ("both", json!({"command": ["bin/run"], "args": WORDS}))]
        }
        // Without arguments there would be nothing to start.
        "cmd" | "emptied" => {
            vec![("plain", json!({})), ("args", json!({"args": program_with_words()}))]
        }
        "both" => vec![
            ("plain", json!({})),
            ("empty", args(&[])),
            ("args", args(&WORDS)),
            ("command", command.clone()),
            ("all", json!({"command": ["/specimen"], "args": ["$(VAR)", "z"], "workingDir": "/srv"})),
        ],
        "entrypoint" => vec![("plain", json!({})), ("args", args(&WORDS))],
        "relative" => vec![("plain", json!({})), ("moved", json!({"workingDir": "/srv/app/bin/.."}))],
        "shell-cmd" => vec![("plain", json!({})), ("command", command.clone())],
        _ => vec![("plain", json!({}))],
    }
}

/// A specimen's container as a user writes it: the image decides what is started, and the template what it says.
fn container(specimen: &Specimen<'_>, image: &str, template: &Value) -> Result<Value> {
    // The pod's name is no part of what is compared.
    let variables = json!([
        {"name": "POD_NAME", "value": specimen.name},
        {"name": "SPECIMEN_FOLDER", "value": "/specimen-folder"},
        {"name": "VAR", "value": "the variable's $(SPECIMEN_FOLDER)"},
    ]);
    let mut container = json!({"image": image, "command": null, "env": variables});
    json_patch::merge(&mut container, template);
    specimen.pod(&container)
}

/// What must be equal: all but the pod's name, what an elected app is told, and the order of variables, which the kubelet leaves
/// to chance (it ranges over a map in `makeEnvironmentVariables`, `pkg/kubelet/kubelet_pods.go`).
fn comparable(mut process: Process) -> Process {
    process.environment.retain(|variable| !variable.starts_with("LEADER_") && !variable.starts_with("HOSTNAME="));
    process.environment.sort();
    process
}

/// Starts each with the agent and without it, and compares what the programs found.
fn compare(cases: &[(Specimen<'_>, Specimen<'_>, Value, Value)]) -> Result<()> {
    let (first, ..) = cases.first().context("no case")?;
    let objects = cases.iter().flat_map(|(plain, elected, plain_pod, elected_pod)| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": plain.name}, "spec": plain_pod,
        });
        [pod, elected.deployment(1, elected_pod)]
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects.collect::<Vec<_>>()});
    first.apply(&list)?;
    for (plain, elected, ..) in cases {
        let (without, with) = (plain.started()?, elected.started()?);
        ensure!(
            with.environment.iter().any(|variable| variable.starts_with("LEADER_FENCING_TOKEN=")),
            "{} was not started by the agent: {with:#?}",
            elected.name
        );
        // The two differ in their names, which are in the environment.
        let mut with = comparable(with);
        for variable in &mut with.environment {
            *variable = variable.replace(&format!("POD_NAME={}", elected.name), &format!("POD_NAME={}", plain.name));
        }
        let without = comparable(without);
        ensure!(with == without, "{}: the agent starts {with:#?}, the runtime {without:#?}", elected.name);
    }
    Ok(())
}

fn case<'a>(
    stage: &'a Stage,
    name: &str,
    image: &str,
    template: &Value,
) -> Result<(Specimen<'a>, Specimen<'a>, Value, Value)> {
    let (plain, elected) = (Specimen::new(stage, &format!("{name}-plain"))?, Specimen::new(stage, name)?);
    let pods = (container(&plain, image, template)?, container(&elected, image, template)?);
    Ok((plain, elected, pods.0, pods.1))
}

#[test]
fn entry_points_of_images_are_started_as_the_runtime_starts_them() -> Result<()> {
    Stage::bare("entry-points", &[], |stage| {
        let registry = stage.namespace.cluster().image_registry();
        let mut cases = Vec::new();
        for Program { name, format, config } in programs() {
            let image = base(stage)?.configured(config);
            let mut reference = image.push(&registry, &format!("entry-points/{name}:1"), format)?;
            if name == "relative" {
                reference = format!("{}@{}", reference.trim_end_matches(":1"), image.digest(format)?);
            }
            for (template_name, template) in templates(name) {
                cases.push(case(stage, &format!("{name}-{template_name}"), &reference, &template)?);
            }
        }
        compare(&cases)
    })
}

/// The specimen's configuration for one platform and another: only the first can run here.
fn two_platforms(stage: &Stage, other: Value) -> Result<[Image; 2]> {
    let own = base(stage)?.configured(json!({"Entrypoint": ["/specimen", "amd64"], "Cmd": ["$(VAR)"]}));
    Ok([own, base(stage)?.configured(other).architecture("arm64")])
}

#[test]
fn images_of_several_platforms_are_started_as_the_nodes_platform_asks() -> Result<()> {
    Stage::bare("platforms", &[], |stage| {
        let registry = stage.namespace.cluster().image_registry();
        let other = json!({"Entrypoint": ["/never", "arm64"]});
        let images = two_platforms(stage, other)?;
        let mut cases = Vec::new();
        for (name, format) in [("docker", Format::Docker), ("oci", Format::Oci)] {
            let reference = push_index(&images, &registry, &format!("platforms/{name}:1"), format)?;
            cases.push(case(stage, name, &reference, &json!({}))?);
        }
        compare(&cases)
    })
}

/// A Secret with a password for a registry.
fn pull_secret(name: &str, registry: &PrivateRegistry<'_>, password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": registry.docker_config(password).to_string()},
    })
}

/// Pushes the specimen as a program of a registry.
fn push_program(stage: &Stage, registry: &Registry, name: &str) -> Result<String> {
    let config = json!({"Entrypoint": ["/specimen", name], "Cmd": ["$(VAR)", ""]});
    base(stage)?.configured(config).push(registry, &format!("{name}:1"), Format::Oci)
}

#[test]
fn images_behind_a_password_are_looked_up_with_the_pods_own() -> Result<()> {
    Stage::bare("password", &[], |stage| {
        let registry = PrivateRegistry::start(stage.namespace.cluster())?;
        let image = push_program(stage, &registry.client(), "private")?;
        stage.namespace.apply(&pull_secret("good", &registry, PASSWORD).to_string())?;
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"},
            "imagePullSecrets": [{"name": "good"}],
        });
        stage.namespace.apply(&account.to_string())?;
        let mut cases = Vec::new();
        for (name, more) in [
            ("by-the-template", json!({"imagePullSecrets": [{"name": "good"}]})),
            ("by-the-account", json!({"serviceAccountName": "puller"})),
        ] {
            let mut case = case(stage, name, &image, &json!({}))?;
            json_patch::merge(&mut case.2, &more);
            json_patch::merge(&mut case.3, &more);
            cases.push(case);
        }
        compare(&cases)
    })
}

/// What every refusal for want of an entry point says.
fn ensure_refused(specimen: &Specimen<'_>, pod: &Value, image: &str, reasons: &[&str]) -> Result<()> {
    let said = specimen.refused(&specimen.deployment(1, pod))?;
    for part in [CONTAINER, image, "`command`", "leader.io/command"] {
        ensure!(said.contains(part), "no `{part}` in {said}");
    }
    ensure!(reasons.iter().any(|reason| said.contains(reason)), "none of {reasons:?} in {said}");
    Ok(())
}

#[test]
fn an_image_that_cannot_be_asked_is_refused_with_the_reason_and_the_ways_out() -> Result<()> {
    Stage::bare("unasked", &[], |stage| {
        let mut registry = PrivateRegistry::start(stage.namespace.cluster())?;
        let image = push_program(stage, &registry.client(), "unasked")?;
        for (name, password) in [("wrong", "wrong"), ("good", PASSWORD)] {
            stage.namespace.apply(&pull_secret(name, &registry, password).to_string())?;
        }
        let specimen = Specimen::new(stage, "unasked")?;
        let pod = |image: &str, secret: &str| -> Result<Value> {
            let mut pod = container(&specimen, image, &json!({}))?;
            pod["imagePullSecrets"] = json!([{"name": secret}]);
            Ok(pod)
        };
        ensure_refused(&specimen, &pod(&image, "wrong")?, &image, &["401", "credentials", "unauthorized"])?;
        ensure_refused(&specimen, &pod(&image, "missing")?, &image, &["401", "credentials", "unauthorized"])?;
        let missing = image.replace(":1", ":missing");
        ensure_refused(&specimen, &pod(&missing, "good")?, &missing, &["404", "not found", "no such"])?;
        let registry_of_cluster = stage.namespace.cluster().image_registry();
        let neither = base(stage)?.push(&registry_of_cluster, "neither:1", Format::Oci)?;
        let said = specimen.refused(&specimen.deployment(1, &pod(&neither, "good")?))?;
        for part in [CONTAINER, &neither, "neither ENTRYPOINT nor CMD", "set `command`"] {
            ensure!(said.contains(part), "no `{part}` in {said}");
        }

        registry.stop()?;
        let other = image.replace(":1", ":2");
        ensure_refused(&specimen, &pod(&other, "good")?, &other, &["refused", "connect", "reach"])?;
        // One of the ways out.
        let mut annotated = specimen.deployment(1, &pod(&image, "good")?);
        annotated["metadata"]["annotations"]["leader.io/command"] = json!("[\"/specimen\", \"by annotation\"]");
        registry.start_again()?;
        specimen.apply(&annotated)?;
        let process = specimen.started()?;
        ensure!(process.arguments[..2] == ["/specimen", "by annotation"], "{process:#?}");
        Ok(())
    })
}

#[test]
fn an_injected_workload_is_changed_while_its_registry_is_down() -> Result<()> {
    Stage::bare("registry-down", &[], |stage| {
        let mut registry = PrivateRegistry::start(stage.namespace.cluster())?;
        let image = push_program(stage, &registry.client(), "asked-once")?;
        stage.namespace.apply(&pull_secret("good", &registry, PASSWORD).to_string())?;
        let specimen = Specimen::new(stage, "asked-once")?;
        let mut pod = container(&specimen, &image, &json!({}))?;
        pod["imagePullSecrets"] = json!([{"name": "good"}]);
        let deployment = specimen.deployment(1, &pod);
        specimen.apply(&deployment)?;
        specimen.wait_until_rolled_out("deployment")?;
        let first = specimen.started()?;
        let kubectl = |verb: &[&str], more: &[&str]| -> Result<String> {
            let output = stage.namespace.kubectl(&[verb, &["deployment/asked-once"], more].concat()).output()?;
            ensure!(output.success(), "kubectl {verb:?}: {}", output.stderr);
            Ok(output.stderr)
        };
        let template =
            || -> Result<Value> { Ok(stage.namespace.get(&["deployment", "asked-once"])?["spec"]["template"].clone()) };
        // Two revisions, so that there is something to undo.
        let before = template()?;
        let second = base(stage)?.configured(json!({"Entrypoint": ["/specimen", "second"]}));
        let second = second.push(&registry.client(), "asked-once:2", Format::Docker)?;
        kubectl(&["set", "image"], &[&format!("{CONTAINER}={second}")])?;
        specimen.wait_until_rolled_out("deployment")?;

        registry.stop()?;
        // What was found is remembered for a while.
        let asked = "could not be looked up";
        until("the webhook to forget what it found", || {
            let said = kubectl(&["set", "env"], &["CHANGED=yes", "--dry-run=server"])?;
            ensure!(said.contains(asked) && said.contains(&second), "no warning in {said}");
            Ok(())
        })?;
        let undone = kubectl(&["rollout", "undo"], &[])?;
        specimen.wait_until_rolled_out("deployment")?;
        ensure!(template()? == before, "undone it is {:#}, not {before:#}", template()?);
        let applied = specimen.apply(&deployment)?;
        ensure!(template()? == before, "applied again it is {:#}, not {before:#}", template()?);
        let scaled = kubectl(&["scale"], &["--replicas=2"])?;
        specimen.wait_until_rolled_out("deployment")?;
        for said in [undone, applied, scaled] {
            ensure!(!said.contains(asked), "the registry was asked: {said}");
        }
        // Each replica of the webhook remembers for itself: any of them may be the one that is called.
        let restarted = json!({"spec": {"template": {"metadata": {"annotations": {
            "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z",
        }}}}});
        until("a warning that the record is used", || {
            let said = kubectl(&["patch"], &["--dry-run=server", "--patch", &restarted.to_string()])?;
            ensure!(said.contains(asked) && said.contains("earlier injection"), "no warning in {said:?}");
            Ok(())
        })?;
        let starts = specimen.starts()?.len();
        kubectl(&["rollout", "restart"], &[])?;
        specimen.wait_until_rolled_out("deployment")?;
        until("the app to be started anew", || {
            let all = specimen.starts()?;
            let (_, newest) = all.last().context("it never was")?;
            ensure!(all.len() > starts, "it was not");
            ensure!(newest.arguments == first.arguments, "{newest:#?} instead of {first:#?}");
            Ok(())
        })
    })
}

/// A node that only the API server knows; gone when this is dropped.
struct PaperNode<'a>(&'a Stage);

impl<'a> PaperNode<'a> {
    const NAME: &'static str = "paper-node";

    fn new(stage: &'a Stage) -> Result<Self> {
        let labels = json!({"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"});
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": Self::NAME, "labels": labels},
            "spec": {"unschedulable": true},
        });
        stage.namespace.cluster().apply(&node.to_string())?;
        let node = Self(stage);
        let info = json!({"status": {"nodeInfo": {
            "architecture": "arm64", "operatingSystem": "linux", "machineID": "", "systemUUID": "", "bootID": "",
            "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
        }}});
        let patch = ["patch", "node", Self::NAME, "--subresource=status", "--type=merge", "--patch", &info.to_string()];
        stage.namespace.cluster().kubectl(&patch).run()?;
        Ok(node)
    }
}

impl Drop for PaperNode<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.namespace.cluster().kubectl(&["delete", "node", Self::NAME]).run() {
            leader_tests::progress::say(format!("cannot remove the node {}: {error:#}", Self::NAME));
        }
    }
}

#[test]
fn platforms_that_disagree_on_the_entry_point_are_refused_by_name() -> Result<()> {
    Stage::bare_alone("disagree", |stage| {
        let registry = stage.namespace.cluster().image_registry();
        let different = two_platforms(stage, json!({"Entrypoint": ["/other", "arm64"]}))?;
        let different = push_index(&different, &registry, "disagree/different:1", Format::Oci)?;
        let equal = two_platforms(stage, json!({"Entrypoint": ["/specimen", "amd64"], "Cmd": ["$(VAR)"]}))?;
        let equal = push_index(&equal, &registry, "disagree/equal:1", Format::Oci)?;
        let specimen = Specimen::new(stage, "disagree")?;
        let node = PaperNode::new(stage)?;
        let mut pod = container(&specimen, &different, &json!({}))?;
        let said = until("the webhook to know of the second node", || {
            let dry_run = stage.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]);
            let said = dry_run.input(specimen.deployment(1, &pod).to_string()).output()?.stderr;
            ensure!(said.contains("arm64") && said.contains("amd64"), "no platforms in {said}");
            Ok(said)
        })?;
        for part in [CONTAINER, &different, "`command`", "leader.io/command"] {
            ensure!(said.contains(part), "no `{part}` in {said}");
        }
        // Pods that go to one of the platforms only, or platforms that agree.
        pod["nodeSelector"] = json!({"kubernetes.io/arch": "amd64"});
        specimen.apply(&specimen.deployment(1, &pod))?;
        ensure!(specimen.started()?.arguments[1] == "amd64");
        let agreeing = Specimen::new(stage, "agree")?;
        let pod = container(&agreeing, &equal, &json!({}))?;
        agreeing.apply(&agreeing.deployment(1, &pod))?;
        drop(node);
        Ok(())
    })
}
