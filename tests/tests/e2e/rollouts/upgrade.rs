//! The webhook is upgraded, and downgraded: what runs stays, and the next change of a template takes the agent of the moment.

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_tests::Cluster;
use leader_tests::progress::say;
use serde_json::Value;

use super::live::{rolled_out, unchanged};
use super::table::{Group, Outcome};
use crate::stage::{Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "deployment/leader-webhook";

pub(super) fn group() -> Group {
    Group::new("upgrade").filled(|group| Stage::alone("rollouts-upgrade", |stage| rows(stage, group)))
}

/// The webhook with another agent, and as it was when this is dropped.
struct Upgraded<'a> {
    cluster: &'a Cluster,
    before: &'a str,
}

impl Upgraded<'_> {
    fn inject(&self, agent: &str) -> Result<()> {
        // The webhook takes what it injects from this container's image.
        self.cluster.kubectl(&["set", "image", WEBHOOK, &format!("agent-image={agent}"), NAMESPACE]).run()?;
        self.cluster.kubectl(&["rollout", "status", WEBHOOK, NAMESPACE, "--timeout=180s"]).run()?;
        // A replica that is on its way out may still answer a connection that it has.
        until("only one version to be there", || {
            let pods = self.cluster.get(&["pods", NAMESPACE])?;
            let pods = pods["items"].as_array().context("a list without items")?;
            ensure!(pods.len() == 2, "{} replicas are there", pods.len());
            Ok(())
        })
    }
}

impl Drop for Upgraded<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.inject(self.before) {
            say(format!("the webhook still injects another agent: {error:#}"));
        }
    }
}

fn agent(template: &Value) -> Result<String> {
    let init = &template["spec"]["initContainers"][0];
    ensure!(init["name"] == names::INIT_CONTAINER, "the first init container is {init}");
    Ok(init["image"].as_str().context("no image")?.to_owned())
}

fn injects(workload: &Workload<'_>, expected: &str) -> Result<()> {
    let agent = agent(&workload.template()?)?;
    ensure!(agent == expected, "the agent is {agent}, not {expected}");
    Ok(())
}

fn rows(stage: &Stage, group: &mut Group) -> Result<()> {
    let cluster = stage.namespace.cluster();
    let old = stage.image("leader-agent")?;
    let new = format!("{old}-upgraded");
    let (from, to) = (format!("docker://{old}"), format!("docker://{new}"));
    cluster
        .tool("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to])
        .run()?;

    let writer = |name: &str| Writer::new(name).replicas(2).without_stamps().elected();
    let (first, second) = (writer("first"), writer("second"));
    let workload = stage.start(&first)?;
    let other = stage.start(&second)?;
    let manifest = first.manifest(stage)?.to_string();
    let changed = first.clone().variable("WRITE_INTERVAL", "20ms").manifest(stage)?.to_string();
    let send = |verb: &[&str], manifest: &str| stage.namespace.kubectl(verb).args(["-f", "-"]).input(manifest).run();
    let stays = |workload: &Workload<'_>, agent: &str, write: &dyn Fn() -> Result<String>| {
        let outcome = unchanged(workload, write)?;
        injects(workload, agent)?;
        Ok(outcome)
    };
    let takes = |workload: &Workload<'_>, agent: &str, write: &dyn Fn() -> Result<String>| {
        let outcome = rolled_out(workload, write)?;
        injects(workload, agent)?;
        Ok::<Outcome, anyhow::Error>(outcome)
    };

    let webhook = Upgraded { cluster, before: old };
    group.row("upgrade of the webhook", || stays(&workload, old, &|| webhook.inject(&new).map(|()| String::new())));
    group.row("client-side apply of the same", || stays(&workload, old, &|| send(&["apply"], &manifest)));
    group.row("server-side apply of the same", || {
        stays(&workload, old, &|| send(&["apply", "--server-side", "--force-conflicts"], &manifest))
    });
    group.row("replace by the same", || stays(&workload, old, &|| send(&["replace"], &manifest)));
    group.row("annotate", || stays(&workload, old, &|| workload.kubectl(&["annotate"], &["team=payments"])));
    group.row("the next change of the template", || takes(&workload, &new, &|| send(&["apply"], &changed)));
    group.row("rollout undo to the old agent", || {
        takes(&workload, old, &|| workload.kubectl(&["rollout", "undo"], &[]))
    });
    group
        .row("client-side apply of the same after the undo", || stays(&workload, old, &|| send(&["apply"], &manifest)));
    group.row("rollout restart", || takes(&workload, &new, &|| workload.kubectl(&["rollout", "restart"], &[])));
    group.row("another workload stays", || stays(&other, old, &|| other.kubectl(&["label"], &["tier=back"])));
    group.row("downgrade of the webhook", || stays(&workload, &new, &|| webhook.inject(old).map(|()| String::new())));
    group.row("client-side apply after the downgrade", || stays(&workload, &new, &|| send(&["apply"], &manifest)));
    group.row("the next change after the downgrade", || takes(&workload, old, &|| send(&["apply"], &changed)));
    drop(webhook);
    Ok(())
}
