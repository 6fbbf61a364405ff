//! `kubectl leader check` on a healthy cluster, and on broken ones: each time the one thing is named that was broken, and how to mend it.

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use leader_agent::names;
use leader_tests::Cluster;
use leader_tests::progress::say;
use leader_webhook::cli;
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::{Stage, until};
use crate::webhook_down::{Deleted, Down};
use crate::writer::Writer;

/// What the command prints with `-o json`, and its exit code.
fn check(cluster: &Cluster, namespace: &str, more: &[&str]) -> Result<(u8, String)> {
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let words = ["kubectl-leader", "check", "--kubeconfig", &kubeconfig, "-n", namespace];
    let cli = cli::Cli::try_parse_from(words.iter().chain(more))?;
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    // The cluster is found in its own network only.
    let code = std::thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<u8> {
            cluster.enter_network()?;
            Ok(cli::run(&cli, &b""[..], &mut printed, &mut said, false)?)
        });
        inside.join().map_err(|_| anyhow!("kubectl leader check panicked"))?
    })?;
    Ok((code, String::from_utf8(printed)?))
}

/// What was found, as `check level object: message; mend`.
pub(crate) fn findings(stage: &Stage, more: &[&str]) -> Result<(u8, Vec<String>)> {
    let words = [&["-o", "json"], more].concat();
    let (code, text) = check(stage.namespace.cluster(), stage.namespace.name(), &words)?;
    let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let checks = report["checks"].as_array().context("no checks")?;
    let lines = checks.iter().flat_map(|check| {
        let name = check["name"].as_str().unwrap_or_default();
        check["findings"].as_array().into_iter().flatten().map(move |finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default();
            format!("{name} {} {}: {}; {}", text("level"), text("object"), text("message"), text("mend"))
        })
    });
    Ok((code, lines.collect()))
}

/// Waits until a problem is found of which one line has all `parts`, and the exit code says so; gives that line.
fn found(stage: &Stage, what: &str, parts: &[&str]) -> Result<String> {
    until(what, || {
        let (code, lines) = findings(stage, &[])?;
        ensure!(code == 1, "the exit code is {code}: {lines:#?}");
        let has_all = |line: &&String| parts.iter().all(|part| line.contains(part));
        let line = lines.iter().find(has_all).with_context(|| format!("no line has {parts:?}: {lines:#?}"))?;
        ensure!(!line.ends_with("; "), "it does not say how to mend it: {line}");
        Ok(line.clone())
    })
}

/// Waits until nothing is wrong.
fn healthy(stage: &Stage) -> Result<()> {
    until("nothing to be wrong", || {
        let (code, lines) = findings(stage, &[])?;
        let wrong: Vec<_> = lines.iter().filter(|line| !line.contains(" warning ")).collect();
        ensure!(code == 0 && wrong.is_empty(), "exit code {code}: {lines:#?}");
        Ok(())
    })
}

#[test]
fn a_healthy_cluster_is_found_healthy() -> Result<()> {
    Stage::test("check", |stage| {
        // Until then `leaders` says that the pods are young.
        stage.start(&Writer::new("billing").lease_seconds(15))?.leading()?;
        healthy(stage)?;
        let (code, table) = check(stage.namespace.cluster(), stage.namespace.name(), &[])?;
        ensure!(code == 0, "{table}");
        for check in [
            "kubernetes",
            "versions",
            "webhook",
            "configuration",
            "certificate",
            "review",
            "policies",
            "rights",
            "workloads",
            "images",
            "access",
            "services",
            "leaders",
        ] {
            let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(check));
            let line = line.with_context(|| format!("no line for {check} in\n{table}"))?;
            ensure!(line.starts_with("ok ") || line.starts_with("warning "), "{line}");
        }
        ensure!(table.contains("1 of 1 ids have a leader") && table.contains(" days"), "{table}");
        // Nothing was stored by looking.
        let left =
            stage.namespace.cluster().kubectl(&["get", "deployment/leader-check", "--namespace=default"]).output()?;
        ensure!(left.stderr.contains("NotFound"), "{left:?}");
        Ok(())
    })
}

#[test]
fn a_cluster_that_cannot_be_read_is_an_error() -> Result<()> {
    let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
    let error = check(cluster, "default", &["--context", "nowhere"]).err().context("it was read")?;
    ensure!(error.to_string().contains("the cluster cannot be read"), "{error:#}");
    Ok(())
}

#[test]
fn an_id_without_a_leader_and_the_network_policy_that_is_to_blame() -> Result<()> {
    Stage::test("check-leader", |stage| {
        let writer = Writer::new("billing").replicas(1).lease_seconds(5).elected();
        let workload = stage.start(&writer)?;
        let leader = workload.leading()?.writer.pod;
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny-egress"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
        });
        stage.namespace.apply(&policy.to_string())?;
        // The cluster's network applies no policies: what it would do is done here.
        let cut = stage.namespace.cut_from_api_server(&leader)?;
        let lease = format!("Lease {}/billing", stage.namespace.name());
        found(
            stage,
            "the policy to be named",
            &["leaders problem", &lease, "NetworkPolicy deny-egress", "allow egress"],
        )?;
        until("an Event to name it, too", || {
            let events = stage.namespace.run(&["get", "events", "--field-selector=reason=AgentsCutOff"])?;
            ensure!(events.contains("NetworkPolicy deny-egress"), "{events}");
            Ok(())
        })?;
        cut.heal()?;
        stage.namespace.run(&["delete", "networkpolicy/deny-egress"])?;
        healthy(stage)
    })
}

#[test]
fn an_agents_image_that_cannot_be_pulled() -> Result<()> {
    Stage::bare("check-image", &[], |stage| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "imitation", "labels": {names::ID: "imitation"}},
            "spec": {
                "initContainers": [{"name": names::INIT_CONTAINER, "image": "registry.invalid/leader-agent:1"}],
                "containers": [{"name": "app", "image": "registry.invalid/app:1"}],
            },
        });
        stage.namespace.apply(&pod.to_string())?;
        let parts =
            ["images problem", "imitation", "registry.invalid/leader-agent:1 cannot be pulled", "--agent-pull-secret"];
        found(stage, "the image to be named", &parts).map(drop)
    })
}

/// An object of the cluster as it was, there again when this is dropped.
struct Kept<'a> {
    cluster: &'a Cluster,
    what: &'static str,
    object: Value,
}

impl<'a> Kept<'a> {
    fn of(cluster: &'a Cluster, what: &'static str) -> Result<Self> {
        let mut object = cluster.get(&[what])?;
        let metadata = object["metadata"].as_object_mut().context("no metadata")?;
        for made_by_the_server in ["resourceVersion", "uid", "creationTimestamp", "managedFields", "generation"] {
            metadata.remove(made_by_the_server);
        }
        Ok(Self { cluster, what, object })
    }

    fn delete(&self) -> Result<()> {
        self.cluster.kubectl(&["delete", self.what]).run().map(drop)
    }

    fn patch(&self, patch: &Value) -> Result<()> {
        self.cluster.kubectl(&["patch", self.what, "--type=json", "--patch", &patch.to_string()]).run().map(drop)
    }

    fn restore(&self) -> Result<()> {
        let text = self.object.to_string();
        let created = self.cluster.kubectl(&["create", "-f", "-"]).input(&*text).output()?;
        if !created.success() {
            self.cluster.kubectl(&["replace", "-f", "-"]).input(&*text).run()?;
        }
        Ok(())
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            say(format!("{} did not come back: {error:#}", self.what));
        }
    }
}

#[test]
fn what_keeps_the_webhook_from_working_is_named() -> Result<()> {
    Stage::alone("check-webhook", |stage| {
        let cluster = stage.namespace.cluster();
        stage.start(&Writer::new("billing").replicas(1).elected())?;
        healthy(stage)?;

        let down = Down::take(stage)?;
        found(
            stage,
            "no replicas to be named",
            &["webhook problem", "leader-webhook", "scaled to no replicas", "--replicas=2"],
        )?;
        found(stage, "the review that fails to be named", &["review problem", "failed calling webhook"])?;
        // Nobody repairs anything meanwhile.
        stage.namespace.run(&["delete", "role/leader-billing"])?;
        found(stage, "the Role to be missed", &["access problem", "Role ", "/leader-billing: it does not exist"])?;
        let foreign = Kept::of(cluster, "mutatingwebhookconfiguration/leader-webhook")?;
        let junk =
            json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": cluster_authority(stage)?}]);
        foreign.patch(&junk)?;
        found(
            stage,
            "the foreign authority to be named",
            &["certificate problem", "caBundle of inject.leader.io does not have"],
        )?;
        drop(foreign);
        drop(down);
        healthy(stage)
    })
}

/// A certificate, encoded as a caBundle is, that did not sign the webhook's: the cluster's own.
fn cluster_authority(stage: &Stage) -> Result<Value> {
    let map = stage.namespace.get(&["configmap/kube-root-ca.crt"])?;
    let certificate = map["data"]["ca.crt"].as_str().context("no certificate")?.to_owned();
    // In the form of a Secret's data the API server encodes it itself.
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "authority"}, "stringData": {"ca.crt": certificate},
    });
    stage.namespace.apply(&secret.to_string())?;
    Ok(stage.namespace.get(&["secret/authority"])?["data"]["ca.crt"].clone())
}

#[test]
fn what_lets_workloads_through_is_named() -> Result<()> {
    Stage::alone("check-policy", |stage| {
        let cluster = stage.namespace.cluster();
        healthy(stage)?;
        {
            let open = Kept::of(cluster, "mutatingwebhookconfiguration/leader-webhook")?;
            open.patch(&json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]))?;
            found(
                stage,
                "failurePolicy to be named",
                &["configuration problem", "failurePolicy of inject.leader.io is Ignore"],
            )?;
        }
        {
            let bound = Kept::of(cluster, "clusterrolebinding/leader-webhook")?;
            bound.delete()?;
            found(
                stage,
                "the binding to be missed",
                &["rights problem", "ClusterRoleBinding leader-webhook: it does not exist"],
            )?;
        }
        let deleted = Deleted::take(stage)?;
        found(
            stage,
            "the configuration to be missed",
            &["configuration problem", "it does not exist", "kubectl apply -k"],
        )?;
        found(stage, "the policy to have the last word", &["review problem", "ValidatingAdmissionPolicy"])?;
        let binding = Kept::of(cluster, "validatingadmissionpolicybinding/leader-injected")?;
        binding.delete()?;
        found(stage, "the policy to be unbound", &["policies problem", "leader-injected: it is not bound"])?;
        let mut bare = maker("Deployment", &json!({names::ID: "bare"}), &json!({}));
        bare["spec"]["replicas"] = json!(0);
        // The API server forgets a binding within seconds.
        until("a workload to come through", || stage.namespace.apply(&bare.to_string()))?;
        let line = found(
            stage,
            "the workload to be named",
            &["workloads problem", "/refused: it asks for an election", "annotate deployment/refused"],
        )?;
        drop(binding);
        drop(deleted);
        // What it says to do does it.
        let (_, mend) = line.rsplit_once(": kubectl ").with_context(|| format!("no command in {line}"))?;
        let mend: Vec<_> = mend.split_whitespace().collect();
        until("the workload to be mended as the line says", || {
            cluster.kubectl(&mend).run()?;
            let containers = stage.namespace.get(&["deployment/refused"])?["spec"]["template"]["spec"].take();
            ensure!(containers["initContainers"][0]["name"] == names::INIT_CONTAINER, "{containers}");
            Ok(())
        })?;
        healthy(stage)
    })
}
