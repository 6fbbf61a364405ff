//! The webhook's process: builds the parts from the settings, runs them, and ends them in order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Config};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    certificates::{self, Certificates},
    clients, controller,
    events::Recorder,
    handler::Webhook,
    inject::Defaults,
    metrics::Metrics,
    observers::Observers,
    registry::Registries,
    server,
    settings::Settings,
    version::{self, Feature},
};

/// The init container of the webhook's own pod that has the agent's image, so that whatever changes images
/// (kustomize, a registry mirror) changes what is injected with it.
const CARRIER: &str = "agent-image";
/// How long a connection to the API server may take, and each read or write on one. Watches are kept alive by their own timer.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the API server may take for an answer at the start.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it is waited for at the start: less than the startup probe of deploy/ has patience, so that the reason is told.
const PATIENCE: Duration = Duration::from_secs(150);
/// The pause between two such questions.
const RETRY: Duration = Duration::from_secs(1);

/// Serves until TERM or INT.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    // Before anything else: a stop signal must not be lost while the parts come up.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let registries = Registries::new(&settings.registries)?;
    let start = async {
        let deadline = Instant::now() + PATIENCE;
        let (client, config) = connect(deadline).await?;
        let agent_image = agent_image(&client, &settings, deadline).await?;
        anyhow::Ok((client, config, agent_image))
    };
    let (client, config, agent_image) = tokio::select! {
        found = start => found?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tracing::info!(agent_image, listen = %settings.listen, "starting");

    let agent_pull_secret = settings.agent_pull_secret.clone();
    let defaults = Defaults { agent_image, agent_pull_secret: agent_pull_secret.clone() };
    let metrics = Arc::new(Metrics::default());
    let instance = settings.pod.clone().unwrap_or_else(|| settings.service.clone());
    let (recorder, events) = Recorder::new(client.clone(), instance, Arc::clone(&metrics));
    let events = tokio::spawn(events);
    let Certificates { task: certificates, resolver, state } =
        certificates::start(client.clone(), &settings, &recorder)?;
    let (stop_controller, stopped) = watch::channel(false);
    let controller = tokio::spawn(controller::run(
        controller::Settings { namespace: settings.namespace.clone(), identity: identity(&settings), config },
        controller::Context::new(client.clone(), recorder.clone(), Arc::clone(&metrics), agent_pull_secret),
        stopped,
    ));
    let observers = Observers::new(metrics, recorder);
    let webhook = Webhook::new(client, registries, defaults, settings.namespace.clone(), state, observers);
    let listener =
        server::listen(settings.listen).await.with_context(|| format!("listening on {}", settings.listen))?;
    let authorities = settings.client_ca.as_deref().map(clients::read).transpose()?;
    let router = webhook.clone().router();
    let router = if authorities.is_some() { clients::only_verified(router, "/inject") } else { router };
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        tracing::info!("stopping");
        // The Lease is released at once, so that another replica's controller goes on.
        stop_controller.send_replace(true);
        webhook.drain();
        tokio::time::sleep(settings.drain).await;
    };
    server::serve(listener, server::tls_asking(resolver, authorities)?, router, stop).await;
    certificates.abort();
    controller.abort();
    events.abort();
    Ok(())
}

/// A client of an API server that is new enough.
async fn connect(deadline: Instant) -> anyhow::Result<(Client, Config)> {
    let mut config = Config::infer().await.context("finding the API server")?;
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(CONNECT);
    let client = Client::try_from(config.clone()).context("making a client for the API server")?;
    let what = "asking the API server for its version";
    let found = patiently(what, deadline, async || client.apiserver_version().await).await?;
    let minor = version::check(&found)?;
    for Feature { name, since, instead } in version::missing(minor) {
        tracing::info!("Kubernetes 1.{minor} does not have {name}, which came with 1.{since}: {instead}");
    }
    Ok((client, config))
}

/// Asks until there is an answer: on a cold cluster the way to the API server may come up after this pod, and one that has just started
/// does not know anybody's rights for a moment.
async fn patiently<T>(
    what: &str,
    deadline: Instant,
    mut ask: impl AsyncFnMut() -> Result<T, kube::Error>,
) -> anyhow::Result<T> {
    loop {
        let error = match tokio::time::timeout(ANSWER, ask()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        if Instant::now() > deadline {
            bail!("{what}: {error}");
        }
        tracing::warn!(error, "{what} failed; it is tried again every second");
        tokio::time::sleep(RETRY).await;
    }
}

/// What stands in the controller's Lease while this process works: the pod's name, or something that no other process has.
fn identity(settings: &Settings) -> String {
    settings.pod.clone().unwrap_or_else(|| format!("{}_{:016x}", settings.service, fastrand::u64(..)))
}

async fn agent_image(client: &Client, settings: &Settings, deadline: Instant) -> anyhow::Result<String> {
    if let Some(image) = &settings.agent_image {
        return Ok(image.clone());
    }
    let Some(pod) = &settings.pod else {
        bail!("the agent's image is unknown: set --agent-image (LEADER_AGENT_IMAGE) or --pod (LEADER_WEBHOOK_POD)");
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    let what = format!("reading pod {}/{pod}", settings.namespace);
    let found = patiently(&what, deadline, async || pods.get_opt(pod).await).await?;
    let found = found.with_context(|| format!("{what}: it does not exist (--pod, LEADER_WEBHOOK_POD)"))?;
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::{Json, Router, http::StatusCode};
    use clap::Parser;
    use serde_json::json;

    use super::*;

    /// What is made of the answers of an API server that gives these in order, and the last one from then on.
    async fn asked(answers: Vec<(StatusCode, serde_json::Value)>, patience: Duration) -> (anyhow::Result<String>, u32) {
        let times = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&times);
        let router = Router::new().fallback(move || {
            let time = usize::try_from(counted.fetch_add(1, Ordering::Relaxed)).unwrap();
            let answer = answers[time.min(answers.len() - 1)].clone();
            async move { (answer.0, Json(answer.1)) }
        });
        let settings = Settings::try_parse_from(["leader-webhook", "--pod=own"]).unwrap();
        let image = agent_image(&Client::new(router, "default"), &settings, Instant::now() + patience).await;
        (image, times.load(Ordering::Relaxed))
    }

    fn failure(code: StatusCode, reason: &str) -> (StatusCode, serde_json::Value) {
        let number = code.as_u16();
        (code, json!({"kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": number}))
    }

    fn pod(container: &str) -> (StatusCode, serde_json::Value) {
        let containers = json!([{"name": container, "image": "agent:1"}]);
        (StatusCode::OK, json!({"metadata": {"name": "own"}, "spec": {"initContainers": containers, "containers": []}}))
    }

    #[tokio::test]
    async fn rights_that_are_not_known_yet_are_waited_for() {
        let (image, times) = asked(vec![failure(StatusCode::FORBIDDEN, "Forbidden"), pod(CARRIER)], PATIENCE).await;
        assert_eq!((image.unwrap(), times), ("agent:1".to_owned(), 2));
    }

    #[tokio::test]
    async fn what_will_not_come_is_not_waited_for() {
        let (image, times) = asked(vec![failure(StatusCode::NOT_FOUND, "NotFound")], PATIENCE).await;
        assert!(image.unwrap_err().to_string().contains("does not exist") && times == 1);
        let (image, times) = asked(vec![pod("another")], PATIENCE).await;
        assert!(image.unwrap_err().to_string().contains("no init container agent-image") && times == 1);
        let (image, _) = asked(vec![failure(StatusCode::FORBIDDEN, "Forbidden")], Duration::ZERO).await;
        let error = image.unwrap_err().to_string();
        assert!(error.starts_with("reading pod leader-system/own: "), "{error}");
    }
}
