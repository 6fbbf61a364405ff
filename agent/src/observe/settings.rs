//! The flags of `observe`, and what they mean.

use std::{num::NonZeroU16, path::PathBuf, time::Duration};

use clap::Parser;

use crate::{
    id::LeaderId,
    names,
    settings::SettingsError,
    timing::{Timing, parse_duration},
};

/// How long the status file may take to vanish when the lease is being lost.
const GRACE: Duration = Duration::from_secs(1);

/// The flags of `observe`.
#[derive(Debug, Parser)]
pub struct ObserveArguments {
    /// The Lease's name: a DNS label
    #[arg(long, env = "LEASE_NAME")]
    lease_name: String,
    /// The Lease's namespace [default: the service account's, or the kubeconfig's]
    #[arg(long, env = "NAMESPACE")]
    namespace: Option<String>,
    /// The file that is there while this candidate leads, and only then
    #[arg(long, env = names::env::STATUS_FILE)]
    status_file: PathBuf,
    /// What this candidate writes as the holder [default: `POD_NAME` or the host's name, and a random part]
    #[arg(long, env = names::env::IDENTITY)]
    identity: Option<String>,
    /// How long the Lease lasts without a renewal: whole seconds, 5s to 1h [default: 15s]
    #[arg(long, env = names::env::LEASE_DURATION)]
    lease_duration: Option<String>,
    /// Where to answer over HTTP: who leads, metrics, /livez and /readyz
    #[arg(long)]
    port: Option<NonZeroU16>,
    /// The kubeconfig [default: the pod's service account; outside a pod KUBECONFIG, or ~/.kube/config]
    #[arg(long, conflicts_with = "credentials_dir")]
    kubeconfig: Option<PathBuf>,
    /// A folder with `token`, `ca.crt` and `namespace` [default: the pod's service account]
    #[arg(long, env = names::env::CREDENTIALS_DIR)]
    credentials_dir: Option<PathBuf>,
}

/// What `observe` needs to know.
#[derive(Clone, Debug)]
pub struct ObserveSettings {
    /// The Lease's name.
    pub id: LeaderId,
    /// The namespace, where one was given.
    pub namespace: Option<String>,
    /// What the status file says first: `POD_NAME`, or the identity where there is none.
    pub name: String,
    /// The identity.
    pub identity: String,
    /// The durations.
    pub timing: Timing,
    /// The status file.
    pub status_file: PathBuf,
    /// Where to answer.
    pub port: Option<u16>,
    /// The kubeconfig that was named.
    pub kubeconfig: Option<PathBuf>,
    /// The folder with the account's token.
    pub credentials_dir: Option<PathBuf>,
}

impl ObserveArguments {
    /// What the flags mean; the parameters are as for [`crate::settings::RunArguments::resolve`], with the pod's name beside them.
    ///
    /// # Errors
    /// Each names the value and what to do; the caller ends with code 2.
    pub fn resolve(
        self,
        starved: bool,
        pod_name: Option<String>,
        outside: impl FnOnce() -> String,
    ) -> Result<ObserveSettings, SettingsError> {
        let namespace = self.namespace.filter(|namespace| !namespace.is_empty());
        // A namespace's name follows the same rule as an id.
        if let Some(name) = namespace.as_ref().filter(|name| name.parse::<LeaderId>().is_err()) {
            return Err(SettingsError::Namespace(name.clone()));
        }
        let lease =
            self.lease_duration.as_deref().map(parse_duration).transpose()?.unwrap_or(Timing::default().lease());
        let identity = match self.identity {
            Some(identity) if identity.is_empty() => return Err(SettingsError::Identity),
            Some(identity) => identity,
            None => outside(),
        };
        Ok(ObserveSettings {
            id: self.lease_name.parse()?,
            namespace,
            name: pod_name.filter(|name| !name.is_empty()).unwrap_or_else(|| identity.clone()),
            identity,
            timing: Timing::new(lease, Some(GRACE), starved)?,
            status_file: self.status_file,
            port: self.port.map(NonZeroU16::get),
            kubeconfig: self.kubeconfig,
            credentials_dir: self.credentials_dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: &[&str]) -> Result<ObserveSettings, SettingsError> {
        let words = ["observe", "--status-file", "/run/leader"].iter().chain(arguments);
        let parsed = ObserveArguments::try_parse_from(words).unwrap();
        parsed.resolve(false, Some("ann".to_owned()), || "ann_1".to_owned())
    }

    #[test]
    fn a_name_and_a_file_are_enough() {
        let settings = resolve(&["--lease-name", "billing"]).unwrap();
        assert_eq!((settings.name.as_str(), settings.identity.as_str()), ("ann", "ann_1"));
        assert_eq!((settings.timing.lease(), settings.namespace), (Duration::from_secs(15), None));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        for (arguments, part) in [
            (&["--lease-name", "Billing"][..], "\"Billing\""),
            (&["--lease-name", "b", "--namespace", "a b"], "\"a b\""),
            (&["--lease-name", "b", "--identity", ""], "LEADER_IDENTITY"),
            (&["--lease-name", "b", "--lease-duration", "4s"], "out of range"),
        ] {
            let error = resolve(arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}
