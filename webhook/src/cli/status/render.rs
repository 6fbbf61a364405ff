//! Elections as text: a table as kubectl prints them, JSON for programs, or the leader's name for scripts.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Election, Leader, Options, Output};
use crate::access::is_dns_subdomain;
use crate::cli::{
    Error, json,
    table::{Table, age},
};

/// What is printed where there is nothing to say.
const NOTHING: &str = "-";

/// Prints elections, and remembers them, so that only what has changed is printed again.
pub(super) struct Printer<'a> {
    options: &'a Options,
    table: Table,
    known: BTreeMap<(String, String), String>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        Self { options, table: Table::default(), known: BTreeMap::new() }
    }

    /// All of them.
    pub(super) fn all(&mut self, elections: &[Election], now: Timestamp) -> Result<String, Error> {
        for election in elections {
            self.remember(election);
        }
        let is_empty = elections.is_empty();
        match self.options.output {
            Output::Table | Output::Wide if !self.options.no_headers && (!is_empty || self.options.watch) => {
                let mut rows = vec![self.header()];
                rows.extend(elections.iter().map(|election| self.row(election, now)));
                Ok(self.table.print(&rows))
            }
            Output::Json if self.options.id.is_none() && !self.options.watch => {
                json::text(&serde_json::json!({ "items": elections }), false)
            }
            _ => self.each(elections, now),
        }
    }

    /// Those that have changed since they were printed.
    pub(super) fn more(&mut self, elections: &[Election], now: Timestamp) -> Result<String, Error> {
        let changed: Vec<Election> = elections.iter().filter(|election| self.remember(election)).cloned().collect();
        self.each(&changed, now)
    }

    fn each(&mut self, elections: &[Election], now: Timestamp) -> Result<String, Error> {
        match self.options.output {
            Output::Table | Output::Wide => {
                let rows: Vec<_> = elections.iter().map(|election| self.row(election, now)).collect();
                Ok(self.table.print(&rows))
            }
            Output::Json => elections.iter().map(|election| json::text(election, self.options.watch)).collect(),
            Output::Name => Ok(elections
                .iter()
                .filter_map(|election| Some(script_name(election.leader.as_ref()?)? + "\n"))
                .collect()),
        }
    }

    /// Whether it is another one than was remembered, but for what changes all the time.
    fn remember(&mut self, election: &Election) -> bool {
        let print = if self.options.output == Output::Name {
            // The pod may be seen later than the Lease that names it.
            format!("{:?}", election.leader.as_ref().map(|leader| (&leader.identity, &leader.pod)))
        } else {
            let still = |trouble: &String| trouble.chars().filter(|letter| !letter.is_ascii_digit()).collect();
            let trouble = election.trouble.iter().map(still).collect();
            format!("{:?}", Election { renewed: None, trouble, ..election.clone() })
        };
        let key = (election.namespace.clone(), election.id.clone());
        self.known.insert(key, print.clone()).is_none_or(|known| known != print)
    }

    fn header(&self) -> Vec<String> {
        let namespace = self.options.all_namespaces.then_some("NAMESPACE");
        let columns = match self.options.output {
            Output::Wide => &[
                "ID",
                "WORKLOAD",
                "MODE",
                "LEADER",
                "NODE",
                "SINCE",
                "TRANSITIONS",
                "STANDBYS",
                "STANDBY PODS",
                "RENEWED",
                "LASTS",
                "TROUBLE",
            ][..],
            _ => &["ID", "WORKLOAD", "LEADER", "NODE", "SINCE", "TRANSITIONS", "STANDBYS", "RENEWED", "TROUBLE"],
        };
        namespace.into_iter().chain(columns.iter().copied()).map(str::to_owned).collect()
    }

    fn row(&self, election: &Election, now: Timestamp) -> Vec<String> {
        let is_wide = self.options.output == Output::Wide;
        let or_nothing =
            |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| NOTHING.to_owned());
        let since = |time: &Option<String>| {
            let time = time.as_ref().and_then(|time| time.parse::<Timestamp>().ok());
            or_nothing(time.map(|time| age(now.duration_since(time))))
        };
        let workloads: Vec<&str> = election.workloads.iter().map(String::as_str).collect();
        let leader = election.leader.as_ref();
        let ready = election.standbys.iter().filter(|standby| standby.ready).count();
        let standbys = match election.standbys.len() {
            all if all == ready => all.to_string(),
            all => format!("{ready}/{all}"),
        };
        let names: Vec<&str> = election.standbys.iter().map(|standby| standby.pod.as_str()).collect();
        let cells = [
            self.options.all_namespaces.then(|| election.namespace.clone()),
            Some(election.id.clone()),
            Some(or_nothing(Some(workloads.join(",")))),
            is_wide.then(|| election.mode.name().to_owned()),
            Some(or_nothing(leader.map(|leader| leader.name().to_owned()))),
            Some(or_nothing(leader.and_then(|leader| leader.node.clone()))),
            Some(since(&election.since)),
            Some(election.transitions.to_string()),
            Some(standbys),
            is_wide.then(|| or_nothing(Some(names.join(",")))),
            Some(since(&election.renewed)),
            is_wide.then(|| or_nothing(election.lease_duration_seconds.map(|seconds| format!("{seconds}s")))),
            Some(or_nothing(Some(election.trouble.join("; ")))),
        ];
        cells.into_iter().flatten().collect()
    }
}

/// The leader for a script: a pod as kubectl takes it, or the name of a holder that is no pod. An identity may be any text, and what is no
/// name is none for a script either.
pub(super) fn script_name(leader: &Leader) -> Option<String> {
    match &leader.pod {
        Some(pod) => is_dns_subdomain(pod).then(|| format!("pod/{pod}")),
        None => is_dns_subdomain(&leader.identity).then(|| leader.identity.clone()),
    }
}
