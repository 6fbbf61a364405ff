//! The flags of `observe`, and what they mean.

use std::{num::NonZeroU16, path::PathBuf};

use clap::Parser;

use crate::{
    id::LeaderId,
    injected::Injected,
    mode::WITHDRAWAL,
    names,
    preference::{Place, Preference},
    settings::SettingsError,
    timing::{Timing, parse_duration},
};

/// Sets the same as `--port`. It is none of [`names::env::ALL`]: an app may have it from a Service that is called `leader`.
const PORT: &str = "LEADER_PORT";
/// The value of `--port` with which nothing is answered.
const NO_PORT: &str = "none";
/// The kubelet sets it in every container.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// The flags of `observe`.
#[derive(Debug, Parser)]
pub struct ObserveArguments {
    /// The Lease's name: a DNS label
    #[arg(long, env = "LEASE_NAME")]
    lease_name: Option<String>,
    /// The Lease's namespace [default: the service account's, or the kubeconfig's]
    #[arg(long, env = "NAMESPACE")]
    namespace: Option<String>,
    /// The file that is there while this candidate leads, and only then [default in a pod: /leader-status/leader]
    #[arg(long, env = names::env::STATUS_FILE)]
    status_file: Option<PathBuf>,
    /// What this candidate writes as the holder [default: `POD_NAME` or the host's name, and a random part]
    #[arg(long, env = names::env::IDENTITY)]
    identity: Option<String>,
    /// How long the Lease lasts without a renewal: whole seconds, 5s to 1h [default: 15s]
    #[arg(long, env = names::env::LEASE_DURATION)]
    lease_duration: Option<String>,
    /// Where to answer over HTTP: who leads, metrics, /livez and /readyz; `none` for nowhere [default in a pod: 9809]
    #[arg(long, env = PORT)]
    port: Option<String>,
    /// The kubeconfig [default: the pod's service account; outside a pod KUBECONFIG, or ~/.kube/config]
    #[arg(long, conflicts_with = "credentials_dir")]
    kubeconfig: Option<PathBuf>,
    /// A folder with `token`, `ca.crt` and `namespace` [default: the pod's service account]
    #[arg(long, env = names::env::CREDENTIALS_DIR)]
    credentials_dir: Option<PathBuf>,
    /// Where the leader had better be: `zone=NAME`, `region=NAME` or `node=NAME`, several with commas. Elsewhere a candidate leaves a
    /// released Lease to the others for a second
    #[arg(long, env = names::env::PREFER)]
    prefer: Option<String>,
    /// The node that this runs on, for --prefer
    #[arg(long, env = names::env::NODE)]
    node: Option<String>,
    /// The zone that this runs in, for --prefer
    #[arg(long, env = names::env::ZONE)]
    zone: Option<String>,
    /// The region that this runs in, for --prefer
    #[arg(long, env = names::env::REGION)]
    region: Option<String>,
    /// The record of the injection, as the downward API hands it over
    #[arg(long, env = names::env::RECORD, hide = true)]
    record: Option<String>,
    /// The namespace of the injected pod
    #[arg(long, env = names::env::NAMESPACE, hide = true)]
    pod_namespace: Option<String>,
    /// The injected pod's name
    #[arg(long, env = names::env::POD_NAME, hide = true)]
    pod_name: Option<String>,
    /// The injected pod's uid
    #[arg(long, env = names::env::POD_UID, hide = true)]
    pod_uid: Option<String>,
    /// The API server's address in a pod
    #[arg(long, env = API_SERVER, hide = true)]
    api_server: Option<String>,
}

/// What `observe` needs to know.
#[derive(Clone, Debug)]
pub struct ObserveSettings {
    /// The Lease's name.
    pub id: LeaderId,
    /// The namespace, where one was given.
    pub namespace: Option<String>,
    /// What the status file says first: `POD_NAME`; without it the host's name in a pod, which is the pod's, and else the identity.
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
    /// Injection started this process: its Lease is one of those that a cluster's controller looks after.
    pub is_injected: bool,
    /// Another place than this one is preferred for the leader.
    pub yields: bool,
    /// Election was being turned on when the pod's template was made.
    pub born_under_turning_on: bool,
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
        let injected = self.record.as_deref().map(Injected::parse).transpose()?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let is_pod = injected.is_some() || given(self.api_server).is_some();
        // In an injected pod the record alone counts, as for `run`.
        let (id, lease, file, port, namespace) = match &injected {
            Some(record) => {
                let (id, file) = (Some(record.id.clone()), record.status_file.clone());
                (id, record.lease_duration.clone(), file, record.port, self.pod_namespace)
            }
            None => (
                self.lease_name,
                self.lease_duration,
                self.status_file,
                port(self.port.as_deref(), is_pod)?,
                self.namespace,
            ),
        };
        let id: LeaderId = id.filter(|id| !id.is_empty()).ok_or(SettingsError::NoLeaseName)?.parse()?;
        let file = file.filter(|path| !path.as_os_str().is_empty());
        let file =
            file.or_else(|| is_pod.then(|| names::DEFAULT_STATUS_FILE.into())).ok_or(SettingsError::NoStatusFile)?;
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        // A namespace's name follows the same rule as an id.
        if let Some(name) = namespace.as_ref().filter(|name| name.parse::<LeaderId>().is_err()) {
            return Err(SettingsError::Namespace(name.clone()));
        }
        let lease = lease.as_deref().map(parse_duration).transpose()?.unwrap_or(Timing::default().lease());
        let prefer = injected.as_ref().map_or(self.prefer, |record| record.prefer.clone());
        let prefer: Option<Preference> = given(prefer).map(|text| text.parse()).transpose()?;
        let place = Place { region: given(self.region), zone: given(self.zone), node: given(self.node) };
        let (name, identity) = match (&injected, self.pod_name, self.pod_uid, self.identity) {
            (Some(_), Some(pod), Some(uid), _) => {
                let identity = format!("{pod}_{uid}_{}", names::INIT_CONTAINER);
                (pod, identity)
            }
            (None, _, _, Some(identity)) if identity.is_empty() => return Err(SettingsError::Identity),
            (injected, _, _, identity) => {
                let made = outside();
                let host = made.rsplit_once('_').map(|(host, _)| host.to_owned()).filter(|_| is_pod);
                let identity = identity.filter(|_| injected.is_none()).unwrap_or(made);
                (given(pod_name).or(host).unwrap_or_else(|| identity.clone()), identity)
            }
        };
        Ok(ObserveSettings {
            id,
            namespace,
            name,
            identity,
            timing: Timing::new(lease, Some(WITHDRAWAL), starved)?,
            status_file: file,
            port: port.map(NonZeroU16::get),
            kubeconfig: self.kubeconfig,
            credentials_dir: self.credentials_dir,
            is_injected: injected.is_some(),
            // Who does not know where it is lets nobody wait.
            yields: prefer.is_some_and(|prefer| prefer.is_met(&place) == Some(false)),
            born_under_turning_on: injected.is_some_and(|record| record.born_under_turning_on),
        })
    }
}

/// What a port says that somebody gave, or did not.
fn port(text: Option<&str>, is_pod: bool) -> Result<Option<NonZeroU16>, SettingsError> {
    // The kubelet sets LEADER_PORT=tcp://ADDRESS:PORT where the namespace has a Service that is called `leader`.
    match text.filter(|text| !text.is_empty() && !text.contains("://")) {
        None => Ok(NonZeroU16::new(names::DEFAULT_PORT).filter(|_| is_pod)),
        Some(NO_PORT) => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| SettingsError::Port(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    /// In a pod, or outside, without `POD_NAME`.
    fn by_hand(is_pod: bool, arguments: &[&str]) -> Result<ObserveSettings, SettingsError> {
        let server = if is_pod { "10.96.0.1" } else { "" };
        let words = ["observe", "--lease-name", "b", "--namespace", "n", "--api-server", server];
        let parsed = ObserveArguments::try_parse_from(words.iter().chain(arguments)).unwrap();
        parsed.resolve(false, Some(String::new()), || "b-x2_1".to_owned())
    }

    #[test]
    fn in_a_pod_a_lease_and_its_namespace_are_enough() {
        let settings = by_hand(true, &[]).unwrap();
        assert_eq!((settings.status_file, settings.port), (PathBuf::from("/leader-status/leader"), Some(9809)));
        assert_eq!((settings.name.as_str(), settings.identity.as_str()), ("b-x2", "b-x2_1"));
        assert!(!settings.is_injected);
        let settings = by_hand(true, &["--identity", "me", "--status-file", "/s/f", "--port", "7000"]).unwrap();
        assert_eq!((settings.status_file, settings.port), (PathBuf::from("/s/f"), Some(7000)));
        assert_eq!((settings.name.as_str(), settings.identity.as_str()), ("b-x2", "me"));
        // Outside, several share the machine and its ports, and the identity is the only name.
        assert!(matches!(by_hand(false, &[]), Err(SettingsError::NoStatusFile)));
        let settings = by_hand(false, &["--status-file", "leader"]).unwrap();
        assert_eq!((settings.port, settings.name.as_str()), (None, "b-x2_1"));
    }

    #[test]
    fn the_port_is_a_number_or_none() {
        for (text, port) in [("none", None), ("9000", Some(9000)), ("", Some(9809)), ("tcp://10.96.0.9:80", Some(9809))]
        {
            assert_eq!(by_hand(true, &["--port", text]).unwrap().port, port, "{text:?}");
        }
        for text in ["0", "65536", "no", "off"] {
            let error = by_hand(true, &["--port", text]).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("`none`"), "{error}");
        }
    }

    #[test]
    fn in_an_injected_pod_the_record_alone_counts() {
        let record = r#"{"version":1,"id":"billing","container":"app","mode":"observe","statusFile":"/s/leader",
            "leaseDuration":"30s","port":9000}"#;
        let pod = ["--record", record, "--pod-name", "p", "--pod-uid", "u", "--pod-namespace", "shop"];
        let strangers = ["--lease-name", "other", "--identity", "i", "--lease-duration", "1h", "--namespace", "n"];
        let strangers = [&strangers[..], &["--port", "nonsense"]].concat();
        for arguments in [&pod[..], &[&pod[..], &strangers].concat()] {
            let settings = resolve(arguments).unwrap();
            assert_eq!((settings.id.as_str(), settings.identity.as_str()), ("billing", "p_u_leader-agent"));
            assert_eq!((settings.name.as_str(), settings.namespace.as_deref()), ("p", Some("shop")));
            assert_eq!((settings.timing.lease(), settings.port), (Duration::from_secs(30), Some(9000)));
            assert_eq!((settings.status_file, settings.is_injected), (PathBuf::from("/s/leader"), true));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        let named = ["observe", "--lease-name", "b", "--api-server", ""];
        let parsed = ObserveArguments::try_parse_from(named).unwrap();
        let error = parsed.resolve(false, None, || "ann_1".to_owned()).unwrap_err().to_string();
        assert!(error.contains("LEADER_STATUS_FILE"), "{error}");
        for (arguments, part) in [
            (&[][..], "LEASE_NAME"),
            (&["--lease-name", "Billing"], "\"Billing\""),
            (&["--lease-name", "b", "--namespace", "a b"], "\"a b\""),
            (&["--lease-name", "b", "--identity", ""], "LEADER_IDENTITY"),
            (&["--lease-name", "b", "--lease-duration", "4s"], "out of range"),
        ] {
            let error = resolve(arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}
