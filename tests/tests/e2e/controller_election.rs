//! One replica's controller works, another one goes on when it is gone, and together they ask for little.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_tests::progress::say;
use leader_tests::wait;
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::{Stage, until};

const NAMESPACE: &str = "--namespace=leader-system";
const WEBHOOK: &str = "deployment/leader-webhook";
const USER: &str = "system:serviceaccount:leader-system:leader-webhook";
/// Over this time requests are counted.
const WINDOW: Duration = Duration::from_mins(1);
/// The goal: one a second.
const MOST: usize = 60;

fn lease(stage: &Stage) -> Result<Value> {
    stage.namespace.cluster().get(&[NAMESPACE, "lease/leader-webhook-controller"])
}

/// The pod whose controller works: the Lease's holder, while it is there.
fn working(stage: &Stage) -> Result<String> {
    let lease = lease(stage)?;
    let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
    let holder = holder.with_context(|| format!("nobody holds {lease:#}"))?;
    stage.namespace.cluster().kubectl(&["get", NAMESPACE, "pod", holder]).run()?;
    Ok(holder.to_owned())
}

/// An id's Role is deleted and comes back.
fn repairs(stage: &Stage) -> Result<()> {
    stage.namespace.run(&["delete", "role/leader-billing"])?;
    until("the Role to be made again", || stage.namespace.run(&["get", "role/leader-billing"])).map(drop)
}

/// A workload that no node runs.
fn billing(stage: &Stage) -> Result<()> {
    let mut deployment = maker("Deployment", &json!({names::ID: "billing"}), &json!({}));
    deployment["metadata"]["name"] = json!("billing");
    deployment["spec"]["replicas"] = json!(0);
    stage.namespace.apply(&deployment.to_string()).map(drop)
}

fn rolled_out(stage: &Stage) -> Result<()> {
    let wait = ["rollout", "status", NAMESPACE, WEBHOOK, "--timeout=180s"];
    stage.namespace.cluster().kubectl(&wait).run().map(drop)
}

#[test]
fn another_replica_goes_on() -> Result<()> {
    Stage::bare_alone("controller", |stage| {
        let cluster = stage.namespace.cluster();
        billing(stage)?;
        let first = until("a controller that works", || working(stage))?;
        repairs(stage)?;

        // Asked to stop, it gives the Lease away before it goes.
        cluster.kubectl(&["delete", NAMESPACE, "pod", &first, "--wait=false"]).run()?;
        let successor = |old: &str| {
            until(&format!("another controller than {old}"), || {
                let now = working(stage)?;
                ensure!(now != old, "it is still {now}");
                Ok(now)
            })
        };
        let second = successor(&first)?;
        repairs(stage)?;
        rolled_out(stage)?;

        // Gone without a word, it is waited for.
        cluster.kubectl(&["delete", NAMESPACE, "pod", &second, "--grace-period=0", "--force"]).run()?;
        successor(&second)?;
        repairs(stage)?;
        rolled_out(stage)
    })
}

#[test]
fn in_the_steady_state_it_asks_less_than_once_a_second() -> Result<()> {
    Stage::bare_alone("steady", |stage| {
        let cluster = stage.namespace.cluster();
        billing(stage)?;
        until("a controller that works", || working(stage))?;
        rolled_out(stage)?;
        let so_far = || -> Result<usize> { Ok(cluster.requests_of(USER)?.len()) };
        // Tests that ran before leave namespaces behind, which are removed with all that is in them.
        wait::until("a minute with few requests", Duration::from_mins(8), || {
            let before = so_far()?;
            thread::sleep(WINDOW);
            // The API server begins a new log when one has grown long.
            let asked = so_far()?.checked_sub(before).context("the log was begun anew")?;
            say(format!("both replicas together: {asked} requests in {WINDOW:?}"));
            ensure!(asked <= MOST, "{asked} requests in {WINDOW:?}");
            Ok(())
        })
    })
}
