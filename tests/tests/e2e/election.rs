//! Turning election on and off on a running Deployment.

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_tests::kit::ContainerProcesses;

use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// The pods whose app runs, of those that are ready.
fn running_apps(workload: &Workload<'_>) -> Result<Vec<String>> {
    let mut running = Vec::new();
    for pod in workload.ready_pods()? {
        let processes: ContainerProcesses = workload.processes(&pod)?;
        processes.agent().with_context(|| format!("pod {pod}"))?;
        if !processes.app().is_empty() {
            running.push(pod);
        }
    }
    Ok(running)
}

#[test]
fn annotating_a_running_deployment_rolls_it_out_once_and_one_pod_runs_the_app() -> Result<()> {
    Stage::test("annotate", |stage| {
        let workload = stage.start(&Writer::new("billing"))?;
        let before = workload.replica_sets()?;
        ensure!(before.len() == 1, "{before:?}");

        workload.kubectl(&["annotate"], &["leader.io/id=billing"])?;
        workload.wait_until_rolled_out()?;
        let leader = workload.leading()?.writer.pod;
        let pods = workload.ready_pods()?;
        ensure!(pods.len() == 3, "not three ready pods: {pods:?}");
        let running = running_apps(&workload)?;
        ensure!(running == [leader.clone()], "the app runs in {running:?}, the leader is {leader}");
        let after = workload.replica_sets()?;
        ensure!(
            after.len() == 2 && after.contains(&before[0]),
            "more or less than one rollout: {before:?}, then {after:?}"
        );

        let holder = workload.lease()?["spec"]["holderIdentity"].as_str().context("no holder")?.to_owned();
        ensure!(holder.starts_with(&format!("{leader}_")), "the leader is {leader}, the holder {holder}");
        workload.never_two(1)
    })
}

/// The fields in which client-go keeps an election, in the form that `kubectl describe` gives them.
#[test]
fn describe_lease_reads_as_one_of_client_go() -> Result<()> {
    Stage::test("describe", |stage| {
        let workload = stage.start(&Writer::new("described").replicas(2).lease_seconds(30))?;
        let leader = workload.leading()?.writer.pod;
        let uid = stage.namespace.get(&["pod", &leader])?["metadata"]["uid"].as_str().context("no uid")?.to_owned();
        let text = stage.namespace.run(&["describe", "lease", "described"])?;
        let field = |name: &str| -> Result<String> {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
            Ok(line.with_context(|| format!("no field {name} in\n{text}"))?.trim().to_owned())
        };
        ensure!(field("Holder Identity")? == format!("{leader}_{uid}_writer"), "{text}");
        ensure!(field("Lease Duration Seconds")? == "30", "{text}");
        ensure!(field("Lease Transitions")?.parse::<u32>().is_ok(), "{text}");
        for name in ["Acquire Time", "Renew Time"] {
            let time = field(name)?;
            let digits = time.rsplit_once('.').and_then(|(_, fraction)| fraction.strip_suffix('Z'));
            ensure!(digits.is_some_and(|digits| digits.len() == 6), "{name} is {time:?}, no MicroTime");
        }
        Ok(())
    })
}

#[test]
fn removing_the_annotation_restores_the_template_exactly() -> Result<()> {
    Stage::test("restore", |stage| {
        let workload = stage.start(&Writer::new("restored").replicas(2).without_stamps())?;
        let (before, sets) = (workload.template()?, workload.replica_sets()?);
        workload.kubectl(&["annotate"], &["leader.io/id=restored", "leader.io/lease-duration=5s"])?;
        ensure!(workload.template()? != before, "nothing was injected");
        workload.wait_until_rolled_out()?;
        workload.kubectl(&["annotate"], &["leader.io/id-", "leader.io/lease-duration-"])?;
        let after = workload.template()?;
        ensure!(after == before, "the template was {before:#}, and is now {after:#}");
        workload.wait_until_rolled_out()?;
        // The first ReplicaSet is used again: for Kubernetes, too, it is the same template.
        until("the pods of the first ReplicaSet", || {
            let pods = workload.ready_pods()?;
            let first = |pod: &String| pod.starts_with(&format!("{}-", sets[0]));
            ensure!(pods.len() == 2 && pods.iter().all(first), "{pods:?} are not of {}", sets[0]);
            Ok(())
        })?;
        let annotations = workload.get()?["metadata"]["annotations"].to_string();
        ensure!(!annotations.contains(names::PREFIX), "left behind: {annotations}");
        Ok(())
    })
}

#[test]
fn restricted_pod_security_lets_an_injected_compliant_app_start() -> Result<()> {
    let label = ("pod-security.kubernetes.io/enforce", "restricted");
    Stage::labelled("restricted", &[label], |stage| {
        stage.start(&Writer::new("compliant").replicas(2).without_stamps().elected())?;
        until("an elected writer in the keeper's report", || {
            let report = stage.report()?;
            ensure!(report.runs.iter().any(|run| run.run.writer.elected()), "{report}");
            Ok(())
        })
    })
}
