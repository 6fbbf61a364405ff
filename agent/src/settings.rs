//! The flags of `leader-agent`, and what they mean together with the environment that injection sets.

use std::{ffi::OsString, num::NonZeroU16, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    id::{IdError, LeaderId},
    injected::{Injected, InjectedError},
    names,
    observe::ObserveArguments,
    probes::{
        Kind,
        spec::{Hooks, Probes},
    },
    stop_signal::StopSignal,
    timing::{Timing, TimingError, parse_duration},
};

/// Leader election for any program: holds a Lease, and runs the program only while it does.
#[derive(Debug, Parser)]
#[command(name = "leader-agent", version, about, long_about = None)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Copy this program into a folder, where another container finds it as `agent`
    Install {
        /// The folder
        dir: PathBuf,
    },
    /// Campaign for a Lease and run a command while holding it
    Run(Box<RunArguments>),
    /// Campaign for a Lease, run nothing, and keep a status file while holding it
    Observe(Box<ObserveArguments>),
    /// Ask the agent of this container whether a probe passes
    Probe {
        /// Which one
        #[arg(value_enum)]
        name: ProbeName,
        /// The folder that the agent was given
        #[arg(long, env = names::env::STATE_DIR, default_value = names::MOUNT_PATH)]
        state_dir: PathBuf,
    },
    /// Have the agent of this container run a lifecycle hook where there is something to do
    Hook {
        /// Which one
        #[arg(value_enum)]
        name: HookName,
        /// The folder that the agent was given
        #[arg(long, env = names::env::STATE_DIR, default_value = names::MOUNT_PATH)]
        state_dir: PathBuf,
    },
}

/// A probe, as `probe` takes it: [`names::probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeName {
    /// `livenessProbe`
    Liveness,
    /// `readinessProbe`
    Readiness,
    /// `startupProbe`
    Startup,
}

/// A hook, as `hook` takes it: [`names::hook`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookName {
    /// `lifecycle.postStart`: nothing is done, because nothing runs yet
    PostStart,
    /// `lifecycle.preStop`: runs the hook on the leader
    PreStop,
}

impl From<ProbeName> for Kind {
    fn from(name: ProbeName) -> Self {
        match name {
            ProbeName::Liveness => Self::Liveness,
            ProbeName::Readiness => Self::Readiness,
            ProbeName::Startup => Self::Startup,
        }
    }
}

/// The flags of `run`.
#[derive(Debug, Parser)]
pub struct RunArguments {
    /// The id of the election: a DNS label, and the Lease's name
    #[arg(long, env = names::env::ID)]
    id: Option<String>,
    /// The Lease's namespace [default: the service account's, or the kubeconfig's]
    #[arg(long, env = names::env::NAMESPACE)]
    namespace: Option<String>,
    /// What this candidate writes as the holder [default: pod, pod uid and container, or the host's name and a random part]
    #[arg(long, env = names::env::IDENTITY)]
    identity: Option<String>,
    /// How long the Lease lasts without a renewal: whole seconds, 5s to 1h [default: 15s]
    #[arg(long, env = names::env::LEASE_DURATION)]
    lease_duration: Option<String>,
    /// How long the command may take after its stop signal when the lease is being lost [default: 4/15 of the lease duration]
    #[arg(long, env = names::env::STOP_GRACE)]
    stop_grace: Option<String>,
    /// A folder that outlives the container and belongs to it alone: leadership is taken up again after a restart
    #[arg(long, env = names::env::STATE_DIR)]
    state_dir: Option<PathBuf>,
    /// The kubeconfig [default: the pod's service account; outside a pod KUBECONFIG, or ~/.kube/config]
    #[arg(long, conflicts_with = "credentials_dir")]
    kubeconfig: Option<PathBuf>,
    /// A folder with `token`, `ca.crt` and `namespace` [default: the pod's service account]
    #[arg(long, env = names::env::CREDENTIALS_DIR)]
    credentials_dir: Option<PathBuf>,
    /// Where to answer over HTTP: who leads, metrics, probes [default in a pod: the record's]
    #[arg(long)]
    port: Option<NonZeroU16>,
    /// A file that is there while this candidate leads, and only then
    #[arg(long, env = names::env::STATUS_FILE)]
    status_file: Option<PathBuf>,
    /// The record of the injection, as the downward API hands it over
    #[arg(long, env = names::env::RECORD, hide = true)]
    record: Option<String>,
    /// The pod's name
    #[arg(long, env = names::env::POD_NAME, hide = true)]
    pod_name: Option<String>,
    /// The pod's uid
    #[arg(long, env = names::env::POD_UID, hide = true)]
    pod_uid: Option<String>,
    /// The wrapped container's name
    #[arg(long, env = names::env::CONTAINER, hide = true)]
    container: Option<String>,
    /// The pod's address
    #[arg(long, env = names::env::POD_IP, hide = true)]
    pod_ip: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What a run needs to know.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The id.
    pub id: LeaderId,
    /// The namespace, where one was given.
    pub namespace: Option<String>,
    /// The identity.
    pub identity: String,
    /// The durations.
    pub timing: Timing,
    /// The folder of lock and term file.
    pub state_dir: Option<PathBuf>,
    /// Whether the identity names this container of this pod, so that a restart of it may take up its own term again.
    pub reclaims: bool,
    /// The kubeconfig that was named.
    pub kubeconfig: Option<PathBuf>,
    /// The folder with the account's token.
    pub credentials_dir: Option<PathBuf>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// The signal that asks the app to stop.
    pub stop_signal: StopSignal,
    /// The port on which the kubelet's probes, and questions about the election, are answered.
    pub port: Option<u16>,
    /// The status file, where one is wanted.
    pub status_file: Option<PathBuf>,
    /// What the status file says first: the pod's name, or the identity where there is none.
    pub name: String,
    /// The app's probes.
    pub probes: Probes,
    /// The app's hooks.
    pub hooks: Hooks,
    /// How long the kubelet lets the pod take to stop.
    pub termination_grace: Duration,
    /// The pod's address, to which probes connect.
    pub pod_ip: Option<String>,
}

/// `terminationGracePeriodSeconds` where nothing is stated (`DefaultTerminationGracePeriodSeconds` in the API).
const DEFAULT_TERMINATION_GRACE: u32 = 30;

/// What is wrong with the flags, or with what stands for them.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No id.
    #[error("no id is given: use --id or {}", names::env::ID)]
    NoId,
    /// The id is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The namespace is none.
    #[error("the namespace {0:?} is not a DNS label: use the name of a namespace, e.g. `default`")]
    Namespace(String),
    /// The durations do not fit.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// The record cannot be read.
    #[error("the injection's record in {name} cannot be read: {0}. Was the pod's annotation {key} edited?", name = names::env::RECORD, key = names::INJECTED)]
    Record(#[from] InjectedError),
    /// The identity is empty.
    #[error(
        "the identity is empty: leave --identity and {} unset, or give a name unique to this process",
        names::env::IDENTITY
    )]
    Identity,
}

impl RunArguments {
    /// What the flags mean. `starved` says that the CPU limit is below one core or unreadable; `outside` gives the identity of
    /// a process that injection did not start: [`outside_identity`].
    ///
    /// # Errors
    /// Each names the value and what to do; the caller ends with code 2.
    pub fn resolve(self, starved: bool, outside: impl FnOnce() -> String) -> Result<RunSettings, SettingsError> {
        let injected = self.record.as_deref().map(Injected::parse).transpose()?;
        // In an injected pod the record alone counts. What stands for the flags there comes from a ConfigMap (`envFrom`) or the
        // image, which no review has seen, and may say something else to each replica.
        let (id, lease, grace, identity) = match &injected {
            Some(record) => (Some(record.id.clone()), record.lease_duration.clone(), record.stop_grace.clone(), None),
            None => (self.id, self.lease_duration, self.stop_grace, self.identity),
        };
        let id: LeaderId = id.filter(|id| !id.is_empty()).ok_or(SettingsError::NoId)?.parse()?;
        let namespace = self.namespace.filter(|namespace| !namespace.is_empty());
        // A namespace's name follows the same rule as an id.
        if let Some(name) = namespace.as_ref().filter(|name| name.parse::<LeaderId>().is_err()) {
            return Err(SettingsError::Namespace(name.clone()));
        }
        let lease = lease.as_deref().map(parse_duration).transpose()?.unwrap_or(Timing::default().lease());
        let timing = Timing::new(lease, grace.as_deref().map(parse_duration).transpose()?, starved)?;
        let container = self.container.or_else(|| Some(injected.as_ref()?.container.clone()));
        let (identity, reclaims) = match (identity, self.pod_name.clone(), self.pod_uid, container) {
            (Some(identity), ..) if identity.is_empty() => return Err(SettingsError::Identity),
            (Some(identity), ..) => (identity, false),
            (None, Some(pod), Some(uid), Some(container)) => (format!("{pod}_{uid}_{container}"), true),
            _ => (outside(), false),
        };
        let name = self.pod_name.filter(|name| !name.is_empty()).unwrap_or_else(|| identity.clone());
        let termination_grace = injected.as_ref().and_then(|injected| injected.termination_grace);
        let port = injected.as_ref().map_or(self.port, |record| record.port);
        let (stop_signal, probes, hooks) =
            injected.map(|record| (record.stop_signal, record.probes, record.hooks)).unwrap_or_default();
        Ok(RunSettings {
            id,
            namespace,
            identity,
            timing,
            state_dir: self.state_dir,
            reclaims,
            kubeconfig: self.kubeconfig,
            credentials_dir: self.credentials_dir,
            command: self.command,
            stop_signal: stop_signal.unwrap_or_default(),
            port: port.map(NonZeroU16::get),
            status_file: self.status_file.filter(|path| !path.as_os_str().is_empty()),
            name,
            probes: probes.unwrap_or_default(),
            hooks: hooks.unwrap_or_default(),
            termination_grace: Duration::from_secs(termination_grace.unwrap_or(DEFAULT_TERMINATION_GRACE).into()),
            pod_ip: self.pod_ip.filter(|address| !address.is_empty()),
        })
    }
}

/// An identity for a process that injection did not start: `POD_NAME` or the host's name, and a random part.
pub fn outside_identity() -> String {
    let name = std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    format!("{name}_{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: &[&str]) -> Result<RunSettings, SettingsError> {
        let words = ["run"].iter().chain(arguments).chain(&["--", "true"]);
        RunArguments::try_parse_from(words).unwrap().resolve(false, || "host_1".to_owned())
    }

    const RECORD: &str = r#"{"version":1,"id":"billing","container":"app","leaseDuration":"30s","original":{}}"#;

    #[test]
    fn in_an_injected_pod_the_record_alone_counts() {
        let pod = ["--record", RECORD, "--pod-name", "p", "--pod-uid", "u"];
        let strangers = ["--id", "other", "--lease-duration", "1h", "--stop-grace", "5s", "--identity", "another"];
        for arguments in [&pod[..], &[&pod[..], &strangers].concat()] {
            let settings = resolve(arguments).unwrap();
            let who = (settings.id.as_str(), settings.identity.as_str(), settings.reclaims);
            assert_eq!(who, ("billing", "p_u_app", true), "{arguments:?}");
            let timing = (settings.timing.lease(), settings.timing.grace());
            assert_eq!(timing, (Duration::from_secs(30), Duration::from_secs(8)), "{arguments:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        for (arguments, part) in [
            (&[][..], "LEADER_ID"),
            (&["--id", ""], "LEADER_ID"),
            (&["--id", "Billing"], "\"Billing\""),
            (&["--id", "b", "--lease-duration", "soon"], "`soon`"),
            (&["--id", "b", "--lease-duration", "5s", "--stop-grace", "4s"], "too short"),
            (&["--id", "b", "--namespace", "a b"], "\"a b\""),
            (&["--id", "b", "--identity", ""], "LEADER_IDENTITY"),
            (&["--record", "{"], "LEADER_RECORD"),
        ] {
            let error = resolve(arguments).unwrap_err().to_string();
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn what_injection_writes_into_a_pod_is_understood() {
        use names::{hook, probe};
        for words in [
            [probe::COMMAND, probe::LIVENESS],
            [probe::COMMAND, probe::READINESS],
            [probe::COMMAND, probe::STARTUP],
            [hook::COMMAND, hook::POST_START],
            [hook::COMMAND, hook::PRE_STOP],
        ] {
            assert!(Arguments::try_parse_from(["agent"].iter().chain(&words)).is_ok(), "{words:?}");
        }
        assert!(Arguments::try_parse_from(["agent", "probe", "life"]).is_err());
    }

    #[test]
    fn a_command_is_required() {
        assert!(RunArguments::try_parse_from(["run", "--id", "b"]).is_err());
    }
}
