//! Whether a pod's status proves that the holder of a Lease has ended: the two objects in, the end or the reason against it out.
//!
//! Everything here is a reason to refuse. What is not proved costs the wait for L, as without a controller; what is believed wrongly makes
//! two leaders. [`super`] reads the objects, in the order in which the proof holds.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod, PodSpec},
};
use kube::ResourceExt;
use leader_agent::{lease::record::Term, names};
use serde_json::Value;

use crate::turning_on::lost;

/// The modes in which everything that acts on leadership ends with known containers: those that the agent runs in, and in mode `ready`
/// those that can read the status file, which stays there when agent and stub are killed together.
const MODES: [&str; 2] = [RUN, "ready"];
/// The mode without a status file.
const RUN: &str = "run";

/// An end is told in whole seconds, rounded down: it came less than this later.
const WITHIN: Duration = Duration::from_secs(1);

/// Who holds a Lease, by the identity that stands there: `<pod>_<pod uid>_<container>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// The container that the agent runs in.
    pub container: &'a str,
}

impl<'a> Holder<'a> {
    /// The holder of a Lease; `None` where there is none, or one that is no pod of this project.
    pub fn of(lease: &'a Lease) -> Option<Self> {
        Self::parse(identity(lease)?)
    }

    /// Reads an identity. None of the three can have an underscore in it.
    pub fn parse(identity: &'a str) -> Option<Self> {
        let mut parts = identity.split('_');
        let (Some(pod), Some(uid), Some(container), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        (![pod, uid, container].contains(&"")).then_some(Self { pod, uid, container })
    }
}

/// The proof that a term is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Who held the Lease.
    pub identity: String,
    /// The term.
    pub term: Term,
    /// How the holder's container ended, e.g. `OOMKilled, exit code 137`.
    pub how: String,
}

/// Why a term is not proved to be over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// The Lease is free already, or never was held.
    #[error("nobody holds the Lease")]
    NoHolder,
    /// Another program's, or an agent outside of a pod.
    #[error("the holder {0} is no container of a pod")]
    NoPod(String),
    /// A term without them is none of an agent's.
    #[error("the Lease has no {0}")]
    NoTime(&'static str),
    /// It is gone, whatever became of its containers.
    #[error("pod {0} is not there any more, which says nothing of its containers")]
    Gone(String),
    /// One of the same name was made since.
    #[error("pod {pod} is another one now, with uid {uid}")]
    AnotherPod {
        /// Its name.
        pod: String,
        /// The uid of the one that is there.
        uid: String,
    },
    /// What the pod does with its leadership is not known.
    #[error("pod {pod} is not injected for this id and container {container}")]
    NotInjected {
        /// Its name.
        pod: String,
        /// The holder's container.
        container: String,
    },
    /// The app may live without its agent.
    #[error("in mode {0} the app outlives its agent")]
    Mode(String),
    /// A record by a newer version.
    #[error("who follows the leader cannot be read from the pod's record: {0}")]
    Followers(String),
    /// Others may read it, and who does is not known.
    #[error("who reads the status file cannot be told: {0}")]
    StatusFile(String),
    /// The end of the container's first process is not that of the others.
    #[error("its containers share their processes with others ({0}): they outlive the container's end")]
    SharedProcesses(&'static str),
    /// It has not ended.
    #[error("container {container} is {state}")]
    NotEnded {
        /// Its name.
        container: String,
        /// What is said of it.
        state: &'static str,
    },
    /// It was lost from sight, which is how a node that has lost its memory says it.
    #[error("container {container} may only have been lost: {why}")]
    Lost {
        /// Its name.
        container: String,
        /// What tells so.
        why: String,
    },
    /// Somebody wrote the Lease who was alive then: the container after the one that has ended.
    #[error("container {container} ended at {finished}, and {what} is {at}: the next one may have written that")]
    Later {
        /// Its name.
        container: String,
        /// When it ended, in whole seconds.
        finished: Timestamp,
        /// What came no earlier.
        what: &'static str,
        /// When.
        at: Timestamp,
    },
}

/// Judges whether the term that `lease` names is over. `pod` was read after the Lease, as the API server has it now.
///
/// # Errors
/// The first reason against it.
pub fn prove(lease: &Lease, pod: &Pod) -> Result<Ended, Unproven> {
    let identity = identity(lease).ok_or(Unproven::NoHolder)?;
    let holder = Holder::parse(identity).ok_or_else(|| Unproven::NoPod(identity.to_owned()))?;
    let spec = lease.spec.as_ref();
    let acquired = spec.and_then(|spec| spec.acquire_time.as_ref()).ok_or(Unproven::NoTime("acquireTime"))?.0;
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).ok_or(Unproven::NoTime("renewTime"))?.0;
    let uid = pod.uid().unwrap_or_default();
    if uid != holder.uid {
        return Err(Unproven::AnotherPod { pod: holder.pod.to_owned(), uid });
    }
    let not_injected = || Unproven::NotInjected { pod: holder.pod.to_owned(), container: holder.container.to_owned() };
    let pod_spec = pod.spec.as_ref().ok_or_else(not_injected)?;
    let promise = Promise::of(pod)
        .filter(|promise| promise.names(&lease.name_any(), holder.container))
        .ok_or_else(not_injected)?;
    let mut others = promise.followers()?;
    if let Some(file) = promise.status_file()? {
        others.extend(readers(pod_spec, holder.container, file).map_err(Unproven::StatusFile)?);
    }
    shares_no_processes(pod_spec)?;
    let started = started(lease, identity);
    let mut how = None;
    for container in concerned(pod_spec, holder.container, others) {
        let ended = ended(pod, &container)?;
        let later = |what, at| Unproven::Later { container: container.clone(), finished: ended.at, what, at };
        let before = match started.filter(|_| container == holder.container) {
            Some(at) if at >= ended.at => return Err(later("the start of its agent", at)),
            // Whoever was there before the end renewed before the end.
            Some(_) => ended.at + WITHIN,
            None => ended.at,
        };
        for (what, at) in [("the Lease's renewTime", renewed), ("its acquireTime", acquired)] {
            if at >= before {
                return Err(later(what, at));
            }
        }
        how.get_or_insert(ended.how);
    }
    let term = Term {
        uid: lease.uid().unwrap_or_default(),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
        acquire_time: acquired,
    };
    Ok(Ended { identity: identity.to_owned(), term, how: how.unwrap_or_default() })
}

/// The containers of a pod that have ended, as far as it says so: their ids, to notice that another one has. No proof of anything.
pub fn ended_containers(pod: &Pod) -> Vec<String> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let ended = statuses.iter().filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.container_id.clone());
    ended.filter(|id| !id.is_empty()).collect()
}

fn identity(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// Since when the process runs that wrote the Lease as `identity`, if it says so.
fn started(lease: &Lease, identity: &str) -> Option<Timestamp> {
    let (at, whose) = lease.annotations().get(names::AGENT_STARTED)?.split_once(' ')?;
    at.parse().ok().filter(|_| whose == identity)
}

/// What the record of a pod's injection says of who lives and ends with leadership.
struct Promise(Value);

impl Promise {
    fn of(pod: &Pod) -> Option<Self> {
        serde_json::from_str(pod.annotations().get(names::INJECTED)?).ok().map(Self)
    }

    fn names(&self, id: &str, container: &str) -> bool {
        self.0["id"] == id && self.0["container"] == container
    }

    /// An option: as the agent reads it, else as the user wrote it.
    fn option(&self, key: &str) -> Option<&Value> {
        [&self.0[key], &self.0["options"][key]].into_iter().find(|value| !value.is_null())
    }

    /// The mode, one of [`MODES`].
    fn mode(&self) -> Result<&str, Unproven> {
        let Some(mode) = self.option("mode") else { return Ok(RUN) };
        let known = mode.as_str().filter(|mode| MODES.contains(mode));
        known.ok_or_else(|| Unproven::Mode(mode.as_str().map_or_else(|| mode.to_string(), str::to_owned)))
    }

    /// Where the app is told who leads, if it is by a file.
    fn status_file(&self) -> Result<Option<&str>, Unproven> {
        if self.mode()? == RUN {
            return Ok(None);
        }
        let path = self.0["statusFile"].as_str();
        path.map(Some).ok_or_else(|| Unproven::StatusFile("the pod's record names none".to_owned()))
    }

    /// The containers that run with the app.
    fn followers(&self) -> Result<Vec<String>, Unproven> {
        self.mode()?;
        let unreadable = |value: &Value| Unproven::Followers(value.to_string());
        match self.option("follow") {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split(',').map(|name| name.trim().to_owned()).collect()),
            Some(list @ Value::Array(all)) => {
                let names = all.iter().map(|name| name.as_str().map(str::to_owned));
                names.collect::<Option<_>>().ok_or_else(|| unreadable(list))
            }
            Some(other) => Err(unreadable(other)),
        }
    }
}

fn shares_no_processes(spec: &PodSpec) -> Result<(), Unproven> {
    match (spec.share_process_namespace, spec.host_pid) {
        (Some(true), _) => Err(Unproven::SharedProcesses("shareProcessNamespace")),
        (_, Some(true)) => Err(Unproven::SharedProcesses("hostPID")),
        _ => Ok(()),
    }
}

/// Whose end is asked for: the holder's container first, `others`, and every other one that the agent runs in, whoever put it there.
fn concerned(spec: &PodSpec, holder: &str, others: Vec<String>) -> Vec<String> {
    let has_agent = |container: &&Container| {
        container.command.iter().chain(&container.args).flatten().any(|word| word.contains(names::AGENT_PATH))
    };
    let wrapped = lasting(spec).filter(has_agent).map(|container| container.name.clone());
    let mut all = vec![holder.to_owned()];
    for name in others.into_iter().chain(wrapped) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// The containers that may run while the holder's does: others have ended before that one starts.
fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// The containers that can read `file` of the holder's container: those that mount the volume in which it is, wherever they do.
fn readers(spec: &PodSpec, holder: &str, file: &str) -> Result<Vec<String>, String> {
    let mounts = |container: &Container| container.volume_mounts.clone().unwrap_or_default();
    let own = lasting(spec).find(|container| container.name == holder).map(mounts).unwrap_or_default();
    let around = own.iter().filter(|mount| Path::new(file).starts_with(&mount.mount_path));
    let nearest = around.max_by_key(|mount| Path::new(&mount.mount_path).components().count());
    let volume = &nearest.ok_or_else(|| format!("{file} of container {holder} is in no volume"))?.name;
    let debuggers = spec.ephemeral_containers.iter().flatten();
    let debuggers = debuggers.map(|one| (&one.name, one.volume_mounts.clone().unwrap_or_default()));
    let all = lasting(spec).map(|container| (&container.name, mounts(container))).chain(debuggers);
    let reading = all.filter(|(_, mounts)| mounts.iter().any(|mount| mount.name == *volume));
    Ok(reading.map(|(name, _)| name.clone()).collect())
}

struct End {
    /// In whole seconds, rounded down.
    at: Timestamp,
    how: String,
}

/// How a container of the pod has ended.
fn ended(pod: &Pod, container: &str) -> Result<End, Unproven> {
    let lists = pod.status.iter().flat_map(|status| {
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
    });
    let status = lists.flatten().flatten().find(|status| status.name == container);
    let end = status.ok_or("not reported").and_then(terminated);
    let end = end.map_err(|state| Unproven::NotEnded { container: container.to_owned(), state })?;
    let is_lost = |why: &str| Unproven::Lost { container: container.to_owned(), why: why.to_owned() };
    if let Some(why) = lost(end) {
        return Err(is_lost(&why));
    }
    let at = end.finished_at.as_ref().ok_or_else(|| is_lost("it says no time"))?.0;
    let code = format!("exit code {}", end.exit_code);
    let reason = end.reason.as_deref().filter(|reason| !reason.is_empty());
    Ok(End { at, how: reason.map_or_else(|| code.clone(), |reason| format!("{reason}, {code}")) })
}

/// The end that a container's present state tells. What its last state tells is that of an earlier one.
fn terminated(status: &ContainerStatus) -> Result<&ContainerStateTerminated, &'static str> {
    let state = status.state.as_ref().ok_or("in no known state")?;
    match (&state.terminated, &state.running, &state.waiting) {
        (Some(end), None, None) => Ok(end),
        (_, Some(_), _) => Err("running"),
        (_, _, Some(_)) => Err("waiting"),
        (None, None, None) => Err("in no known state"),
    }
}

#[cfg(test)]
mod tests;
