//! Followers (`leader.io/follow`): containers that run with the leader's app, stop with it, and never outlive its lease.

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_specimen::event::{Event, What};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::specimen::{Specimen, environment, name, restarts};
use crate::stage::{Stage, until};
use crate::steering::{said, standbys};

/// The container that follows.
const FOLLOWER: &str = "beside";

/// A container that follows: its name, what it runs, and the variables of that.
type Follower<'a> = (&'a str, &'a Specimen<'a>, &'a [(&'a str, &'a str)]);

/// A pod in which these are beside the app, each a specimen of its own.
fn pod(app: &Specimen<'_>, followers: &[Follower<'_>]) -> Result<Value> {
    let mut pod = app.pod(&json!({}))?;
    for (name, follower, variables) in followers {
        let other = follower.pod(&json!({"env": environment(variables)}))?;
        let (mut container, mut volume) = (other["containers"][0].clone(), other["volumes"][0].clone());
        container["name"] = json!(name);
        container["volumeMounts"][0]["name"] = json!(name);
        volume["name"] = json!(name);
        pod["containers"].as_array_mut().context("no containers")?.push(container);
        pod["volumes"].as_array_mut().context("no volumes")?.push(volume);
    }
    pod["terminationGracePeriodSeconds"] = 30.into();
    Ok(pod)
}

/// A Deployment of two such pods, in which all beside the app follow it. Its lease is so long that leadership does not move by itself when
/// the machine is busy.
fn deployment(app: &Specimen<'_>, pod: &Value) -> Value {
    let mut object = app.deployment(2, pod);
    let beside = pod["containers"].as_array().into_iter().flatten().skip(1);
    let followers: Vec<&str> = beside.filter_map(|container| container["name"].as_str()).collect();
    let annotations = &mut object["metadata"]["annotations"];
    annotations[names::FOLLOW] = followers.join(",").into();
    annotations["leader.io/lease-duration"] = "30s".into();
    object
}

/// Waits until the follower was started so often in this pod; the newest start.
fn started(follower: &Specimen<'_>, pod: &str, times: usize) -> Result<Event> {
    until(&format!("start {times} of the follower in {pod}"), || {
        let starts = follower.starts()?.into_iter().map(|(event, _)| event).filter(|event| event.pod == pod);
        let starts: Vec<Event> = starts.collect();
        ensure!(starts.len() >= times, "there were {}", starts.len());
        starts.last().cloned().context("there was none")
    })
}

/// How often each was started so far.
fn counts(all: &[&Specimen<'_>]) -> Result<Vec<usize>> {
    all.iter().map(|specimen| Ok(specimen.starts()?.len())).collect()
}

/// Waits until all of these were started in a pod, which may have led before: after `known` starts of each, and nowhere else. When the
/// first of them was.
fn first_start(all: &[&Specimen<'_>], known: &[usize], pod: &str) -> Result<u64> {
    let first = until(&format!("app and followers in {pod}"), || {
        let mut first = u64::MAX;
        for (specimen, known) in all.iter().zip(known) {
            let starts = specimen.starts()?.into_iter().skip(*known).map(|(event, _)| event);
            let start = starts.filter(|event| event.pod == pod).min_by_key(|event| event.boot);
            first = first.min(start.with_context(|| format!("{} was not started", specimen.name))?.boot);
        }
        Ok(first)
    })?;
    for (specimen, known) in all.iter().zip(known) {
        let mut starts = specimen.starts()?.into_iter().skip(*known);
        let elsewhere = starts.find(|(event, _)| event.pod != pod);
        ensure!(elsewhere.is_none(), "{pod} leads, and it was started elsewhere: {elsewhere:?}");
    }
    Ok(first)
}

#[test]
fn followers_run_beside_the_leader_only_and_the_next_one_waits_for_their_end() -> Result<()> {
    Stage::bare("follow", &[], |stage| {
        let (app, follower) = (Specimen::new(stage, "followed")?, Specimen::new(stage, "follower")?);
        // It takes longer to stop than the app.
        let pod = pod(&app, &[(FOLLOWER, &follower, &[("SPECIMEN_SHUTDOWN", "1")])])?;
        app.apply(&deployment(&app, &pod))?;
        app.wait_until_rolled_out("deployment")?;
        let first = app.leader()?;
        started(&follower, &first, 1)?;
        let elsewhere: Vec<_> = follower.starts()?.into_iter().filter(|(event, _)| event.pod != first).collect();
        ensure!(elsewhere.is_empty(), "it runs on a standby: {elsewhere:?}");
        let (_, process) = follower.starts()?.into_iter().next().context("no start")?;
        let token = process.environment.iter().any(|variable| variable.starts_with("LEADER_FENCING_TOKEN="));
        ensure!(token && process.arguments == ["/specimen"], "{process:?}");

        // Asked to give leadership away, and then gone: each time the next leader starts after the follower's last word.
        for way in ["hold", "delete"] {
            let leader = app.leader()?;
            beside_the_leader_alone(&app, &[FOLLOWER], &leader)?;
            let before = started(&follower, &leader, 1)?;
            if way == "hold" {
                let lease = ["annotate", "lease", app.name.as_str()];
                let (on, off) = (format!("{}=test", names::HOLD), format!("{}-", names::HOLD));
                stage.namespace.run(&[&lease[..], &[on.as_str()]].concat())?;
                until("no holder", || {
                    let lease = stage.namespace.get(&["lease", &app.name])?;
                    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
                    ensure!(holder.is_empty(), "{holder} holds it");
                    Ok(())
                })?;
                let ended =
                    follower.events()?.iter().any(|event| event.what == What::Ended && event.boot > before.boot);
                ensure!(ended, "released, and the follower has not ended");
                stage.namespace.run(&[&lease[..], &[off.as_str()]].concat())?;
                continue;
            }
            let all = [&app, &follower];
            let known = counts(&all)?;
            stage.namespace.run(&["delete", "pod", &leader, "--wait=false"])?;
            let next = app.leader_but(&[&leader])?;
            let start = first_start(&all, &known, &next)?;
            let ends = follower.events()?.into_iter().filter(|event| event.pod == leader && event.what == What::Ended);
            let end = ends.map(|event| event.boot).max().context("the follower did not end by itself")?;
            ensure!(start > end, "{next} began {} ns before the follower of {leader} had ended", end - start);
        }
        Ok(())
    })
}

#[test]
fn a_follower_that_is_killed_runs_again_and_one_whose_leader_is_killed_does_not() -> Result<()> {
    Stage::bare("follow-killed", &[], |stage| {
        let (app, follower) = (Specimen::new(stage, "struck")?, Specimen::new(stage, "strikes")?);
        app.apply(&deployment(&app, &pod(&app, &[(FOLLOWER, &follower, &[])])?))?;
        app.wait_until_rolled_out("deployment")?;
        let first = app.leader()?;
        started(&follower, &first, 1)?;
        stage.namespace.processes(&first, FOLLOWER)?.stub()?.signal(Signal::KILL)?;
        started(&follower, &first, 2)?;
        ensure!(app.leader()? == first && app.starts()?.len() == 1, "leadership moved: {:?}", app.starts()?);

        // The stub's end is the app's, and no report of the follower's.
        stage.namespace.processes(&first, crate::specimen::CONTAINER)?.stub()?.signal(Signal::KILL)?;
        let again =
            |pod: &str| Ok::<_, anyhow::Error>(app.starts()?.iter().filter(|(event, _)| event.pod == pod).count());
        until("another start of the app, here or there", || {
            ensure!(app.starts()?.len() >= 2, "{} in {first}", again(&first)?);
            Ok(())
        })?;
        let leader = app.leader()?;
        started(&follower, &leader, if leader == first { 3 } else { 1 })?;
        beside_the_leader_alone(&app, &[FOLLOWER], &leader)
    })
}

/// Waits until these followers run in the leader's pod, and in no other one.
fn beside_the_leader_alone(app: &Specimen<'_>, followers: &[&str], leader: &str) -> Result<()> {
    until(&format!("{followers:?} beside {leader} alone"), || {
        for pod in app.pods()? {
            for follower in followers {
                let runs = !app.stage.namespace.processes(name(&pod), follower)?.app().is_empty();
                let is_right = runs == (name(&pod) == leader);
                ensure!(is_right, "{follower} in {}: {runs} ({} restarts)", name(&pod), restarts(&pod));
            }
        }
        Ok(())
    })
}

#[test]
fn two_followers_run_beside_the_leader_only_and_the_next_one_waits_for_the_last_word_of_both() -> Result<()> {
    Stage::bare("follow-two", &[], |stage| {
        let app = Specimen::new(stage, "followed")?;
        let (quick, slow) = (Specimen::new(stage, "quick")?, Specimen::new(stage, "slow")?);
        let pod = pod(&app, &[("one", &quick, &[]), ("two", &slow, &[("SPECIMEN_SHUTDOWN", "1")])])?;
        app.apply(&deployment(&app, &pod))?;
        app.wait_until_rolled_out("deployment")?;
        let all = [&app, &quick, &slow];
        for way in ["step-down", "delete"] {
            let leader = app.leader()?;
            beside_the_leader_alone(&app, &["one", "two"], &leader)?;
            for follower in [&quick, &slow] {
                started(follower, &leader, 1)?;
            }
            let known = counts(&all)?;
            if way == "step-down" {
                standbys(stage, &app.name, 1)?;
                said(stage, "step-down", &[&app.name])?;
            } else {
                stage.namespace.run(&["delete", "pod", &leader, "--wait=false"])?;
            }
            let next = app.leader_but(&[&leader])?;
            let start = first_start(&all, &known, &next)?;
            for follower in [&quick, &slow] {
                let events = follower.events()?.into_iter().filter(|event| event.pod == leader);
                let last = events.max_by_key(|event| event.boot).context("it left no events")?;
                let name = &follower.name;
                ensure!(last.what == What::Ended, "{way}: the last word of {name} in {leader} was {:?}", last.what);
                ensure!(last.boot < start, "{way}: {next} began {} ns before {name} had ended", last.boot - start);
            }
        }
        Ok(())
    })
}
