//! Probes, hooks and stop signals: what the kubelet asks is answered for the app on the leader, and for the agent on a standby.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use leader_agent::names;
use leader_specimen::event::{Event, What};
use leader_specimen::options::{DEAF, FAILING};
use leader_tests::image::{Format, Image};
use serde_json::{Value, json};

use crate::specimen::{CONTAINER, Specimen, environment, name, ready_since, restarts, watched};
use crate::stage::{Stage, until};

/// The ports of the specimen.
const PORTS: [(&str, &str); 4] =
    [("SPECIMEN_HTTP", "8080"), ("SPECIMEN_HTTPS", "8443"), ("SPECIMEN_TCP", "7000"), ("SPECIMEN_GRPC", "9000")];

/// What a probe may ask, by a name for it.
fn handlers() -> Vec<(&'static str, Value)> {
    let headers = json!([
        {"name": "X-Demanded", "value": "yes"}, {"name": "Host", "value": "specimen.example"},
        {"name": "X-Twice", "value": "1"}, {"name": "X-Twice", "value": "2"},
    ]);
    vec![
        ("http", json!({"httpGet": {"path": "/headers", "port": "web", "httpHeaders": headers}})),
        ("redirect", json!({"httpGet": {"path": "/redirect", "port": 8080}})),
        ("away", json!({"httpGet": {"path": "/redirect/away", "port": 8080}})),
        ("https", json!({"httpGet": {"path": "/ok", "port": 8443, "scheme": "HTTPS"}})),
        ("tcp", json!({"tcpSocket": {"port": 7000}})),
        ("grpc", json!({"grpc": {"port": 9000, "service": "specimen"}})),
        ("exec", json!({"exec": {"command": ["/specimen", "check"]}})),
    ]
}

/// A probe every second that fails after three.
fn probe(handler: &Value) -> Value {
    let mut probe = json!({"periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 3});
    json_patch::merge(&mut probe, handler);
    probe
}

/// A container with all ports, and these fields.
fn container(fields: &Value) -> Value {
    let mut container = json!({
        "env": environment(&PORTS),
        "ports": [{"name": "web", "containerPort": 8080}],
    });
    json_patch::merge(&mut container, fields);
    container
}

/// As [`probe`], for as long as an app may take to begin on a busy machine.
fn startup_probe(handler: &Value) -> Value {
    let mut startup = probe(handler);
    startup["failureThreshold"] = json!(60);
    startup
}

/// A container with all three probes of one kind.
fn probed(handler: &Value) -> Value {
    let probe = probe(handler);
    container(&json!({"startupProbe": startup_probe(handler), "livenessProbe": probe, "readinessProbe": probe}))
}

/// Fails unless every pod that was seen ready has been so ever since, and was never restarted. Gives the pods that are ready.
fn stayed_ready(specimen: &Specimen<'_>, seen: &mut BTreeMap<String, String>) -> Result<usize> {
    let mut ready = 0;
    for pod in specimen.pods()? {
        ensure!(restarts(&pod) == 0, "{} was restarted: {:#}", name(&pod), pod["status"]);
        let since = match ready_since(&pod) {
            Ok(since) => since.to_owned(),
            // One that was made a moment ago.
            Err(_) if !seen.contains_key(name(&pod)) => continue,
            Err(error) => return Err(error),
        };
        ready += 1;
        let known = seen.entry(name(&pod).to_owned()).or_insert_with(|| since.clone());
        ensure!(*known == since, "{} was ready since {known}, now since {since}", name(&pod));
    }
    Ok(ready)
}

#[test]
fn probes_of_every_kind_pass_on_leader_and_standby_through_a_fail_over() -> Result<()> {
    Stage::bare("probes", &[], |stage| {
        let mut specimens = Vec::new();
        for (kind, handler) in handlers() {
            let specimen = Specimen::new(stage, kind)?;
            let pod = specimen.pod(&probed(&handler))?;
            specimen.apply(&specimen.deployment(2, &pod))?;
            specimens.push(specimen);
        }
        let mut leaders = BTreeMap::new();
        let mut seen = vec![BTreeMap::new(); specimens.len()];
        for specimen in &specimens {
            specimen.wait_until_rolled_out("deployment")?;
            leaders.insert(&specimen.name, specimen.leader()?);
        }
        let watch = |specimens: &[Specimen<'_>], seen: &mut [BTreeMap<String, String>]| -> Result<()> {
            let started = Instant::now();
            while started.elapsed() < watched() / 2 {
                for (specimen, seen) in specimens.iter().zip(&mut *seen) {
                    stayed_ready(specimen, seen).with_context(|| specimen.name.clone())?;
                }
                thread::sleep(Duration::from_millis(500));
            }
            Ok(())
        };
        watch(&specimens, &mut seen)?;
        for specimen in &specimens {
            stage.namespace.run(&["delete", "pod", &leaders[&specimen.name], "--wait=false"])?;
        }
        for (specimen, seen) in specimens.iter().zip(&mut seen) {
            let old = &leaders[&specimen.name];
            let new = specimen.leader_but(&[old])?;
            ensure!(seen.contains_key(&new), "{new} leads, and was no standby: {seen:?}");
        }
        watch(&specimens, &mut seen)?;
        for (specimen, seen) in specimens.iter().zip(&mut seen) {
            until("both pods to be ready", || {
                let ready = stayed_ready(specimen, seen)?;
                ensure!(ready == 2, "{ready} are ready");
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// What a specimen was asked, with everything that differs from pod to pod taken out.
fn questions(specimen: &Specimen<'_>, addresses: &BTreeMap<String, String>) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for event in specimen.events()? {
        let mut what = event.what;
        match &mut what {
            What::Check(process) => {
                process.environment.retain(|variable| {
                    ["LEADER_", "HOSTNAME=", "POD_NAME="].iter().all(|prefix| !variable.starts_with(prefix))
                });
                // The kubelet leaves the order to chance.
                process.environment.sort();
            }
            What::Health { headers, .. } => {
                // What libraries add of their own, the time that is left among it, which differs each time.
                const OWN: [&str; 3] = ["content-length", "grpc-accept-encoding", "grpc-timeout"];
                headers.retain(|name, _| !OWN.contains(&name.as_str()));
                if let Some(agent) = headers.get_mut("user-agent") {
                    agent.truncate(agent.find(' ').unwrap_or(agent.len()));
                }
            }
            What::Request { .. } | What::Connection => {}
            _ => continue,
        }
        let text = serde_json::to_string(&what)?;
        let address = addresses.get(&event.pod).map_or("none", String::as_str);
        all.insert(text.replace(address, "ADDRESS"));
    }
    Ok(all)
}

/// The addresses of a specimen's pods.
fn addresses(specimen: &Specimen<'_>) -> Result<BTreeMap<String, String>> {
    let address = |pod: &Value| Some((name(pod).to_owned(), pod["status"]["podIP"].as_str()?.to_owned()));
    Ok(specimen.pods()?.iter().filter_map(address).collect())
}

#[test]
fn the_agent_asks_as_the_kubelet_does() -> Result<()> {
    Stage::bare("asks", &[], |stage| {
        let mut pairs = Vec::new();
        for (kind, handler) in handlers() {
            // One kind of probe is enough, and readiness is asked as long as the app runs.
            let ask = |specimen: &Specimen<'_>, elected: bool| -> Result<()> {
                let pod = specimen.pod(&container(&json!({"readinessProbe": probe(&handler)})))?;
                let mut deployment = specimen.deployment(1, &pod);
                if !elected {
                    deployment["metadata"].as_object_mut().context("no metadata")?.remove("annotations");
                }
                specimen.apply(&deployment).map(drop)
            };
            let (plain, elected) = (Specimen::new(stage, &format!("{kind}-plain"))?, Specimen::new(stage, kind)?);
            ask(&plain, false)?;
            ask(&elected, true)?;
            pairs.push((plain, elected));
        }
        for (plain, elected) in &pairs {
            let ready = |specimen: &Specimen<'_>| -> Result<BTreeSet<String>> {
                // Its address is known by then.
                let pod = specimen.pods()?.into_iter().next().context("no pod")?;
                ready_since(&pod)?;
                let asked = questions(specimen, &addresses(specimen)?)?;
                ensure!(!asked.is_empty(), "{} was asked nothing", specimen.name);
                Ok(asked)
            };
            // One question may be several requests, of which the last one is not written down yet.
            until("the same questions", || {
                let (kubelets, agents) = (ready(plain)?, ready(elected)?);
                ensure!(kubelets == agents, "{}: the kubelet asks {kubelets:#?}, the agent {agents:#?}", elected.name);
                Ok(())
            })?;
        }
        Ok(())
    })
}

#[test]
fn an_app_whose_liveness_fails_is_restarted_and_leadership_moves() -> Result<()> {
    Stage::bare("liveness", &[], |stage| {
        let specimen = Specimen::new(stage, "liveness")?;
        let handler = json!({"httpGet": {"path": "/ok", "port": 8080}});
        let pod = specimen.pod(&container(&json!({"livenessProbe": probe(&handler)})))?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        specimen.wait_until_rolled_out("deployment")?;
        let leader = specimen.leader()?;
        let file = format!("{FAILING}-{leader}");
        specimen.tell(&file)?;
        let next = specimen.leader_but(&[&leader])?;
        until("the container to be restarted", || {
            let pod = stage.namespace.get(&["pod", &leader])?;
            ensure!(restarts(&pod) > 0, "{:#}", pod["status"]["containerStatuses"]);
            ready_since(&pod).map(drop)
        })?;
        // The kubelet's reason, as a person would look for it.
        until("an Event of the kubelet", || {
            let events = stage.namespace.run(&["get", "events", "--field-selector", "reason=Unhealthy"])?;
            ensure!(events.contains("Liveness probe failed"), "{events}");
            Ok(())
        })?;
        ensure!(restarts(&stage.namespace.get(&["pod", &next])?) == 0, "{next} was restarted, too");
        Ok(())
    })
}

#[test]
fn an_app_that_never_starts_gives_leadership_away() -> Result<()> {
    Stage::bare("deaf", &[], |stage| {
        let specimen = Specimen::new(stage, "deaf")?;
        let startup = probe(&json!({"httpGet": {"path": "/ok", "port": 8080}}));
        let pod = specimen.pod(&container(&json!({"startupProbe": startup, "livenessProbe": startup})))?;
        specimen.tell(DEAF)?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        let started_in = || -> Result<Vec<String>> {
            let mut pods: Vec<_> = specimen.starts()?.into_iter().map(|(event, _)| event.pod).collect();
            pods.dedup();
            Ok(pods)
        };
        until("another pod to try after the first", || {
            let pods = started_in()?;
            ensure!(pods.len() >= 2, "it was started in {pods:?}");
            Ok(())
        })?;
        specimen.take_back(DEAF)?;
        specimen.wait_until_rolled_out("deployment")?;
        let leader = until("the leader's app to listen", || {
            let leader = specimen.leader()?;
            let is_life =
                |what: &What| matches!(what, What::Started(_) | What::Listening | What::Signal(_) | What::Ended);
            let lives = specimen.events()?.into_iter().filter(|event| event.pod == leader && is_life(&event.what));
            // One that begins to listen as it is given up is told to stop.
            let newest = lives.max_by_key(|event| event.boot).context("the leader left no events")?;
            ensure!(newest.what == What::Listening, "{newest:?}");
            Ok(leader)
        })?;
        let starts = specimen.starts()?.len();
        // Longer than it would take to give up once more.
        thread::sleep(Duration::from_secs(10));
        ensure!(specimen.leader()? == leader, "the app listens, and leadership moved on from {leader}");
        ensure!(specimen.starts()?.len() == starts, "the app was started again");
        Ok(())
    })
}

/// After a promotion the app has as long to start as its startup probe gives it, and is not ready before.
#[test]
fn a_slow_start_is_waited_for_after_a_promotion() -> Result<()> {
    Stage::bare("slow", &[], |stage| {
        let specimen = Specimen::new(stage, "slow")?;
        let fast = probe(&json!({"httpGet": {"path": "/ok", "port": 8080}}));
        let mut patient = fast.clone();
        patient["failureThreshold"] = json!(60);
        let variables = [PORTS.as_slice(), &[("SPECIMEN_LISTEN_AFTER", "8")]].concat();
        let pod = specimen.pod(&container(&json!({
            "env": environment(&variables),
            "startupProbe": patient, "livenessProbe": fast, "readinessProbe": fast,
        })))?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        specimen.wait_until_rolled_out("deployment")?;
        let old = specimen.leader()?;
        let pods = specimen.pods()?;
        let standby = pods.iter().find(|pod| name(pod) != old).context("no standby")?;
        let (standby, since) = (name(standby).to_owned(), ready_since(standby)?.to_owned());
        stage.namespace.run(&["delete", "pod", &old, "--wait=false"])?;
        let new = specimen.leader_but(&[&old])?;
        ensure!(new == standby, "{new} leads, not {standby}");
        until("the new leader's app to listen", || {
            let events = specimen.events()?;
            ensure!(events.iter().any(|event| event.pod == new && event.what == What::Listening), "it does not yet");
            Ok(())
        })?;
        // Told by the time of the last change: a busy kubelet reports it late.
        until("the new leader to be ready again", || {
            let pod = stage.namespace.get(&["pod", &new])?;
            ensure!(
                ready_since(&pod)? != since,
                "{new} was ready all the time, although its app did not listen for 8 s"
            );
            Ok(())
        })?;
        for pod in specimen.pods()? {
            ensure!(restarts(&pod) == 0, "{} was restarted", name(&pod));
        }
        Ok(())
    })
}

#[test]
fn a_rollout_to_pods_without_a_way_to_the_api_server_stops_with_the_old_pods_running() -> Result<()> {
    Stage::bare_alone("no-way", |stage| {
        let specimen = Specimen::new(stage, "no-way")?;
        let pod = specimen.pod(&container(&json!({})))?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        specimen.wait_until_rolled_out("deployment")?;
        let leader = specimen.leader()?;
        let old: BTreeSet<String> = specimen.pods()?.iter().map(|pod| name(pod).to_owned()).collect();
        let starts = specimen.starts()?.len();

        let cut = stage.namespace.cluster().cut_new_pods_from_api_server()?;
        stage.namespace.run(&["set", "env", "deployment/no-way", "CHANGED=yes"])?;
        let new = until("a pod of the new template that runs", || {
            let pods = specimen.pods()?;
            let new = pods.iter().find(|pod| !old.contains(name(pod))).context("there is none")?;
            ensure!(!stage.namespace.processes(name(new), CONTAINER)?.0.is_empty(), "it does not run yet");
            Ok(name(new).to_owned())
        })?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(30) {
            let pods = specimen.pods()?;
            for pod in pods.iter().filter(|pod| old.contains(name(pod))) {
                ready_since(pod)?;
            }
            let left = pods.iter().filter(|pod| old.contains(name(pod))).count();
            ensure!(left == old.len(), "{left} of the old pods are left");
            let cut_off = pods.iter().find(|pod| name(pod) == new).with_context(|| format!("{new} is gone"))?;
            ensure!(ready_since(cut_off).is_err(), "{new} is ready, and can never lead");
            ensure!(specimen.leader()? == leader, "leadership moved");
            thread::sleep(Duration::from_millis(500));
        }
        ensure!(specimen.starts()?.len() == starts, "the app was started again");
        cut.heal()?;
        specimen.wait_until_rolled_out("deployment")?;
        ensure!(!old.contains(&specimen.leader()?), "an old pod leads");
        Ok(())
    })
}

/// The hooks and signals that a pod's app has seen, in order.
fn story(specimen: &Specimen<'_>, pod: &str) -> Result<Vec<String>> {
    let mut story = Vec::new();
    for event in specimen.events()?.into_iter().filter(|event| event.pod == pod) {
        match event.what {
            What::Started(_) => story.push("started".to_owned()),
            What::Note(text, _) => story.push(text),
            What::Request { path, .. } => story.push(path),
            What::Signal(signal) => story.push(signal),
            What::Ended => story.push("ended".to_owned()),
            _ => {}
        }
    }
    Ok(story)
}

fn wait_until_gone(stage: &Stage, pod: &str) -> Result<Duration> {
    let started = Instant::now();
    stage.namespace.run(&["delete", "pod", pod, "--wait=false"])?;
    until(&format!("pod {pod} to be gone"), || {
        let got = stage.namespace.kubectl(&["get", "pod", pod]).output()?;
        if got.stderr.contains("NotFound") { Ok(()) } else { bail!("{}", got.stdout) }
    })?;
    Ok(started.elapsed())
}

#[test]
fn hooks_run_with_the_app_and_only_there() -> Result<()> {
    Stage::bare("hooks", &[], |stage| {
        for (kind, pre_stop, noted) in [
            ("exec", json!({"exec": {"command": ["/specimen", "note", "before the end"]}}), "before the end"),
            ("http", json!({"httpGet": {"path": "/before-the-end", "port": "web"}}), "/before-the-end"),
        ] {
            let specimen = Specimen::new(stage, kind)?;
            let post_start = json!({"exec": {"command": ["/specimen", "note", "after the start"]}});
            let lifecycle = json!({"postStart": post_start, "preStop": pre_stop});
            let mut pod = specimen.pod(&container(&json!({"lifecycle": lifecycle})))?;
            pod["terminationGracePeriodSeconds"] = json!(30);
            specimen.apply(&specimen.deployment(2, &pod))?;
            specimen.wait_until_rolled_out("deployment")?;
            let leader = specimen.leader()?;
            let pods = specimen.pods()?;
            let standby = pods.iter().map(name).find(|pod| *pod != leader).context("no standby")?.to_owned();
            until("the hook after the start, and an app that can be asked", || {
                let seen = story(&specimen, &leader)?;
                ensure!(seen.contains(&"after the start".to_owned()), "{seen:?}");
                let is_its = |event: &Event| event.pod == leader && event.what == What::Listening;
                ensure!(specimen.events()?.iter().any(is_its), "it does not listen");
                Ok(())
            })?;
            ensure!(story(&specimen, &standby)?.is_empty(), "the standby: {:?}", story(&specimen, &standby)?);

            wait_until_gone(stage, &leader)?;
            let mut seen = story(&specimen, &leader)?;
            // These two are at the same time, as with the kubelet.
            seen[..2].sort();
            let expected = ["after the start", "started", noted, "SIGTERM", "ended"];
            ensure!(seen == expected, "{kind}: the leader saw {seen:?}, not {expected:?}");
            let promoted = specimen.leader_but(&[&leader])?;
            ensure!(promoted == standby, "{promoted} leads, not the standby {standby}");
            until("the hook after the start on the new leader", || {
                let seen = story(&specimen, &promoted)?;
                ensure!(seen.contains(&"after the start".to_owned()), "{seen:?}");
                Ok(())
            })?;
            specimen.wait_until_rolled_out("deployment")?;
            let other = specimen.pods()?.iter().map(|pod| name(pod).to_owned()).find(|pod| *pod != promoted);
            let other = other.context("no second pod")?;
            let took = wait_until_gone(stage, &other)?;
            ensure!(took < Duration::from_secs(20), "the standby took {took:?} to end");
            ensure!(story(&specimen, &other)?.is_empty(), "hooks ran on the standby: {:?}", story(&specimen, &other)?);
        }
        Ok(())
    })
}

#[test]
fn the_images_stop_signal_ends_a_standby_at_once_and_reaches_the_leaders_app() -> Result<()> {
    /// Long enough that nobody would confuse it with an end at once.
    const GRACE: u64 = 300;
    /// What an end at once may take on a busy machine.
    const AT_ONCE: Duration = Duration::from_secs(20);
    Stage::bare("stop-signal", &[], |stage| {
        for (signal, written) in [("QUIT", "SIGQUIT"), ("WINCH", "28"), ("USR1", "usr1")] {
            let registry = stage.namespace.cluster().image_registry();
            let image = Image::from(&registry, stage.image("leader-specimen")?)?;
            let config = json!({"Entrypoint": ["/specimen"], "StopSignal": written});
            let reference = image.configured(config).push(
                &registry,
                &format!("stop/{}:1", signal.to_lowercase()),
                Format::Docker,
            )?;
            let specimen = Specimen::new(stage, &signal.to_lowercase())?;
            let environment = environment(&[("SPECIMEN_STOP", signal)]);
            let mut pod = specimen.pod(&json!({"image": reference, "command": null, "env": environment}))?;
            pod["terminationGracePeriodSeconds"] = json!(GRACE);
            specimen.apply(&specimen.deployment(2, &pod))?;
            specimen.wait_until_rolled_out("deployment")?;
            let leader = specimen.leader()?;
            let pods = specimen.pods()?;
            let standby = pods.iter().map(name).find(|pod| *pod != leader).context("no standby")?.to_owned();
            let took = wait_until_gone(stage, &standby)?;
            ensure!(took < AT_ONCE, "{signal}: the standby took {took:?}");
            let took = wait_until_gone(stage, &leader)?;
            ensure!(took < AT_ONCE, "{signal}: the leader took {took:?}");
            let seen = story(&specimen, &leader)?;
            ensure!(seen == ["started".to_owned(), format!("SIG{signal}"), "ended".to_owned()], "{seen:?}");
        }
        Ok(())
    })
}

#[test]
fn two_replicas_share_a_node_and_its_network() -> Result<()> {
    Stage::bare("host-network", &[], |stage| {
        let specimen = Specimen::new(stage, "host-network")?;
        let handler = json!({"httpGet": {"path": "/ok", "port": 18080}});
        let (probe, startup) = (probe(&handler), startup_probe(&handler));
        let environment = environment(&[("SPECIMEN_HTTP", "18080")]);
        let container = json!({
            "env": environment, "readinessProbe": probe, "livenessProbe": probe, "startupProbe": startup,
        });
        let mut pod = specimen.pod(&container)?;
        pod["hostNetwork"] = json!(true);
        specimen.apply(&specimen.deployment(2, &pod))?;
        specimen.wait_until_rolled_out("deployment")?;
        let leader = specimen.leader()?;
        let mut seen = BTreeMap::new();
        ensure!(stayed_ready(&specimen, &mut seen)? == 2, "{seen:?}");
        stage.namespace.run(&["delete", "pod", &leader, "--wait=false"])?;
        let next = specimen.leader_but(&[&leader])?;
        ensure!(seen.contains_key(&next), "{next} was no standby");
        until("both pods to be ready, and the app to be asked", || {
            let ready = stayed_ready(&specimen, &mut seen)?;
            ensure!(ready == 2, "{ready} are ready");
            let asked = |event: &Event| event.pod == next && matches!(event.what, What::Request { .. });
            ensure!(specimen.events()?.iter().any(asked), "nobody asks the app on {next}");
            Ok(())
        })
    })
}

/// A container without a readiness probe gets one, which follows the Lease and nothing else.
#[test]
fn a_container_without_probes_is_ready_as_leader_and_standby() -> Result<()> {
    Stage::bare("without", &[], |stage| {
        let specimen = Specimen::new(stage, "without")?;
        let pod = specimen.pod(&json!({}))?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        specimen.wait_until_rolled_out("deployment")?;
        let template = stage.namespace.get(&["deployment", "without"])?["spec"]["template"].clone();
        let probe = &template["spec"]["containers"][0]["readinessProbe"];
        let path = probe["httpGet"]["path"].as_str().unwrap_or_default();
        ensure!(path == format!("{}{}", names::PROBE_PATH, names::probe::READINESS), "{probe:#}");
        let mut seen = BTreeMap::new();
        ensure!(stayed_ready(&specimen, &mut seen)? == 2, "{seen:?}");
        Ok(())
    })
}
