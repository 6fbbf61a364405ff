//! Who writes workloads all the time. They have no replicas, so that the machine is left to what is disturbed.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use leader_agent::names;
use serde_json::{Value, json};

use super::Soak;
use super::outcome::{Cause, Outcome, Write, judge};
use crate::admission::maker;
use crate::stage::{Stage, until};

/// How many workloads there are to be updated, of either kind.
const UPDATED: usize = 5;
/// So many created ones are deleted together.
const DELETED: usize = 20;
/// A client that is not answered tries something else.
const TIMEOUT: &str = "--request-timeout=30s";
/// The label of what the clients write: whether it is annotated.
const LABEL: &str = "soak-annotated";

/// Whether a workload asks for an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Annotated {
    Yes,
    No,
}

impl Annotated {
    fn is(self) -> bool {
        self == Self::Yes
    }

    fn word(self) -> &'static str {
        if self.is() { "asked" } else { "bare" }
    }

    /// A workload; its template differs from round to round.
    fn workload(self, name: &str, round: usize) -> Value {
        let annotations = if self.is() { json!({names::ID: name}) } else { json!({"example.com/kept": "yes"}) };
        let mut workload = maker("Deployment", &annotations, &json!({}));
        workload["metadata"]["name"] = json!(name);
        workload["metadata"]["labels"] = json!({LABEL: self.is().to_string()});
        workload["spec"]["replicas"] = json!(0);
        workload["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{"name": "ROUND", "value": round.to_string()}]);
        workload
    }

    /// The name of a workload that is updated again and again.
    fn updated(self, number: usize) -> String {
        format!("{}-updated-{}", self.word(), number % UPDATED)
    }
}

/// The clients, each of which goes on until the soak is done.
pub(super) struct Clients<'a>(&'a Soak<'a>);

impl<'a> Clients<'a> {
    /// Makes the workloads that are updated.
    pub(super) fn new(soak: &'a Soak<'a>) -> Result<Self> {
        for annotated in [Annotated::Yes, Annotated::No] {
            for number in 0..UPDATED {
                let workload = annotated.workload(&annotated.updated(number), 0);
                soak.stage.namespace.apply(&workload.to_string())?;
            }
        }
        Ok(Self(soak))
    }

    /// Creates workloads, and deletes them a while later.
    pub(super) fn create(&self, annotated: Annotated) -> Result<Vec<Write>> {
        let (mut writes, mut there) = (Vec::new(), Vec::new());
        while !self.0.done.load(Ordering::Relaxed) {
            let name = format!("{}-{}", annotated.word(), writes.len());
            let write = self.write("create", annotated, &annotated.workload(&name, 0))?;
            if write.outcome == Outcome::Stored {
                there.push(name);
            }
            writes.push(write);
            if there.len() >= DELETED {
                let delete = ["delete", "deployment", "--ignore-not-found", "--wait=false", TIMEOUT];
                // While the API server is away they stay; the next time is as good.
                if self.0.stage.namespace.kubectl(&delete).args(&there).output()?.success() {
                    there.clear();
                }
            }
        }
        Ok(writes)
    }

    /// Applies changed manifests to the same workloads, in turn: the command is the user's again each time.
    pub(super) fn update(&self, annotated: Annotated) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        while !self.0.done.load(Ordering::Relaxed) {
            let round = writes.len();
            let workload = annotated.workload(&annotated.updated(round), round + 1);
            writes.push(self.write("apply", annotated, &workload)?);
        }
        Ok(writes)
    }

    fn write(&self, verb: &str, annotated: Annotated, workload: &Value) -> Result<Write> {
        let annotated = annotated.is();
        let began = self.0.now();
        let tool = self.0.stage.namespace.kubectl(&[verb, "-f", "-", "-o", "json", TIMEOUT]);
        let output = tool.input(workload.to_string()).output()?;
        let ended = self.0.now();
        let outcome = if output.success() {
            let stored = serde_json::from_str(&output.stdout)
                .with_context(|| format!("kubectl did not print JSON: {}", output.stdout))?;
            judge(annotated, &stored)
        } else {
            let text = output.stderr.trim();
            Outcome::Refused(Cause::of(text), text.to_owned())
        };
        Ok(Write { annotated, began, ended, outcome })
    }
}

/// Looks at all that is stored now, also by writes whose answers were lost.
pub(super) fn look_at_all(stage: &Stage) -> Result<()> {
    let list = until("the API server to list workloads", || stage.namespace.get(&["deployments", "-l", LABEL]))?;
    let stored = list["items"].as_array().context("a list without items")?;
    ensure!(stored.len() >= 2 * UPDATED, "only {} workloads are stored", stored.len());
    for object in stored {
        let annotated = object["metadata"]["labels"][LABEL] == "true";
        if let Outcome::Wrong(how) = judge(annotated, object) {
            bail!("{how}");
        }
    }
    Ok(())
}
