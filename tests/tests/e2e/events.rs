//! What a person finds with `kubectl describe` and `kubectl get events` about injection, where nobody shows the answer to a review.

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::{Stage, until};

/// The Events of a reason, as the API has them.
fn events(stage: &Stage, reason: &str) -> Result<Vec<Value>> {
    let selector = format!("--field-selector=reason={reason},reportingComponent=leader.io/webhook");
    let list = stage.namespace.get(&["events", &selector])?;
    Ok(list["items"].as_array().context("a list without items")?.clone())
}

/// Waits for the Event of a reason about an object, and returns it.
fn event(stage: &Stage, reason: &str, kind: &str, name: &str) -> Result<Value> {
    until(&format!("an Event {reason} about {kind} {name}"), || {
        let events = events(stage, reason)?;
        let is_about = |event: &&Value| {
            event["involvedObject"]["kind"] == kind
                && event["involvedObject"]["name"].as_str().is_some_and(|found| found.starts_with(name))
        };
        events.iter().find(is_about).cloned().with_context(|| format!("there are {events:#?}"))
    })
}

/// A workload that needs no registry and runs nothing.
fn workload(annotations: &Value, on_template: &Value) -> Value {
    let mut workload = maker("Deployment", annotations, on_template);
    workload["metadata"]["name"] = json!("billing");
    workload["spec"]["replicas"] = json!(0);
    workload
}

#[test]
fn a_workload_tells_what_was_done_to_it_and_what_was_not() -> Result<()> {
    Stage::bare("events", &[], |stage| {
        let annotated = json!({names::ID: "billing"});
        stage.namespace.apply(&workload(&annotated, &json!({})).to_string())?;
        let injected = event(stage, "Injected", "Deployment", "billing")?;
        let lease = format!("Lease {}/billing", stage.namespace.name());
        ensure!(injected["type"] == "Normal", "{injected:#}");
        ensure!(injected["message"].as_str().is_some_and(|note| note.contains(&lease)), "{injected:#}");
        // It was not stored yet when it was reviewed: the Event is the object's all the same.
        let described = stage.namespace.run(&["describe", "deployment/billing"])?;
        ensure!(described.contains("Injected") && described.contains(&lease), "{described}");

        let mistyped = workload(&json!({names::ID: "billing", "leader.io/lease-durration": "5s"}), &json!({}));
        let output = stage.namespace.kubectl(&["apply", "-f", "-"]).input(mistyped.to_string()).output()?;
        ensure!(output.stderr.contains("leader.io/lease-durration"), "{output:?}");
        let refused = event(stage, "InjectionRefused", "Deployment", "billing")?;
        ensure!(refused["type"] == "Warning", "{refused:#}");
        ensure!(refused["message"].as_str().is_some_and(|note| note.contains("lease-durration")), "{refused:#}");

        stage.namespace.apply(&workload(&json!({}), &json!({})).to_string())?;
        let ejected = event(stage, "Ejected", "Deployment", "billing")?;
        ensure!(ejected["message"].as_str().is_some_and(|note| note.contains("each of its 0 pods")), "{ejected:#}");
        Ok(())
    })
}

#[test]
fn what_was_never_stored_is_told_in_its_namespace_or_on_what_makes_it() -> Result<()> {
    Stage::bare("events-refused", &[], |stage| {
        let mut mistyped = workload(&json!({names::ID: "never", "leader.io/contaner": "app"}), &json!({}));
        mistyped["metadata"]["name"] = json!("never");
        let create = |more: &[&str]| {
            stage.namespace.kubectl(&["create", "-f", "-"]).args(more).input(mistyped.to_string()).output()
        };
        let output = create(&["--dry-run=server"])?;
        ensure!(!output.success(), "{output:?}");
        let output = create(&[])?;
        ensure!(!output.success(), "{output:?}");
        let refused = event(stage, "InjectionRefused", "Deployment", "never")?;
        ensure!(refused["involvedObject"]["uid"].as_str().unwrap_or_default().is_empty(), "{refused:#}");
        // The dry run was refused as well, and is nobody's business.
        ensure!(refused["series"].is_null(), "{refused:#}");

        // Of pods that are injected one by one, what makes them tells.
        let mut by_pods = workload(&json!({}), &json!({names::ID: "pods"}));
        by_pods["spec"]["replicas"] = json!(1);
        stage.namespace.apply(&by_pods.to_string())?;
        let told = event(stage, "Injected", "ReplicaSet", "billing-")?;
        ensure!(told["involvedObject"]["uid"].is_string(), "{told:#}");
        Ok(())
    })
}

#[test]
fn a_workload_that_is_rewritten_identically_over_and_over_is_pointed_out() -> Result<()> {
    Stage::bare("events-rewritten", &[], |stage| {
        let manifest = workload(&json!({names::ID: "billing"}), &json!({}));
        stage.namespace.apply(&manifest.to_string())?;
        // As a tool does that takes the injected fields for a deviation. Each replica counts for itself, so that more than twice as many
        // are written as are told about; one kubectl writes them within seconds.
        let list = json!({"apiVersion": "v1", "kind": "List", "items": vec![manifest; 30]}).to_string();
        until("an Event to point it out", || {
            stage.namespace.apply(&list)?;
            let events = events(stage, "RewrittenIdentically")?;
            let event = events.first().context("there is none yet")?;
            ensure!(event["involvedObject"]["name"] == "billing" && event["type"] == "Warning", "{event:#}");
            let note = event["message"].as_str().unwrap_or_default();
            ensure!(note.contains("more than 10 times within a minute"), "{note}");
            Ok(())
        })?;
        // None of it was a change.
        let sets = stage.namespace.get(&["replicasets"])?;
        ensure!(sets["items"].as_array().is_some_and(|sets| sets.len() == 1), "{sets:#}");
        Ok(())
    })
}
