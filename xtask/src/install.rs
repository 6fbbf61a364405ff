//! `cargo xtask install`: applies `deploy/` to a test cluster, as an admin would, and waits until it works.

use std::io;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use leader_tests::Cluster;
use leader_tests::command::{Tool, exit_code};
use leader_tests::progress::say;

use crate::cluster::Name;
use crate::images::{self, References};
use crate::overlay;

const NAMESPACE: &str = "--namespace=leader-system";
const TIMEOUT: &str = "--timeout=180s";

/// Installs the images that were pushed last.
pub(crate) fn run(name: &Name) -> Result<()> {
    let cluster = Cluster::find(&name.name)?;
    let references = images::pushed(&cluster)?;
    install(&cluster, &references)
}

/// Applies `deploy/` with these images and waits until reviews are answered.
pub(crate) fn install(cluster: &Cluster, references: &References) -> Result<()> {
    let overlay = overlay::write(cluster, "deploy", references)?;
    show(cluster.kubectl(&["apply", "-k"]).arg(&overlay))?;
    let webhook = "deployment/leader-webhook";
    if let Err(error) = show(cluster.kubectl(&["rollout", "status", webhook, NAMESPACE, TIMEOUT])) {
        for arguments in [
            &["get", "pods", NAMESPACE, "-o", "wide"][..],
            &["get", "events", NAMESPACE, "--sort-by=.lastTimestamp"],
            &["logs", webhook, NAMESPACE, "--all-pods", "--all-containers", "--tail=20"],
        ] {
            say(format!("$ kubectl {}", arguments.join(" ")));
            // What failed first is told; this only helps to see why.
            let _ = show(cluster.kubectl(arguments));
        }
        return Err(error).context("the webhook did not come up: its pods, events and logs are above");
    }
    // Until it is there, the API server trusts no certificate of the webhook.
    let bundle = "--for=jsonpath={.webhooks[0].clientConfig.caBundle}";
    show(cluster.kubectl(&["wait", "mutatingwebhookconfiguration/leader-webhook", bundle, TIMEOUT]))?;
    say(format!("leader is installed in cluster `{}`", cluster.name()));
    Ok(())
}

/// Runs a program and shows what it says as it says it.
fn show(tool: Tool) -> Result<()> {
    let line = tool.command_line();
    let status = tool
        .into_command()
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with code {}", exit_code(status));
    }
    Ok(())
}
