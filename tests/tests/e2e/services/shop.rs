//! A server that is elected, servers beside it that must never be asked, and Services for them.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::specimen::{Specimen, environment};
use crate::stage::Stage;

/// The port on which the specimen answers.
pub(super) const PORT: u16 = 8080;
/// What those answer who must never be asked.
pub(super) const DECOY: &str = "decoy";

/// A Deployment of the specimen, called as its id.
pub(super) struct Shop<'a> {
    pub(super) specimen: Specimen<'a>,
}

impl<'a> Shop<'a> {
    /// Makes nothing yet.
    pub(super) fn new(stage: &'a Stage, name: &str) -> Result<Self> {
        Ok(Self { specimen: Specimen::new(stage, name)? })
    }

    /// Runs, with so many replicas.
    pub(super) fn open(stage: &'a Stage, name: &str, replicas: u32) -> Result<Self> {
        let shop = Self::new(stage, name)?;
        shop.start(replicas)?;
        Ok(shop)
    }

    /// Applies the Deployment and waits until all its pods are ready.
    pub(super) fn start(&self, replicas: u32) -> Result<()> {
        self.specimen.apply(&self.deployment(replicas)?)?;
        self.specimen.wait_until_rolled_out("deployment")
    }

    /// The elected Deployment.
    pub(super) fn deployment(&self, replicas: u32) -> Result<Value> {
        let pod = self.pod()?;
        Ok(self.behind_the_services(self.specimen.deployment(replicas, &pod)))
    }

    /// Applies a Deployment that is not elected, listens on the same port, and has the labels that Services select.
    pub(super) fn start_decoys(&self) -> Result<()> {
        let mut pod = self.pod()?;
        // By this name it answers.
        pod["containers"][0]["env"][0] = json!({"name": "POD_NAME", "value": DECOY});
        let mut deployment = self.behind_the_services(self.specimen.deployment(2, &pod));
        deployment["metadata"] = json!({"name": DECOY});
        deployment["spec"]["selector"] = json!({"matchLabels": {"app": DECOY}});
        deployment["spec"]["template"]["metadata"]["labels"]["app"] = json!(DECOY);
        self.specimen.apply(&deployment)?;
        self.specimen.stage.namespace.run(&["rollout", "status", "deployment/decoy", "--timeout=180s"]).map(drop)
    }

    /// A Service with these annotations; its specification is merged into an ordinary one.
    pub(super) fn service(&self, name: &str, annotations: &Value, spec: &Value) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "annotations": annotations},
            "spec": {"selector": {"front": self.specimen.name}, "ports": [{"port": 80, "targetPort": "web"}]},
        });
        json_patch::merge(&mut service["spec"], spec);
        service
    }

    /// Where a client finds a Service.
    pub(super) fn address(&self, service: &str) -> Result<SocketAddr> {
        let stored = self.specimen.stage.namespace.get(&["service", service])?;
        let address = stored["spec"]["clusterIP"].as_str().context("no address")?;
        Ok(SocketAddr::new(address.parse().with_context(|| format!("the address is {address}"))?, 80))
    }

    fn behind_the_services(&self, mut deployment: Value) -> Value {
        deployment["spec"]["template"]["metadata"]["labels"]["front"] = json!(self.specimen.name);
        deployment
    }

    fn pod(&self) -> Result<Value> {
        self.specimen.pod(&json!({
            "env": environment(&[("SPECIMEN_HTTP", &PORT.to_string())]),
            "ports": [{"name": "web", "containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/ok", "port": "web"}, "periodSeconds": 1, "failureThreshold": 2},
        }))
    }
}
