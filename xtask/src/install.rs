//! `cargo xtask install`: applies `deploy/` to a test cluster, as an admin would, and waits until it works.

use std::io;

use anyhow::{Context, Result};
use leader_tests::Cluster;
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
    let overlay = overlay::write_deploy(cluster, references)?;
    cluster.kubectl(&["apply", "-k"]).arg(&overlay).show(io::stderr())?;
    let webhook = "deployment/leader-webhook";
    if let Err(error) = cluster.kubectl(&["rollout", "status", webhook, NAMESPACE, TIMEOUT]).show(io::stderr()) {
        for arguments in [
            &["get", "pods", NAMESPACE, "-o", "wide"][..],
            &["get", "events", NAMESPACE, "--sort-by=.lastTimestamp"],
            &["logs", webhook, NAMESPACE, "--all-pods", "--all-containers", "--tail=20"],
        ] {
            say(format!("$ kubectl {}", arguments.join(" ")));
            // What failed first is told; this only helps to see why.
            let _ = cluster.kubectl(arguments).show(io::stderr());
        }
        return Err(error).context("the webhook did not come up: its pods, events and logs are above");
    }
    // Until it is there, the API server trusts no certificate of the webhook.
    let bundle = "--for=jsonpath={.webhooks[0].clientConfig.caBundle}";
    cluster.kubectl(&["wait", "mutatingwebhookconfiguration/leader-webhook", bundle, TIMEOUT]).show(io::stderr())?;
    say(format!("leader is installed in cluster `{}`", cluster.name()));
    Ok(())
}
