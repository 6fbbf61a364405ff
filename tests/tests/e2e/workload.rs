//! A Deployment that runs, and its judge: who ran when, by the writers' own stamps.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leader_ledger::overlap::{Overlaps, Run, overlaps};
use leader_ledger::{clock, stamps};
use leader_tests::kit::ContainerProcesses;
use serde_json::Value;

use crate::stage::{Stage, until};
use crate::writer::CONTAINER;

/// A writer that left no stamp for this long does not run, in nanoseconds; a starved one may pause for seconds.
const SILENCE: u64 = 3_000_000_000;

/// A Deployment of writers, called as its id.
pub(crate) struct Workload<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) name: String,
    pub(crate) stamps: PathBuf,
}

impl Workload<'_> {
    /// Runs `kubectl VERB deployment/NAME ARGUMENTS` in the namespace.
    pub(crate) fn kubectl(&self, verb: &[&str], arguments: &[&str]) -> Result<String> {
        let object = self.object();
        self.stage.namespace.run(&[verb, &[object.as_str()], arguments].concat())
    }

    /// The Deployment as kubectl names it.
    pub(crate) fn object(&self) -> String {
        format!("deployment/{}", self.name)
    }

    pub(crate) fn wait_until_rolled_out(&self) -> Result<()> {
        self.kubectl(&["rollout", "status"], &["--timeout=180s"]).map(drop)
    }

    /// The Deployment as stored.
    pub(crate) fn get(&self) -> Result<Value> {
        self.stage.namespace.get(&[&self.object()])
    }

    /// The pod template as stored.
    pub(crate) fn template(&self) -> Result<Value> {
        Ok(self.get()?["spec"]["template"].clone())
    }

    /// The names of every ReplicaSet: a rollout makes one more.
    pub(crate) fn replica_sets(&self) -> Result<Vec<String>> {
        let selector = format!("app={}", self.name);
        let list = self.stage.namespace.get(&["replicasets", "--selector", &selector, "--sort-by=.metadata.name"])?;
        names(&list)
    }

    /// Names of the pods that are ready and not being deleted.
    pub(crate) fn ready_pods(&self) -> Result<Vec<String>> {
        let selector = format!("app={}", self.name);
        let mut list = self.stage.namespace.get(&["pods", "--selector", &selector])?;
        let pods = list["items"].as_array_mut().context("a list without items")?;
        pods.retain(|pod| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready =
                conditions.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True");
            ready && pod["metadata"]["deletionTimestamp"].is_null()
        });
        names(&list)
    }

    /// The Lease.
    pub(crate) fn lease(&self) -> Result<Value> {
        self.stage.namespace.get(&["lease", &self.name])
    }

    /// The processes of a pod.
    pub(crate) fn processes(&self, pod: &str) -> Result<ContainerProcesses> {
        self.stage.namespace.processes(pod, CONTAINER)
    }

    /// Every run so far, in the order of first stamps.
    pub(crate) fn runs(&self) -> Result<Vec<Run>> {
        Ok(stamps::read(&self.stamps)?)
    }

    /// Waits for an elected run, and gives the newest, which is still writing.
    pub(crate) fn leading(&self) -> Result<Run> {
        self.led_anew(&[])
    }

    /// Waits for an elected run that is none of `known`, and gives the newest, which is still writing.
    pub(crate) fn led_anew(&self, known: &[Run]) -> Result<Run> {
        until(&format!("an elected writer of {}", self.name), || {
            let runs = self.runs()?;
            let newest = runs.iter().rev().find(|run| run.writer.elected()).context("nobody was elected yet")?;
            ensure!(known.iter().all(|run| run.writer != newest.writer), "{:?} is still the last one", newest.writer);
            let silent = clock::boot()?.saturating_sub(newest.last);
            ensure!(silent < SILENCE, "{:?} wrote its last {:?} ago", newest.writer, Duration::from_nanos(silent));
            Ok(newest.clone())
        })
    }

    /// Waits for a leader that is another than `old`; gives `old` as it ended, and the new one.
    pub(crate) fn led_after(&self, old: &Run) -> Result<(Run, Run)> {
        let new = self.led_anew(std::slice::from_ref(old))?;
        let runs = self.runs()?;
        let old = runs.into_iter().find(|run| run.writer == old.writer).context("the old run's stamps are gone")?;
        Ok((old, new))
    }

    /// Fails when two elected runs ever shared a moment. `at_least` runs must have been there, or nothing would be shown.
    pub(crate) fn never_two(&self, at_least: usize) -> Result<()> {
        let runs = self.runs()?;
        let elected = runs.iter().filter(|run| run.writer.elected()).count();
        ensure!(elected >= at_least, "only {elected} of {at_least} elected runs left stamps: {runs:#?}");
        let Overlaps { elected, .. } = overlaps(&runs);
        if let Some(two) = elected.first() {
            let nanoseconds = two.until - two.from + 1;
            bail!("two ran at once for {:?}: {two:#?} among {runs:#?}", Duration::from_nanos(nanoseconds));
        }
        Ok(())
    }
}

fn names(list: &Value) -> Result<Vec<String>> {
    let items = list["items"].as_array().context("a list without items")?;
    Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect())
}
