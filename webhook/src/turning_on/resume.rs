//! Resume: a person ends `leader.io/turning-on`, which the controller does not end without a proof.
//!
//! A person says that pods do not run which are gone without a trace. What is there is looked at as the controller looks at it.

use std::fmt::Write;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use leader_agent::id::LeaderId;

use super::{Sight, Stored, TurningOn, Verdict, Workload, look, look_for_workloads, review::swap};
use crate::api_error;

/// How often the write begins again because a leader renewed its Lease in between.
const RACES: usize = 10;

/// Why nothing was ended.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// A request failed.
    #[error("{what} failed: {}", api_error::reason(source))]
    Request {
        /// What was tried.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Nobody takes part under this id.
    #[error("there is no Lease {namespace}/{id}: is that the id, and the namespace (-n)?")]
    NoLease {
        /// The namespace.
        namespace: String,
        /// The id.
        id: LeaderId,
    },
    /// It would make two run at once.
    #[error(
        "nobody may lead `{id}` yet: {}. With --beside-running-pods an elected pod starts the application beside those pods",
        .reasons.join("; ")
    )]
    Running {
        /// The id.
        id: LeaderId,
        /// What runs the application, or may, and what to do about it.
        reasons: Vec<String>,
    },
    /// Others kept writing the Lease.
    #[error("the Lease was changed by others {RACES} times in a row: try again")]
    Race,
}

/// Takes the annotation off the Lease, and says what was ended. Where a pod runs the application without the election, or may be made that
/// does, that is refused, but for `beside`.
pub async fn resume(client: &Client, namespace: &str, id: &LeaderId, beside: bool) -> Result<String, ResumeError> {
    let failed = |what: String| move |source: kube::Error| ResumeError::Request { what, source: Box::new(source) };
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    for _ in 0..RACES {
        let lease = leases.get_opt(id.as_str()).await.map_err(failed(format!("reading Lease {namespace}/{id}")))?;
        let Some(lease) = lease else {
            return Err(ResumeError::NoLease { namespace: namespace.to_owned(), id: id.clone() });
        };
        let Some(said) = TurningOn::of(&lease) else {
            return Ok(format!("election `{id}` waits for nobody: it is not being turned on\n"));
        };
        // After the Lease: what a review asks from now on makes the write fail.
        let reasons = obstacles(client, namespace, id, &said).await?;
        if !reasons.is_empty() && !beside {
            return Err(ResumeError::Running { id: id.clone(), reasons });
        }
        let written = swap(client, namespace, &lease, &TurningOn::default()).await;
        if written.map_err(failed(format!("writing Lease {namespace}/{id}")))? {
            return Ok(ended(id, &said));
        }
    }
    Err(ResumeError::Race)
}

/// What runs the application without the election, or may, as the controller looks at it.
async fn obstacles(
    client: &Client,
    namespace: &str,
    id: &LeaderId,
    said: &TurningOn,
) -> Result<Vec<String>, ResumeError> {
    let failed = |what: String| move |source: kube::Error| ResumeError::Request { what, source: Box::new(source) };
    let mut all = said.clone();
    // Whatever the Lease says of whom: a workload that takes part may have pods that do not.
    let found = look_for_workloads(client, namespace, id.as_str()).await;
    for (workload, entry) in found.map_err(failed(format!("looking for the workloads of {namespace}/{id}")))? {
        all.add(workload, entry);
    }
    let unknown =
        |kind: &String| format!("a newer version of leader asked to wait for {kind} (use its `kubectl leader`)");
    let mut reasons: Vec<String> = all.others.keys().map(unknown).collect();
    for (workload, entry) in &all.workloads {
        let looked = look(client, namespace, id.as_str(), workload, entry).await;
        let looked = looked.map_err(failed(format!("looking at {workload} of namespace {namespace} and its pods")))?;
        reasons.extend(obstacle(workload, &looked.sight));
    }
    Ok(reasons)
}

/// Why an elected pod may not lead beside this workload, and what to do.
fn obstacle(workload: &Workload, sight: &Sight) -> Option<String> {
    let waited = |is_lost: bool| {
        let pods = sight.pods.values().filter(|pod| pod.verdict == Verdict::Waited && pod.is_lost == is_lost);
        let names: Vec<&str> = pods.map(|pod| pod.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(pods) = waited(false) {
        let what = format!("these pods of {workload} run the application without the election: {pods}");
        return Some(format!("{what} (wait for the roll-out, or delete them and wait until they are gone)"));
    }
    if let Some(pods) = waited(true) {
        let what = format!("it is not known how the containers of these pods of {workload} ended: {pods}");
        return Some(format!("{what} (make sure that they have, and delete the pods)"));
    }
    match &sight.stored {
        Stored::Elected { makes_plain_pods } => makes_plain_pods
            .as_ref()
            .map(|why| format!("pods without the election may be made: {why} (try again once that is over)")),
        Stored::Undecided { container } => Some(format!(
            "{workload} wraps the container {container}, and a review decided otherwise: that may be stored yet (the controller ends \
             that after three minutes)"
        )),
        Stored::Otherwise => Some(format!(
            "{workload} takes no part in the election as it is stored, and may make pods at any time (the controller stops waiting \
             for it by itself, three minutes after its review, once no pod of it takes part)"
        )),
        Stored::Absent => None,
    }
}

fn ended(id: &LeaderId, said: &TurningOn) -> String {
    let mut text = format!("election `{id}` goes on: an elected pod may lead from now on\n");
    for kind in said.others.keys() {
        let _ = writeln!(text, "no longer waited for: {kind}, which a newer version of leader asked for");
    }
    for (workload, entry) in &said.workloads {
        let names: Vec<&str> = entry.pods.values().map(String::as_str).collect();
        if !names.is_empty() {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "no longer waited for, of {workload}: {}", names.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turning_on::Seen;

    #[test]
    fn what_was_waited_for_is_said() {
        let said = TurningOn::parse(
            r#"{"*":{},"Deployment/billing":{"version":"7","pods":{"u1":"billing-1","u2":"billing-2"}},"Rollout/billing":{}}"#,
        );
        let text = ended(&"billing".parse().unwrap(), &said);
        assert!(text.contains("Deployment/billing: billing-1, billing-2"), "{text}");
        assert!(text.contains("no longer waited for: Rollout/billing"), "{text}");
    }

    #[test]
    fn what_a_person_is_told_to_do_first() {
        let workload: Workload = "Deployment/billing".parse().unwrap();
        let of = |stored: Stored, pods: &[(&str, Verdict, bool)]| {
            let seen = |&(name, verdict, is_lost): &(&str, Verdict, bool)| {
                let name = name.to_owned();
                (name.clone(), Seen { uid: name.clone(), name, verdict, is_lost, ..Seen::default() })
            };
            obstacle(&workload, &Sight { stored, pods: pods.iter().map(seen).collect(), makes_elected_pods: false })
        };
        let elected = |why: Option<&str>| Stored::Elected { makes_plain_pods: why.map(str::to_owned) };
        let over = [("new", Verdict::Elected, false), ("old", Verdict::Ended, false)];
        assert_eq!(of(elected(None), &over), None);
        assert_eq!(of(Stored::Absent, &over), None);
        let running = [("lost", Verdict::Waited, true), ("old", Verdict::Waited, false)];
        for stored in [elected(None), Stored::Absent, Stored::Otherwise] {
            assert!(of(stored, &running).unwrap().contains("without the election: old (wait"));
        }
        assert!(of(elected(None), &running[..1]).unwrap().contains("ended: lost (make sure"));
        assert!(
            of(elected(Some("billing-5d is to have 3 pods")), &over).unwrap().contains("billing-5d is to have 3 pods")
        );
        assert!(of(Stored::Otherwise, &over).unwrap().contains("may make pods at any time"));
        let undecided = Stored::Undecided { container: "app".to_owned() };
        assert!(of(undecided, &over).unwrap().contains("wraps the container app"));
    }
}
