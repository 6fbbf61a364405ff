//! Certificates that are replaced all the time.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use leader_tests::progress::say;

use super::Soak;
use crate::stage::{Stage, until};

const NAMESPACE: &str = "--namespace=leader-system";
const DEPLOYMENT: &str = "deployment/leader-webhook";
/// An authority is replaced after a minute, a certificate after half of one: both when half of their life is over.
const AUTHORITY: (&str, &str) = ("LEADER_WEBHOOK_CA_LIFETIME", "2m");
const LEAF: (&str, &str) = ("LEADER_WEBHOOK_CERTIFICATE_LIFETIME", "1m");
/// Between two looks at the Secret: an authority signs for much longer.
const LOOK: Duration = Duration::from_secs(3);

/// Lifetimes of minutes; what `deploy/` says is back when this is dropped.
pub(super) struct Settings<'a>(&'a Stage);

impl<'a> Settings<'a> {
    pub(super) fn of_a_minute(stage: &'a Stage) -> Result<Self> {
        let before = signing(stage)?;
        let settings = Self(stage);
        settings.set(&[AUTHORITY, LEAF].map(|(name, value)| format!("{name}={value}")))?;
        // The authority that is there was made for a year.
        let cluster = stage.namespace.cluster();
        cluster.kubectl(&["delete", NAMESPACE, "secret/leader-webhook-ca", "--ignore-not-found"]).run()?;
        until("an authority that lives for minutes", || {
            ensure!(signing(stage)? != before, "the one before signs");
            Ok(())
        })?;
        Ok(settings)
    }

    fn set(&self, variables: &[String; 2]) -> Result<()> {
        let cluster = self.0.namespace.cluster();
        let set = ["set", "env", NAMESPACE, DEPLOYMENT, "--containers=webhook"];
        cluster.kubectl(&set).args(variables).run()?;
        cluster.kubectl(&["rollout", "status", NAMESPACE, DEPLOYMENT, "--timeout=180s"]).run().map(drop)
    }
}

impl Drop for Settings<'_> {
    fn drop(&mut self) {
        // A name with a hyphen after it is taken out.
        if let Err(error) = self.set(&[AUTHORITY, LEAF].map(|(name, _)| format!("{name}-"))) {
            say(format!("the webhook's certificates still live for minutes: {error:#}"));
        }
    }
}

/// The certificate of the authority that signs, in base64.
fn signing(stage: &Stage) -> Result<String> {
    let path = r"jsonpath={.data.tls\.crt}";
    let certificate =
        stage.namespace.cluster().kubectl(&["get", NAMESPACE, "secret/leader-webhook-ca", "-o", path]).run()?;
    ensure!(!certificate.is_empty(), "the Secret has no certificate");
    Ok(certificate)
}

/// Who counts authorities.
pub(super) struct Rotations;

impl Rotations {
    /// How many authorities have signed until the soak is done.
    pub(super) fn watch(soak: &Soak<'_>) -> usize {
        let mut seen = BTreeSet::new();
        while !soak.done.load(Ordering::Relaxed) {
            // While the API server or the Secret is away there is nothing to see.
            seen.extend(signing(soak.stage).ok());
            thread::sleep(LOOK);
        }
        seen.len()
    }
}
