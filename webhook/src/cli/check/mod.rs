//! `kubectl leader check`: reads the cluster and says what is wrong and how to mend it.
//!
//! [`gather`] reads, [`judge`] judges what was read, [`report`] prints. Nothing is written.

mod gather;
mod judge;
mod report;
mod snapshot;

use std::{path::PathBuf, thread};

use clap::{Args, ValueEnum};
use tokio::runtime;

use self::{
    gather::{Places, gather},
    report::Report,
};
use super::{Error, connection::Connection};
use crate::api_error;

/// Where to look, and how to print.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Look at the elections of this namespace only.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The namespace that the webhook runs in.
    #[arg(long, default_value = "leader-system", value_name = "NAMESPACE")]
    system_namespace: String,
    /// The namespace in which a workload is created by dry run. Nothing is stored.
    #[arg(long, default_value = "default", value_name = "NAMESPACE")]
    review_in: String,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The context of the kubeconfig file to use.
    #[arg(long)]
    context: Option<String>,
    /// The kubeconfig file; without it `KUBECONFIG`, `~/.kube/config`, or the pod's own account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What to print, and whether something is wrong.
pub(super) fn run(options: &Options) -> Result<(String, bool), Error> {
    let report = in_a_thread(options)?;
    let text = match options.output {
        Output::Table => report.table(),
        Output::Json => report.json()?,
    };
    Ok((text, report.has_problems()))
}

/// In a thread, because who calls the command line as a library may be in a runtime already.
fn in_a_thread(options: &Options) -> Result<Report, Error> {
    let look = || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Cluster { reason: error.to_string() })?;
        runtime.block_on(look(options))
    };
    let ended = |_| Err(Error::Cluster { reason: "the look ended early; please report this".to_owned() });
    thread::scope(|scope| scope.spawn(look).join()).unwrap_or_else(ended)
}

async fn look(options: &Options) -> Result<Report, Error> {
    let connection = Connection {
        context: options.context.clone(),
        kubeconfig: options.kubeconfig.clone(),
        ..Connection::default()
    };
    let connected = connection.connect().await;
    let client = connected.map_err(|error| Error::Cluster { reason: error.to_string() })?.client;
    let places = Places {
        system: &options.system_namespace,
        elections: options.namespace.as_deref(),
        review: &options.review_in,
    };
    let snapshot = gather(&client, &places).await;
    let snapshot = snapshot.map_err(|error| Error::Cluster { reason: api_error::reason(&error) })?;
    Ok(judge::judge(&snapshot))
}
