//! The webhook as somebody leaves it who deletes it: no configuration, no Deployment, no pods.

use anyhow::{Context, Result, ensure};
use leader_tests::progress::say;
use serde_json::{Value, json};

use crate::stage::{Stage, until};
use crate::webhook_down::Deleted;

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "deployment/leader-webhook";

/// The webhook's configuration and Deployment deleted, and there again when this is dropped.
pub(super) struct Gone<'a> {
    stage: &'a Stage,
    deployment: Value,
    configuration: Option<Deleted<'a>>,
}

impl<'a> Gone<'a> {
    pub(super) fn take(stage: &'a Stage) -> Result<Self> {
        let cluster = stage.namespace.cluster();
        let mut deployment = cluster.get(&[WEBHOOK, NAMESPACE])?;
        deployment.as_object_mut().context("no object")?.remove("status");
        let metadata = deployment["metadata"].as_object_mut().context("no metadata")?;
        for made_by_the_server in ["resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"] {
            metadata.remove(made_by_the_server);
        }
        let gone = Self { stage, deployment, configuration: Some(Deleted::take(stage)?) };
        cluster.kubectl(&["delete", WEBHOOK, NAMESPACE]).run()?;
        until("the webhook's pods to be gone", || {
            let left = cluster.get(&["replicasets,pods", NAMESPACE])?;
            ensure!(left["items"] == json!([]), "some are left");
            Ok(())
        })?;
        Ok(gone)
    }

    fn restore(&mut self) -> Result<()> {
        let cluster = self.stage.namespace.cluster();
        let created = cluster.kubectl(&["create", "-f", "-"]).input(self.deployment.to_string()).output()?;
        // It is there where it could not be deleted.
        ensure!(created.success() || created.stderr.contains("AlreadyExists"), "{}", created.stderr);
        // Its pods are not ready before the configuration is there, which comes back by this and waits for their answer.
        drop(self.configuration.take());
        cluster.kubectl(&["rollout", "status", WEBHOOK, NAMESPACE, "--timeout=180s"]).run().map(drop)
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            say(format!("the webhook's Deployment did not come back: {error:#}"));
        }
    }
}
