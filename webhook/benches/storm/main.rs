//! Writes to a thousand annotated workloads: some at a time to make them, and all at once, as a rollout of everything.
//!
//! `cargo xtask bench scale` brings the cluster, runs this in its network, and writes the numbers down. Nothing here runs: the pods name
//! a scheduler that does not exist.

mod deployers;
mod writes;

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use futures::{StreamExt, future::join_all, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use leader_agent::names;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    sync::Barrier,
    time::{Instant, sleep},
};

use writes::Writes;

/// A Deployment as a cluster holds it.
const MANIFEST: &str = include_str!("../manifests/median.json");
/// Its images, of a registry that does not exist: they become one that can be asked.
const IMAGE: &str = "registry.example/shop/billing:4.11.2";
/// The label that a Deployment of these has to itself.
const NAME: &str = "app.kubernetes.io/name";
/// How many namespaces the workloads are in.
const NAMESPACES: usize = 10;
/// The beginning of their names.
const PREFIX: &str = "scale-";
/// How many are created at the same time: as many as keep two processors busy.
const AT_ONCE: usize = 8;
/// Between two looks at all the pods, each of which the API server has to send.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest Lease that there is: none of them runs out while something is measured.
const LEASE: Duration = Duration::from_hours(1);

/// Writes to many annotated workloads of the cluster that KUBECONFIG names.
#[derive(Debug, Parser)]
struct Arguments {
    /// Without one nothing is written: `cargo xtask bench scale` gives it.
    #[command(subcommand)]
    task: Option<Task>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Task {
    /// Creates so many Deployments of three replicas each, of this image.
    Fill { workloads: usize, image: String },
    /// Waits until there are so many injected pods.
    Pods { least: usize, seconds: u64 },
    /// Gives each of so many Leases a holder for an hour, which no agent does here: that nobody leads is no state of rest.
    Lead { workloads: usize },
    /// Restarts the rollout of so many Deployments at the same moment.
    Storm { workloads: usize },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Some(task) = Arguments::parse().task else {
        println!("nothing is written without a task: run `cargo xtask bench scale`");
        return Ok(());
    };
    // A connection for each write.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let client = Client::try_from(Config::infer().await.context("finding the API server")?)?;
    let report = match task {
        Task::Fill { workloads, image } => fill(&client, workloads, &image).await?,
        Task::Pods { least, seconds } => pods(&client, least, Duration::from_secs(seconds)).await?,
        Task::Lead { workloads } => lead(&client, workloads).await?,
        Task::Storm { workloads } => storm(&client, workloads).await?,
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// Where the workload of this number is, and how it is called; the name is also its id.
fn place(number: usize) -> (String, String) {
    (format!("{PREFIX}{}", number % NAMESPACES), format!("workload-{number}"))
}

/// The workload of this number.
fn workload(number: usize, image: &str) -> anyhow::Result<Deployment> {
    let (namespace, name) = place(number);
    let mut object: Value = serde_json::from_str(&MANIFEST.replace(IMAGE, image))?;
    object["metadata"] = json!({
        "name": name, "namespace": namespace, "labels": {NAME: name}, "annotations": {names::ID: name},
    });
    object["spec"]["selector"]["matchLabels"] = json!({NAME: name});
    object["spec"]["template"]["metadata"]["labels"][NAME] = json!(name);
    object["spec"]["template"]["spec"]["schedulerName"] = json!("nobody");
    Ok(serde_json::from_value(object)?)
}

async fn fill(client: &Client, workloads: usize, image: &str) -> anyhow::Result<Value> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for number in 0..NAMESPACES.min(workloads) {
        let namespace = serde_json::from_value(json!({"metadata": {"name": place(number).0}}))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
    }
    deployers::make(client, (0..NAMESPACES.min(workloads)).map(|number| place(number).0)).await?;
    let mut writes = Writes::begin();
    let create = |number: usize| async move {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &place(number).0);
        let (deployment, started) = (workload(number, image)?, Instant::now());
        let created = deployments.create(&PostParams::default(), &deployment).await;
        anyhow::Ok((started.elapsed(), created))
    };
    let mut created = stream::iter(0..workloads).map(create).buffer_unordered(AT_ONCE);
    while let Some(one) = created.next().await {
        let (took, created) = one?;
        writes.add(took, created.map(drop));
    }
    Ok(writes.report())
}

async fn pods(client: &Client, least: usize, patience: Duration) -> anyhow::Result<Value> {
    let pods: Api<Pod> = Api::all(client.clone());
    let started = Instant::now();
    let injected = ListParams::default().labels(names::ID);
    loop {
        let found = pods.list_metadata(&injected).await?.items;
        let ours = found.iter().filter_map(|pod| pod.metadata.namespace.as_deref());
        let count = ours.filter(|namespace| namespace.starts_with(PREFIX)).count();
        if count >= least {
            return Ok(json!({"pods": count, "seconds": started.elapsed().as_secs_f64()}));
        }
        ensure!(started.elapsed() < patience, "there are {count} of {least} pods after {patience:?}");
        sleep(PAUSE).await;
    }
}

async fn lead(client: &Client, workloads: usize) -> anyhow::Result<Value> {
    let mut writes = Writes::begin();
    let hold = |number: usize| async move {
        let (namespace, name) = place(number);
        let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
        // Six digits, as the API's MicroTime has them.
        let now = format!("{:.6}", Timestamp::now());
        let spec = json!({
            "holderIdentity": format!("{name}-0_0_app"), "leaseDurationSeconds": LEASE.as_secs(), "acquireTime": now, "renewTime": now,
        });
        let started = Instant::now();
        let held = leases.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await;
        (started.elapsed(), held.map(drop))
    };
    let mut answers = stream::iter(0..workloads).map(hold).buffer_unordered(AT_ONCE);
    while let Some((took, result)) = answers.next().await {
        writes.add(took, result);
    }
    Ok(writes.report())
}

async fn storm(client: &Client, workloads: usize) -> anyhow::Result<Value> {
    let clients = deployers::clients(client, (0..NAMESPACES.min(workloads)).map(|number| place(number).0)).await?;
    let clients = &clients;
    // Each has a connection before the storm begins: it is about reviews, not about handshakes.
    let warm = join_all((0..workloads).map(|number| clients[number % NAMESPACES].apiserver_version())).await;
    warm.into_iter().collect::<Result<Vec<_>, _>>().context("opening connections")?;
    let now = Timestamp::now().to_string();
    let template = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}});
    let patch = Patch::Merge(json!({"spec": {"template": template}}));
    let (patch, begin) = (&patch, &Barrier::new(workloads + 1));
    let restarts = (0..workloads).map(|number| async move {
        let (namespace, name) = place(number);
        let deployments: Api<Deployment> = Api::namespaced(clients[number % NAMESPACES].clone(), &namespace);
        begin.wait().await;
        let started = Instant::now();
        let restarted = deployments.patch(&name, &PatchParams::default(), patch).await;
        (started.elapsed(), restarted.map(drop))
    });
    let started = async {
        begin.wait().await;
        Writes::begin()
    };
    let (mut writes, restarted) = tokio::join!(started, join_all(restarts));
    for (took, result) in restarted {
        writes.add(took, result);
    }
    Ok(writes.report())
}
