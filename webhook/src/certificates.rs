//! The certificate that the webhook shows: its own authority's, or that of mounted files, and what is told about it as Events.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use leader_agent::timing::{TimingError, parse_duration};
use leader_certs::{
    bundle::ServiceName,
    files::{self, Files},
    keeper::{self, Keeper, State},
    lifetimes::Lifetimes,
    notice::{Notice, Tell},
    resolver::Resolver,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    events::{EventType, Recorder},
    settings::Settings,
};

/// Where certificates come from.
#[derive(Clone, Debug, Args)]
#[group(id = "certificates")]
pub struct Options {
    /// How long a certificate authority of the webhook's own lives; another one follows when half of that is over. At most 87600h (ten
    /// years), at least twice the life of a certificate.
    #[arg(long, env = "LEADER_WEBHOOK_CA_LIFETIME", default_value = "8760h", value_parser = duration)]
    pub ca_lifetime: Duration,
    /// How long a certificate of that authority lives; it is renewed when half of that is over. From 1m, which is for tests, to 720h.
    #[arg(long, env = "LEADER_WEBHOOK_CERTIFICATE_LIFETIME", default_value = "24h", value_parser = duration)]
    pub certificate_lifetime: Duration,
    /// File with a certificate to show instead, in PEM, followed by those between it and its authority. It is read again when it
    /// changes. Whoever makes it writes the caBundle, too.
    #[arg(long, env = "LEADER_WEBHOOK_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// File with the private key of that certificate, in PEM.
    #[arg(long, env = "LEADER_WEBHOOK_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, TimingError> {
    parse_duration(text)
}

/// What shows certificates and keeps them current.
pub struct Certificates {
    /// Ends when it is aborted.
    pub task: JoinHandle<()>,
    /// What the TLS server asks.
    pub resolver: Arc<Resolver>,
    /// Whether the API server accepts what is shown.
    pub state: watch::Receiver<State>,
}

/// Starts what the settings ask for.
pub fn start(client: Client, settings: &Settings, recorder: &Recorder) -> anyhow::Result<Certificates> {
    let options = &settings.certificates;
    let service = ServiceName { namespace: settings.namespace.clone(), name: settings.service.clone() };
    let configuration = settings.configuration.clone();
    let (task, resolver, state) = if let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) {
        // Who mounted the files is not known; the pod is what cannot use them.
        let (kind, name) = match &settings.pod {
            Some(pod) => ("Pod", pod),
            None => ("Service", &settings.service),
        };
        let tell = events(recorder, reference(kind, &settings.namespace, name));
        let (certificate, key) = (certificate.clone(), key.clone());
        let files = files::Settings { certificate, key, service, configuration };
        let (files, resolver, state) = Files::new(client, files, tell)?;
        (tokio::spawn(files.run()), resolver, state)
    } else {
        let lifetimes = Lifetimes::new(options.ca_lifetime, options.certificate_lifetime);
        let lifetimes = lifetimes.context("--ca-lifetime and --certificate-lifetime do not fit")?;
        let secret = settings.ca_secret.clone();
        let tell = events(recorder, reference("Secret", &settings.namespace, &secret));
        let keeper = keeper::Settings { service, secret, configuration, lifetimes };
        let (keeper, resolver, state) = Keeper::new(client, keeper, tell)?;
        (tokio::spawn(keeper.run()), resolver, state)
    };
    Ok(Certificates { task, resolver, state })
}

fn reference(kind: &str, namespace: &str, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Makes Events of notices.
fn events(recorder: &Recorder, regarding: ObjectReference) -> Tell {
    let recorder = recorder.clone();
    Arc::new(move |Notice { is_warning, reason, note }| {
        let type_ = if is_warning { EventType::Warning } else { EventType::Normal };
        recorder.publish(&regarding, type_, reason, note);
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn parse(words: &[&str]) -> Result<Options, clap::Error> {
        Settings::try_parse_from([&["leader-webhook"], words].concat()).map(|settings| settings.certificates)
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let options = parse(&[]).unwrap();
        let lifetimes = Lifetimes::new(options.ca_lifetime, options.certificate_lifetime);
        assert_eq!(lifetimes, Ok(Lifetimes::default()));
        assert!(options.tls_cert.is_none() && options.tls_key.is_none());
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(parse(&["--tls-cert=/a", "--tls-key=/b"]).is_ok());
        for alone in ["--tls-cert=/a", "--tls-key=/b"] {
            let error = parse(&[alone]).unwrap_err().to_string();
            assert!(error.contains("required"), "{error}");
        }
        assert!(parse(&["--ca-lifetime=soon"]).is_err());
    }
}
