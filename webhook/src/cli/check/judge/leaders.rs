//! Who leads: each id whose pods run has a leader, or there is a reason why not.

use jiff::{SignedDuration, Timestamp};
use leader_agent::names;
use serde_json::Value;

use super::{access::is_made_here, check};
use crate::{
    cli::check::{
        report::{Check, Finding},
        snapshot::{Election, Snapshot, name, namespace, time, title},
    },
    network_policy,
};

/// How much clocks of nodes and API server may differ: agents write the time of their own node into the Lease.
const CLOCKS: SignedDuration = SignedDuration::from_secs(30);
/// How long images, scheduling and a first election may take.
const START: SignedDuration = SignedDuration::from_mins(2);
/// After this long a token that was issued before an account was made again is renewed: at most its whole life.
const TOKEN: SignedDuration = SignedDuration::from_secs(names::TOKEN_SECONDS as i64);

/// For so long the API server believes a token that it has just checked, and clocks differ ([`crate::controller::account`]).
const CACHED: SignedDuration = SignedDuration::from_secs(20);

/// Each election has a leader.
pub(super) fn leaders(snapshot: &Snapshot) -> Check {
    check("leaders", &snapshot.elections(), |elections| {
        let mut findings = Vec::new();
        let mut led = 0;
        for ((namespace, id), election) in elections {
            let one = One { snapshot, namespace, id, election };
            let found = one.judge();
            led += usize::from(found.is_none() && election.living_pods().next().is_some());
            findings.extend(found);
            findings.extend(one.account_made_again());
        }
        (format!("{led} of {} ids have a leader, and the others no pods", elections.len()), findings)
    })
}

struct One<'a> {
    snapshot: &'a Snapshot,
    namespace: &'a str,
    id: &'a str,
    election: &'a Election<'a>,
}

impl One<'_> {
    fn judge(&self) -> Option<Finding> {
        let object = format!("Lease {}/{}", self.namespace, self.id);
        let pods: Vec<_> = self.election.living_pods().collect();
        if pods.is_empty() {
            return self.without_pods();
        }
        // Missing is what the check of access says.
        let lease = self.election.lease?;
        let logs = format!("kubectl -n {} logs {} --all-containers", self.namespace, name(pods[0]));
        let annotation = |key: &str| lease["metadata"]["annotations"][key].as_str();
        if let Some(value) = annotation(names::HOLD) {
            let message = format!("nobody may lead: {} is set to {value:?}", names::HOLD);
            let mend = format!("when the reason is gone: kubectl leader resume {} -n {}", self.id, self.namespace);
            return Some(Finding::warning(object, message, mend));
        }
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
        let length = SignedDuration::from_secs(lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(15));
        let renewed = time(&lease["spec"]["renewTime"]);
        let now = self.snapshot.now;
        let stale = |renewed: Timestamp| now.duration_since(renewed) > length * 2 + CLOCKS;
        if holder.is_some() && !renewed.is_some_and(stale) {
            return None;
        }
        if let Some(value) = annotation(names::TURNING_ON) {
            let message = format!(
                "nobody leads while election is being turned on: pods without it may still run the application{}",
                waited_for(value)
            );
            let mend = format!(
                "wait for the roll-out; a pod that vanished without its node having reported its end keeps it, until somebody who knows \
                 that it has ended says so: kubectl leader resume {} --namespace {}",
                self.id, self.namespace
            );
            return Some(Finding::warning(object, message, mend));
        }
        let who = match (holder, renewed) {
            (Some(holder), Some(renewed)) => format!("{holder} held it and has not renewed it since {renewed}"),
            _ => "nobody holds it".to_owned(),
        };
        let blocking = self.blocking_policies(&pods);
        if !blocking.is_empty() {
            let message = format!(
                "it has no leader: {who}, and NetworkPolicy {} keeps its agents from the API server",
                blocking.join(", ")
            );
            let mend = "allow egress from these pods to the API server: TCP to the addresses of `kubectl get endpointslices -n default -l \
                        kubernetes.io/service-name=kubernetes`";
            return Some(Finding::problem(object, message, mend));
        }
        let began = pods.iter().filter_map(|pod| time(&pod["metadata"]["creationTimestamp"])).min();
        let is_young = began.is_some_and(|began| now.duration_since(began) < length * 2 + START);
        let message = format!("it has no leader: {who}");
        Some(if is_young && holder.is_none() {
            Finding::warning(
                object,
                format!("{message}; its first pod is young"),
                format!("look again in a minute; then: {logs}"),
            )
        } else {
            Finding::problem(object, message, format!("the agents say why: {logs}"))
        })
    }

    /// No pod runs: as it should be where none is asked for.
    fn without_pods(&self) -> Option<Finding> {
        let asking = self.election.workloads.iter().find(|workload| {
            workload["kind"] != "CronJob"
                && workload["kind"] != "DaemonSet"
                && workload["spec"]["replicas"].as_u64() != Some(0)
        })?;
        let mend = format!(
            "kubectl -n {0} describe {1}/{2}, and its pods' Events, say why",
            self.namespace,
            asking["kind"].as_str().unwrap_or_default().to_lowercase(),
            name(asking)
        );
        Some(Finding::problem(
            title(asking),
            format!("it has no pods, so that nobody leads under id {}", self.id),
            mend,
        ))
    }

    fn blocking_policies(&self, pods: &[&Value]) -> Vec<String> {
        let (Ok(policies), Ok(targets)) = (&self.snapshot.network_policies, &self.snapshot.api_server) else {
            return Vec::new();
        };
        let policies: Vec<_> = policies.iter().filter(|policy| namespace(policy) == self.namespace).collect();
        let mut found: Vec<String> = Vec::new();
        for pod in pods {
            for name in network_policy::blocking(&policies, &pod["metadata"]["labels"], targets) {
                if !found.iter().any(|known| known == name) {
                    found.push(name.to_owned());
                }
            }
        }
        found
    }

    /// Whether the pod has renewed the Lease as its holder since then, which nobody can whose token is refused.
    fn holds_since(&self, pod: &Value, since: Timestamp) -> bool {
        let spec = self.election.lease.map_or(&Value::Null, |lease| &lease["spec"]);
        let identity = format!("{}_{}_", name(pod), pod["metadata"]["uid"].as_str().unwrap_or_default());
        spec["holderIdentity"].as_str().is_some_and(|holder| holder.starts_with(&identity))
            && time(&spec["renewTime"]).is_some_and(|renewed| renewed >= since)
    }

    /// Tokens of an account that was deleted are worthless, also when one of the same name was made again.
    fn account_made_again(&self) -> Option<Finding> {
        let accounts = self.snapshot.accounts.as_deref().ok()?;
        let is_of_id = |account: &&Value| {
            let id = account["metadata"]["labels"][names::ID].as_str();
            namespace(account) == self.namespace && is_made_here(account) && id == Some(self.id)
        };
        let account = accounts.iter().find(is_of_id)?;
        let made = time(&account["metadata"]["creationTimestamp"])?;
        if self.snapshot.now.duration_since(made) >= TOKEN {
            return None;
        }
        let is_cut_off = |pod: &&Value| {
            pod["spec"]["serviceAccountName"] == name(account)
                && time(&pod["metadata"]["creationTimestamp"]).is_some_and(|began| began < made)
                && !self.holds_since(pod, made + CACHED)
        };
        let pods: Vec<_> = self.election.living_pods().filter(is_cut_off).map(name).collect();
        if pods.is_empty() {
            return None;
        }
        let message = format!(
            "it was made again at {made}, after pods that run under it ({}): the API server refuses their tokens until their kubelets have \
             renewed them, by {} at the latest",
            pods.join(", "),
            made + TOKEN
        );
        let mend = "wait, or delete these pods, so that new ones with new tokens are made; a leader whose token is refused loses its Lease";
        Some(Finding::warning(title(account), message, mend))
    }
}

/// The workloads that an entry per workload names, as far as it can be read.
fn waited_for(annotation: &str) -> String {
    let entries: serde_json::Map<String, Value> = serde_json::from_str(annotation).unwrap_or_default();
    let workloads: Vec<_> = entries.keys().filter(|workload| *workload != "*").map(String::as_str).collect();
    if workloads.is_empty() { String::new() } else { format!(" ({})", workloads.join(", ")) }
}
