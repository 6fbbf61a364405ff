//! Leader-only Services: traffic follows the leader, whatever kind of Service it is, and comes back to all pods when it is given back.

mod client;
mod gone;
mod shop;
mod traffic;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use serde_json::{Value, json};

use self::client::{Client, Met};
use self::gone::Gone;
use self::shop::{PORT, Shop};
use self::traffic::gap;
use crate::check::findings;
use crate::specimen::name;
use crate::stage::{Stage, until};
use crate::webhook_down::Down;

/// Who looks after a slice, as its label `endpointslice.kubernetes.io/managed-by` says: this project.
const OURS: &str = "leader.io";
/// Kubernetes, for a Service with a selector.
const SELECTING: &str = "endpointslice-controller.k8s.io";
/// Kubernetes, for Endpoints of a Service without one.
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

/// The names of all slices in the namespace that one of them looks after, whatever Service they say they are of.
fn managed_by(stage: &Stage, manager: &str) -> Result<Vec<String>> {
    let selector = format!("--selector=endpointslice.kubernetes.io/managed-by={manager}");
    let slices = stage.namespace.get(&["endpointslices", &selector])?;
    let slices = slices["items"].as_array().context("a list without items")?;
    Ok(slices.iter().map(|slice| name(slice).to_owned()).collect())
}

/// An error while one of these looks after a slice in the namespace.
fn none_managed_by(stage: &Stage, managers: [&str; 2]) -> Result<()> {
    for manager in managers {
        let left = managed_by(stage, manager)?;
        ensure!(left.is_empty(), "there are slices of {manager}: {left:?}");
    }
    Ok(())
}

/// Everything about a Service as the API has it: its pods, by its slices.
fn behind(stage: &Stage, service: &str) -> Result<(Vec<Value>, BTreeSet<String>)> {
    let selector = format!("--selector=kubernetes.io/service-name={service}");
    let slices = stage.namespace.get(&["endpointslices", &selector])?;
    let slices = slices["items"].as_array().context("a list without items")?.clone();
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let pods = endpoints.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str()).map(str::to_owned).collect();
    Ok((slices, pods))
}

/// Waits until the leader alone stands behind a Service, and its slices are ours alone; gives the slices.
fn steered(shop: &Shop<'_>, service: &str, leader: &str) -> Result<Vec<Value>> {
    let stage = shop.specimen.stage;
    until(&format!("{leader} alone to stand behind Service {service}"), || {
        let (slices, pods) = behind(stage, service)?;
        ensure!(pods.iter().eq([leader]), "there are {pods:?}");
        let managers: BTreeSet<&str> = slices
            .iter()
            .filter_map(|slice| slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"].as_str())
            .collect();
        ensure!(managers.iter().eq(&[OURS]), "slices of {managers:?} are there");
        Ok(slices)
    })
}

/// Deletes the leader's pod: a client of a leader-only Service goes with leadership, and nobody but the two leaders answers it. Gives the
/// new one.
fn hand_over(shop: &Shop<'_>, client: Client, leader: &str) -> Result<String> {
    client.answered_by(leader)?;
    shop.specimen.stage.namespace.run(&["delete", "pod", leader, "--wait=false"])?;
    let next = shop.specimen.leader_but(&[leader])?;
    client.answered_by(&next)?;
    let wrong = gap(&client.stop()?, leader, &next)?.wrong;
    ensure!(wrong.is_empty(), "from {leader} to {next}, and these answered: {wrong:?}");
    Ok(next)
}

#[test]
fn a_service_is_taken_over_and_given_back() -> Result<()> {
    Stage::bare("service", &[], |stage| {
        let shop = Shop::open(stage, "web", 3)?;
        let leader = shop.specimen.leader()?;
        let plain = shop.service("web", &json!({}), &json!({"sessionAffinity": "ClientIP"}));
        let said = shop.specimen.apply(&plain)?;
        ensure!(!said.contains("leader"), "an ordinary Service met the webhook: {said}");
        until("all three pods to stand behind the Service", || {
            let (_, pods) = behind(stage, "web")?;
            ensure!(pods.len() == 3, "there are {pods:?}");
            none_managed_by(stage, [OURS, MIRRORING])
        })?;
        let asked = shop.service("web", &only("web"), &json!({"sessionAffinity": "ClientIP"}));
        let said = shop.specimen.apply(&asked)?;
        ensure!(said.contains("leader of `web` only"), "{said}");
        let slices = steered(&shop, "web", &leader)?;
        let stored = stage.namespace.get(&["service", "web"])?;
        ensure!(stored["spec"]["selector"].is_null(), "{stored:#}");
        ensure!(stored["spec"]["sessionAffinity"] == "ClientIP", "{stored:#}");
        ensure!(stored["metadata"]["annotations"][names::SELECTOR] == r#"{"front":"web"}"#, "{stored:#}");
        until("the old Endpoints to be gone", || {
            let found = stage.namespace.kubectl(&["get", "endpoints", "web"]).output()?;
            ensure!(!found.success() && found.stderr.contains("NotFound"), "{found:?}");
            // With it went what was mirrored from it while the Service had no selector any more.
            none_managed_by(stage, [SELECTING, MIRRORING])
        })?;
        // The endpoint is as Kubernetes would have written it.
        let endpoint = &slices[0]["endpoints"][0];
        let pod = stage.namespace.get(&["pod", &leader])?;
        ensure!(endpoint["addresses"] == json!([pod["status"]["podIP"]]), "{endpoint:#} of {:#}", pod["status"]);
        ensure!(endpoint["nodeName"] == pod["spec"]["nodeName"], "{endpoint:#} on {}", pod["spec"]["nodeName"]);
        ensure!(endpoint["targetRef"]["uid"] == pod["metadata"]["uid"], "{endpoint:#}");
        ensure!(slices[0]["ports"][0]["port"] == PORT, "{:#}", slices[0]["ports"]);
        // And its agent may write nothing else.
        let role = stage.namespace.get(&["role/leader-web"])?;
        ensure!(role["rules"][1]["resourceNames"] == json!(["web-leader-ipv4"]), "{role:#}");

        // The manifest once more, with its selector: nothing changes.
        shop.specimen.apply(&asked)?;
        let again = stage.namespace.get(&["service", "web"])?;
        ensure!(again["spec"] == stored["spec"], "{again:#}");
        let annotations = |service: &Value| service["metadata"]["annotations"][names::SELECTOR].clone();
        ensure!(annotations(&again) == annotations(&stored), "{again:#}");
        ensure!(steered(&shop, "web", &leader)?[0]["metadata"]["uid"] == slices[0]["metadata"]["uid"]);

        // Without the annotation it is as it was. Until then nothing but our slice is there.
        until("our slice alone to be there", || {
            none_managed_by(stage, [SELECTING, MIRRORING])?;
            let ours = managed_by(stage, OURS)?;
            ensure!(ours == ["web-leader-ipv4"], "{ours:?}");
            Ok(())
        })?;
        let said = shop.specimen.apply(&plain)?;
        ensure!(said.contains("not leader-only any more"), "{said}");
        until("the Service to be an ordinary one again", || {
            let stored = stage.namespace.get(&["service", "web"])?;
            ensure!(stored["spec"]["selector"] == json!({"front": "web"}), "{stored:#}");
            ensure!(annotations(&stored).is_null(), "{stored:#}");
            let (_, pods) = behind(stage, "web")?;
            ensure!(pods.len() == 3, "there are {pods:?}");
            none_managed_by(stage, [OURS, MIRRORING])?;
            let lease = stage.namespace.get(&["lease", "web"])?;
            ensure!(lease["metadata"]["annotations"][names::SLICES].is_null(), "{lease:#}");
            Ok(())
        })
    })
}

/// The annotation that asks for it.
fn only(id: &str) -> Value {
    json!({names::LEADER_ONLY: id})
}

#[test]
fn services_of_every_kind_follow_the_leader() -> Result<()> {
    Stage::bare("service-kinds", &[], |stage| {
        // Before anybody is elected, as a chart's Services come before its Deployments.
        let shop = Shop::new(stage, "web")?;
        let ports = json!([
            {"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"},
            {"name": "direct", "port": PORT},
            {"name": "nowhere", "port": 81, "targetPort": "unknown"},
        ]);
        let said = shop.specimen.apply(&shop.service("early", &only("web"), &json!({"ports": ports})))?;
        ensure!(said.contains("nobody is elected under `web`"), "{said}");
        shop.start(2)?;
        let leader = shop.specimen.leader()?;
        let slices = steered(&shop, "early", &leader)?;
        let numbers: Vec<&Value> =
            slices[0]["ports"].as_array().into_iter().flatten().map(|port| &port["port"]).collect();
        ensure!(numbers == [PORT, PORT], "a name that no container has is left out: {:#}", slices[0]["ports"]);

        for (service, spec) in [
            ("headless", json!({"clusterIP": "None"})),
            ("unready", json!({"publishNotReadyAddresses": true})),
            ("node-port", json!({"type": "NodePort", "externalTrafficPolicy": "Local"})),
            ("balancer", json!({"type": "LoadBalancer", "internalTrafficPolicy": "Local"})),
            ("sticky", json!({"sessionAffinity": "ClientIP"})),
        ] {
            shop.specimen.apply(&shop.service(service, &only("web"), &spec))?;
            steered(&shop, service, &leader)?;
        }
        let headless = stage.namespace.get(&["service", "headless"])?;
        ensure!(headless["spec"]["ipFamilies"] == json!(["IPv4"]), "{headless:#}");

        let refused = |service: &Value, part: &str| -> Result<()> {
            let said = shop.specimen.refused(service)?;
            ensure!(said.contains(part), "{said}");
            Ok(())
        };
        let external = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "external", "annotations": only("web")},
            "spec": {"type": "ExternalName", "externalName": "shop.example"},
        });
        refused(&external, "ExternalName")?;
        refused(&shop.service("typo", &json!({"leader.io/leader-onyl": "web"}), &json!({})), "did you mean")?;

        // All of them move, and so does a client that its Service would keep where it was.
        let client = Client::start(stage.namespace.cluster(), shop.address("sticky")?)?;
        let next = hand_over(&shop, client, &leader)?;
        for service in ["early", "headless", "unready", "node-port", "balancer", "sticky"] {
            steered(&shop, service, &next)?;
        }
        // With the last pod everything ends: no slice keeps an address that may be another pod's tomorrow.
        stage.namespace.run(&["scale", "deployment/web", "--replicas=0"])?;
        until("the slices to be empty", || {
            let (slices, pods) = behind(stage, "early")?;
            ensure!(pods.is_empty() && slices.len() == 1, "{slices:#?}");
            Ok(())
        })
    })
}

/// A leader whose readiness probe fails gets no traffic, and gets it back. A Service to which readiness does not matter keeps its endpoint.
#[test]
fn a_leader_that_is_not_ready_gets_no_traffic() -> Result<()> {
    Stage::bare("service-ready", &[], |stage| {
        let shop = Shop::open(stage, "web", 2)?;
        shop.specimen.apply(&shop.service("web", &only("web"), &json!({})))?;
        shop.specimen.apply(&shop.service("unready", &only("web"), &json!({"publishNotReadyAddresses": true})))?;
        let leader = shop.specimen.leader()?;
        steered(&shop, "web", &leader)?;
        let before = steered(&shop, "unready", &leader)?;
        let start = |service: &str| Client::start(stage.namespace.cluster(), shop.address(service)?);
        let (ordinary, heedless) = (start("web")?, start("unready")?);
        ordinary.answered_by(&leader)?;
        heedless.answered_by(&leader)?;
        let known = heedless.seen().len();
        shop.specimen.tell(leader_specimen::options::FAILING)?;
        until("nobody to stand behind the Service", || {
            let (_, pods) = behind(stage, "web")?;
            ensure!(pods.is_empty(), "there are {pods:?}");
            Ok(())
        })?;
        until("the other Service to say that its endpoint is not ready", || {
            let (slices, pods) = behind(stage, "unready")?;
            ensure!(pods.iter().eq([leader.as_str()]), "there are {pods:?}");
            let endpoint = &slices[0]["endpoints"][0];
            ensure!(endpoint["addresses"] == before[0]["endpoints"][0]["addresses"], "{endpoint:#}");
            // As Kubernetes has it for such a Service: what gets traffic is ready, and whether the app is, stands beside it.
            ensure!(endpoint["conditions"]["ready"] == true, "{endpoint:#}");
            ensure!(endpoint["conditions"]["serving"] == false, "{endpoint:#}");
            Ok(())
        })?;
        ordinary.meets(&Met::Refused)?;
        heedless.answered_by(&leader)?;
        let seen = heedless.stop()?;
        // On a busy machine an answer may be late; refused is who has nobody behind him.
        let refused = seen[known..].iter().filter(|seen| seen.met == Met::Refused).count();
        ensure!(refused == 0, "it was without an endpoint: {refused} of {} were refused", seen.len() - known);
        shop.specimen.take_back(leader_specimen::options::FAILING)?;
        let leader = shop.specimen.leader()?;
        steered(&shop, "web", &leader)?;
        ordinary.answered_by(&leader)?;
        ordinary.stop().map(drop)
    })
}

/// Nothing of the webhook is needed for traffic to follow the leader.
#[test]
fn traffic_follows_the_leader_while_the_webhook_is_down() -> Result<()> {
    Stage::bare_alone("service-down", |stage| {
        let shop = Shop::open(stage, "web", 2)?;
        shop.specimen.apply(&shop.service("web", &only("web"), &json!({})))?;
        let leader = shop.specimen.leader()?;
        steered(&shop, "web", &leader)?;
        let down = Down::take(stage)?;
        hand_over(&shop, Client::start(stage.namespace.cluster(), shop.address("web")?)?, &leader)?;
        drop(down);
        Ok(())
    })
}

/// Whoever deletes the webhook, and its configuration, leaves traffic flowing to whoever leads.
#[test]
fn traffic_follows_the_leader_after_the_webhook_was_deleted() -> Result<()> {
    Stage::bare_alone("service-gone", |stage| {
        let shop = Shop::open(stage, "web", 2)?;
        shop.specimen.apply(&shop.service("web", &only("web"), &json!({})))?;
        let leader = shop.specimen.leader()?;
        steered(&shop, "web", &leader)?;
        let client = Client::start(stage.namespace.cluster(), shop.address("web")?)?;
        client.answered_by(&leader)?;
        let gone = Gone::take(stage)?;
        let next = hand_over(&shop, client, &leader)?;
        // The pod in place of the deleted one takes part, without anybody who injects.
        shop.specimen.wait_until_rolled_out("deployment")?;
        let last = hand_over(&shop, Client::start(stage.namespace.cluster(), shop.address("web")?)?, &next)?;
        drop(gone);
        // Who comes back finds everything in order.
        steered(&shop, "web", &last).map(drop)
    })
}

#[test]
fn a_service_that_reaches_standbys_is_pointed_out_wherever_a_person_looks() -> Result<()> {
    Stage::bare("service-reaches", &[], |stage| {
        let shop = Shop::new(stage, "web")?;
        shop.specimen.apply(&shop.service("front", &json!({}), &json!({})))?;
        let said = shop.specimen.apply(&shop.deployment(1)?)?;
        let mend = "kubectl annotate service/front leader.io/leader-only=web";
        ensure!(said.contains(mend), "{said}");
        until("an Event about the Service", || {
            let selector = "--field-selector=reason=ServiceReachesStandbys,involvedObject.name=front";
            let list = stage.namespace.get(&["events", selector])?;
            let note = list["items"][0]["message"].as_str().context("there is none")?;
            ensure!(note.contains(mend), "{note}");
            Ok(())
        })?;
        // Who checks may be anywhere: the command names the namespace.
        let namespace = stage.namespace.name();
        let told = mend.replacen("kubectl ", &format!("kubectl -n {namespace} "), 1);
        let about = format!("services warning Service {namespace}/front: ");
        until("`kubectl leader check` to name the Service and the command", || {
            let (_, lines) = findings(stage, &[])?;
            let line = lines.iter().find(|line| line.starts_with(&about)).with_context(|| format!("{lines:#?}"))?;
            ensure!(line.contains("all pods of leader election `web`"), "{line}");
            ensure!(line.ends_with(&format!("; {told}")), "no `{told}` in {line}");
            Ok(())
        })?;
        // The command mends it.
        let words: Vec<&str> = told.split_whitespace().skip(1).collect();
        stage.namespace.cluster().kubectl(&words).run()?;
        steered(&shop, "front", &shop.specimen.leader()?)?;
        until("`kubectl leader check` to find nothing about Services", || {
            let (_, lines) = findings(stage, &[])?;
            ensure!(!lines.iter().any(|line| line.starts_with("services ")), "{lines:#?}");
            Ok(())
        })
    })
}
