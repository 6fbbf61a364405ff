//! Pods of every shape that people give them: the agent runs as whoever the pod says, with whatever it is left.

use anyhow::{Context, Result, ensure};
use leader_specimen::event::Process;
use leader_tests::kit::ContainerProcesses;
use serde_json::{Value, json};

use crate::specimen::{CONTAINER, Specimen, name, restarts};
use crate::stage::{Stage, until};

/// The image's user. Its group is left out by the kubelet, which hands on the number of the user alone.
const IMAGES_USER: (u32, u32) = (65532, 0);

/// A shape: what is merged into the pod's specification and into the container, and what the app must find.
struct Shape {
    name: &'static str,
    pod: Value,
    container: Value,
    user: (u32, u32),
}

fn shapes() -> Vec<Shape> {
    let shape = |name, pod, container, user| Shape { name, pod, container, user };
    let none = || json!({});
    let dropped = json!({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false});
    vec![
        shape("root", none(), json!({"securityContext": {"runAsUser": 0}}), (0, 0)),
        shape("bare-root", json!({"securityContext": {"runAsUser": 0}}), json!({"securityContext": dropped}), (0, 0)),
        shape(
            "user",
            json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "runAsNonRoot": true}}),
            none(),
            (1000, 3000),
        ),
        // The container's word counts more than the pod's.
        shape(
            "own-user",
            json!({"securityContext": {"runAsUser": 1000}}),
            json!({"securityContext": {"runAsUser": 4242, "runAsGroup": 4243}}),
            (4242, 4243),
        ),
        shape(
            "read-only",
            json!({"automountServiceAccountToken": false, "enableServiceLinks": false}),
            json!({"securityContext": {"readOnlyRootFilesystem": true}}),
            IMAGES_USER,
        ),
        shape("terminal", none(), json!({"stdin": true, "tty": true}), IMAGES_USER),
        shape("stdin", none(), json!({"stdin": true, "stdinOnce": true}), IMAGES_USER),
        shape("shared", json!({"shareProcessNamespace": true}), none(), IMAGES_USER),
        shape("host-ipc", json!({"hostIPC": true}), none(), IMAGES_USER),
    ]
}

/// How the app of a specimen was started, once it was, and the one pod that did it.
fn started(specimen: &Specimen<'_>) -> Result<(Process, String)> {
    let process = specimen.started()?;
    let pods = specimen.pods()?;
    let pod = pods.first().context("no pod")?;
    ensure!(restarts(pod) == 0, "{}: {:#}", specimen.name, pod["status"]["containerStatuses"]);
    Ok((process, name(pod).to_owned()))
}

#[test]
fn pods_of_every_shape_run_the_app_as_they_say() -> Result<()> {
    Stage::bare("shapes", &[], |stage| {
        let mut specimens = Vec::new();
        for shape in shapes() {
            let specimen = Specimen::new(stage, shape.name)?;
            let mut pod = specimen.pod(&shape.container)?;
            json_patch::merge(&mut pod, &shape.pod);
            specimen.apply(&specimen.deployment(1, &pod))?;
            specimens.push((specimen, shape));
        }
        for (specimen, shape) in &specimens {
            let (process, pod) = started(specimen)?;
            ensure!(process.user == shape.user, "{}: {:?}", shape.name, process.user);
            ensure!(
                !process.environment.iter().any(|variable| variable.contains("leader.io/serviceaccount")),
                "{}: the agent's variables are the app's: {:#?}",
                shape.name,
                process.environment
            );
            let deleted = ["delete", "pod", &pod, "--wait=true", "--timeout=60s"];
            stage.namespace.run(&deleted).with_context(|| format!("{} does not end", shape.name))?;
        }
        Ok(())
    })
}

#[test]
fn a_debug_container_beside_the_agent_changes_nothing() -> Result<()> {
    Stage::bare("debug", &[], |stage| {
        let specimen = Specimen::new(stage, "debug")?;
        let pod = specimen.pod(&json!({}))?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        specimen.wait_until_rolled_out("deployment")?;
        let leader = specimen.leader()?;
        let image = format!("--image={}", stage.image("leader-specimen")?);
        let target = format!("--target={CONTAINER}");
        stage.namespace.run(&["debug", &leader, "--container=debugger", &image, &target, "--", "/specimen"])?;
        until("the debug container to run", || {
            let pod = stage.namespace.get(&["pod", &leader])?;
            let status = pod["status"]["ephemeralContainerStatuses"][0]["state"].clone();
            ensure!(status["running"].is_object(), "{status:#}");
            Ok(())
        })?;
        let processes: ContainerProcesses = stage.namespace.processes(&leader, CONTAINER)?;
        ensure!(processes.app().len() == 1, "{processes:#?}");
        ensure!(specimen.leader()? == leader, "leadership moved");
        // It shares the agent's process namespace, and ends with it.
        stage.namespace.run(&["delete", "pod", &leader, "--wait=true", "--timeout=60s"])?;
        specimen.leader_but(&[&leader]).map(drop)
    })
}
