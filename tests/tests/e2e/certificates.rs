//! The webhook's certificates on a real cluster: what a rotation, a lost Secret, an emptied bundle and clocks that jump do to reviews,
//! a certificate that somebody else makes, and the overlay with which cert-manager does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::CommandFactory;
use leader_tests::progress::say;
use leader_webhook::settings::Settings;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::private_webhook::{Certificate, NAME, PrivateWebhook, SECRET};
use crate::stage::{Stage, until};

/// Three years, in seconds.
const YEARS: i32 = 3 * 365 * 24 * 3600;
/// How long a client of the test goes on with a bundle that it has read, as an API server may.
const LATE: Duration = Duration::from_secs(1);
/// Between two batches of reviews: other tests run beside this one.
const PAUSE: Duration = Duration::from_millis(250);
/// When a bundle has come to every API server, where certificates live for a minute.
const SETTLED: Duration = Duration::from_secs(5);

/// What was asked while something went on.
#[derive(Default)]
struct Asked {
    reviews: usize,
    connections: usize,
}

/// Runs `work` while reviews are asked for, and while clients connect to each replica that trust a bundle as they read it a moment
/// ago. One review that is refused, or one replica that is not trusted, is an error.
fn while_nobody_is_refused(
    stage: &Stage,
    webhook: &PrivateWebhook<'_>,
    work: impl FnOnce() -> Result<()>,
) -> Result<Asked> {
    let done = AtomicBool::new(false);
    let ask = || -> Result<usize> {
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) {
            let (asked, refused) = webhook.review()?;
            sent += asked;
            ensure!(refused.is_none(), "after {sent} reviews: {}", refused.unwrap_or_default());
            thread::sleep(PAUSE);
        }
        Ok(sent)
    };
    let pods = webhook.pods()?;
    let connect = || -> Result<usize> {
        stage.namespace.cluster().enter_network()?;
        let mut made = 0;
        while !done.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let bundle = webhook.bundle()?;
            thread::sleep(LATE);
            for (pod, address) in &pods {
                let shown = webhook.shown(*address, &bundle);
                // Later than an API server is, this client says nothing about what one would meet.
                if shown.is_err() && begun.elapsed() > SETTLED {
                    break;
                }
                shown.with_context(|| format!("after {made} connections, {pod} is not trusted"))?;
                made += 1;
            }
        }
        Ok(made)
    };
    thread::scope(|scope| {
        let clients = [scope.spawn(ask), scope.spawn(connect)];
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let [reviews, connections] = clients.map(|client| client.join().map_err(|_| anyhow!("a client panicked")));
        // What a client met says more than what did not come about because of it.
        let asked = Asked { reviews: reviews??, connections: connections?? };
        worked.map(|()| asked)
    })
}

/// The certificate of the authority that signs, as it stands in the Secret.
fn signing(stage: &Stage) -> Result<String> {
    let secret = stage.namespace.get(&[SECRET])?;
    Ok(secret["data"]["tls.crt"].as_str().context("no tls.crt")?.to_owned())
}

/// Waits until another authority signs than `before`, and gives it.
fn another(stage: &Stage, before: &str) -> Result<String> {
    until("another authority to sign", || {
        let now = signing(stage)?;
        ensure!(now != before, "it is the one before");
        Ok(now)
    })
}

/// Waits until every replica shows a certificate that `authority` has signed, base64 of PEM.
fn wait_until_shown(stage: &Stage, webhook: &PrivateWebhook<'_>, authority: &str) -> Result<()> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let only = BASE64_STANDARD.decode(authority)?;
    in_network(stage, || {
        until("every replica to show a certificate of the new authority", || {
            for (pod, address) in webhook.pods()? {
                webhook.shown(address, &only).with_context(|| pod.clone())?;
            }
            Ok(())
        })
    })
}

/// Does something in a thread that is in the cluster's network.
fn in_network<T: Send>(stage: &Stage, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || stage.namespace.cluster().enter_network().and_then(|()| work());
    thread::scope(|scope| scope.spawn(inside).join().map_err(|_| anyhow!("a client panicked"))?)
}

/// The clocks of both replicas' machines are years wrong all the while, in opposite directions.
#[test]
fn rotations_and_a_lost_secret_refuse_no_review_whatever_the_replicas_clocks_say() -> Result<()> {
    Stage::bare("rotation", &[], |stage| {
        let webhook = PrivateWebhook::apply(stage, 2, &Certificate::Own { authority: "2m", leaf: "1m" })?;
        webhook.wait_until_rolled_out()?;
        webhook.wait_until_answering()?;
        for ((pod, _), seconds) in webhook.pods()?.iter().zip([YEARS, -YEARS]) {
            stage.namespace.processes(pod, NAME)?.stub()?.step_wall_clock(seconds)?;
        }
        let asked = while_nobody_is_refused(stage, &webhook, || {
            // Half of an authority's life, and what it takes to make the next one known.
            let first = signing(stage)?;
            let second = another(stage, &first)?;
            wait_until_shown(stage, &webhook, &second)?;
            stage.namespace.run(&["delete", SECRET])?;
            let third = another(stage, &second)?;
            wait_until_shown(stage, &webhook, &third)?;
            let spoilt = json!({"data": {"tls.key": "c3BvaWx0"}}).to_string();
            stage.namespace.run(&["patch", SECRET, "--type=merge", "--patch", &spoilt])?;
            wait_until_shown(stage, &webhook, &another(stage, &third)?)
        })?;
        say(format!(
            "two authorities replaced a third and a fourth: {} reviews and {} new connections, none refused",
            asked.reviews, asked.connections
        ));
        ensure!(asked.reviews > 100 && asked.connections > 20, "hardly anything was asked for");
        webhook.wait_for_event("CertificateAuthorityReplaced", "stays trusted until")?;
        webhook.wait_for_event("CertificateAuthorityMissing", "was deleted")?;
        webhook.wait_for_event("CertificateAuthorityUnusable", "tls.crt")
    })
}

#[test]
fn a_bundle_that_somebody_empties_is_written_again() -> Result<()> {
    Stage::bare("bundle", &[], |stage| {
        let webhook = PrivateWebhook::apply(stage, 1, &Certificate::Own { authority: "48h", leaf: "24h" })?;
        webhook.wait_until_rolled_out()?;
        webhook.wait_until_answering()?;
        let before = webhook.bundle()?;
        for broken in ["", "junk"] {
            webhook.write_bundle(broken)?;
            until("the bundle to be written", || {
                ensure!(webhook.bundle()? == before, "it is another one");
                Ok(())
            })?;
            webhook.wait_until_answering()?;
        }
        webhook.wait_for_event("CABundleRepaired", "changed by somebody else")
    })
}

/// An authority of somebody else's.
fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Writes a certificate for the private webhook's Service into the Secret that is mounted, with its key, or with another one.
fn write_pair(stage: &Stage, authority: &CertifiedIssuer<'_, KeyPair>, fits: bool) -> Result<()> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec![format!("{NAME}.{}.svc", stage.namespace.name())])?;
    let certificate = params.signed_by(&key, authority)?.pem();
    let key = if fits { key } else { KeyPair::generate()? };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mounted"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key.serialize_pem()},
    });
    stage.namespace.apply(&secret.to_string()).map(drop)
}

/// Makes the kubelet look at the pods again: it brings mounted Secrets up to date when it looks at a pod, else within a minute or two.
fn wake_kubelet(stage: &Stage, tick: usize) -> Result<()> {
    let selector = format!("--selector=app={NAME}");
    stage.namespace.run(&["annotate", "pods", &selector, "--overwrite", &format!("tick={tick}")]).map(drop)
}

#[test]
fn a_mounted_certificate_is_shown_and_followed() -> Result<()> {
    Stage::bare("mounted", &[], |stage| {
        let authority = authority()?;
        write_pair(stage, &authority, true)?;
        let webhook = PrivateWebhook::apply(stage, 1, &Certificate::Mounted("mounted"))?;
        // It is not the webhook's to write the bundle: without one it is not ready.
        let bundle = authority.pem().into_bytes();
        in_network(stage, || {
            until("the replica to say what is missing", || {
                let (_, address) = webhook.pods()?.pop().context("no pod")?;
                let answer = webhook.get(address, &bundle, "/readyz")?;
                ensure!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                ensure!(answer.contains("does not cover the certificate"), "{answer}");
                Ok(())
            })
        })?;
        ensure!(webhook.bundle()?.is_empty(), "it has written a bundle that is not its own");
        webhook.write_bundle(&authority.pem())?;
        webhook.wait_until_rolled_out()?;
        webhook.wait_until_answering()?;

        let shown = || {
            in_network(stage, || {
                let (_, address) = webhook.pods()?.pop().context("no pod")?;
                Ok(webhook.shown(address, &bundle)?.to_vec())
            })
        };
        let first = shown()?;
        write_pair(stage, &authority, true)?;
        let mut tick = 0;
        let second = until("the new certificate to be shown", || {
            tick += 1;
            wake_kubelet(stage, tick)?;
            let second = shown()?;
            ensure!(second != first, "the first one is");
            Ok(second)
        })?;
        webhook.wait_for_event("CertificateFilesReloaded", "a new certificate is shown")?;

        write_pair(stage, &authority, false)?;
        until("an Event about the key that does not fit", || {
            tick += 1;
            wake_kubelet(stage, tick)?;
            let notes = webhook.events("CertificateFilesUnusable")?;
            ensure!(notes.iter().any(|note| note.contains("is shown on")), "{notes:?}");
            Ok(())
        })?;
        ensure!(shown()? == second, "another one is shown");
        let (_, refused) = webhook.review()?;
        ensure!(refused.is_none(), "{refused:?}");
        ensure!(webhook.bundle()? == bundle, "the bundle was written");
        Ok(())
    })
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The definitions of cert-manager's kinds, there until this is dropped.
struct Definitions<'a> {
    stage: &'a Stage,
    file: String,
}

impl<'a> Definitions<'a> {
    fn apply(stage: &'a Stage) -> Result<Self> {
        let file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/cert-manager.yaml"))?;
        let definitions = Self { stage, file };
        stage.namespace.cluster().apply(&definitions.file)?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "-f", "-"];
        stage.namespace.cluster().kubectl(&wait).input(&*definitions.file).run()?;
        Ok(definitions)
    }
}

impl Drop for Definitions<'_> {
    fn drop(&mut self) {
        let delete = self.stage.namespace.cluster().kubectl(&["delete", "--ignore-not-found", "-f", "-"]);
        if let Err(error) = delete.input(&*self.file).run() {
            say(format!("cert-manager's kinds are still defined: {error:#}"));
        }
    }
}

#[test]
fn the_overlay_for_cert_manager_says_what_cert_manager_and_the_webhook_understand() -> Result<()> {
    Stage::bare("cert-manager", &[], |stage| {
        let cluster = stage.namespace.cluster();
        let folder = checkout().join("deploy/overlays/cert-manager").canonicalize()?;
        let rendered = cluster.kubectl(&["kustomize"]).arg(&folder).run()?;
        let _definitions = Definitions::apply(stage)?;
        // Fields that a kind does not have are errors.
        let create = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"];
        let apply = || cluster.kubectl(&create).args(["-o", "json", "-f", "-"]).input(&*rendered).output();
        let objects = until("the new kinds to be served", || {
            let output = apply()?;
            ensure!(!output.stderr.contains("no matches for kind"), "{}", output.stderr);
            ensure!(output.success(), "{}", output.stderr);
            Ok(serde_json::from_str::<Value>(&output.stdout)?)
        })?;
        let objects = objects["items"].as_array().context("a list without items")?;
        let find = |kind: &str, name: &str| {
            let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
            found.with_context(|| format!("no {kind} {name}"))
        };

        // The wrong kind of value is refused, so that what was accepted above was judged.
        let wrong = rendered.replace("algorithm: ECDSA", "algorithm: EC");
        ensure!(wrong != rendered);
        let refused = cluster.kubectl(&create).args(["-f", "-"]).input(wrong).output()?;
        ensure!(refused.stderr.contains("Unsupported value: \"EC\""), "{refused:?}");

        // What cert-manager is asked for is what is mounted, for the names that the API server calls.
        let certificate = find("Certificate", NAME)?;
        let names = &certificate["spec"]["dnsNames"];
        ensure!(names[0] == "leader-webhook.leader-system.svc", "{names}");
        let deployment = find("Deployment", NAME)?;
        let pod = &deployment["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().context("no volumes")?;
        let mounted = volumes.iter().any(|volume| volume["secret"]["secretName"] == certificate["spec"]["secretName"]);
        ensure!(mounted, "the certificate's Secret is not mounted: {volumes:?}");
        let issuer = find("Issuer", certificate["spec"]["issuerRef"]["name"].as_str().unwrap_or_default())?;
        let authority = find("Certificate", "leader-webhook-authority")?;
        ensure!(issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"], "{issuer:#}");
        find("Issuer", authority["spec"]["issuerRef"]["name"].as_str().unwrap_or_default())?;
        let configuration = find("MutatingWebhookConfiguration", NAME)?;
        let from = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
        ensure!(from == "leader-system/leader-webhook", "{from}");

        let command = Settings::command();
        let known: BTreeSet<&str> =
            command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()).collect();
        let variables = pod["containers"][0]["env"].as_array().context("no variables")?;
        for variable in variables.iter().filter_map(|variable| variable["name"].as_str()) {
            ensure!(known.contains(variable), "the webhook does not know {variable}");
        }
        // Nothing of its own is left to it.
        for kind in ["Role", "RoleBinding"] {
            ensure!(objects.iter().all(|object| object["kind"] != kind), "a {kind} is left");
        }
        Ok(())
    })
}
