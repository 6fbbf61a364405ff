//! Leadership that follows the app's readiness (`leader.io/unhealthy-step-down`).

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use leader_agent::names;
use leader_specimen::event::What;
use leader_specimen::options::FAILING;
use serde_json::{Value, json};

use crate::specimen::{Specimen, environment, name, ready_since, restarts};
use crate::stage::{Stage, until};
use crate::writer::Writer;

/// For how long a leader may be unready here.
const PATIENCE_SECONDS: i64 = 5;

/// Writers that never become ready where they lead: nothing listens on that port.
fn never_ready(stage: &Stage, writer: &Writer) -> Result<Value> {
    let mut manifest = writer.manifest(stage)?;
    manifest["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
        json!({"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1});
    Ok(manifest)
}

fn time(lease: &Value, field: &str) -> Result<Timestamp> {
    let text = lease["spec"][field].as_str().with_context(|| format!("no {field}"))?;
    Ok(text.parse()?)
}

/// Waits until that pod has led for three times the patience from now on, in one term.
fn leads_on(stage: &Stage, id: &str, pod: &str) -> Result<()> {
    let began = Timestamp::now();
    until("a term that lasts", || {
        let lease = stage.namespace.get(&["lease", id])?;
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let is_its = holder.starts_with(&format!("{pod}_")) && time(&lease, "acquireTime")? <= began;
        ensure!(is_its, "{holder} leads, not {pod} as at {began}: {lease:#}");
        let lasted = time(&lease, "renewTime")?.duration_since(began);
        ensure!(lasted.as_secs() > 3 * PATIENCE_SECONDS, "it has lasted {lasted:?}");
        Ok(())
    })
}

/// The Lease says that a term of this pod's was given up.
fn ensure_given_up(lease: &Value, pod: &str) -> Result<()> {
    let given_up = &lease["metadata"]["annotations"][names::GIVEN_UP];
    let is_its = given_up.as_str().is_some_and(|term| term.contains(&format!("/{pod}_")));
    ensure!(is_its, "the Lease does not say that {pod}'s term was given up: {given_up}");
    Ok(())
}

#[test]
fn a_leader_that_is_not_ready_gives_way_once_and_not_round_and_round() -> Result<()> {
    Stage::test("unready", |stage| {
        let patience = format!("{PATIENCE_SECONDS}s");
        let writer =
            Writer::new("unready").lease_seconds(15).replicas(2).annotated(names::UNHEALTHY_STEP_DOWN, &patience);
        let workload = stage.workload(&writer)?;
        stage.namespace.apply(&never_ready(stage, &writer)?.to_string())?;
        let leader = workload.leading()?;
        let (old, new) = workload.led_after(&leader)?;
        ensure!(old.writer.pod != new.writer.pod, "leadership did not move: {old:?}, {new:?}");
        ensure_given_up(&workload.lease()?, &old.writer.pod)?;
        // Its app was stopped in place: the pod stands by.
        let status = stage.namespace.get(&["pod", &old.writer.pod])?["status"]["containerStatuses"][0].clone();
        ensure!(status["restartCount"] == 0, "{status:#}");
        // The next one is no readier, and has to make do.
        leads_on(stage, "unready", &new.writer.pod)?;
        workload.never_two(2)
    })
}

#[test]
fn a_leader_that_is_not_ready_stays_where_nobody_else_would_lead() -> Result<()> {
    Stage::test("unready-alone", |stage| {
        let patience = format!("{PATIENCE_SECONDS}s");
        let writer =
            Writer::new("alone").lease_seconds(15).replicas(1).annotated(names::UNHEALTHY_STEP_DOWN, &patience);
        let workload = stage.workload(&writer)?;
        stage.namespace.apply(&never_ready(stage, &writer)?.to_string())?;
        let leader = workload.leading()?;
        leads_on(stage, "alone", &leader.writer.pod)?;
        let wanted = workload.lease()?["metadata"]["annotations"][names::SUCCESSOR_WANTED].clone();
        ensure!(wanted.is_string(), "it does not ask for a successor: {:#}", workload.lease()?);
        workload.never_two(1)
    })
}

/// Waits until this pod is ready, and no other one.
fn alone_ready(specimen: &Specimen<'_>, leader: &str) -> Result<()> {
    until(&format!("{leader} to be the only ready pod"), || {
        let pods = specimen.pods()?;
        let ready: Vec<&str> = pods.iter().filter(|pod| ready_since(pod).is_ok()).map(name).collect();
        ensure!(pods.len() == 2 && ready == [leader], "{ready:?} of {} are ready", pods.len());
        Ok(())
    })
}

/// The app runs whoever leads: what moves is who is ready, and no app is stopped.
#[test]
fn in_mode_ready_another_pod_becomes_ready_in_place_of_one_whose_app_is_not() -> Result<()> {
    Stage::bare("unready-mode-ready", &[], |stage| {
        let specimen = Specimen::new(stage, "shown")?;
        let pod = specimen.pod(&json!({
            "env": environment(&[("SPECIMEN_HTTP", "8080")]),
            // On a busy machine a healthy app answers late.
            "readinessProbe": {
                "httpGet": {"path": "/ok", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20,
            },
        }))?;
        let mut object = specimen.deployment(2, &pod);
        object["metadata"]["annotations"]["leader.io/mode"] = "ready".into();
        object["metadata"]["annotations"][names::UNHEALTHY_STEP_DOWN] = format!("{PATIENCE_SECONDS}s").into();
        object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}});
        specimen.apply(&object)?;
        let first = specimen.leader()?;
        alone_ready(&specimen, &first)?;
        specimen.tell(&format!("{FAILING}-{first}"))?;
        let second = specimen.leader_but(&[&first])?;
        alone_ready(&specimen, &second)?;
        ensure_given_up(&stage.namespace.get(&["lease", &specimen.name])?, &first)?;

        // What makes every replica unready moves nothing for five minutes.
        specimen.tell(FAILING)?;
        leads_on(stage, &specimen.name, &second)?;
        let wanted = stage.namespace.get(&["lease", &specimen.name])?["metadata"]["annotations"].take();
        ensure!(wanted[names::SUCCESSOR_WANTED].is_null(), "it asks for a successor: {wanted:#}");
        let signals = specimen.events()?.into_iter().filter(|event| matches!(event.what, What::Signal(_)));
        let signals: Vec<_> = signals.collect();
        ensure!(signals.is_empty(), "an app was asked to stop: {signals:?}");
        for pod in specimen.pods()? {
            ensure!(restarts(&pod) == 0, "{} was restarted", name(&pod));
        }
        Ok(())
    })
}
