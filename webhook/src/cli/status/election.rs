//! The elections as they stand: from Leases and pods to what is shown. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use leader_agent::{mode::Mode, names};
use serde::Serialize;
use serde_json::Value;

use super::pod::{Member, Part, Pod};
use crate::{
    cli::{
        objects::{annotation, name, namespace, time},
        steer,
        table::age,
    },
    steered::Steered,
    turning_on::TurningOn,
};

/// How much longer than its Lease lasts a leader may not have renewed it before that is trouble: the nodes' clocks differ from the API
/// server's.
pub(in crate::cli) const CLOCKS: SignedDuration = SignedDuration::from_secs(10);

/// One election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Election {
    /// Where.
    pub(in crate::cli) namespace: String,
    /// The id, which is the Lease's name.
    pub(in crate::cli) id: String,
    /// What made its pods, as kubectl names it.
    pub(in crate::cli) workloads: BTreeSet<String>,
    /// How election concerns the app.
    pub(in crate::cli) mode: Mode,
    /// Who leads.
    pub(in crate::cli) leader: Option<Leader>,
    /// When this term began, by the leader's clock.
    pub(in crate::cli) since: Option<String>,
    /// How often leadership has begun.
    pub(in crate::cli) transitions: i64,
    /// Pods that would take over.
    pub(in crate::cli) standbys: Vec<Member>,
    /// Pods that are starting or ending.
    pub(in crate::cli) others: Vec<Member>,
    /// When the leader wrote last, by its clock.
    pub(in crate::cli) renewed: Option<String>,
    /// L, as the Lease says.
    pub(in crate::cli) lease_duration_seconds: Option<i64>,
    /// Why nobody may lead, where a person said so.
    pub(in crate::cli) hold: Option<String>,
    /// Whose pods are waited for before anybody may begin to lead.
    pub(in crate::cli) turning_on: Option<Vec<String>>,
    /// What a person asked for last.
    pub(in crate::cli) steered: Option<Steered>,
    /// What is not as it should be, the worst first.
    pub(in crate::cli) trouble: Vec<String>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Leader {
    /// As the Lease says.
    pub(in crate::cli) identity: String,
    /// Its pod; nothing where that is not there, or is no pod.
    pub(in crate::cli) pod: Option<String>,
    /// The container that has the app; in mode `observe` it is not the one that elects, which the identity names.
    pub(in crate::cli) container: Option<String>,
    /// The pod's node.
    pub(in crate::cli) node: Option<String>,
    /// Whether the pod is Ready.
    pub(in crate::cli) ready: Option<bool>,
}

impl Leader {
    /// The pod, or the whole identity of a leader that is none.
    pub(in crate::cli) fn name(&self) -> &str {
        self.pod.as_deref().unwrap_or_else(|| pod_of(&self.identity))
    }
}

/// The pod of an identity, `<pod>_<pod uid>_<container>`; another one as it is.
pub(in crate::cli) fn pod_of(identity: &str) -> &str {
    let mut parts = identity.rsplitn(3, '_');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some(pod)) => pod,
        _ => identity,
    }
}

/// The container of an identity.
fn container_of(identity: &str) -> Option<&str> {
    let mut parts = identity.rsplitn(3, '_');
    let container = parts.next();
    parts.nth(1).and(container)
}

/// The elections that these Leases and pods make up, by namespace and id.
pub(in crate::cli) fn elections<'a>(
    leases: impl IntoIterator<Item = &'a Value>,
    pods: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
) -> Vec<Election> {
    let mut all: BTreeMap<_, (Option<&Value>, Vec<Pod<'_>>)> = BTreeMap::new();
    for lease in leases {
        all.entry((namespace(lease), name(lease))).or_default().0 = Some(lease);
    }
    for object in pods {
        let pod = Pod::new(object);
        if let Some(id) = pod.id() {
            all.entry((namespace(object), id)).or_default().1.push(pod);
        }
    }
    all.into_iter().map(|((namespace, id), (lease, pods))| election(namespace, id, lease, &pods, now)).collect()
}

fn election(namespace: &str, id: &str, lease: Option<&Value>, pods: &[Pod<'_>], now: Timestamp) -> Election {
    let null = Value::Null;
    let spec = lease.map_or(&null, |lease| &lease["spec"]);
    let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty());
    let text = |field: &str| holder.and(spec[field].as_str()).map(str::to_owned);
    let leading = holder.and_then(|holder| pods.iter().find(|pod| pod.is(holder)));
    let leader = holder.map(|identity| {
        let member = leading.map(Pod::member);
        Leader {
            identity: identity.to_owned(),
            container: leading.and_then(|pod| pod.container().or_else(|| container_of(identity))).map(str::to_owned),
            ready: member.as_ref().map(|member| member.ready),
            node: member.as_ref().and_then(|member| member.node.clone()),
            pod: member.map(|member| member.pod),
        }
    });
    let (mut standbys, mut others) = (Vec::new(), Vec::new());
    for pod in pods.iter().filter(|pod| !holder.is_some_and(|holder| pod.is(holder))) {
        match pod.part() {
            Part::Candidate => standbys.push(pod.standby()),
            Part::Starting | Part::Ending => others.push(pod.member()),
            Part::Ended | Part::None => {}
        }
    }
    let living = pods.iter().filter(|pod| !matches!(pod.part(), Part::Ended | Part::None));
    let mut election = Election {
        namespace: namespace.to_owned(),
        id: id.to_owned(),
        workloads: living.filter_map(Pod::workload).collect(),
        mode: leading.or(pods.first()).map(Pod::mode).unwrap_or_default(),
        leader,
        since: text("acquireTime"),
        transitions: spec["leaseTransitions"].as_i64().unwrap_or_default(),
        standbys,
        others,
        renewed: text("renewTime"),
        lease_duration_seconds: holder.and(spec["leaseDurationSeconds"].as_i64()),
        hold: lease.and_then(|lease| annotation(lease, names::HOLD)).map(str::to_owned),
        turning_on: lease.and_then(|lease| annotation(lease, names::TURNING_ON)).map(waited_for),
        steered: lease.and_then(|lease| annotation(lease, names::STEERED)).and_then(Steered::parse),
        trouble: Vec::new(),
    };
    election.standbys.sort_by(|one, other| one.pod.cmp(&other.pod));
    election.others.sort_by(|one, other| one.pod.cmp(&other.pod));
    let part = leading.map(Pod::part);
    election.trouble = trouble(&election, lease, part, now);
    election
}

/// The workloads of an annotation.
fn waited_for(annotation: &str) -> Vec<String> {
    let said = TurningOn::parse(annotation);
    said.workloads.keys().map(ToString::to_string).chain(said.others.keys().cloned()).collect()
}

fn trouble(election: &Election, lease: Option<&Value>, leading: Option<Part>, now: Timestamp) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |trouble: String| found.push(trouble);
    let Some(lease) = lease else { return vec!["its Lease is not there".to_owned()] };
    if let Some(reason) = &election.hold {
        say(if reason.is_empty() { "on hold".to_owned() } else { format!("on hold: {reason}") });
    }
    let Some(leader) = &election.leader else {
        match &election.turning_on {
            Some(workloads) if workloads.is_empty() => say("being turned on".to_owned()),
            Some(workloads) => say(format!("being turned on: waits for pods of {}", workloads.join(", "))),
            None if election.standbys.is_empty() && election.others.is_empty() => say("no pods".to_owned()),
            None if election.hold.is_none() => say("nobody leads".to_owned()),
            None => {}
        }
        return found;
    };
    let spec = &lease["spec"];
    let lasts = SignedDuration::from_secs(election.lease_duration_seconds.unwrap_or_default());
    let silent = time(&spec["renewTime"]).map(|renewed| now.duration_since(renewed));
    if let Some(silent) = silent.filter(|silent| *silent > lasts + CLOCKS) {
        say(format!("not renewed for {}, and the Lease lasts {}", age(silent), age(lasts)));
    }
    match leading {
        None => say(format!("{} holds it and is not there", leader.name())),
        Some(Part::Ended) => say("the leader's pod has ended".to_owned()),
        Some(Part::Ending) => say("the leader's pod is ending".to_owned()),
        Some(_) if leader.ready == Some(false) => say("the leader is not Ready".to_owned()),
        Some(_) => {}
    }
    if annotation(lease, names::STEP_DOWN).is_some_and(|term| Some(term) == steer::term(lease).as_deref()) {
        say(match annotation(lease, names::TRANSFER_TO) {
            Some(to) => format!("giving leadership to {}", pod_of(to)),
            None => "giving leadership away".to_owned(),
        });
    } else if let Some(to) = annotation(lease, names::TRANSFER_TO) {
        say(format!("the next to lead is {}", pod_of(to)));
    }
    if !election.standbys.iter().any(|standby| standby.ready) {
        say("no standby".to_owned());
    }
    found
}
