//! What stands in indented blocks and in running text, typed by a reader in whose kubeconfig the namespace is set: the README, a
//! leader-only Service, what only looks, and what is done when a key has leaked.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use anyhow::{Context, Error, Result, anyhow, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use leader_tests::command::{Output, is_installed, quoted};
use leader_tests::progress::say;
use serde_json::json;
use tempfile::TempDir;

use super::commands::{Said, not_walked, only_looks};
use crate::private_webhook::{Certificate, PrivateWebhook, SECRET};
use crate::program;
use crate::stage::{Stage, until};
use crate::writer::Writer;

/// An id that is refused.
const NO_ID: &str = "Not_A_Label";

struct Reader<'a> {
    stage: &'a Stage,
    folder: TempDir,
    said: Vec<Said>,
}

impl<'a> Reader<'a> {
    fn new(stage: &'a Stage) -> Result<Self> {
        let (cluster, folder) = (stage.namespace.cluster(), tempfile::tempdir()?);
        let config = folder.path().join("kubeconfig");
        fs::copy(cluster.kubeconfig(), &config).context("copying the kubeconfig")?;
        let set = cluster.kubectl(&["config", "set-context", "--current", "--namespace", stage.namespace.name()]);
        set.arg("--kubeconfig").arg(&config).run()?;
        Ok(Self { stage, folder, said: not_walked()? })
    }

    /// Types a line of a page with values of the reader's own, each of which stands for a word.
    fn output(&self, page: &str, line: &str, values: &[(&str, &str)]) -> Result<Output> {
        let stands = self.said.iter().any(|said| said.page == page && said.line == line);
        ensure!(stands, "`{line}` does not stand in {page}.md");
        self.typed(line, values)
    }

    fn typed(&self, line: &str, values: &[(&str, &str)]) -> Result<Output> {
        let value = |word: &str| values.iter().find(|(place, _)| *place == word).map(|(_, value)| quoted(value));
        let line: Vec<_> = line.split(' ').map(|word| value(word).unwrap_or_else(|| word.to_owned())).collect();
        let config = self.folder.path().join("kubeconfig");
        // No registry is asked: the container says its command.
        let shell = format!(
            "export PATH=\"$0:$PATH\" KUBECONFIG={} LEADER_OFFLINE=true\n{}",
            quoted(&config.to_string_lossy()),
            line.join(" ")
        );
        let bash = self.stage.namespace.cluster().tool("bash").args(["-c", &shell]).arg(program::folder()?);
        bash.current_dir(self.folder.path()).output()
    }

    /// As [`Reader::output`], and it succeeds; gives what was printed.
    fn types(&self, page: &str, line: &str, values: &[(&str, &str)]) -> Result<String> {
        let output = self.output(page, line, values)?;
        ensure!(output.success(), "`{line}` with {values:?}: {output:?}");
        Ok(output.stdout + &output.stderr)
    }
}

#[test]
fn the_readme() -> Result<()> {
    Stage::test("docs-readme", |stage| {
        let writer = Writer::new("billing");
        let workload = stage.start(&writer)?;
        let reader = Reader::new(stage)?;
        let types = |line: &str, values: &[(&str, &str)]| reader.types("README", line, values);

        let before = workload.template()?;
        let shown = types("kubectl annotate deployment/billing leader.io/id=billing --dry-run=server -o yaml", &[])?;
        ensure!(shown.contains("/leader/agent"), "{shown}");
        ensure!(workload.template()? == before, "a dry run changed it");
        let manifest = serde_json::to_string_pretty(&writer.manifest(stage)?)?;
        fs::write(reader.folder.path().join("billing.yaml"), manifest)?;
        let diff = reader.output("README", "kubectl leader inject -f billing.yaml --id billing -o diff", &[])?;
        ensure!(diff.code == 1 && diff.stdout.contains("/leader/agent"), "{diff:?}");

        types("kubectl annotate deployment/billing leader.io/id=billing", &[])?;
        workload.wait_until_rolled_out()?;
        let first = workload.leading()?;
        for line in ["kubectl leader status", "kubectl leader status billing"] {
            let shown = types(line, &[])?;
            ensure!(shown.contains(&first.writer.pod), "{} leads: {shown}", first.writer.pod);
        }

        types("kubectl leader step-down billing", &[])?;
        let (_, second) = workload.led_after(&first)?;
        // A standby that has just begun to stand by is refused, and another one is as good.
        until("leadership to be given to a certain pod", || {
            let (pods, lease) = (workload.ready_pods()?, workload.lease()?);
            let holder = lease["spec"]["holderIdentity"].as_str().context("nobody leads")?;
            let standby =
                pods.iter().find(|pod| !holder.starts_with(&format!("{pod}_"))).context("nobody stands by")?;
            types("kubectl leader transfer billing --to POD", &[("POD", standby)])
        })?;
        let (_, third) = workload.led_after(&second)?;

        types("kubectl leader hold billing --reason TEXT", &[("TEXT", "the ledger is moved")])?;
        let shown = types("kubectl leader status", &[])?;
        ensure!(shown.contains("the ledger is moved"), "{shown}");
        types("kubectl leader resume billing", &[])?;
        workload.led_after(&third)?;
        until("the history to have all of it", || {
            let shown = types("kubectl leader history billing", &[])?;
            ensure!([&first, &second, &third].iter().all(|run| shown.contains(&run.writer.pod)), "{shown}");
            Ok(())
        })?;
        workload.never_two(4)
    })
}

#[test]
fn a_leader_only_service_and_every_command_that_only_looks() -> Result<()> {
    Stage::test("docs-looks", |stage| {
        let workload = stage.start(&Writer::new("billing").lease_seconds(15))?;
        let leader = workload.leading()?.writer.pod;
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "billing"},
            "spec": {"selector": {"app": "billing"}, "ports": [{"port": 80}]},
        });
        stage.namespace.apply(&service.to_string())?;
        let selector = || Ok::<_, Error>(stage.namespace.get(&["service/billing"])?["spec"]["selector"].take());
        let reader = Reader::new(stage)?;
        reader.types("services", "kubectl annotate service/billing leader.io/leader-only=billing", &[])?;
        ensure!(selector()?.is_null(), "the selector is left: {}", selector()?);
        let unwanted = Writer::new("refused").annotated("leader.io/id", NO_ID).manifest(stage)?;
        let refused = stage.namespace.kubectl(&["create", "-f", "-"]).input(unwanted.to_string()).output()?;
        ensure!(!refused.success() && refused.stderr.contains(NO_ID), "{refused:?}");

        let namespace = stage.namespace.name();
        let values = [("ID", "billing"), ("NAMESPACE", namespace), ("POD", leader.as_str())];
        let looking = reader.said.iter().filter(|said| only_looks(&said.line)).map(|said| said.line.as_str());
        let looking: BTreeSet<_> = looking.collect();
        ensure!(looking.len() > 10, "only {looking:?}");
        for line in looking {
            if line.contains("| jq") && !is_installed("jq") {
                say(format!("left out: `{line}`: jq is not installed"));
                continue;
            }
            // Events and logs come a moment later.
            until(&format!("`{line}`"), || {
                let output = reader.typed(line, &values)?;
                // Other tests run beside this one, and what they break is found.
                let is_check = line.starts_with("kubectl leader check") && output.code == 1;
                // A leader-only Service selects no pods.
                let ends_well = line != "kubectl logs service/billing";
                ensure!(is_check || output.success() == ends_well, "{output:?}");
                let is_told = !line.contains("\"refused\"") || output.stdout.contains(namespace);
                ensure!(is_told, "the refusal is not among these: {}", output.stdout);
                Ok(())
            })?;
        }
        let forward = reader.typed("timeout 60 kubectl port-forward service/billing :80", &[])?;
        ensure!(!forward.success() && forward.stderr.contains("selector"), "{forward:?}");

        reader.types("services", "kubectl annotate service/billing leader.io/leader-only-", &[])?;
        ensure!(selector()? == json!({"app": "billing"}), "the selector is now {}", selector()?);
        Ok(())
    })
}

#[test]
fn an_authority_whose_key_has_leaked() -> Result<()> {
    const DELETE: &str = "kubectl -n leader-system delete secret leader-webhook-ca";
    const END: &str = "kubectl -n leader-system patch secret leader-webhook-ca --type=json \
        --patch='[{\"op\": \"remove\", \"path\": \"/data/retired.json\"}]'";
    Stage::bare("docs-leaked", &[], |stage| {
        let webhook = PrivateWebhook::apply(stage, 2, &Certificate::Own { authority: "8760h", leaf: "24h" })?;
        webhook.wait_until_rolled_out()?;
        webhook.wait_until_answering()?;
        let reader = Reader::new(stage)?;
        let types = |line: &str| reader.types("certificates", line, &[("leader-system", stage.namespace.name())]);
        let signing = || -> Result<String> {
            let secret = stage.namespace.get(&[SECRET])?;
            Ok(secret["data"]["tls.crt"].as_str().context("no authority signs")?.to_owned())
        };

        let leaked = signing()?;
        types(DELETE)?;
        let signs = until("another authority to sign", || {
            let signs = signing()?;
            ensure!(signs != leaked, "it is the one before");
            Ok(BASE64_STANDARD.decode(signs)?)
        })?;
        let shown = || -> Result<()> {
            stage.namespace.cluster().enter_network()?;
            until("every replica to show a certificate of the new authority", || {
                for (pod, address) in webhook.pods()? {
                    webhook.shown(address, &signs).with_context(|| pod.clone())?;
                }
                Ok(())
            })
        };
        thread::scope(|scope| scope.spawn(shown).join().map_err(|_| anyhow!("a client panicked"))?)?;

        until("the one before to be kept", || types(END))?;
        until("the one before to be trusted no longer", || {
            let bundle = String::from_utf8(webhook.bundle()?)?;
            let trusted = bundle.matches("BEGIN CERTIFICATE").count();
            ensure!(trusted == 1, "{trusted} are trusted");
            Ok(())
        })?;
        webhook.wait_until_answering()
    })
}
