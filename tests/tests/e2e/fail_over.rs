//! A leader that cannot give leadership back: as soon as its end is proved another one leads, and without that proof never before L.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leader_ledger::clock;
use leader_tests::progress::say;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::{Stage, long, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// L in these tests, in seconds: what it takes without a proof.
const LEASE: u32 = 15;
/// The goal for the median, with a proof.
const GOAL: Duration = Duration::from_secs(2);
/// How far apart the wall clock and the boot clock may drift within L.
const DRIFT: Duration = Duration::from_millis(50);

fn writer(name: &str) -> Writer {
    Writer::new(name).replicas(2).stop_seconds(1).lease_seconds(LEASE)
}

/// Ends agent and app at once, as the kernel does for want of memory: neither can say anything.
fn kill_all(workload: &Workload<'_>, pod: &str) -> Result<()> {
    let processes = workload.processes(pod)?;
    // With the agent the app has seconds to live, and by its own end it would be released.
    processes.agent()?.signal(Signal::KILL)?;
    // It may be gone with the agent already.
    processes.app().into_iter().for_each(|app| drop(app.signal(Signal::KILL)));
    Ok(())
}

fn wait_for_both(workload: &Workload<'_>) -> Result<()> {
    until("both pods to be ready", || {
        let ready = workload.ready_pods()?;
        ensure!(ready.len() == 2, "{ready:?} are ready");
        Ok(())
    })
}

/// When the Lease was renewed last, on the boot clock, in nanoseconds.
fn renewed(workload: &Workload<'_>) -> Result<u64> {
    let lease = workload.lease()?;
    let text = lease["spec"]["renewTime"].as_str().context("no renewTime")?;
    let renewed: jiff::Timestamp = text.parse().with_context(|| format!("renewTime is {text}"))?;
    let renewed = u64::try_from(renewed.as_nanosecond()).context("before 1970")?;
    until("both clocks to be read at once", || {
        let (before, wall, after) = (clock::boot()?, clock::wall(), clock::boot()?);
        let between = Duration::from_nanos(after.saturating_sub(before));
        ensure!(between < DRIFT / 10, "it took {between:?}");
        Ok(before.saturating_sub(wall.saturating_sub(renewed)))
    })
}

fn event(stage: &Stage, reason: &str, about: &str) -> Result<Value> {
    until(&format!("an Event {reason} about Lease {about}"), || {
        let selector =
            format!("--field-selector=reason={reason},involvedObject.kind=Lease,involvedObject.name={about}");
        let list = stage.namespace.get(&["events", &selector])?;
        let events = list["items"].as_array().context("a list without items")?;
        events.first().cloned().context("there is none yet")
    })
}

/// A container that is not started again: its end stays reported, and it cannot take its term up again. A kubelet that starts it again may
/// have done so before the report is read, and then nothing is proved.
#[test]
fn another_pod_leads_as_soon_as_the_leaders_end_is_reported() -> Result<()> {
    Stage::test("ended", |stage| {
        let workload = stage.start(&writer("ended").lease_seconds(2 * LEASE).never_restarted())?;
        wait_for_both(&workload)?;
        let leader = workload.leading()?;
        let renewed = renewed(&workload)?;
        kill_all(&workload, &leader.writer.pod)?;
        let (old, new) = workload.led_after(&leader)?;
        ensure!(old.writer.pod != new.writer.pod, "{} led again although it had ended", new.writer.pod);
        ensure!(old.writer.token < new.writer.token, "the fencing token did not grow: {old:?}, {new:?}");
        let pause = Duration::from_nanos(new.first.saturating_sub(old.last));
        // Even on a busy machine; a standby without a proof would wait for more than twice that.
        ensure!(pause < Duration::from_secs(8), "nobody led for {pause:?}");
        ensure!(new.first < renewed + 2 * u64::from(LEASE) * 1_000_000_000, "it was waited for L");
        say(format!("a reported end: nobody led for {pause:.2?}"));
        workload.never_two(2)?;
        let told = event(stage, "LeaderEnded", "ended")?;
        let note = told["message"].as_str().unwrap_or_default();
        ensure!(note.contains(&old.writer.pod) && note.contains("137"), "{told:#}");
        wait_for_both(&workload)?;
        workload.never_two(2)
    })
}

/// As it happens: the container starts again, and whoever is quicker leads.
#[test]
fn agent_and_app_killed_together_are_followed_within_two_seconds() -> Result<()> {
    Stage::alone("killed-together", |stage| {
        let workload = stage.start(&writer("together"))?;
        let mut trials = Vec::new();
        for _ in 0..if long() { 20 } else { 3 } {
            wait_for_both(&workload)?;
            let leader = workload.leading()?;
            kill_all(&workload, &leader.writer.pod)?;
            let (old, new) = workload.led_after(&leader)?;
            workload.never_two(2)?;
            let moved = old.writer.pod != new.writer.pod;
            trials.push((Duration::from_nanos(new.first.saturating_sub(old.last)), moved));
        }
        trials.sort();
        let median = trials[trials.len() / 2].0;
        let shown: Vec<_> = trials.iter().map(|(pause, _)| format!("{:.2}", pause.as_secs_f32())).collect();
        let moved = trials.iter().filter(|(_, moved)| *moved).count();
        say(format!(
            "agent and app killed together: {} trials, {moved} led by another pod, 0 overlaps; median {:.2} s, seconds: {}",
            trials.len(),
            median.as_secs_f32(),
            shown.join(" ")
        ));
        ensure!(!long() || median <= GOAL, "the median is {median:?}");
        Ok(())
    })
}

/// What is said of a leader's pod without proving anything.
#[derive(Clone, Copy, Debug)]
enum Said {
    /// Nothing: the node is silent.
    Nothing,
    /// The pod is deleted by force.
    Gone,
    /// Its containers were lost, as a kubelet says that has lost its memory.
    Lost,
    /// It ended as what containerd does not know how.
    Unknown,
    /// Its container ended before, and is about to be started again.
    Before,
    /// It is a failed pod, as the collector of pods says.
    Failed,
}

impl Said {
    const ALL: [Self; 6] = [Self::Nothing, Self::Gone, Self::Lost, Self::Unknown, Self::Before, Self::Failed];

    /// Says it, as somebody else than the pod's kubelet.
    fn say(self, workload: &Workload<'_>, pod: &str) -> Result<()> {
        let end = |reason: &str, code: i32, id: &Value| {
            json!({"terminated": {"exitCode": code, "reason": reason, "containerID": id,
                "startedAt": "2026-01-01T00:00:00Z", "finishedAt": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}})
        };
        let namespace = &workload.stage.namespace;
        let mut status = namespace.get(&["pod", pod])?["status"].clone();
        let id = status["containerStatuses"][0]["containerID"].clone();
        let container = &mut status["containerStatuses"][0];
        match self {
            Self::Nothing => return Ok(()),
            Self::Gone => return namespace.run(&["delete", "pod", pod, "--grace-period=0", "--force"]).map(drop),
            Self::Lost => container["state"] = end("ContainerStatusUnknown", 137, &id),
            Self::Unknown => container["state"] = end("Error", 255, &id),
            Self::Before => {
                container["lastState"] = end("OOMKilled", 137, &id);
                container["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
            }
            Self::Failed => status["phase"] = json!("Failed"),
        }
        let patch = json!({"status": {"phase": status["phase"], "containerStatuses": status["containerStatuses"]}});
        namespace
            .run(&["patch", "pod", pod, "--subresource=status", "--type=merge", "--patch", &patch.to_string()])
            .map(drop)
    }
}

/// A leader that is cut off, on a node whose kubelet stands still: it leads on until its deadline, and nobody else may before.
fn waited_for(workload: &Workload<'_>, said: Said) -> Result<Duration> {
    let leader = &workload.leading()?;
    let pod = &leader.writer.pod;
    let _cut = workload.stage.namespace.cut_from_api_server(pod)?;
    said.say(workload, pod)?;
    let lease = workload.lease()?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    ensure!(holder.starts_with(&format!("{pod}_")), "too late to show anything, or freed at once: {lease:#}");
    let renewed = renewed(workload)?;
    let (_, new) = workload.led_after(leader)?;
    workload.never_two(2)?;
    ensure!(new.writer.pod != *pod, "{pod} led again although it was cut off");
    let waited = Duration::from_nanos(new.first.saturating_sub(renewed));
    ensure!(waited + DRIFT > Duration::from_secs(LEASE.into()), "L was {waited:?} only");
    Ok(waited)
}

#[test]
fn what_proves_no_end_never_shortens_l() -> Result<()> {
    Stage::alone("unproven", |stage| {
        let name = |said: Said| format!("{said:?}").to_lowercase();
        let workloads: Vec<_> =
            Said::ALL.into_iter().map(|said| Ok((said, stage.start(&writer(&name(said)))?))).collect::<Result<_>>()?;
        for (_, workload) in &workloads {
            wait_for_both(workload)?;
            workload.leading()?;
        }
        let kubelet = stage.namespace.cluster().pause_server("kubelet")?;
        let waited = thread::scope(|scope| -> Result<Vec<_>> {
            let trials: Vec<_> = workloads
                .iter()
                .map(|(said, workload)| {
                    scope.spawn(move || waited_for(workload, *said).with_context(|| format!("{said:?}")))
                })
                .collect();
            let ended: Vec<_> = trials.into_iter().map(thread::ScopedJoinHandle::join).collect();
            ended.into_iter().map(|ended| ended.map_err(|_| anyhow!("a trial panicked"))?).collect()
        })?;
        kubelet.resume()?;
        for ((said, _), waited) in workloads.iter().zip(waited) {
            say(format!("{said:?}: another pod led {:.2} s after the last renewal", waited.as_secs_f32()));
        }
        Ok(())
    })
}
