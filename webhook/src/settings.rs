//! The command line of `leader-webhook`. Every flag has an environment variable, which is what deploy/ uses.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use leader_agent::timing::{TimingError, parse_duration};

use crate::{certificates, registry::Options};

/// The admission webhook of leader.
#[derive(Clone, Debug, Parser)]
#[command(name = "leader-webhook", version)]
pub struct Settings {
    /// Address to serve HTTPS on.
    #[arg(long, env = "LEADER_WEBHOOK_LISTEN", default_value = "[::]:10250")]
    pub listen: SocketAddr,
    /// Namespace that the webhook runs in: its Secret and Service are there.
    #[arg(long, env = "LEADER_WEBHOOK_NAMESPACE", default_value = "leader-system")]
    pub namespace: String,
    /// Name of the Service that the API server calls.
    #[arg(long, env = "LEADER_WEBHOOK_SERVICE", default_value = "leader-webhook")]
    pub service: String,
    /// Name of the `MutatingWebhookConfiguration`.
    #[arg(long, env = "LEADER_WEBHOOK_CONFIGURATION", default_value = "leader-webhook")]
    pub configuration: String,
    /// Name of the Secret with the certificate authority.
    #[arg(long, env = "LEADER_WEBHOOK_CA_SECRET", default_value = "leader-webhook-ca")]
    pub ca_secret: String,
    /// Where certificates come from.
    #[command(flatten)]
    pub certificates: certificates::Options,
    /// Image of the injected init container. Unset: the image of the init container `agent-image` of the webhook's own pod.
    #[arg(long, env = "LEADER_AGENT_IMAGE")]
    pub agent_image: Option<String>,
    /// Name of the secret that the agent's image is pulled with, in the namespace of each workload. Injection refuses a workload whose
    /// namespace does not have it.
    #[arg(long, env = "LEADER_AGENT_PULL_SECRET")]
    pub agent_pull_secret: Option<String>,
    /// File with the authority, in PEM, whose certificate whoever sends reviews has to show. It is read at the start.
    #[arg(long, env = "LEADER_WEBHOOK_CLIENT_CA")]
    pub client_ca: Option<PathBuf>,
    /// Name of the webhook's own pod, where `--agent-image` is unset.
    #[arg(long, env = "LEADER_WEBHOOK_POD")]
    pub pod: Option<String>,
    /// How registries are asked for entry points.
    #[command(flatten)]
    pub registries: Options,
    /// How long to serve on after the stop signal, while clients learn that this replica goes.
    #[arg(long, env = "LEADER_WEBHOOK_DRAIN", default_value = "5s", value_parser = duration)]
    pub drain: Duration,
    /// What to log, as `tracing` reads it.
    #[arg(long, env = "LEADER_WEBHOOK_LOG", default_value = "warn,leader_webhook=info,leader_certs=info")]
    pub log: String,
}

fn duration(text: &str) -> Result<Duration, TimingError> {
    parse_duration(text)
}
