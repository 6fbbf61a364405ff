//! Turning election on while pods without the agent run the app: no elected pod begins to before the last of them has ended.
//!
//! The judge are the writers' stamps. What counts is an elected run that begins while any other run is alive, elected or not: it is what
//! turning on must never make. Turning off is an ordinary roll-out, whose new pods run beside the old ones.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use leader_agent::names;
use leader_ledger::{clock, overlap::Run};
use leader_tests::progress::say;
use leader_webhook::cli;
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// How long a writer goes on after it was told to stop: a moment in which nobody may begin.
const SHUTDOWN: u64 = 4;
/// Long enough for things to be broken before the last of the pods without the agent has ended.
const LONG_SHUTDOWN: u64 = 12;

/// A writer that left no stamp for this long has ended, in nanoseconds.
const SILENCE: u64 = 5_000_000_000;

/// Writers that are not elected yet.
fn plain(name: &str, replicas: u32, shutdown: u64) -> Writer {
    let seconds = shutdown.to_string();
    let stop = u32::try_from(2 * shutdown + 5).unwrap_or(u32::MAX);
    Writer::new(name).replicas(replicas).variable("SHUTDOWN_SECONDS", &seconds).stop_seconds(stop)
}

/// Starts a writer's Deployment with this strategy, without an election, and waits until it writes.
fn start<'a>(stage: &'a Stage, writer: &Writer, strategy: &str) -> Result<Workload<'a>> {
    let mut manifest = writer.manifest(stage)?;
    manifest["spec"]["strategy"] = json!({"type": strategy});
    start_as(stage, writer, &manifest)
}

/// Starts a writer's Deployment that was changed.
fn start_as<'a>(stage: &'a Stage, writer: &Writer, manifest: &Value) -> Result<Workload<'a>> {
    let workload = stage.workload(writer)?;
    stage.namespace.apply(&manifest.to_string())?;
    workload.wait_until_rolled_out()?;
    until("a writer without an election", || {
        ensure!(!workload.runs()?.is_empty(), "no stamps yet");
        Ok(())
    })?;
    Ok(workload)
}

/// A moment from which on pods that were not there yet may run the app as the elected one.
struct Turned {
    since: u64,
    /// The pods that were there.
    before: Vec<String>,
}

impl Turned {
    fn now(workload: &Workload<'_>) -> Result<Self> {
        Ok(Self { since: clock::boot()?, before: workload.ready_pods()? })
    }

    /// Whether a run is one of those that have to wait.
    fn made(&self, run: &Run) -> bool {
        run.writer.elected() && run.first > self.since && !self.before.contains(&run.writer.pod)
    }

    /// How often one of them began while another run was alive, and how long nobody ran before the first.
    fn judge(&self, runs: &[Run]) -> Result<(usize, Duration)> {
        let begun: Vec<&Run> = runs.iter().filter(|run| self.made(run)).collect();
        let first = begun.iter().map(|run| run.first).min().context("nobody was elected")?;
        let before = runs.iter().filter(|run| run.first < first).map(|run| run.last).max().unwrap_or(first);
        let beside = |new: &&Run| {
            runs.iter().any(|other| other.writer != new.writer && other.first <= new.first && other.last >= new.first)
        };
        let overlaps = begun.into_iter().filter(beside).count();
        Ok((overlaps, Duration::from_nanos(first.saturating_sub(before))))
    }
}

/// Elects a workload under an id.
fn elect(workload: &Workload<'_>, id: &str) -> Result<Turned> {
    let turned = Turned::now(workload)?;
    let id = format!("{}={id}", names::ID);
    workload.kubectl(&["annotate", "--overwrite"], &[&id, "leader.io/lease-duration=5s"])?;
    Ok(turned)
}

/// Waits until one of the new pods leads and nobody is waited for, judges that, and says how it came out.
fn never_beside(workload: &Workload<'_>, what: &str, turned: &Turned) -> Result<()> {
    workload.wait_until_rolled_out()?;
    until("an elected run of a new pod", || {
        let runs = workload.runs()?;
        ensure!(runs.iter().any(|run| turned.made(run)), "nobody was elected yet: {runs:#?}");
        Ok(())
    })?;
    nobody_is_waited_for(workload)?;
    let runs = workload.runs()?;
    let (overlaps, gap) = turned.judge(&runs)?;
    say(format!("turning on: {what}: overlaps {overlaps}, nobody ran for {:.1} s", gap.as_secs_f64()));
    ensure!(overlaps == 0, "an elected run began beside another: {runs:#?}");
    Ok(())
}

fn nobody_is_waited_for(workload: &Workload<'_>) -> Result<()> {
    until("nobody to be waited for any more", || {
        let leases = workload.stage.namespace.get(&["leases"])?;
        let waits = leases["items"].as_array().context("no list")?.iter().any(|lease| turning_on(lease).is_some());
        ensure!(!waits, "{leases:#}");
        Ok(())
    })
}

fn turning_on(lease: &Value) -> Option<&str> {
    lease["metadata"]["annotations"][names::TURNING_ON].as_str()
}

/// Annotates a workload that runs, changes its id, and judges both.
fn annotated_and_renamed(label: &str, replicas: u32, strategy: &str) -> Result<()> {
    Stage::test(label, |stage| {
        let workload = start(stage, &plain("billing", replicas, SHUTDOWN), strategy)?;
        let what = |what: &str| format!("{what}, {replicas} replicas, {strategy}");
        let turned = elect(&workload, "billing")?;
        never_beside(&workload, &what("annotate"), &turned)?;
        let turned = elect(&workload, "invoices")?;
        never_beside(&workload, &what("change of id"), &turned)?;
        workload.never_two(2)
    })
}

#[test]
fn one_replica_that_is_replaced_while_it_runs() -> Result<()> {
    annotated_and_renamed("on-one-rolling", 1, "RollingUpdate")
}

#[test]
fn three_replicas_that_are_replaced_one_by_one() -> Result<()> {
    annotated_and_renamed("on-three-rolling", 3, "RollingUpdate")
}

#[test]
fn one_replica_that_is_made_anew() -> Result<()> {
    annotated_and_renamed("on-one-recreate", 1, "Recreate")
}

#[test]
fn three_replicas_that_are_made_anew() -> Result<()> {
    annotated_and_renamed("on-three-recreate", 3, "Recreate")
}

#[test]
fn undone_to_a_plain_revision_and_back() -> Result<()> {
    Stage::test("on-undo", |stage| {
        let workload = start(stage, &plain("billing", 3, SHUTDOWN), "RollingUpdate")?;
        let turned = elect(&workload, "billing")?;
        never_beside(&workload, "annotate", &turned)?;
        workload.kubectl(&["rollout", "undo"], &[])?;
        workload.wait_until_rolled_out()?;
        ensure!(workload.get()?["spec"]["template"]["metadata"]["annotations"][names::INJECTED].is_null());
        let turned = Turned::now(&workload)?;
        workload.kubectl(&["rollout", "undo"], &[])?;
        never_beside(&workload, "undo to a plain revision and back", &turned)
    })
}

/// The container before the writer: it works as that one does, and leaves no stamps.
const FRONT: &str = "front";

/// Pods in which another container is wrapped run the one of the option bare: elected ones may not begin beside those.
fn another_container(label: &str, replicas: u32) -> Result<()> {
    Stage::test(label, |stage| {
        let writer = plain("billing", replicas, SHUTDOWN);
        let mut manifest = writer.manifest(stage)?;
        let containers = &mut manifest["spec"]["template"]["spec"]["containers"];
        let mut front = containers[0].clone();
        front["name"] = json!(FRONT);
        front["volumeMounts"] = json!([]);
        let variables = front["env"].as_array_mut().context("no variables")?;
        variables.retain(|variable| variable["name"] != "STAMP_DIR" && variable["name"] != "POD_NAME");
        variables.push(json!({"name": "POD_NAME", "value": FRONT}));
        *containers = json!([front, containers[0].clone()]);
        let workload = start_as(stage, &writer, &manifest)?;
        let wrap = |container: &str| workload.kubectl(&["annotate", "--overwrite"], &[container]);
        let what = |what: &str| format!("the option leader.io/container is {what}, {replicas} replicas");

        // The first container is wrapped, and the writers run in all pods.
        elect(&workload, "billing")?;
        workload.wait_until_rolled_out()?;
        nobody_is_waited_for(&workload)?;
        let turned = Turned::now(&workload)?;
        wrap("leader.io/container=writer")?;
        ensure!(turning_on(&workload.lease()?).is_some(), "nobody is waited for");
        never_beside(&workload, &what("set"), &turned)?;

        // Away from it, which is an ordinary roll-out of the writers, and back.
        wrap(&format!("leader.io/container={FRONT}"))?;
        workload.wait_until_rolled_out()?;
        nobody_is_waited_for(&workload)?;
        let turned = Turned::now(&workload)?;
        wrap("leader.io/container=writer")?;
        never_beside(&workload, &what("changed"), &turned)?;
        workload.never_two(2)
    })
}

#[test]
fn another_container_of_one_replica_is_wrapped() -> Result<()> {
    another_container("on-container-one", 1)
}

#[test]
fn another_container_of_three_replicas_is_wrapped() -> Result<()> {
    another_container("on-container-three", 3)
}

/// It is taken back while it is still being turned on, and turned on again.
#[test]
fn taken_back_half_way_and_turned_on_again() -> Result<()> {
    Stage::test("on-half", |stage| {
        let workload = start(stage, &plain("billing", 3, SHUTDOWN), "RollingUpdate")?;
        let turned = elect(&workload, "billing")?;
        workload.kubectl(&["annotate"], &["leader.io/id-", "leader.io/lease-duration-"])?;
        elect(&workload, "billing")?;
        never_beside(&workload, "annotate, taken back and again", &turned)
    })
}

#[test]
fn the_lease_is_deleted_meanwhile() -> Result<()> {
    Stage::test("on-deleted", |stage| {
        let workload = start(stage, &plain("billing", 3, LONG_SHUTDOWN), "RollingUpdate")?;
        let turned = elect(&workload, "billing")?;
        for round in 0..3 {
            let lease = workload.lease()?;
            if turning_on(&lease).is_none() {
                ensure!(round > 0, "nobody is waited for: {lease:#}");
                break;
            }
            stage.namespace.run(&["delete", "lease/billing"])?;
            until("another Lease", || {
                let now = workload.lease()?;
                ensure!(now["metadata"]["uid"] != lease["metadata"]["uid"], "it is the same: {now:#}");
                Ok(())
            })?;
        }
        never_beside(&workload, "the Lease is deleted meanwhile", &turned)
    })
}

#[test]
fn the_controller_is_killed_meanwhile() -> Result<()> {
    Stage::alone("on-controller", |stage| {
        let workload = start(stage, &plain("billing", 3, LONG_SHUTDOWN), "RollingUpdate")?;
        let turned = elect(&workload, "billing")?;
        let system = ["--namespace=leader-system"];
        let pods =
            ["delete", "pods", "--selector=app.kubernetes.io/name=leader-webhook", "--grace-period=0", "--force"];
        stage.namespace.cluster().kubectl(&[&pods[..], &system].concat()).run()?;
        let outcome = never_beside(&workload, "the controller is killed meanwhile", &turned);
        // The next test finds a webhook.
        let status = ["rollout", "status", "deployment/leader-webhook", "--timeout=180s"];
        stage.namespace.cluster().kubectl(&[&status[..], &system].concat()).run()?;
        outcome
    })
}

/// What the command line prints, run in the cluster's network.
fn kubectl_leader(stage: &Stage, words: &[&str]) -> Result<String> {
    let cluster = stage.namespace.cluster();
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let more = ["--namespace", stage.namespace.name(), "--kubeconfig", &kubeconfig];
    let cli = cli::Cli::try_parse_from(["kubectl-leader"].iter().chain(words).chain(&more))?;
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<u8> {
            cluster.enter_network()?;
            Ok(cli::run(&cli, std::io::empty(), &mut printed, &mut said, false)?)
        });
        inside.join().map_err(|_| anyhow!("kubectl leader panicked"))?
    })?;
    Ok(String::from_utf8(printed)?)
}

/// Nobody tells when the app of a pod ends that was deleted by force: nobody leads until a person says so.
#[test]
fn a_pod_that_is_deleted_by_force_is_waited_for_until_a_person_resumes() -> Result<()> {
    Stage::test("on-force", |stage| {
        let workload = start(stage, &plain("billing", 1, LONG_SHUTDOWN), "Recreate")?;
        let pod = workload.ready_pods()?.pop().context("no pod")?;
        let turned = elect(&workload, "billing")?;
        ensure!(turning_on(&workload.lease()?).is_some_and(|said| said.contains(&pod)), "it is not waited for");
        if let Ok(text) = kubectl_leader(stage, &["resume", "billing"]) {
            bail!("a pod that runs was passed over: {text}");
        }
        stage.namespace.run(&["delete", "pod", &pod, "--grace-period=0", "--force"])?;
        workload.wait_until_rolled_out()?;
        let event = until("an Event that says what to do", || {
            let events = stage.namespace.get(&["events", "--field-selector=reason=TurningOnStuck"])?;
            let event = events["items"].as_array().and_then(|items| items.first()).context("none yet")?;
            Ok(event["message"].to_string())
        })?;
        ensure!(event.contains(&pod) && event.contains("kubectl leader resume billing"), "{event}");
        ensure!(
            turning_on(&workload.lease()?).is_some_and(|said| said.contains(&pod)),
            "it is not waited for any more"
        );
        until("the end of the writer, of which nobody tells", || {
            let last = workload.runs()?.iter().map(|run| run.last).max().unwrap_or_default();
            ensure!(clock::boot()? > last + SILENCE, "it writes");
            Ok(())
        })?;
        let runs = workload.runs()?;
        ensure!(!runs.iter().any(|run| run.writer.elected()), "somebody was elected: {runs:#?}");
        let text = kubectl_leader(stage, &["resume", "billing"])?;
        ensure!(text.contains(&pod), "{text}");
        never_beside(&workload, "a pod is deleted by force, a person resumes", &turned)
    })
}

/// A workload that is deleted with its pods left behind, and made again, finds them.
#[test]
fn pods_that_were_left_behind_are_waited_for() -> Result<()> {
    Stage::test("on-orphans", |stage| {
        let writer = plain("billing", 2, SHUTDOWN);
        let workload = start(stage, &writer, "RollingUpdate")?;
        let turned = Turned::now(&workload)?;
        workload.kubectl(&["delete"], &["--cascade=orphan"])?;
        stage.namespace.apply(&writer.elected().manifest(stage)?.to_string())?;
        ensure!(turning_on(&workload.lease()?).is_some(), "nobody is waited for");
        never_beside(&workload, "pods that were left behind", &turned)
    })
}

/// Taking the annotation off, by whatever way, is said with the number of pods that then run the app.
#[test]
fn dropping_the_annotation_is_warned_of() -> Result<()> {
    Stage::bare("on-dropped", &[], |stage| {
        let said = "leader election `billing` is off: all 3 replicas run the app at the same time";
        for way in ["apply", "replace"] {
            let mut elected = maker("Deployment", &json!({names::ID: "billing"}), &json!({}));
            elected["spec"]["replicas"] = json!(3);
            let mut plain = elected.clone();
            plain["metadata"]["annotations"] = json!({});
            stage.namespace.apply(&elected.to_string())?;
            // `kubectl replace` reads before it writes; the Deployment's controller may write between the two.
            let output = until("a write without a conflict", || {
                let output = stage.namespace.kubectl(&[way, "-f", "-"]).input(plain.to_string()).output()?;
                ensure!(!output.stderr.contains("(Conflict)"), "{}", output.stderr);
                Ok(output)
            })?;
            ensure!(output.success() && output.stderr.contains(said), "{way}: {output:?}");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use leader_ledger::overlap::Writer;

    use super::*;

    fn run(pod: &str, token: Option<u64>, first: u64, last: u64) -> Run {
        Run { writer: Writer { pod: pod.to_owned(), token, started: first }, first, last }
    }

    #[test]
    fn what_counts_is_who_begins_beside_another() {
        let turned = Turned { since: 10, before: vec!["old".to_owned()] };
        let plain = run("plain", None, 0, 100);
        let of = |first: u64| turned.judge(&[plain.clone(), run("new", Some(1), first, 200)]).unwrap();
        assert_eq!(of(150), (0, Duration::from_nanos(50)));
        assert_eq!(of(100).0, 1);
        assert_eq!(of(50).0, 1);
        // A pod of an ordinary roll-out that begins beside the leader is none of it.
        let off = [run("new", Some(1), 20, 200), run("plain", None, 100, 300)];
        assert_eq!(turned.judge(&off).unwrap().0, 0);
        // Nor is a pod of before, or what began before.
        assert!(turned.judge(&[plain.clone(), run("old", Some(1), 50, 200)]).is_err());
        assert!(turned.judge(&[run("new", Some(1), 5, 200)]).is_err());
    }
}
