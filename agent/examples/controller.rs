//! A controller that works only while it leads, with a health server for the kubelet. Start it twice:
//!
//! ```console
//! $ cargo run -p leader-agent --example controller -- --kubeconfig ~/.kube/config --id one --port 8081
//! $ cargo run -p leader-agent --example controller -- --kubeconfig ~/.kube/config --id two --port 8082
//! ```
//!
//! One of them counts. End it with Ctrl-C, and the other one goes on within milliseconds; kill it, and the other one waits until
//! the Lease has run out. `curl localhost:8081/livez` and `/readyz` answer in both.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use leader_agent::{
    election::{Election, ElectionError, Leadership, Outcome},
    log,
};

#[derive(Parser)]
struct Arguments {
    /// The kubeconfig [default: the pod's service account, or KUBECONFIG]
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// This process's name in the election [default: `POD_NAME`]
    #[arg(long)]
    id: Option<String>,
    /// The port of /livez and /readyz
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The Lease
    #[arg(long, default_value = "example-controller")]
    lease_name: String,
    /// The Lease's namespace [default: the pod's, or the kubeconfig's]
    #[arg(long)]
    namespace: Option<String>,
    /// How long the Lease lasts without a renewal, in seconds
    #[arg(long, default_value_t = 15)]
    lease_seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::start(None);
    match take_part(Arguments::parse()).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever supervises this process starts it again, as a candidate like any other.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn take_part(arguments: Arguments) -> Result<Outcome<()>, ElectionError> {
    let mut election = Election::new(arguments.lease_name)
        .lease_duration(Duration::from_secs(arguments.lease_seconds))
        .wind_down(Duration::from_secs(1))
        .health_port(arguments.port)
        .on_started(|leadership| println!("started leading as {}", leadership.identity()))
        .on_stopped(|| println!("stopped leading"))
        .on_new_leader(|identity| println!("the leader is {identity}"));
    if let Some(path) = arguments.kubeconfig {
        election = election.kubeconfig(path);
    }
    if let Some(id) = arguments.id {
        election = election.identity(id);
    }
    if let Some(namespace) = arguments.namespace {
        election = election.namespace(namespace);
    }
    let stop = election.stop_handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.stop();
        }
    });
    election.run(reconcile).await
}

/// The controller's loop. Between two steps it looks whether it shall stop: then it has a second to put things in order.
async fn reconcile(leadership: Leadership) {
    for step in 1_u64.. {
        println!("step {step} with fencing token {}", leadership.token());
        tokio::select! {
            () = leadership.stopping() => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    println!("put in order");
}
