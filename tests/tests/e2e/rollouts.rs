//! Nothing rolls out by surprise: the same manifest again leaves the template as it was, and adds no ReplicaSet.

use anyhow::{Result, ensure};

use crate::stage::Stage;
use crate::workload::Workload;
use crate::writer::Writer;

/// Writes again, and sees that nothing changed.
fn unchanged(workload: &Workload<'_>, what: &str, write: impl FnOnce() -> Result<String>) -> Result<()> {
    let (template, sets) = (workload.template()?, workload.replica_sets()?);
    ensure!(template["spec"]["initContainers"][0]["name"] == "leader-agent", "not injected: {template:#}");
    write()?;
    let after = workload.template()?;
    ensure!(after == template, "{what} changed the template from {template:#} to {after:#}");
    // The Deployment's controller has seen the write, or there is no ReplicaSet yet that it might have made.
    workload.wait_until_rolled_out()?;
    let now = workload.replica_sets()?;
    ensure!(now == sets, "{what} rolled out: {sets:?} became {now:?}");
    Ok(())
}

#[test]
fn applying_the_same_manifest_again_client_side_rolls_nothing_out() -> Result<()> {
    Stage::test("client-side", |stage| {
        let writer = Writer::new("client-side").replicas(2).without_stamps().elected();
        let workload = stage.start(&writer)?;
        let manifest = writer.manifest(stage)?.to_string();
        unchanged(&workload, "client-side apply", || stage.namespace.apply(&manifest))?;
        unchanged(&workload, "replace", || stage.namespace.kubectl(&["replace", "-f", "-"]).input(&*manifest).run())
    })
}

#[test]
fn applying_the_same_manifest_again_server_side_rolls_nothing_out() -> Result<()> {
    Stage::test("server-side", |stage| {
        let writer = Writer::new("server-side").replicas(2).without_stamps().elected();
        let workload = stage.workload(&writer)?;
        let manifest = writer.manifest(stage)?.to_string();
        let apply = |more: &[&str]| {
            stage.namespace.kubectl(&["apply", "--server-side", "-f", "-"]).args(more).input(&*manifest).run()
        };
        apply(&[])?;
        workload.wait_until_rolled_out()?;
        unchanged(&workload, "server-side apply", || apply(&[]))?;
        unchanged(&workload, "server-side apply by a second manager", || {
            apply(&["--field-manager=another", "--force-conflicts"])
        })
    })
}

#[test]
fn applying_server_side_what_was_applied_client_side_rolls_nothing_out() -> Result<()> {
    Stage::test("both-sides", |stage| {
        let writer = Writer::new("both-sides").replicas(2).without_stamps().elected();
        let workload = stage.start(&writer)?;
        let manifest = writer.manifest(stage)?.to_string();
        unchanged(&workload, "server-side apply", || {
            let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
            stage.namespace.kubectl(&apply).input(&*manifest).run()
        })
    })
}
