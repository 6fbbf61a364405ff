//! The webhook is in nobody's way when it is down: only annotated workloads cannot be changed.

use anyhow::{Result, ensure};
use leader_ledger::overlap::Run;
use leader_tests::progress::say;
use rustix::process::Signal;
use serde_json::Value;

use crate::stage::{Stage, until};
use crate::writer::Writer;

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "deployment/leader-webhook";

/// The webhook scaled to nothing, and back when this is dropped.
struct Down<'a>(&'a Stage);

impl<'a> Down<'a> {
    fn take(stage: &'a Stage) -> Result<Self> {
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
        let elected = stage.start(&Writer::new("elected").elected())?;
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
        refused("apply", &Writer::new("elected").elected().variable("WRITE_INTERVAL", "20ms"))?;
        refused("apply", &plain.elected())?;

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
