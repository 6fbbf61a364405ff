//! The webhook under another configuration for the time of one test, which has to run alone.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use leader_tests::progress::say;

use crate::stage::{Stage, until};

/// The webhook with one more variable in its environment, and without it again when this is dropped.
pub(crate) struct Configured<'a> {
    stage: &'a Stage,
    variable: &'static str,
}

impl<'a> Configured<'a> {
    /// Sets `NAME=value`, and waits until only replicas answer that have it.
    pub(crate) fn take(stage: &'a Stage, variable: &'static str) -> Result<Self> {
        let configured = Self { stage, variable };
        configured.set(variable)?;
        Ok(configured)
    }

    fn set(&self, variable: &str) -> Result<()> {
        let cluster = self.stage.namespace.cluster();
        let webhook = ["--namespace=leader-system", "deployment/leader-webhook"];
        cluster.kubectl(&["set", "env", "--containers=webhook"]).args(webhook).arg(variable).run()?;
        cluster.kubectl(&["rollout", "status", "--timeout=180s"]).args(webhook).run()?;
        // Replicas of before may answer a little longer.
        until("the old replicas to be gone", || {
            let pods = cluster.get(&["pods", "--namespace=leader-system"])?;
            let pods = pods["items"].as_array().context("no items")?;
            match pods.iter().find(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
                Some(pod) => bail!("{} is still there", pod["metadata"]["name"]),
                None => Ok(()),
            }
        })
    }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        let name = self.variable.split('=').next().unwrap_or_default();
        for _ in 0..3 {
            match self.set(&format!("{name}-")) {
                Ok(()) => return,
                Err(error) => say(format!("the webhook's environment did not come back: {error:#}")),
            }
            thread::sleep(Duration::from_secs(1));
        }
    }
}
