//! What is done to the webhook and to the API server, one thing at a time, and until when it can be felt.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_tests::Cluster;
use leader_tests::progress::say;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use super::Soak;
use super::outcome::{Disturbance, Window};
use crate::stage::until;
use crate::writer::Writer;

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "--selector=app.kubernetes.io/name=leader-webhook";
const ENDPOINTS: &str = "--selector=kubernetes.io/service-name=leader-webhook";
const SECRET: &str = "secret/leader-webhook-ca";
/// How many replicas `deploy/` asks for.
const REPLICAS: usize = 2;
/// From an address in the API to the node's rules; kube-proxy gathers changes for a second.
const RULES: Duration = Duration::from_secs(3);

/// A replica that is there to stay.
struct Replica {
    name: String,
    ready: bool,
    restarts: u64,
    pod: Value,
}

/// Whoever disturbs.
pub(super) struct Disturbances<'a> {
    soak: &'a Soak<'a>,
    cluster: &'static Cluster,
}

impl<'a> Disturbances<'a> {
    pub(super) fn new(soak: &'a Soak<'a>) -> Self {
        Self { soak, cluster: soak.stage.namespace.cluster() }
    }

    /// One after the other with a pause before each, until the soak has gone on for so long, or something did not get whole again: what was
    /// seen until then counts.
    pub(super) fn go_on_for(&self, length: Duration, pause: Duration) -> (Vec<Window>, Result<()>) {
        let mut windows = Vec::new();
        for disturbance in Disturbance::ALL.into_iter().cycle() {
            thread::sleep(pause.min(length.saturating_sub(self.soak.now())));
            if self.soak.now() >= length {
                break;
            }
            let from = self.soak.now();
            say(format!("after {} s: {}", from.as_secs(), disturbance.title()));
            let disturbed = self.disturb(disturbance).with_context(|| disturbance.title());
            thread::sleep(RULES);
            windows.push(Window { disturbance, from, until: self.soak.now() });
            if disturbed.is_err() {
                return (windows, disturbed);
            }
        }
        (windows, Ok(()))
    }

    /// Does it, and waits until everything is as it was.
    fn disturb(&self, disturbance: Disturbance) -> Result<()> {
        let before = self.replicas()?;
        let (mut gone, mut restarted) = (Vec::new(), None);
        let names = || before.iter().map(|replica| replica.name.as_str());
        match disturbance {
            Disturbance::ReplicaDeleted => {
                gone.extend(names().take(1));
                self.cluster.kubectl(&["delete", "pods", NAMESPACE, "--wait=false"]).args(&gone).run()?;
            }
            Disturbance::ReplicasLost => {
                gone.extend(names());
                let force = ["delete", "pods", NAMESPACE, "--force", "--grace-period=0"];
                self.cluster.kubectl(&force).args(&gone).run()?;
            }
            Disturbance::ReplicaKilled => {
                let replica = before.first().context("there is no replica")?;
                self.kill(replica)?;
                restarted = Some((replica.name.as_str(), replica.restarts));
            }
            Disturbance::SecretDeleted => {
                self.cluster.kubectl(&["delete", NAMESPACE, SECRET]).run()?;
                until("the authority's Secret", || self.cluster.get(&[NAMESPACE, SECRET]))?;
            }
            Disturbance::ApiServerRestarted => {
                self.cluster.stop_server("apiserver", Signal::KILL)?.start_until_served()?;
            }
        }
        self.wait_until_whole(&gone, restarted)
    }

    fn kill(&self, replica: &Replica) -> Result<()> {
        let text = |pointer: &str| {
            let value = replica.pod.pointer(pointer).and_then(Value::as_str);
            value.with_context(|| format!("{} has no {pointer}", replica.name))
        };
        let container = text("/status/containerStatuses/0/containerID")?;
        let container = container.strip_prefix("containerd://").context("the container is not containerd's")?;
        let processes = self.cluster.control_group().container_processes(text("/metadata/uid")?, container)?;
        ensure!(!processes.is_empty(), "{} has no process", replica.name);
        for process in processes {
            kill_process(process, Signal::KILL)?;
        }
        Ok(())
    }

    /// All replicas ready, none of `gone` among them, the one that was to be restarted restarted, all of them among the Service's
    /// addresses, and reviews answered.
    fn wait_until_whole(&self, gone: &[&str], restarted: Option<(&str, u64)>) -> Result<()> {
        until("the webhook's replicas", || {
            let replicas = self.replicas()?;
            ensure!(replicas.len() == REPLICAS, "there are {} replicas", replicas.len());
            for Replica { name, ready, restarts, .. } in &replicas {
                ensure!(*ready && !gone.contains(&name.as_str()), "{name} is there, ready: {ready}");
                if let Some((_, before)) = restarted.filter(|(killed, _)| killed == name) {
                    ensure!(*restarts > before, "{name} was not restarted yet");
                }
            }
            let slices = self.cluster.get(&["endpointslices", NAMESPACE, ENDPOINTS])?;
            let slices = slices["items"].as_array().context("a list without items")?;
            let addresses = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
            let ready = addresses.filter(|address| address["conditions"]["ready"] == true).count();
            ensure!(ready == REPLICAS, "{ready} addresses are ready");
            Ok(())
        })?;
        let namespace = &self.soak.stage.namespace;
        let probe = Writer::new("probe").without_stamps().elected().manifest(self.soak.stage)?.to_string();
        until("the webhook to answer", || {
            namespace.kubectl(&["create", "-f", "-", "--dry-run=server", "--request-timeout=30s"]).input(&*probe).run()
        })
        .map(drop)
    }

    fn replicas(&self) -> Result<Vec<Replica>> {
        let mut pods = self.cluster.get(&["pods", NAMESPACE, WEBHOOK])?;
        let pods = pods["items"].as_array_mut().context("a list without items")?;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let replica = |pod: &Value| -> Result<Replica> {
            let status = &pod["status"]["containerStatuses"][0];
            Ok(Replica {
                name: pod["metadata"]["name"].as_str().context("a pod without a name")?.to_owned(),
                ready: status["ready"] == true,
                restarts: status["restartCount"].as_u64().unwrap_or_default(),
                pod: pod.clone(),
            })
        };
        pods.iter().map(replica).collect()
    }
}
