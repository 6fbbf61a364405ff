//! The modes in which the app runs everywhere: `ready`, where only the leader is ready, and `observe`, where a sidecar tells who leads.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_specimen::event::What;
use leader_specimen::options::FAILING;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::specimen::{CONTAINER, Specimen, environment, name, ready_since, restarts};
use crate::stage::{Stage, until};

/// A Deployment in this mode, whose pods are replaced all at once.
fn deployment(specimen: &Specimen<'_>, replicas: u32, pod: &Value, options: &[(&str, &str)]) -> Value {
    let mut object = specimen.deployment(replicas, pod);
    for (key, value) in options {
        object["metadata"]["annotations"][*key] = (*value).into();
    }
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}});
    object
}

/// The pod that holds the Lease.
fn holder(specimen: &Specimen<'_>) -> Result<String> {
    let lease = specimen.stage.namespace.get(&["lease", &specimen.name])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(!holder.is_empty(), "nobody holds the Lease: {lease:#}");
    Ok(holder.split('_').next().unwrap_or_default().to_owned())
}

/// Waits for a holder other than this one.
fn holder_but(specimen: &Specimen<'_>, other: &str) -> Result<String> {
    until(&format!("a holder of {} that is not {other:?}", specimen.name), || {
        let holder = holder(specimen)?;
        ensure!(holder != other, "{holder} still holds it");
        Ok(holder)
    })
}

/// Waits until this pod is ready, and no other one.
fn alone_ready(specimen: &Specimen<'_>, replicas: usize, leader: &str) -> Result<()> {
    until(&format!("{leader} to be the only ready pod of {}", specimen.name), || {
        let pods = specimen.pods()?;
        ensure!(pods.len() == replicas, "there are {} pods", pods.len());
        let ready: Vec<&str> = pods.iter().filter(|pod| ready_since(pod).is_ok()).map(name).collect();
        ensure!(ready == [leader], "{ready:?} are ready");
        Ok(())
    })
}

/// Waits until the app runs in so many pods.
fn run_everywhere(specimen: &Specimen<'_>, replicas: usize) -> Result<()> {
    until(&format!("{replicas} pods of {} whose app runs", specimen.name), || {
        let pods = specimen.pods()?;
        let started = specimen.starts()?;
        let runs = |pod: &&Value| started.iter().any(|(event, _)| event.pod == name(pod));
        let running = pods.iter().filter(runs).count();
        ensure!(running == replicas && pods.len() == replicas, "{running} of {} pods run the app", pods.len());
        Ok(())
    })
}

/// The pods whose app was asked to stop.
fn told_to_stop(specimen: &Specimen<'_>) -> Result<Vec<String>> {
    let events = specimen.events()?.into_iter();
    Ok(events.filter(|event| matches!(event.what, What::Signal(_))).map(|event| event.pod).collect())
}

/// A container's file, as the machine sees it.
fn file(specimen: &Specimen<'_>, pod: &str, container: &str, path: &str) -> Result<PathBuf> {
    let processes = specimen.stage.namespace.processes(pod, container)?;
    let first = processes.stub()?;
    Ok(PathBuf::from(format!("/proc/{}/root{path}", first.pid)))
}

/// Waits until the status file is there in the leader's pod, as both containers see it, and in no other pod.
fn file_says(specimen: &Specimen<'_>, containers: &[&str], path: &str, leader: &str) -> Result<()> {
    until(&format!("the status file of {leader} alone"), || {
        for pod in specimen.pods()? {
            for container in containers {
                let text = fs::read_to_string(file(specimen, name(&pod), container, path)?).unwrap_or_default();
                let said = text.lines().next().unwrap_or_default();
                let expected = if name(&pod) == leader { leader } else { "" };
                ensure!(said == expected, "{} in {}: {text:?}", path, name(&pod));
            }
        }
        Ok(())
    })
}

/// Puts the Lease on hold, or takes that back.
fn hold(specimen: &Specimen<'_>, on: bool) -> Result<()> {
    let change = if on { format!("{}=test", names::HOLD) } else { format!("{}-", names::HOLD) };
    specimen.stage.namespace.run(&["annotate", "lease", &specimen.name, &change]).map(drop)
}

#[test]
fn mode_ready_makes_the_leader_ready_and_nobody_else_and_the_users_readiness_counts() -> Result<()> {
    Stage::bare("mode-ready", &[], |stage| {
        let specimen = Specimen::new(stage, "ready")?;
        let pod = specimen.pod(&json!({
            "env": environment(&[("SPECIMEN_HTTP", "8080")]),
            "readinessProbe": {"httpGet": {"path": "/ok", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1},
            // Asked by the kubelet itself, through a program that it starts.
            "livenessProbe": {"exec": {"command": ["/specimen", "note", "alive"]}, "periodSeconds": 5, "timeoutSeconds": 20},
        }))?;
        let said = specimen.apply(&deployment(&specimen, 3, &pod, &[("leader.io/mode", "ready")]))?;
        ensure!(said.contains("informs and does not exclude") && !said.contains("cannot finish"), "{said}");
        run_everywhere(&specimen, 3)?;
        let first = holder_but(&specimen, "")?;
        alone_ready(&specimen, 3, &first)?;
        file_says(&specimen, &[CONTAINER], "/leader-status/leader", &first)?;

        // Whose app is not ready is no leader that traffic may go to, and nobody else is.
        let failing = format!("{FAILING}-{first}");
        specimen.tell(&failing)?;
        until("no ready pod", || {
            let ready: Vec<_> =
                specimen.pods()?.iter().filter(|pod| ready_since(pod).is_ok()).map(name).map(str::to_owned).collect();
            ensure!(ready.is_empty(), "{ready:?} are ready");
            Ok(())
        })?;
        ensure!(holder(&specimen)? == first, "an app that is not ready gave leadership away without being asked to");
        specimen.take_back(&failing)?;
        alone_ready(&specimen, 3, &first)?;

        // A person's hold, and its end: nobody is ready meanwhile, and no app is touched.
        hold(&specimen, true)?;
        until("no holder and no ready pod", || {
            let ready = specimen.pods()?.iter().filter(|pod| ready_since(pod).is_ok()).count();
            ensure!(holder(&specimen).is_err() && ready == 0, "{ready} are ready");
            Ok(())
        })?;
        hold(&specimen, false)?;
        let second = holder_but(&specimen, "")?;
        alone_ready(&specimen, 3, &second)?;
        ensure!(told_to_stop(&specimen)?.is_empty(), "{:?} were asked to stop", told_to_stop(&specimen)?);

        // The leader's pod goes: another one is ready, whose app has run all the time.
        stage.namespace.run(&["delete", "pod", &second, "--wait=false"])?;
        let third = holder_but(&specimen, &second)?;
        run_everywhere(&specimen, 3)?;
        alone_ready(&specimen, 3, &third)?;
        ensure!(told_to_stop(&specimen)?.iter().all(|pod| *pod == second), "others were asked to stop as well");
        for pod in specimen.pods()? {
            ensure!(restarts(&pod) == 0, "{} was restarted", name(&pod));
        }
        let noted = specimen.events()?.into_iter().filter_map(|event| match event.what {
            What::Note(text, _) => Some((event.pod, text)),
            _ => None,
        });
        let asked: std::collections::BTreeSet<_> = noted.map(|(pod, _)| pod).collect();
        ensure!(asked.len() >= 3, "liveness is asked of standbys as well, and was of {asked:?}");
        Ok(())
    })
}

#[test]
fn mode_ready_rolls_out_where_its_strategy_lets_it_and_says_so_where_not() -> Result<()> {
    Stage::bare("mode-ready-rollout", &[], |stage| {
        let specimen = Specimen::new(stage, "rolled")?;
        let pod = specimen.pod(&json!({}))?;
        let mut object = deployment(&specimen, 2, &pod, &[("leader.io/mode", "ready")]);
        object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
        let said = specimen.apply(&object)?;
        ensure!(said.contains("of 2 replicas with maxUnavailable 1 (1) 1 old ones stay"), "{said}");
        let first = holder_but(&specimen, "")?;
        alone_ready(&specimen, 2, &first)?;
        // As it was advised.
        object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}});
        object["spec"]["template"]["metadata"]["annotations"] = json!({"version": "2"});
        specimen.apply(&object)?;
        until("two pods of the new version, one of them ready", || {
            let pods = specimen.pods()?;
            let new: Vec<_> = pods.iter().filter(|pod| pod["metadata"]["annotations"]["version"] == "2").collect();
            let ready = new.iter().filter(|pod| ready_since(pod).is_ok()).count();
            ensure!(
                pods.len() == 2 && new.len() == 2 && ready == 1,
                "{} of {} are new, {ready} ready",
                new.len(),
                pods.len()
            );
            Ok(())
        })?;
        let second = holder(&specimen)?;
        alone_ready(&specimen, 2, &second)
    })
}

#[test]
fn mode_observe_tells_by_a_file_in_a_shared_folder_and_by_a_port_who_leads() -> Result<()> {
    const PATH: &str = "/tmp/leader_status";
    Stage::bare("mode-observe", &[], |stage| {
        let specimen = Specimen::new(stage, "observed")?;
        let mut pod = specimen.pod(&json!({}))?;
        // Another container, which sees the same file.
        let beside = json!({"name": "beside", "image": stage.image("leader-specimen")?, "command": ["/specimen"]});
        pod["containers"].as_array_mut().context("no list")?.push(beside);
        let options = [("leader.io/mode", "observe"), ("leader.io/status-file", PATH)];
        specimen.apply(&deployment(&specimen, 2, &pod, &options))?;
        specimen.wait_until_rolled_out("deployment")?;
        run_everywhere(&specimen, 2)?;
        let containers = [CONTAINER, "beside", names::INIT_CONTAINER];
        let first = holder_but(&specimen, "")?;
        file_says(&specimen, &containers, PATH, &first)?;
        for (_, process) in specimen.starts()? {
            ensure!(process.arguments == ["/specimen"], "the app is started as without us: {:?}", process.arguments);
            let ours: Vec<_> = process.environment.iter().filter(|variable| variable.starts_with("LEADER_")).collect();
            ensure!(ours.is_empty(), "its environment has {ours:?}");
        }
        for pod in specimen.pods()? {
            let path = format!("/api/v1/namespaces/{}/pods/{}:9809/proxy/leader", stage.namespace.name(), name(&pod));
            let answer: Value = serde_json::from_str(&stage.namespace.run(&["get", "--raw", &path])?)?;
            ensure!(answer["leading"] == (name(&pod) == first), "{} says {answer}", name(&pod));
        }

        // Killed, the observer says nothing any more, and the app goes on.
        stage.namespace.processes(&first, names::INIT_CONTAINER)?.agent()?.signal(Signal::KILL)?;
        let second = holder_but(&specimen, &first)?;
        file_says(&specimen, &containers, PATH, &second)?;
        ensure!(told_to_stop(&specimen)?.is_empty(), "{:?} were asked to stop", told_to_stop(&specimen)?);

        // Asked, it gives leadership away, and takes it up again: nobody's app is touched.
        hold(&specimen, true)?;
        until("no holder", || {
            ensure!(holder(&specimen).is_err(), "there is one");
            Ok(())
        })?;
        file_says(&specimen, &containers, PATH, "")?;
        hold(&specimen, false)?;
        let third = holder_but(&specimen, "")?;
        file_says(&specimen, &containers, PATH, &third)?;

        // The leader's pod goes: its observer ends after its app, and gives leadership away before that.
        stage.namespace.run(&["delete", "pod", &third, "--wait=false"])?;
        let fourth = holder_but(&specimen, &third)?;
        file_says(&specimen, &containers, PATH, &fourth)
    })
}

/// Pods whose app runs whoever leads are in the way of one that must run alone.
#[test]
fn from_mode_observe_to_run_nobody_leads_beside_a_pod_of_before() -> Result<()> {
    Stage::bare("mode-changed", &[], |stage| {
        let specimen = Specimen::new(stage, "changed")?;
        let pod = specimen.pod(&json!({"env": environment(&[("SPECIMEN_SHUTDOWN", "3")])}))?;
        let mut pod = pod;
        pod["terminationGracePeriodSeconds"] = 30.into();
        specimen.apply(&deployment(&specimen, 2, &pod, &[("leader.io/mode", "observe")]))?;
        run_everywhere(&specimen, 2)?;
        holder_but(&specimen, "")?;
        let before: Vec<String> = specimen.pods()?.iter().map(|pod| name(pod).to_owned()).collect();
        specimen.apply(&deployment(&specimen, 2, &pod, &[]))?;
        specimen.wait_until_rolled_out("deployment")?;
        let leader = specimen.leader_but(&before.iter().map(String::as_str).collect::<Vec<_>>())?;
        let first = until("the leader's app to say that it has begun", || {
            let starts = specimen.starts()?.into_iter();
            Ok(starts.map(|(event, _)| event).find(|event| event.pod == leader).context("it did not start")?.boot)
        })?;
        let events = specimen.events()?;
        let ended = events.iter().filter(|event| event.what == What::Ended && before.contains(&event.pod));
        let last = ended.map(|event| event.boot).max().context("nobody of before has ended")?;
        ensure!(first > last, "{leader} started its app before the last one of before had ended");
        Ok(())
    })
}
