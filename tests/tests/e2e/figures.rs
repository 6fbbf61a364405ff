//! What the agent costs: memory, size, requests, and the time of a hand-over.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::clock;
use leader_tests::kit::{PodProcess, Request};
use leader_tests::progress::say;
use serde_json::Value;

use crate::stage::{Stage, long, until};
use crate::workload::Workload;
use crate::writer::Writer;

const MEGABYTE: u64 = 1_000_000;

/// The sum of some lines of a file in /proc, in bytes.
fn memory(process: &PodProcess, file: &str, fields: &[&str]) -> Result<u64> {
    let path = format!("/proc/{}/{file}", process.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kilobytes = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(':')?;
        fields.contains(&name).then(|| value.split_whitespace().next()?.parse().ok())?
    };
    let found: Vec<u64> = text.lines().filter_map(kilobytes).collect();
    ensure!(found.len() == fields.len(), "{path} has not all of {fields:?}: {text}");
    Ok(found.iter().sum::<u64>() * 1024)
}

#[test]
fn stub_and_agent_are_small() -> Result<()> {
    const PRIVATE: [&str; 2] = ["Private_Clean", "Private_Dirty"];
    Stage::test("size", |stage| {
        let workload = stage.start(&Writer::new("small").replicas(2).elected())?;
        let leader = workload.leading()?.writer.pod;
        for pod in workload.ready_pods()? {
            let processes = workload.processes(&pod)?;
            let (stub, agent) = (processes.stub()?, processes.agent()?);
            let binary = fs::metadata(format!("/proc/{}/exe", agent.pid))?.len();
            let resident = memory(agent, "status", &["VmRSS"])?;
            let private = memory(stub, "smaps_rollup", &PRIVATE)? + memory(agent, "smaps_rollup", &PRIVATE)?;
            let role = if pod == leader { "leader" } else { "standby" };
            say(format!(
                "{role}: binary {binary} bytes, agent's RSS {resident}, private memory of stub and agent {private}"
            ));
            ensure!(binary <= 6 * MEGABYTE, "the binary has {binary} bytes");
            ensure!(resident <= 6 * MEGABYTE, "the agent of the {role} has {resident} bytes in memory");
            ensure!(private <= 3 * MEGABYTE, "stub and agent of the {role} have {private} bytes of their own");
        }
        let image = stage.image("leader-agent")?;
        // The kubelet reports its images every few seconds.
        let bytes = until("the agent's image among those of the node", || {
            let nodes = stage.namespace.cluster().get(&["nodes"])?;
            let images = nodes["items"][0]["status"]["images"].as_array().context("a node without images")?;
            let named = |entry: &&Value| entry["names"].as_array().is_some_and(|names| names.contains(&image.into()));
            let entry = images.iter().find(named).with_context(|| format!("{image} is not there"))?;
            entry["sizeBytes"].as_u64().context("no size")
        })?;
        say(format!("image: {bytes} bytes"));
        ensure!(bytes <= 6 * MEGABYTE, "the image has {bytes} bytes");
        Ok(())
    })
}

#[test]
fn a_standby_asks_the_api_server_at_most_twice_in_five_minutes() -> Result<()> {
    let window = if long() { Duration::from_mins(5) } else { Duration::from_mins(1) };
    Stage::test("quiet", |stage| {
        let workload = stage.start(&Writer::new("quiet").replicas(3).lease_seconds(15))?;
        let leader = workload.leading()?.writer.pod;
        let user = format!("system:serviceaccount:{}:leader-quiet", stage.namespace.name());
        let requests = || stage.namespace.cluster().requests_of(&user);
        let before = requests()?.len();
        std::thread::sleep(window);
        let after = requests()?;
        let asked_by = |pod: &str| -> Vec<_> {
            after[before..].iter().filter(|request| request.pod.as_deref() == Some(pod)).collect()
        };
        ensure!(!asked_by(&leader).is_empty(), "the leader's renewals are not in the audit log");
        for pod in workload.ready_pods()?.iter().filter(|pod| **pod != leader) {
            let asked = asked_by(pod);
            say(format!("standby {pod}: {} requests in {window:?}", asked.len()));
            ensure!(asked.len() <= 2, "{pod} asked {} times in {window:?}: {asked:#?}", asked.len());
        }
        Ok(())
    })
}

/// One hand-over: from the API server's receipt of the leader's release to the next app's first instruction.
fn hand_over(workload: &Workload<'_>, user: &str) -> Result<Duration> {
    let stage = workload.stage;
    let leader = workload.leading()?;
    stage.namespace.run(&["delete", "pod", &leader.writer.pod, "--wait=false"])?;
    let (_, new) = workload.led_after(&leader)?;
    let wall_minus_boot = i128::from(clock::wall()) - i128::from(clock::boot()?);
    let last_write = || -> Result<jiff::Timestamp> {
        let requests = stage.namespace.cluster().requests_of(user)?;
        let of_leader =
            |request: &&Request| request.verb == "update" && request.pod.as_deref() == Some(&leader.writer.pod);
        let release = requests.iter().rfind(of_leader).context("no release")?;
        Ok(release.time.parse()?)
    };
    let release = last_write()?.as_nanosecond() - wall_minus_boot;
    let took = i128::from(new.first) - release;
    let took = Duration::from_nanos(u64::try_from(took).context("the new app started before the release")?);
    until("three ready pods", || {
        let ready = workload.ready_pods()?;
        ensure!(ready.len() == 3, "{ready:?} are ready");
        Ok(())
    })?;
    Ok(took)
}

/// Fast, but no promise on a busy machine: the figure is printed, and judged in the long run only.
#[test]
fn a_hand_over_takes_milliseconds() -> Result<()> {
    Stage::alone("hand-over", |stage| {
        let workload = stage.start(&Writer::new("relay").lease_seconds(15))?;
        let user = format!("system:serviceaccount:{}:leader-relay", stage.namespace.name());
        let count = if long() { 50 } else { 5 };
        let mut times = (0..count).map(|_| hand_over(&workload, &user)).collect::<Result<Vec<_>>>()?;
        times.sort();
        let (shortest, median, longest) = (times[0], times[count / 2], times[count - 1]);
        say(format!("{count} hand-overs: shortest {shortest:.1?}, median {median:.1?}, longest {longest:.1?}"));
        workload.never_two(count + 1)?;
        ensure!(longest < Duration::from_secs(2), "a hand-over waited for the Lease to run out: {times:?}");
        ensure!(
            !long() || median <= Duration::from_millis(20),
            "the median of {count} hand-overs is {median:?}: {times:?}"
        );
        Ok(())
    })
}
