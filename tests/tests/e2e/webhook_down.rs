//! The webhook is in nobody's way when it is down: only annotated workloads cannot be changed. And where somebody deleted its
//! configuration, nothing annotated comes through without election.

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_ledger::overlap::Run;
use leader_tests::progress::say;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::{Stage, until};
use crate::writer::Writer;

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "deployment/leader-webhook";

/// The webhook scaled to nothing, and back when this is dropped.
pub(crate) struct Down<'a>(&'a Stage);

impl<'a> Down<'a> {
    pub(crate) fn take(stage: &'a Stage) -> Result<Self> {
        let down = Self(stage);
        down.scale(0)?;
        until("the webhook's pods to be gone", || {
            let pods = stage.namespace.cluster().get(&["pods", NAMESPACE])?;
            ensure!(pods["items"] == Value::Array(vec![]), "some are left");
            Ok(())
        })?;
        Ok(down)
    }

    fn scale(&self, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.0.namespace.cluster().kubectl(&["scale", WEBHOOK, NAMESPACE, &replicas]).run().map(drop)
    }

    fn restore(&self) -> Result<()> {
        self.scale(2)?;
        let wait = ["rollout", "status", WEBHOOK, NAMESPACE, "--timeout=180s"];
        self.0.namespace.cluster().kubectl(&wait).run()?;
        // The API server learns of the new pods' addresses a little later.
        let probe = Writer::new("probe").without_stamps().elected().manifest(self.0)?.to_string();
        until("the webhook to answer", || {
            self.0.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(&*probe).run()
        })
        .map(drop)
    }
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            say(format!("the webhook did not come back: {error:#}"));
        }
    }
}

#[test]
fn with_the_webhook_down_only_changes_of_annotated_workloads_are_refused() -> Result<()> {
    Stage::alone("webhook-down", |stage| {
        let elected = stage.start(&Writer::new("elected").lease_seconds(15))?;
        let mut known: Vec<Run> = vec![elected.leading()?];
        let down = Down::take(stage)?;

        // Without the annotation: as ever.
        let plain = Writer::new("plain").replicas(1);
        let workload = stage.start(&plain)?;
        stage.start(&plain.clone().variable("WRITE_INTERVAL", "20ms"))?;
        ensure!(workload.replica_sets()?.len() == 2, "the update did not roll out");
        workload.kubectl(&["scale"], &["--replicas=2"])?;
        workload.wait_until_rolled_out()?;
        ensure!(workload.ready_pods()?.len() == 2);

        // With it: refused, and a person can read why.
        let refused = |verb: &str, writer: &Writer| -> Result<()> {
            let manifest = writer.manifest(stage)?.to_string();
            let output = stage.namespace.kubectl(&[verb, "-f", "-"]).input(manifest).output()?;
            ensure!(!output.success(), "{verb} was let through: {}", output.stdout);
            ensure!(output.stderr.contains("failed calling webhook \"inject.leader.io\""), "{}", output.stderr);
            Ok(())
        };
        refused("create", &Writer::new("new").elected())?;
        refused("apply", &Writer::new("elected").lease_seconds(15).variable("WRITE_INTERVAL", "20ms"))?;
        refused("apply", &plain.elected())?;
        let asking = json!({names::ID: "new"});
        let create =
            |object: &Value| stage.namespace.kubectl(&["create", "-f", "-"]).input(object.to_string()).output();
        for kind in ["StatefulSet", "DaemonSet", "Job"] {
            let output = create(&maker(kind, &json!({}), &asking))?;
            ensure!(output.stderr.contains("failed calling webhook \"inject.leader.io\""), "{output:?}");
        }
        let output = create(&pod("new", &asking))?;
        ensure!(output.stderr.contains("failed calling webhook \"pods.inject.leader.io\""), "{output:?}");
        // Nobody needs it for what runs already, nor for what has no annotation of ours.
        let leader = format!("pod/{}", known[0].writer.pod);
        stage.namespace.run(&["label", &leader, "seen=yes"])?;
        for kind in ["StatefulSet", "DaemonSet", "Job", "CronJob"] {
            let output = create(&maker(kind, &json!({}), &json!({})))?;
            ensure!(output.success(), "{output:?}");
        }

        // What runs goes on, fails over and restarts.
        ensure!(elected.leading()?.writer == known[0].writer, "the leader did not go on");
        let pod = known[0].writer.pod.clone();
        stage.namespace.run(&["delete", "pod", &pod, "--wait=false"])?;
        let after_delete = elected.led_anew(&known)?;
        ensure!(after_delete.writer.pod != pod, "leadership stayed with a deleted pod");
        elected.wait_until_rolled_out()?;
        known.push(after_delete.clone());
        elected.processes(&after_delete.writer.pod)?.agent()?.signal(Signal::KILL)?;
        elected.led_anew(&known)?;
        until("all three pods to be ready again", || {
            let ready = elected.ready_pods()?;
            ensure!(ready.len() == 3 && !ready.contains(&pod), "{ready:?} are ready");
            Ok(())
        })?;
        elected.never_two(3)?;
        drop(down);
        elected.kubectl(&["rollout", "restart"], &[])?;
        elected.wait_until_rolled_out()
    })
}

fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
    })
}

/// The webhook's configuration deleted, and there again when this is dropped.
pub(crate) struct Deleted<'a> {
    stage: &'a Stage,
    configuration: Value,
}

const CONFIGURATION: &str = "mutatingwebhookconfiguration/leader-webhook";

impl<'a> Deleted<'a> {
    pub(crate) fn take(stage: &'a Stage) -> Result<Self> {
        let cluster = stage.namespace.cluster();
        let mut configuration = cluster.get(&[CONFIGURATION])?;
        let metadata = configuration["metadata"].as_object_mut().context("no metadata")?;
        for made_by_the_server in ["resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"] {
            metadata.remove(made_by_the_server);
        }
        let deleted = Self { stage, configuration };
        cluster.kubectl(&["delete", CONFIGURATION]).run()?;
        // The API server forgets it a little later.
        let probe = pod("probe", &json!({"leader.io/probe": "yes"})).to_string();
        until("the webhook to be asked no longer", || {
            stage.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(&*probe).run()
        })?;
        Ok(deleted)
    }

    fn restore(&self) -> Result<()> {
        let cluster = self.stage.namespace.cluster();
        cluster.kubectl(&["create", "-f", "-"]).input(self.configuration.to_string()).run()?;
        let probe = Writer::new("probe").without_stamps().elected().manifest(self.stage)?.to_string();
        until("the webhook to be asked again", || {
            let output =
                self.stage.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(&*probe).output()?;
            ensure!(output.success(), "{}", output.stderr);
            Ok(())
        })
    }
}

impl Drop for Deleted<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            say(format!("the webhook's configuration did not come back: {error:#}"));
        }
    }
}

#[test]
fn without_the_webhooks_configuration_nothing_annotated_is_stored_or_run_without_election() -> Result<()> {
    Stage::alone("policy", |stage| {
        let writer = Writer::new("elected").without_stamps().elected();
        let elected = stage.start(&writer)?;
        let by_template = {
            let mut manifest = Writer::new("by-template").replicas(1).without_stamps().manifest(stage)?;
            manifest["spec"]["template"]["metadata"]["annotations"] = json!({names::ID: "by-template"});
            manifest
        };
        let deleted = Deleted::take(stage)?;
        let create = |object: &Value| {
            stage.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(object.to_string()).output()
        };
        let refused = |object: &Value, parts: &[&str]| -> Result<()> {
            let output = create(object)?;
            ensure!(!output.success(), "it was let through: {}", output.stdout);
            for part in [&["ValidatingAdmissionPolicy"], parts].concat() {
                ensure!(output.stderr.contains(part), "no `{part}` in {}", output.stderr);
            }
            Ok(())
        };
        let repair = "Check that MutatingWebhookConfiguration leader-webhook exists";
        let asking = json!({names::ID: "new"});
        for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
            refused(&maker(kind, &asking, &json!({})), &["leader-injected", "has no agent", repair])?;
            let half = |mode: &str| {
                let mut object = maker(kind, &json!({names::ID: "new", "leader.io/mode": mode}), &json!({}));
                object["spec"]["template"]["spec"]["initContainers"] =
                    json!([{"name": names::INIT_CONTAINER, "image": "registry.invalid/agent:1"}]);
                object
            };
            for mode in ["run", "ready"] {
                refused(&half(mode), &["no container is started by the agent", repair])?;
            }
            ensure!(create(&half("observe"))?.success(), "the agent beside the app is all that mode observe asks for");
        }
        for kind in ["ReplicaSet", "Job", "ReplicationController"] {
            refused(&maker(kind, &asking, &json!({})), &["leader-on-the-template", "put it on the pod template"])?;
        }
        refused(&maker("CronJob", &asking, &json!({})), &["leader-on-the-job-template", "put it on the pod template"])?;
        refused(&pod("new", &asking), &["leader-injected-pods", "the pod has no agent", repair])?;
        let in_kube_system =
            stage.namespace.cluster().kubectl(&["-n", "kube-system", "create", "--dry-run=server", "-f", "-"]);
        let output = in_kube_system.input(pod("new", &asking).to_string()).output()?;
        ensure!(output.stderr.contains("leader-injected-pods"), "{output:?}");

        // The manifest of an injected one takes the agent out of its command.
        let again =
            stage.namespace.kubectl(&["apply", "-f", "-"]).input(writer.manifest(stage)?.to_string()).output()?;
        ensure!(again.stderr.contains("no container is started by the agent"), "{again:?}");

        // What is stored before it is looked at runs nothing.
        stage.namespace.apply(&by_template.to_string())?;
        until("the refusal of the template's pods to be told", || {
            let events = stage.namespace.run(&["get", "events", "--field-selector=reason=FailedCreate"])?;
            ensure!(events.contains("leader-injected-pods") && events.contains("by-template"), "{events}");
            Ok(())
        })?;
        let pods = stage.namespace.get(&["pods", "--selector=app=by-template"])?;
        ensure!(pods["items"] == json!([]), "it runs: {pods:#}");

        // What was injected goes on, and is replaced.
        elected.kubectl(&["scale"], &["--replicas=2"])?;
        let gone = elected.ready_pods()?.pop().context("no pod")?;
        stage.namespace.run(&["delete", "pod", &gone])?;
        elected.wait_until_rolled_out()?;
        until("two ready pods", || {
            let ready = elected.ready_pods()?;
            ensure!(ready.len() == 2 && !ready.contains(&gone), "{ready:?} are ready");
            Ok(())
        })?;

        drop(deleted);
        // The owner tries again by itself, more and more seldom; a change wakes it.
        stage.namespace.run(&["annotate", "replicaset", "--selector=app=by-template", "wake=up"])?;
        stage.namespace.run(&["rollout", "status", "deployment/by-template", "--timeout=180s"]).map(drop)
    })
}
