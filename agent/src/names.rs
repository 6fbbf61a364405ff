//! Names that the webhook writes into a pod and the agent reads there: annotation keys, environment variables, paths.
//!
//! One list for both sides, so that they cannot drift apart.

/// The prefix of every annotation and label key of this project.
pub const PREFIX: &str = "leader.io/";
/// The annotation that turns election on, and the label by which objects and pods of an id are found.
pub const ID: &str = "leader.io/id";
/// The annotation on a pod template that remembers an injection.
pub const INJECTED: &str = "leader.io/injected";
/// The annotation of a Lease that proves that its last term has ended: `uid/holder/transitions/acquireTime`.
pub const RELEASED: &str = "leader.io/released";
/// The annotation of a Lease by which someone who may edit that Lease allows its use as an id.
pub const ADOPT: &str = "leader.io/adopt";
/// The annotation of a Lease by which a person keeps everyone from leading.
pub const HOLD: &str = "leader.io/hold";
/// The annotation of a Lease that keeps everyone from acquiring while pods without the agent still run the app.
pub const TURNING_ON: &str = "leader.io/turning-on";
/// The value of [`TURNING_ON`] on a Lease that comes back without anybody knowing what it said: the controller finds out.
pub const TURNING_ON_UNKNOWN: &str = r#"{"*":{}}"#;
/// The annotation of a Lease by which a person asks the holder of one term to give leadership away, once: the term, as [`RELEASED`]
/// writes it. It says nothing to any other term, and the write that acquires the next one takes it off.
pub const STEP_DOWN: &str = "leader.io/step-down";
/// The annotation of a Lease that names who takes it first once it is released: a pod's name, or a whole identity. Alone it waits for the
/// next release; with [`STEP_DOWN`] it is a transfer. The write that acquires the next term takes it off.
pub const TRANSFER_TO: &str = "leader.io/transfer-to";
/// The annotation of a Lease by which a leader whose app is not ready asks for a standby that would take over: its term, as
/// [`RELEASED`] writes it. Written and taken off by agents.
pub const SUCCESSOR_WANTED: &str = "leader.io/successor-wanted";
/// The annotation of a Lease by which a standby answers [`SUCCESSOR_WANTED`]: its identity. Written and taken off by agents.
pub const SUCCESSOR: &str = "leader.io/successor";
/// The annotation of a Lease that names the last term that was given away because the app was not ready.
pub const GIVEN_UP: &str = "leader.io/given-up";
/// The annotation of a Lease by which `kubectl leader` says what a person asked for last, who that was and when, in JSON. Whoever may
/// edit the Lease may write anything there: the API server's audit log is the proof.
pub const STEERED: &str = "leader.io/steered";
/// The annotation of a Lease by which its holder says since when its process runs: a time by the wall clock, and its identity, which
/// tells it from what an earlier holder said. By it the controller knows whose end a container's end is.
pub const AGENT_STARTED: &str = "leader.io/agent-started";
/// The annotation of a Lease that names the EndpointSlices of its leader-only Services: a JSON list of names.
pub const SLICES: &str = "leader.io/slices";

/// The annotation of a workload: how election concerns the app.
pub const MODE: &str = "leader.io/mode";
/// The annotation of a workload: where the status file is, in the modes that have one.
pub const STATUS_FILE: &str = "leader.io/status-file";
/// Where the status file of a pod is when nobody says another place.
pub const DEFAULT_STATUS_FILE: &str = "/leader-status/leader";
/// The annotation of a workload: the containers that run and stop with the app.
pub const FOLLOW: &str = "leader.io/follow";
/// The annotation of a workload: where the leader had better be, e.g. `zone=a`.
pub const PREFER: &str = "leader.io/prefer";
/// The annotation of a workload: for how long a leader may be unready before it gives leadership away.
pub const UNHEALTHY_STEP_DOWN: &str = "leader.io/unhealthy-step-down";
/// The annotation of a Service that sends its traffic to the leader of an id.
pub const LEADER_ONLY: &str = "leader.io/leader-only";
/// The annotation of a leader-only Service that keeps its own selector.
pub const SELECTOR: &str = "leader.io/selector";

/// The injected init container.
pub const INIT_CONTAINER: &str = "leader-agent";
/// The injected emptyDir: the agent's binary, its lock and its term file.
pub const VOLUME: &str = "leader-io-agent";
/// Where [`VOLUME`] is mounted in the wrapped container.
pub const MOUNT_PATH: &str = "/leader";
/// The agent in the wrapped container.
pub const AGENT_PATH: &str = "/leader/agent";
/// The agent in its own image.
pub const AGENT_IMAGE_PATH: &str = "/leader-agent";
/// The injected projected volume with the agent's own token, the cluster's CA and the namespace.
pub const TOKEN_VOLUME: &str = "leader-io-token";
/// Where [`TOKEN_VOLUME`] is mounted in the wrapped container.
pub const TOKEN_PATH: &str = "/var/run/secrets/leader.io/serviceaccount";
/// Life of the agent's token, in seconds: the shortest that the API server issues, so that a re-created
/// service account is repaired soon.
pub const TOKEN_SECONDS: u32 = 600;

/// The port of the agent's HTTP server when nothing else is asked for.
pub const DEFAULT_PORT: u16 = 9809;
/// The path at which the agent answers the kubelet's probes, before [`probe`]'s names.
pub const PROBE_PATH: &str = "/leader.io/probe/";
/// The path at which the agent, on its Unix socket alone, is asked to run a hook, before [`hook`]'s names.
pub const HOOK_PATH: &str = "/leader.io/hook/";
/// The Unix socket of the agent's HTTP server, in [`env::STATE_DIR`].
pub const SOCKET: &str = "agent.sock";

/// The probes of a container, as `leader-agent probe` and [`PROBE_PATH`] call them.
pub mod probe {
    /// The subcommand.
    pub const COMMAND: &str = "probe";
    /// `livenessProbe`.
    pub const LIVENESS: &str = "liveness";
    /// `readinessProbe`.
    pub const READINESS: &str = "readiness";
    /// `startupProbe`.
    pub const STARTUP: &str = "startup";
}

/// The lifecycle hooks of a container, as `leader-agent hook` calls them.
pub mod hook {
    /// The subcommand.
    pub const COMMAND: &str = "hook";
    /// `lifecycle.postStart`.
    pub const POST_START: &str = "post-start";
    /// `lifecycle.preStop`.
    pub const PRE_STOP: &str = "pre-stop";
}

/// Environment variables of an injected container. The agent takes all of them out of the app's environment
/// before it adds [`env::FENCING_TOKEN`], [`env::ID`] and [`env::IDENTITY`], which are documented for the app.
pub mod env {
    /// The record of the injection, through the downward API: [`super::INJECTED`].
    pub const RECORD: &str = "LEADER_RECORD";
    /// The id: the Lease's name.
    pub const ID: &str = "LEADER_ID";
    /// The Lease's namespace.
    pub const NAMESPACE: &str = "LEADER_NAMESPACE";
    /// The pod's name, first part of the identity.
    pub const POD_NAME: &str = "LEADER_POD_NAME";
    /// The pod's uid, second part of the identity.
    pub const POD_UID: &str = "LEADER_POD_UID";
    /// The wrapped container's name, third part of the identity.
    pub const CONTAINER: &str = "LEADER_CONTAINER";
    /// The whole identity: `<pod>_<pod uid>_<container>`.
    pub const IDENTITY: &str = "LEADER_IDENTITY";
    /// The Lease's duration, e.g. `15s`.
    pub const LEASE_DURATION: &str = "LEADER_LEASE_DURATION";
    /// How long the app may take after its stop signal when the lease is being lost, e.g. `4s`.
    pub const STOP_GRACE: &str = "LEADER_STOP_GRACE";
    /// How long it may take for a stop that somebody asked for, e.g. `30s`.
    pub const TERMINATION_GRACE: &str = "LEADER_TERMINATION_GRACE";
    /// The folder with the lock and the term file.
    pub const STATE_DIR: &str = "LEADER_STATE_DIR";
    /// The folder with `token`, `ca.crt` and `namespace`.
    pub const CREDENTIALS_DIR: &str = "LEADER_CREDENTIALS_DIR";
    /// The agent's log filter, as `tracing` reads it.
    pub const LOG: &str = "LEADER_LOG";
    /// The pod's address, where a probe or hook connects to it.
    pub const POD_IP: &str = "LEADER_POD_IP";
    /// Where the agent says on the leader, and only there, that it leads.
    pub const STATUS_FILE: &str = "LEADER_STATUS_FILE";
    /// Where the leader had better be, e.g. `zone=a`.
    pub const PREFER: &str = "LEADER_PREFER";
    /// For how long a leader may be unready before it gives leadership away, e.g. `30s`.
    pub const UNHEALTHY_STEP_DOWN: &str = "LEADER_UNHEALTHY_STEP_DOWN";
    /// The node of this pod: `spec.nodeName`.
    pub const NODE: &str = "LEADER_NODE";
    /// The zone of this pod: its label `topology.kubernetes.io/zone`, which Kubernetes 1.35 and later copies from the node.
    pub const ZONE: &str = "LEADER_ZONE";
    /// The region of this pod: its label `topology.kubernetes.io/region`, likewise.
    pub const REGION: &str = "LEADER_REGION";
    /// Given to the app: the resourceVersion of the write that acquired the Lease.
    pub const FENCING_TOKEN: &str = "LEADER_FENCING_TOKEN";

    /// What injection sets, in the order of the container's `env`.
    pub const INJECTED: [&str; 7] = [POD_NAME, POD_UID, NAMESPACE, CONTAINER, STATE_DIR, CREDENTIALS_DIR, RECORD];
    /// What injection sets where it is needed, after [`INJECTED`].
    pub const OPTIONAL: [&str; 1] = [POD_IP];
    /// All that the agent reads, and takes out of the app's environment.
    pub const ALL: [&str; 21] = [
        RECORD,
        ID,
        NAMESPACE,
        POD_NAME,
        POD_UID,
        POD_IP,
        CONTAINER,
        IDENTITY,
        LEASE_DURATION,
        STOP_GRACE,
        TERMINATION_GRACE,
        STATE_DIR,
        CREDENTIALS_DIR,
        LOG,
        STATUS_FILE,
        PREFER,
        UNHEALTHY_STEP_DOWN,
        NODE,
        ZONE,
        REGION,
        FENCING_TOKEN,
    ];
}

/// The Lease's duration L when nothing else is asked for, in seconds.
pub const DEFAULT_LEASE_SECONDS: u64 = 15;
/// The shortest L, in seconds.
pub const MIN_LEASE_SECONDS: u64 = 5;
/// The longest L, in seconds.
pub const MAX_LEASE_SECONDS: u64 = 3600;
