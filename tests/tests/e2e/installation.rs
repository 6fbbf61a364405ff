//! The pages about installing, upgrading and uninstalling, walked from a cluster in which nothing is installed to one in which nothing
//! is left. What is typed stands in the pages; the test only looks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use leader_agent::names;
use leader_ledger::report::Report;
use leader_tests::Cluster;
use leader_tests::command::Tool;
use leader_tests::progress::say;
use serde_json::{Value, json};

use crate::pages::Page;
use crate::site::{Release, Site};
use crate::stage::{Stage, until};

/// What the webhook and its objects are found by.
const INSTALLED: &str = "--selector=app.kubernetes.io/part-of=leader.io";
/// What the objects of an id are found by.
const OF_AN_ID: &str = "--selector=app.kubernetes.io/managed-by=leader.io";
const KINDS: &str = "namespaces,clusterroles,clusterrolebindings,flowschemas,mutatingwebhookconfigurations,\
    validatingadmissionpolicies,validatingadmissionpolicybindings";

#[test]
fn the_pages_are_walked_as_they_stand() -> Result<()> {
    Stage::elsewhere("installation", |other, images| {
        let site = Site::bring_up("installation", other, images)?;
        let walked = walk(&site);
        if walked.is_err() {
            site.print_diagnosis();
        }
        walked
    })
}

fn walk(site: &Site) -> Result<()> {
    let (install, upgrade, uninstall) = (Page::read("install")?, Page::read("upgrade")?, Page::read("uninstall")?);
    let follow = |page: &Page, section: &str| {
        say(format!("following `{section}`"));
        page.follow(section, &site.cluster, site.folder())
    };

    site.check_out(Release::Earlier)?;
    follow(&install, "Install")?;
    ensure!(agent_of_webhook(site)?.ends_with(Release::Earlier.version()), "not the earlier release");
    follow(&install, "See it work")?;
    let leader = leader(site)?;
    let before = template(site)?;
    ensure!(agent(&before)?.ends_with(Release::Earlier.version()), "the agent is {}", agent(&before)?);

    site.check_out(Release::This)?;
    let sent = under_load(site, || {
        follow(&upgrade, "Upgrade")?;
        ensure!(agent_of_webhook(site)?.ends_with(Release::This.version()), "it was not upgraded");
        ensure!(template(site)? == before, "the upgrade changed the workload");
        follow(&upgrade, "Take the new agent")?;
        ensure!(agent(&template(site)?)?.ends_with(Release::This.version()), "the old agent is still there");
        site.check_out(Release::Earlier)?;
        let new = template(site)?;
        follow(&upgrade, "Downgrade")?;
        ensure!(template(site)? == new, "the downgrade changed the workload");
        // The earlier webhook takes the place of what the later one put in.
        follow(&upgrade, "Take the new agent")?;
        ensure!(agent(&template(site)?)?.ends_with(Release::Earlier.version()), "the later agent is still there");
        Ok(())
    })?;
    say(format!("upgrade and downgrade: {sent} annotated writes, none refused"));
    until("another leader than before all rollouts", || {
        let now = self::leader(site)?;
        ensure!(now != leader, "{now} still leads");
        Ok(())
    })?;

    let shown = follow(&install, "Fit it to your cluster")?;
    ensure!(shown.contains("deployment.apps/leader-webhook configured (server dry run)"), "{shown}");

    uninstalled_with_workloads_there(site, &uninstall)?;
    let before = template(site)?;
    // Another release than the one that was there is as good.
    site.check_out(Release::This)?;
    follow(&install, "Install")?;
    site.cluster.kubectl(&["--namespace=ledger", "annotate", "deployment/writer", "again=yes"]).run()?;
    ensure!(template(site)? == before, "installing again changed the workload");

    follow(&uninstall, "Turn election off first")?;
    let plain = site.get(&["--namespace=ledger", "deployment/writer"])?;
    let spec = &plain["spec"]["template"]["spec"];
    ensure!(spec["initContainers"].is_null(), "the agent is still in {spec:#}");
    ensure!(spec["containers"][0]["command"] == json!(["/ledger-writer"]), "{spec:#}");
    follow(&uninstall, "Remove it")?;
    follow(&uninstall, "Remove what ids had")?;
    nothing_is_left(site)?;
    never_two(site)
}

/// Runs `work` while annotated workloads are created and changed, and gives how many requests were sent; one that was refused is an
/// error.
fn under_load(site: &Site, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    site.cluster.apply(&asking("load"))?;
    let done = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let load = scope.spawn(|| write_on(&site.cluster, &done));
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let Ok(sent) = load.join() else { bail!("the load panicked") };
        worked?;
        let (sent, refused) = sent?;
        ensure!(refused.is_empty(), "{} of {sent} annotated writes were refused: {refused:#?}", refused.len());
        Ok(sent)
    })?;
    site.cluster.kubectl(&["--namespace=ledger", "delete", "deployment/load"]).run()?;
    Ok(sent)
}

/// An annotated Deployment that runs nothing.
fn asking(name: &str) -> String {
    let labels = json!({"app": name});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "ledger", "annotations": {names::ID: name}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
            },
        },
    })
    .to_string()
}

/// Creates (dry run) and changes, one after the other, until it is told to end. Gives how many writes there were, and what was said
/// of those that failed.
fn write_on(cluster: &Cluster, done: &AtomicBool) -> Result<(usize, Vec<String>)> {
    let created = asking("created");
    let (mut sent, mut refused) = (0, Vec::new());
    while !done.load(Ordering::Relaxed) {
        let tick = format!("tick={sent}");
        let writes: [Tool; 2] = [
            cluster.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(&*created),
            cluster.kubectl(&["--namespace=ledger", "annotate", "--overwrite", "deployment/load", &tick]),
        ];
        for write in writes {
            let output = write.output()?;
            sent += 1;
            if !output.success() {
                refused.push(output.stderr);
            }
        }
    }
    Ok((sent, refused))
}

/// The webhook is removed while an elected workload is there: it goes on, fails over and replaces its pods.
fn uninstalled_with_workloads_there(site: &Site, uninstall: &Page) -> Result<()> {
    let before = lease(site)?;
    let holder = before["spec"]["holderIdentity"].as_str().context("nobody leads")?.to_owned();
    uninstall.follow("Remove it", &site.cluster, site.folder())?;
    let gone = site.get(&[KINDS, INSTALLED])?;
    ensure!(gone["items"] == json!([]), "it is still there: {gone:#}");

    until("a renewal", || {
        let now = lease(site)?;
        ensure!(now["spec"]["renewTime"] != before["spec"]["renewTime"], "not renewed since");
        ensure!(now["spec"]["holderIdentity"] == holder.as_str(), "leadership went from {holder} to {}", now["spec"]);
        Ok(())
    })?;
    let (pod, _) = holder.split_once('_').with_context(|| format!("{holder} is no identity of a pod"))?;
    site.cluster.kubectl(&["--namespace=ledger", "delete", "pod", pod]).run()?;
    until("another leader", || {
        let now = leader(site)?;
        ensure!(now != holder, "{now} still leads");
        Ok(())
    })?;
    let status = ["--namespace=ledger", "rollout", "status", "deployment/writer", "--timeout=180s"];
    site.cluster.kubectl(&status).run().map(drop)
}

fn template(site: &Site) -> Result<Value> {
    Ok(site.get(&["--namespace=ledger", "deployment/writer"])?["spec"]["template"].clone())
}

fn agent(template: &Value) -> Result<String> {
    let init = &template["spec"]["initContainers"][0];
    ensure!(init["name"] == names::INIT_CONTAINER, "no agent in {template:#}");
    Ok(init["image"].as_str().context("no image")?.to_owned())
}

/// The agent that the webhook injects.
fn agent_of_webhook(site: &Site) -> Result<String> {
    let webhook = site.get(&["--namespace=leader-system", "deployment/leader-webhook"])?;
    let image = &webhook["spec"]["template"]["spec"]["initContainers"][0]["image"];
    Ok(image.as_str().context("no init container")?.to_owned())
}

fn lease(site: &Site) -> Result<Value> {
    site.get(&["--namespace=ledger", "lease/writer"])
}

fn leader(site: &Site) -> Result<String> {
    let lease = lease(site)?;
    let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
    Ok(holder.context("nobody leads")?.to_owned())
}

fn nothing_is_left(site: &Site) -> Result<()> {
    let installed = site.get(&[KINDS, INSTALLED])?;
    ensure!(installed["items"] == json!([]), "of the installation: {installed:#}");
    let of_ids = site.get(&["rolebindings,roles,serviceaccounts,leases", "--all-namespaces", OF_AN_ID])?;
    ensure!(of_ids["items"] == json!([]), "of ids: {of_ids:#}");
    Ok(())
}

/// What the keeper of the example saw of all that.
fn never_two(site: &Site) -> Result<()> {
    let path = "/api/v1/namespaces/ledger/services/keeper:report/proxy/report";
    let text = site.cluster.kubectl(&["get", "--raw", path]).run()?;
    let report: Report = serde_json::from_str(&text).with_context(|| format!("no report: {text}"))?;
    let elected = report.runs.iter().filter(|report| report.run.writer.elected()).count();
    ensure!(elected >= 4, "only {elected} elected writers were seen: {report}");
    ensure!(report.elected.is_empty(), "two were elected at once: {report}");
    Ok(())
}
