//! `kubectl leader status`: who leads each election, who would take over, and what is not as it should be.
//!
//! [`election`] judges Leases and pods, [`render`] prints, [`watch`] goes on looking, at what [`seen`] has. Nothing is written.

mod election;
mod pod;
mod render;
mod seen;
mod watch;

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::Client;
use leader_agent::id::LeaderId;
use serde_json::Value;

use self::{election::Leader, pod::id_of};
pub(super) use self::{
    election::{CLOCKS, Election, elections, pod_of},
    pod::{Part, Pod},
};
use super::{
    Error,
    api::{self, COORDINATION, CORE, Clock},
    connection::{Connected, Connection},
    objects::{name, namespace},
    session::Voice,
};
use crate::api_error;

/// Which elections, and how they are printed.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// The id of one election; without it all of the namespace.
    id: Option<LeaderId>,
    /// Those of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "id")]
    all_namespaces: bool,
    /// Go on, and print an election again whenever something has changed beside its renewals.
    #[arg(short, long)]
    watch: bool,
    /// What to print: a table, with more columns, JSON, or the leader's pod alone, as kubectl takes it (pod/NAME).
    ///
    /// With `name` and an id the exit code is 1 when nobody leads, or a holder that has no name.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Leave the table's first line out.
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
    Name,
}

/// Which elections are meant.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// All, where none is named.
    namespace: Option<&'a str>,
    id: Option<&'a LeaderId>,
}

/// What belongs to an id has its label.
const OF_IDS: &str = "labelSelector=leader.io/id";
/// The exit code when it was asked who leads, and nobody does.
const NOBODY: u8 = 1;

/// Prints the elections; gives the exit code.
pub(super) async fn run(options: &Options, voice: &Voice) -> Result<u8, Error> {
    let Connected { client, namespace } = options.connection.connect().await?;
    let scope = Scope { namespace: (!options.all_namespaces).then_some(namespace.as_str()), id: options.id.as_ref() };
    let clock = Clock::ask(&client).await.map_err(|error| unreadable(&error))?;
    let mut printer = render::Printer::new(options);
    if options.watch {
        let mut first = true;
        let shown = |elections: &[Election], now: Timestamp| {
            let text =
                if std::mem::take(&mut first) { printer.all(elections, now) } else { printer.more(elections, now) };
            voice.out(text?)
        };
        return watch::follow(&client, scope, clock, shown).await;
    }
    let elections = see(&client, scope, clock.now()).await.map_err(|error| unreadable(&error))?;
    if elections.is_empty() {
        if let Some(id) = &options.id {
            return Err(Error::NoElection { namespace, id: id.clone() });
        }
        let place = scope.namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        voice.aside(&format!("No elections found{place}."))?;
    }
    voice.out(printer.all(&elections, clock.now())?)?;
    if options.output != Output::Name {
        return Ok(0);
    }
    let unnamed = elections.iter().filter_map(|election| Some((election, unnamed(election)?)));
    let mut code = 0;
    for (election, why) in unnamed {
        // In a list, an election without a leader is one line less.
        if options.id.is_some() {
            code = NOBODY;
        } else if election.leader.is_none() {
            continue;
        }
        voice.aside(&why)?;
    }
    Ok(code)
}

/// Why `-o name` prints nothing for an election; nothing where it does.
fn unnamed(election: &Election) -> Option<String> {
    let Election { id, leader, trouble, .. } = election;
    let Some(leader) = leader else { return Some(format!("nobody leads `{id}`: {}", trouble.join("; "))) };
    let is_named = render::script_name(leader).is_some();
    (!is_named)
        .then(|| format!("`{id}` is held by {}, which is no name of a pod: {}", leader.identity, trouble.join("; ")))
}

/// Every election of a namespace, or of all, as whoever asks may read them, and the API server's time when they were read.
pub(super) async fn look(client: &Client, namespace: Option<&str>) -> Result<(Vec<Election>, Timestamp), kube::Error> {
    let clock = Clock::ask(client).await?;
    let elections = see(client, Scope { namespace, id: None }, clock.now()).await?;
    Ok((elections, clock.now()))
}

/// One election; nothing where there is none.
pub(super) async fn look_at(client: &Client, namespace: &str, id: &LeaderId) -> Result<Option<Election>, kube::Error> {
    let now = Clock::ask(client).await?.now();
    Ok(see(client, Scope { namespace: Some(namespace), id: Some(id) }, now).await?.pop())
}

async fn see(client: &Client, scope: Scope<'_>, now: Timestamp) -> Result<Vec<Election>, kube::Error> {
    let pods = api::list(client, &api::path(CORE, scope.namespace, "pods"), &scope.labels()).await?;
    let mut leases = match scope.id {
        // Those that were adopted have no label.
        Some(_) => Vec::new(),
        None => api::list(client, &api::path(COORDINATION, scope.namespace, "leases"), OF_IDS).await?,
    };
    let mut adopted = Vec::new();
    for (namespace, id) in without_lease(scope, &leases, &pods) {
        adopted.extend(lease(client, namespace, id).await?);
    }
    leases.append(&mut adopted);
    Ok(elections(&leases, &pods, now))
}

/// A Lease by its name.
async fn lease(client: &Client, namespace: &str, id: &str) -> Result<Option<Value>, kube::Error> {
    api::find(client, &format!("{}/{id}", api::path(COORDINATION, Some(namespace), "leases"))).await
}

/// Elections whose Lease is not among these, by namespace and id.
fn without_lease<'a>(
    scope: Scope<'a>,
    leases: impl IntoIterator<Item = &'a Value>,
    pods: impl IntoIterator<Item = &'a Value>,
) -> BTreeSet<(&'a str, &'a str)> {
    let asked = scope.id.and_then(|id| Some((scope.namespace?, id.as_str())));
    let of_pods = pods.into_iter().filter_map(|pod| Some((namespace(pod), id_of(pod)?)));
    let mut missing: BTreeSet<_> = asked.into_iter().chain(of_pods).collect();
    for lease in leases {
        missing.remove(&(namespace(lease), name(lease)));
    }
    missing
}

impl Scope<'_> {
    /// Which pods take part, as a query.
    fn labels(self) -> String {
        match self.id {
            Some(id) => format!("{OF_IDS}%3D{id}"),
            None => OF_IDS.to_owned(),
        }
    }
}

fn unreadable(error: &kube::Error) -> Error {
    Error::Cluster { reason: api_error::reason(error) }
}

#[cfg(test)]
mod tests;
