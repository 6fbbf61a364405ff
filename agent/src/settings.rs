//! The flags of `leader-agent`, and what they mean together with the environment that injection sets.

use std::{ffi::OsString, num::NonZeroU16, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    follow::settings::FollowSettings,
    id::{IdError, LeaderId},
    injected::{Injected, InjectedError},
    mode::{Mode, NotAMode, WITHDRAWAL},
    names,
    observe::ObserveArguments,
    preference::{Place, Preference, PreferenceError},
    probes::{
        Kind,
        spec::{Hooks, Probes},
    },
    stop_signal::StopSignal,
    timing::{Timing, TimingError, parse_duration, parse_patience},
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
    /// How long it may take for a stop that somebody asked for, its preStop hook included: a pod's `terminationGracePeriodSeconds` [default:
    /// 30s; in a pod: the record's]
    #[arg(long, env = names::env::TERMINATION_GRACE)]
    termination_grace: Option<String>,
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
    /// `run` the command on the leader only, or everywhere with only the leader `ready` [default: run; in a pod: the record's]
    #[arg(long)]
    mode: Option<String>,
    /// Where the leader had better be: `zone=NAME`, `region=NAME` or `node=NAME`, several with commas. Elsewhere a candidate leaves a
    /// released Lease to the others for a second
    #[arg(long, env = names::env::PREFER)]
    prefer: Option<String>,
    /// Give leadership away after the command has not been ready for so long, to another candidate that would take it [default: never]
    #[arg(long, env = names::env::UNHEALTHY_STEP_DOWN)]
    unhealthy_step_down: Option<String>,
    /// The node that this runs on, for --prefer
    #[arg(long, env = names::env::NODE)]
    node: Option<String>,
    /// The zone that this runs in, for --prefer
    #[arg(long, env = names::env::ZONE)]
    zone: Option<String>,
    /// The region that this runs in, for --prefer
    #[arg(long, env = names::env::REGION)]
    region: Option<String>,
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
    /// Whether the command runs on the leader only.
    pub mode: Mode,
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
    /// Whether election was being turned on when the pod's template was made.
    pub born_under_turning_on: bool,
    /// The containers that run and stop with the app.
    pub follow: Vec<String>,
    /// Whether another place than this one is preferred for the leader.
    pub yields: bool,
    /// For how long the app may be unready before leadership is given away.
    pub unhealthy_step_down: Option<Duration>,
}

/// `terminationGracePeriodSeconds` where nothing is stated (`DefaultTerminationGracePeriodSeconds` in the API).
const DEFAULT_TERMINATION_GRACE: Duration = Duration::from_secs(30);

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
    /// The preferred place is none.
    #[error(transparent)]
    Preference(#[from] PreferenceError),
    /// The record cannot be read.
    #[error("the injection's record in {name} cannot be read: {0}. Was the pod's annotation {key} edited?", name = names::env::RECORD, key = names::INJECTED)]
    Record(#[from] InjectedError),
    /// The mode is none.
    #[error(transparent)]
    NotAMode(#[from] NotAMode),
    /// A mode in which nothing is run.
    #[error("nothing is run in mode `observe`: use the subcommand `observe`")]
    Observe,
    /// No Lease is named.
    #[error("no Lease is named: use --lease-name or LEASE_NAME")]
    NoLeaseName,
    /// No status file is named.
    #[error("no status file is named: use --status-file or {}", names::env::STATUS_FILE)]
    NoStatusFile,
    /// The port is none.
    #[error("{0:?} is no port: use a number from 1 to 65535, or `none` for no port at all")]
    Port(String),
    /// The identity is empty.
    #[error(
        "the identity is empty: leave --identity and {} unset, or give a name unique to this process",
        names::env::IDENTITY
    )]
    Identity,
}

impl RunArguments {
    /// What a container needs to know that runs and stops with the app of another one; `None` where it is the app's own, as the record says.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn follows(&self, starved: bool) -> Result<Option<FollowSettings>, SettingsError> {
        let record = self.record.as_deref().map(Injected::parse).transpose()?;
        let (Some(record), Some(container), Some(pod), Some(uid)) =
            (record, &self.container, &self.pod_name, &self.pod_uid)
        else {
            return Ok(None);
        };
        let (pod, folder) = ((pod.as_str(), uid.as_str()), self.state_dir.as_deref());
        FollowSettings::of(&record, container, pod, folder, &self.command, starved)
    }

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
        let (prefer, unhealthy_step_down) = match &injected {
            Some(record) => (record.prefer.clone(), record.unhealthy_step_down.clone()),
            None => (self.prefer, self.unhealthy_step_down),
        };
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let place = Place { region: given(self.region), zone: given(self.zone), node: given(self.node) };
        let prefer: Option<Preference> = given(prefer).map(|text| text.parse()).transpose()?;
        let id: LeaderId = id.filter(|id| !id.is_empty()).ok_or(SettingsError::NoId)?.parse()?;
        let namespace = self.namespace.filter(|namespace| !namespace.is_empty());
        // A namespace's name follows the same rule as an id.
        if let Some(name) = namespace.as_ref().filter(|name| name.parse::<LeaderId>().is_err()) {
            return Err(SettingsError::Namespace(name.clone()));
        }
        let lease = lease.as_deref().map(parse_duration).transpose()?.unwrap_or(Timing::default().lease());
        let mode = match &injected {
            Some(record) => record.mode,
            None => self.mode.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
        };
        let grace = match mode {
            Mode::Run => grace.as_deref().map(parse_duration).transpose()?,
            Mode::Ready => Some(WITHDRAWAL),
            Mode::Observe => return Err(SettingsError::Observe),
        };
        let timing = Timing::new(lease, grace, starved)?;
        let container = self.container.or_else(|| Some(injected.as_ref()?.container.clone()));
        let (identity, reclaims) = match (identity, self.pod_name.clone(), self.pod_uid, container) {
            (Some(identity), ..) if identity.is_empty() => return Err(SettingsError::Identity),
            (Some(identity), ..) => (identity, false),
            (None, Some(pod), Some(uid), Some(container)) => (format!("{pod}_{uid}_{container}"), true),
            _ => (outside(), false),
        };
        let name = self.pod_name.filter(|name| !name.is_empty()).unwrap_or_else(|| identity.clone());
        let termination_grace = match &injected {
            Some(record) => record.termination_grace.map(|seconds| Duration::from_secs(seconds.into())),
            None => given(self.termination_grace).as_deref().map(parse_duration).transpose()?,
        };
        let port = injected.as_ref().map_or(self.port, |record| record.port);
        let born_under_turning_on = injected.as_ref().is_some_and(|record| record.born_under_turning_on);
        let follow = injected.as_ref().map(|record| record.follow.clone()).unwrap_or_default();
        let status_file = injected.as_ref().and_then(|record| record.status_file.clone()).or(self.status_file);
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
            mode,
            follow,
            status_file: status_file.filter(|path| !path.as_os_str().is_empty()),
            name,
            probes: probes.unwrap_or_default(),
            hooks: hooks.unwrap_or_default(),
            termination_grace: termination_grace.unwrap_or(DEFAULT_TERMINATION_GRACE),
            pod_ip: self.pod_ip.filter(|address| !address.is_empty()),
            born_under_turning_on,
            // Who does not know where it is lets nobody wait.
            yields: prefer.is_some_and(|prefer| prefer.is_met(&place) == Some(false)),
            unhealthy_step_down: given(unhealthy_step_down).as_deref().map(parse_patience).transpose()?,
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
        let strangers = [
            &["--id", "other", "--lease-duration", "1h", "--stop-grace", "5s", "--identity", "another"][..],
            &["--termination-grace", "1h"],
        ]
        .concat();
        for arguments in [&pod[..], &[&pod[..], &strangers].concat()] {
            let settings = resolve(arguments).unwrap();
            let who = (settings.id.as_str(), settings.identity.as_str(), settings.reclaims);
            assert_eq!(who, ("billing", "p_u_app", true), "{arguments:?}");
            let timing = (settings.timing.lease(), settings.timing.grace());
            assert_eq!(timing, (Duration::from_secs(30), Duration::from_secs(8)), "{arguments:?}");
            assert_eq!(settings.termination_grace, DEFAULT_TERMINATION_GRACE, "{arguments:?}");
        }
    }

    #[test]
    fn the_preferred_place_is_compared_with_this_one() {
        let record = |rest: &str| RECORD.replace(r#""original""#, &format!(r#"{rest},"original""#));
        let prefers = record(r#""prefer":"zone=a","unhealthyStepDown":"30s""#);
        for (arguments, yields) in [
            (&["--zone", "a"][..], false),
            (&["--zone", "b"], true),
            (&["--zone", ""], false),
            (&["--node", "a"], false),
            // The record alone counts.
            (&["--zone", "b", "--prefer", "zone=b"], true),
        ] {
            let settings = resolve(&[&["--record", &prefers], arguments].concat()).unwrap();
            assert_eq!(
                (settings.yields, settings.unhealthy_step_down),
                (yields, Some(Duration::from_secs(30))),
                "{arguments:?}"
            );
        }
        assert!(resolve(&["--id", "b", "--prefer", "zone=b", "--zone", "c"]).unwrap().yields);
    }

    #[test]
    fn where_nothing_is_stopped_there_is_no_grace() {
        let stated = ["--id", "b", "--stop-grace", "9s", "--mode", "ready"];
        let settings = resolve(&stated).unwrap();
        assert_eq!((settings.mode, settings.timing.grace()), (Mode::Ready, WITHDRAWAL));
        let record =
            r#"{"version":1,"id":"billing","container":"app","mode":"ready","statusFile":"/s/leader","original":{}}"#;
        let settings = resolve(&["--record", record, "--mode", "run"]).unwrap();
        assert_eq!((settings.mode, settings.status_file), (Mode::Ready, Some(PathBuf::from("/s/leader"))));
        assert_eq!(resolve(&["--id", "b"]).unwrap().mode, Mode::Run);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_value() {
        for (arguments, part) in [
            (&[][..], "LEADER_ID"),
            (&["--id", "b", "--mode", "elect"], "`elect`"),
            (&["--id", "b", "--mode", "observe"], "subcommand"),
            (&["--id", "b", "--prefer", "rack=7"], "`rack=7`"),
            (&["--id", "b", "--unhealthy-step-down", "1s"], "`1s`"),
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
