//! Why a workload is refused: what is wrong, where it stands, what to do.

use leader_agent::{id::IdError, timing::TimingError};

/// Why a workload is refused. The text is what a person reads in kubectl.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The id is not one.
    #[error("annotation leader.io/id: {0}")]
    Id(#[from] IdError),
    /// A key with our prefix that means nothing.
    #[error("unknown annotation {key}: {}", match .nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("known are {}", .known.join(", ")),
    })]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
        /// All keys that a workload may carry.
        known: Vec<&'static str>,
    },
    /// A key that does nothing in the mode that is asked for.
    #[error(
        "annotation {key} does nothing in mode `{mode}`: {reason}; remove it, or change {}",
        leader_agent::names::MODE
    )]
    NotInMode {
        /// The key.
        key: &'static str,
        /// The mode.
        mode: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The status file's folder cannot be shared between the containers.
    #[error(
        "annotation {}: the folder `{folder}` of the status file {reason}: use a folder of its own, e.g. `/leader-status/leader`",
        leader_agent::names::STATUS_FILE
    )]
    StatusFolder {
        /// The folder.
        folder: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that stands on another kind of object.
    #[error("annotation {key} does not belong on a {kind}: {instead}")]
    Misplaced {
        /// The key.
        key: String,
        /// The kind that carries it.
        kind: String,
        /// Where it belongs, or who writes it.
        instead: &'static str,
    },
    /// One of our keys stands on the workload and on its pod template, and says two things.
    #[error(
        "annotation {key} is {own} in metadata.annotations and {template} in spec.template.metadata.annotations: put it in one of the two, or the \
         same in both"
    )]
    Contradiction {
        /// The key.
        key: String,
        /// The workload's value.
        own: String,
        /// The template's value.
        template: String,
    },
    /// One of our keys on the template of a `CronJob`'s Jobs.
    #[error(
        "annotation {key} in spec.jobTemplate.metadata.annotations is not read: put it on the pod template \
         (spec.jobTemplate.spec.template.metadata.annotations)"
    )]
    OnJobTemplate {
        /// The key.
        key: String,
    },
    /// A value that its key does not take.
    #[error("annotation {key}: `{value}` is not {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value, cut where it would fill the screen.
        value: String,
        /// What the key takes, with an example.
        expected: String,
    },
    /// Durations that are none or do not fit together.
    #[error("annotation {keys}: {error}")]
    Timing {
        /// The keys that the durations come from.
        keys: &'static str,
        /// What is wrong with them.
        error: TimingError,
    },
    /// A kind that is not injected.
    #[error("leader.io/id on a {kind} is not read: only a Deployment, StatefulSet or DaemonSet (apps/v1) and a Pod (v1) can carry it{}",
        .template.map_or_else(String::new, |template| format!("; put it on the pod template ({template}.annotations)")))]
    Kind {
        /// The kind, with its group and version.
        kind: String,
        /// The path of the metadata of its pod template, where it has one.
        template: Option<&'static str>,
    },
    /// A field does not have the type that Kubernetes gives it.
    #[error("{path} is not {expected}")]
    Malformed {
        /// The field.
        path: String,
        /// Its type.
        expected: &'static str,
    },
    /// The container that shall be wrapped does not exist.
    #[error("annotation leader.io/container: there is no container `{name}` in {path}; it has {}{}", .existing.join(", "),
        if *.is_init { format!(". `{name}` is an init container, which cannot be elected") } else { String::new() })]
    NoSuchContainer {
        /// The value.
        name: String,
        /// Where it was looked for.
        path: String,
        /// An init container has the name.
        is_init: bool,
        /// The names of the containers.
        existing: Vec<String>,
    },
    /// A container cannot run and stop with the app.
    #[error("annotation {}: container `{container}` {reason}", leader_agent::names::FOLLOW)]
    Follower {
        /// The container.
        container: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The container's entry point is not known.
    #[error(
        "container `{container}` ({path}) sets no `command`, and the entry point of its image {image} could not be looked up: {reason}. \
         Set `command` there, or give the image's entry point as the annotation leader.io/command: '[\"/app\", \"serve\"]'"
    )]
    NoEntryPoint {
        /// The container.
        container: String,
        /// Where it stands.
        path: String,
        /// The image.
        image: String,
        /// Why it could not be asked, in one clause.
        reason: String,
    },
    /// The agent's image is private, and the namespace does not have the secret that it is pulled with.
    #[error(
        "the agent's image {image} is pulled with the secret `{secret}`, which this namespace does not have: create it there, e.g. with \
         `kubectl create secret docker-registry {secret} --docker-server=...`"
    )]
    NoPullSecret {
        /// The secret.
        secret: String,
        /// The agent's image.
        image: String,
    },
    /// Neither the container nor its image says what to start.
    #[error(
        "container `{container}` ({path}) sets neither `command` nor `args`, and its image {image} has neither ENTRYPOINT nor CMD: \
         there is nothing to run; set `command` there"
    )]
    NothingToRun {
        /// The container.
        container: String,
        /// Where it stands.
        path: String,
        /// The image.
        image: String,
    },
    /// A probe or hook with more than one handler.
    #[error("{path} has {} handlers ({}): a probe or hook has exactly one, remove the others", .found.len(), .found.join(", "))]
    SeveralHandlers {
        /// The probe or hook.
        path: String,
        /// The kinds of its handlers.
        found: Vec<&'static str>,
    },
    /// A probe or hook without a handler that the agent can carry out.
    #[error(
        "{path} has no handler{}: give it exactly one of {}, or remove it",
        if .unknown.is_empty() { String::new() } else { format!(" that this version knows (it has {})", .unknown.join(", ")) },
        .known.join(", ")
    )]
    NoHandler {
        /// The probe or hook.
        path: String,
        /// Its fields that may be handlers of a newer API.
        unknown: Vec<String>,
        /// The kinds that it can have.
        known: &'static [&'static str],
    },
    /// A handler's port is neither a number nor the name of one.
    #[error(
        "{path} is `{port}`, which is neither a number from 1 to 65535 nor the name of a port of container `{container}` ({}): \
         correct it, or add the name to the container's ports",
        if .named.is_empty() { "it names none".to_owned() } else { format!("it names {}", .named.join(", ")) }
    )]
    NoSuchPort {
        /// The handler's `port`.
        path: String,
        /// Its value.
        port: String,
        /// The container.
        container: String,
        /// The names of the container's ports.
        named: Vec<String>,
    },
    /// The user's template uses a name or path that injection needs.
    #[error("{path} uses {what}, which is reserved for the injected agent: {fix}")]
    Collision {
        /// Where.
        path: String,
        /// The name or path.
        what: String,
        /// What to do.
        fix: String,
    },
    /// The app runs on Windows.
    #[error("{path} {}: the agent runs on Linux only; remove leader.io/id", if .path.ends_with("windowsOptions") { "is set" } else { "is `windows`" })]
    Windows {
        /// The field that says so.
        path: String,
    },
    /// Nothing could stop the app.
    #[error(
        "container `{container}` may run as root, may SETUID and lacks the capability KILL, and the pod shares its PID namespace \
         ({shared}: true): nothing could end an app that changed its user. Add KILL to {path}.securityContext.capabilities.add, set runAsNonRoot: true, or remove {shared}"
    )]
    CannotKill {
        /// The container.
        container: String,
        /// Where it stands.
        path: String,
        /// `hostPID` or `shareProcessNamespace`.
        shared: &'static str,
    },
    /// The record would not fit into an environment variable.
    #[error(
        "the record of the injection would have {size} bytes, at most {limit} are allowed because it reaches the agent as an environment \
         variable: shorten `command` of container `{container}`, e.g. by moving a script into a ConfigMap"
    )]
    RecordTooLarge {
        /// Size of the record, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
        /// The wrapped container.
        container: String,
    },
}
