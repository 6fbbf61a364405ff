//! The webhook's process: builds the parts from the settings, runs them, and ends them in order.

use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::version::Info};
use kube::{Api, Client, Config};
use leader_certs::{
    bundle::ServiceName,
    keeper::{self, Keeper},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{handler::Webhook, inject::Defaults, registry::Registries, server, settings::Settings};

/// The oldest minor version of Kubernetes 1 that is supported: the first with stable ValidatingAdmissionPolicy.
const OLDEST_MINOR: u32 = 30;
/// The init container of the webhook's own pod that has the agent's image, so that whatever changes images
/// (kustomize, a registry mirror) changes what is injected with it.
const CARRIER: &str = "agent-image";
/// How long a connection to the API server may take, and each read or write on one. Watches are kept alive by their own timer.
const CONNECT: Duration = Duration::from_secs(3);

/// Serves until TERM or INT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    // Before anything else: a stop signal must not be lost while the parts come up.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registries = Registries::new(&settings.registries)?;
    let client = connect().await?;
    let agent_image = agent_image(&client, &settings).await?;
    tracing::info!(agent_image, listen = %settings.listen, "starting");

    let (keeper, resolver, certificates) = Keeper::new(
        client.clone(),
        keeper::Settings {
            service: ServiceName { namespace: settings.namespace.clone(), name: settings.service.clone() },
            secret: settings.ca_secret.clone(),
            configuration: settings.configuration.clone(),
        },
        Timestamp::now(),
    )?;
    let keeper = tokio::spawn(keeper.run());
    let defaults = Defaults { agent_image };
    let webhook = Webhook::new(client, registries, defaults, settings.namespace.clone(), certificates);
    let listener =
        server::listen(settings.listen).await.with_context(|| format!("listening on {}", settings.listen))?;
    let router = webhook.clone().router();
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        tracing::info!("stopping");
        webhook.drain();
        tokio::time::sleep(settings.drain).await;
    };
    server::serve(listener, server::tls(resolver)?, router, stop).await;
    keeper.abort();
    Ok(())
}

/// A client of an API server that is new enough.
async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context("finding the API server")?;
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(CONNECT);
    let client = Client::try_from(config).context("making a client for the API server")?;
    let version = client.apiserver_version().await.context("asking the API server for its version")?;
    check_version(&version)?;
    Ok(client)
}

fn check_version(version: &Info) -> anyhow::Result<()> {
    // Some providers write "30+".
    let number = |text: &str| text.trim_end_matches(|letter: char| !letter.is_ascii_digit()).parse::<u32>();
    let (Ok(major), Ok(minor)) = (number(&version.major), number(&version.minor)) else {
        bail!("the API server's version {}.{} cannot be read", version.major, version.minor);
    };
    if (major, minor) < (1, OLDEST_MINOR) {
        bail!("the API server is Kubernetes {major}.{minor}: 1.{OLDEST_MINOR} or later is needed");
    }
    Ok(())
}

async fn agent_image(client: &Client, settings: &Settings) -> anyhow::Result<String> {
    if let Some(image) = &settings.agent_image {
        return Ok(image.clone());
    }
    let Some(pod) = &settings.pod else {
        bail!("the agent's image is unknown: set --agent-image (LEADER_AGENT_IMAGE) or --pod (LEADER_WEBHOOK_POD)");
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    let found = pods.get(pod).await.with_context(|| format!("reading pod {}/{pod}", settings.namespace))?;
    let containers = found.spec.and_then(|spec| spec.init_containers).unwrap_or_default();
    let carrier = containers.into_iter().find(|container| container.name == CARRIER);
    carrier.and_then(|container| container.image).with_context(|| {
        format!(
            "pod {}/{pod} has no init container {CARRIER}: set --agent-image (LEADER_AGENT_IMAGE)",
            settings.namespace
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_versions_are_served() {
        let check = |major: &str, minor: &str| {
            let version = Info { major: major.to_owned(), minor: minor.to_owned(), ..Info::default() };
            check_version(&version).map_err(|error| error.to_string())
        };
        assert_eq!(check("1", "30"), Ok(()));
        assert_eq!(check("1", "36+"), Ok(()));
        assert_eq!(check("2", "0"), Ok(()));
        assert!(check("1", "29").unwrap_err().contains("1.29: 1.30 or later"));
        assert!(check("1", "29+").is_err());
        assert!(check("", "").is_err());
    }
}
