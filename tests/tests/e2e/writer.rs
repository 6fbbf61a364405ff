//! The Deployment of the ledger's writer, in the shapes that tests want.

use std::collections::BTreeMap;

use anyhow::Result;
use leader_agent::names;
use serde_json::{Value, json};

use crate::stage::Stage;

/// The container of a writer's pod.
pub(crate) const CONTAINER: &str = "writer";

/// A Deployment of writers.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) name: String,
    lease_seconds: Option<u32>,
    replicas: u32,
    annotations: BTreeMap<String, String>,
    variables: BTreeMap<&'static str, String>,
    cpu_limit: Option<&'static str>,
    stop_seconds: u32,
    stamps: bool,
    restarted: bool,
}

impl Writer {
    /// Three replicas of this name, not annotated, that leave stamps.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lease_seconds: None,
            replicas: 3,
            annotations: BTreeMap::new(),
            variables: BTreeMap::new(),
            cpu_limit: None,
            stop_seconds: 5,
            stamps: true,
            restarted: true,
        }
    }

    pub(crate) fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Annotated with its own name as the id, and with a lease of 5 s, the shortest.
    pub(crate) fn elected(self) -> Self {
        self.lease_seconds(5)
    }

    /// As [`Writer::elected`], with another lease.
    pub(crate) fn lease_seconds(mut self, seconds: u32) -> Self {
        self.lease_seconds = Some(seconds);
        self
    }

    /// The same under another name.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    pub(crate) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a variable that the writer knows.
    pub(crate) fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.to_owned());
        self
    }

    pub(crate) fn cpu_limit(mut self, limit: &'static str) -> Self {
        self.cpu_limit = Some(limit);
        self
    }

    /// The pod's termination grace period.
    pub(crate) fn stop_seconds(mut self, seconds: u32) -> Self {
        self.stop_seconds = seconds;
        self
    }

    /// Leaves no stamps: restricted Pod Security allows no folder of the node.
    pub(crate) fn without_stamps(mut self) -> Self {
        self.stamps = false;
        self
    }

    /// The container stays ended once it has, and another pod comes in its pod's place.
    pub(crate) fn never_restarted(mut self) -> Self {
        self.restarted = false;
        self
    }

    /// The Deployment.
    pub(crate) fn manifest(&self, stage: &Stage) -> Result<Value> {
        let mut variables = vec![
            json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            json!({"name": "KEEPER", "value": "$(KEEPER_SERVICE_HOST):$(KEEPER_SERVICE_PORT)"}),
        ];
        variables.extend(self.variables.iter().map(|(name, value)| json!({"name": name, "value": value})));
        let mut container = json!({
            "name": CONTAINER,
            "image": stage.image("leader-ledger")?,
            "command": ["/ledger-writer"],
            // Without a request every busy process of the machine would come first.
            "resources": {"requests": {"cpu": "10m"}},
            "securityContext": container_security(),
        });
        let mut pod = json!({
            "terminationGracePeriodSeconds": self.stop_seconds,
            "securityContext": pod_security(),
        });
        if self.stamps {
            variables.push(json!({"name": "STAMP_DIR", "value": "/stamps"}));
            container["volumeMounts"] = json!([{"name": "stamps", "mountPath": "/stamps"}]);
            let folder = stage.stamps(&self.name)?;
            pod["volumes"] = json!([{"name": "stamps", "hostPath": {"path": folder, "type": "Directory"}}]);
        }
        if let Some(limit) = self.cpu_limit {
            container["resources"]["limits"] = json!({"cpu": limit});
        }
        if !self.restarted {
            container["restartPolicy"] = json!("Never");
        }
        container["env"] = Value::from(variables);
        pod["containers"] = json!([container]);
        let labels = json!({"app": self.name});
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        });
        if !self.annotations.is_empty() {
            deployment["metadata"]["annotations"] = json!(self.annotations);
        }
        if let Some(seconds) = self.lease_seconds {
            let annotations = &mut deployment["metadata"]["annotations"];
            annotations[names::ID] = json!(self.name);
            annotations["leader.io/lease-duration"] = json!(format!("{seconds}s"));
        }
        Ok(deployment)
    }
}

/// What restricted Pod Security asks of a pod.
pub(crate) fn pod_security() -> Value {
    json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}})
}

/// What restricted Pod Security asks of a container.
pub(crate) fn container_security() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}
