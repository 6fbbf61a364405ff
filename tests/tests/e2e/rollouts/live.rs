//! With pods that run: what is no rollout restarts nothing, and scaling is by whoever may scale.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_tests::wait;
use serde_json::{Value, json};

use super::Run;
use super::table::{Group, Outcome};
use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

pub(super) const GROUPS: &[(&str, Run)] = &[("with running pods", |name| {
    Group::new(name).filled(|group| Stage::test("rollouts-live", |stage| rows(stage, group)))
})];

/// What runs: the `ReplicaSets`, and the pods by name with how often they were restarted.
#[derive(Debug, PartialEq)]
pub(super) struct Running {
    sets: Vec<String>,
    pods: Vec<(String, Value)>,
}

impl Running {
    pub(super) fn of(workload: &Workload<'_>) -> Result<Self> {
        let list = workload.stage.namespace.get(&["pods", "--selector", &format!("app={}", workload.name)])?;
        let mut pods = Vec::new();
        for pod in list["items"].as_array().context("a list without items")? {
            if pod["metadata"]["deletionTimestamp"].is_null() {
                let name = pod["metadata"]["name"].as_str().context("a pod without a name")?.to_owned();
                pods.push((name, pod["status"]["containerStatuses"][0]["restartCount"].clone()));
            }
        }
        pods.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self { sets: workload.replica_sets()?, pods })
    }

    fn names(&self) -> Vec<&str> {
        self.pods.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// A write after which everything runs as before.
pub(super) fn unchanged(workload: &Workload<'_>, write: impl FnOnce() -> Result<String>) -> Result<Outcome> {
    let (template, running) = (workload.template()?, Running::of(workload)?);
    write()?;
    workload.wait_until_rolled_out()?;
    let (template_now, running_now) = (workload.template()?, Running::of(workload)?);
    ensure!(template_now == template, "the template was {template:#}, and is {template_now:#}");
    ensure!(running_now == running, "{running:?} ran before, {running_now:?} after");
    Ok(Outcome::Unchanged)
}

/// A write after which every pod is another one.
pub(super) fn rolled_out(workload: &Workload<'_>, write: impl FnOnce() -> Result<String>) -> Result<Outcome> {
    let before = Running::of(workload)?;
    write()?;
    workload.wait_until_rolled_out()?;
    until("the old pods to be gone", || {
        let now = Running::of(workload)?;
        ensure!(now.names().iter().all(|name| !before.names().contains(name)), "{:?} run", now.names());
        Ok(())
    })?;
    Ok(Outcome::RolledOut)
}

/// A write after which there are this many pods, the ones from before among them.
fn scaled(workload: &Workload<'_>, pods: usize, write: impl FnOnce() -> Result<String>) -> Result<Outcome> {
    let (template, before) = (workload.template()?, Running::of(workload)?);
    write()?;
    // An autoscaler looks every 15 s.
    let now = wait::until("the pods", Duration::from_secs(90), || {
        let now = Running::of(workload)?;
        ensure!(now.pods.len() == pods, "{:?} run", now.names());
        Ok(now)
    })?;
    workload.wait_until_rolled_out()?;
    ensure!(workload.template()? == template, "the template was changed");
    ensure!(now.sets == before.sets, "{:?} were there, now {:?}", before.sets, now.sets);
    let (few, many) = if pods > before.pods.len() { (&before, &now) } else { (&now, &before) };
    ensure!(few.names().iter().all(|name| many.names().contains(name)), "{before:?} ran before, {now:?} after");
    Ok(Outcome::Unchanged)
}

fn rows(stage: &Stage, group: &mut Group) -> Result<()> {
    let writer = Writer::new("live").replicas(1).without_stamps().elected();
    let workload = stage.start(&writer)?;
    let manifest = writer.manifest(stage)?;
    let send = |verb: &[&str], manifest: &Value| {
        stage.namespace.kubectl(verb).args(["-f", "-"]).input(manifest.to_string()).run()
    };
    let apply = |manifest: &Value| send(&["apply"], manifest);
    let mut without_replicas = manifest.clone();
    without_replicas["spec"].as_object_mut().context("no specification")?.shift_remove("replicas");

    group.row("client-side apply of the same", || unchanged(&workload, || apply(&manifest)));
    group.row("server-side apply of the same", || {
        unchanged(&workload, || send(&["apply", "--server-side", "--force-conflicts"], &manifest))
    });
    group.row("replace by the same", || unchanged(&workload, || send(&["replace"], &manifest)));
    group.row("annotate", || unchanged(&workload, || workload.kubectl(&["annotate"], &["team=payments"])));
    group.row("scale up", || scaled(&workload, 3, || workload.kubectl(&["scale"], &["--replicas=3"])));
    group.row("scale down", || scaled(&workload, 1, || workload.kubectl(&["scale"], &["--replicas=1"])));
    group.row("the scale subresource", || {
        let patch = json!({"spec": {"replicas": 2}}).to_string();
        scaled(&workload, 2, || {
            workload.kubectl(&["patch"], &["--subresource=scale", "--type=merge", "--patch", &patch])
        })
    });
    group.row("an autoscaler scales up", || {
        scaled(&workload, 3, || workload.kubectl(&["autoscale"], &["--min=3", "--max=4"]))
    });
    group.row("client-side apply without replicas, under the autoscaler", || {
        unchanged(&workload, || {
            // What is no longer applied is taken away, and its default is 1.
            let said = apply(&without_replicas)?;
            until("the autoscaler to put it right", || {
                ensure!(Running::of(&workload)?.pods.len() == 3, "not three");
                Ok(())
            })?;
            Ok(said)
        })
    });
    group.row("an autoscaler scales down", || {
        stage.namespace.run(&["delete", "horizontalpodautoscaler", "live"])?;
        scaled(&workload, 1, || workload.kubectl(&["scale"], &["--replicas=1"]))
    });
    group.row("rollout restart", || rolled_out(&workload, || workload.kubectl(&["rollout", "restart"], &[])));
    group.row("rollout undo", || rolled_out(&workload, || workload.kubectl(&["rollout", "undo"], &[])));
    group.row("rollout pause, set env", || {
        let before = Running::of(&workload)?;
        workload.kubectl(&["rollout", "pause"], &[])?;
        workload.kubectl(&["set", "env"], &["WRITE_INTERVAL=30ms"])?;
        until("the write to be seen", || {
            let object = workload.get()?;
            ensure!(object["status"]["observedGeneration"] == object["metadata"]["generation"], "not yet");
            Ok(())
        })?;
        let now = Running::of(&workload)?;
        ensure!(now == before, "{before:?} ran before, {now:?} after");
        Ok(Outcome::Unchanged)
    });
    group.row("rollout resume", || rolled_out(&workload, || workload.kubectl(&["rollout", "resume"], &[])));
    group.row("un-annotate", || {
        let outcome = rolled_out(&workload, || workload.kubectl(&["annotate"], &["leader.io/id-"]))?;
        let spec = workload.template()?["spec"].clone();
        ensure!(spec["containers"][0]["command"] == json!(["/ledger-writer"]), "{spec:#}");
        Ok(outcome)
    });
    group.row("annotate with the id", || {
        rolled_out(&workload, || workload.kubectl(&["annotate"], &["leader.io/id=live"]))
    });
    Ok(())
}
