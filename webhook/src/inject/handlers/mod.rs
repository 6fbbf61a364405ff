//! Handlers: what the kubelet runs in the wrapped container, its probes and lifecycle hooks.
//!
//! A standby has no app, so injection puts the agent in the place of the user's handler (`httpGet`, `exec`, ...). Timing fields
//! stay the user's, where they stand. The user's handlers are in the record twice: verbatim, to be given back, and resolved,
//! for the agent to carry out.

mod canonical;
mod managed;
mod resolve;
mod restore;

use leader_agent::{
    mode::Mode,
    names::{self, hook, probe},
};
use serde_json::{Map, Value, json};

use super::{Refusal, json::set, options::Chosen, record::Record};

pub(super) use canonical::canonical;
pub(super) use managed::without_released;
pub(super) use resolve::timing;
pub(super) use restore::restore;

const LIFECYCLE: &str = "lifecycle";
const READINESS: &str = "readinessProbe";
/// The kinds of handler (`core/v1` `ProbeHandler` and `LifecycleHandler`).
const EXEC: &str = "exec";
const HTTP_GET: &str = "httpGet";
const TCP_SOCKET: &str = "tcpSocket";
const GRPC: &str = "grpc";
const SLEEP: &str = "sleep";
/// The fields of a probe beside its handler (`core/v1` `Probe`).
const TIMING: [&str; 6] = [
    "initialDelaySeconds",
    "periodSeconds",
    "timeoutSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
];
/// When the kubelet asks the readiness probe that is added where there is none. A pod that cannot reach the API server is
/// noticed within seconds; the timeout leaves the agent time to read its Lease before it answers.
const ADDED_TIMING: [(&str, i64); 2] = [("timeoutSeconds", 5), ("periodSeconds", 5)];
/// The same where the leader alone is ready: as soon as it does not lead any more it shall not be.
const ADDED_TIMING_READY: [(&str, i64); 2] = [("periodSeconds", 1), ("failureThreshold", 1)];

/// When the kubelet asks the readiness probe that is added in this mode.
fn added_timing(mode: Mode) -> [(&'static str, i64); 2] {
    if mode == Mode::Ready { ADDED_TIMING_READY } else { ADDED_TIMING }
}

/// A field of a container that may have a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    field: &'static str,
    is_probe: bool,
    /// What the agent calls it.
    name: &'static str,
    /// What the record calls it.
    key: &'static str,
}

const PLACES: [Place; 5] = [
    Place { field: "livenessProbe", is_probe: true, name: probe::LIVENESS, key: "liveness" },
    Place { field: READINESS, is_probe: true, name: probe::READINESS, key: "readiness" },
    Place { field: "startupProbe", is_probe: true, name: probe::STARTUP, key: "startup" },
    Place { field: "postStart", is_probe: false, name: hook::POST_START, key: "postStart" },
    Place { field: "preStop", is_probe: false, name: hook::PRE_STOP, key: "preStop" },
];

impl Place {
    fn kinds(self) -> &'static [&'static str] {
        if self.is_probe { &[EXEC, HTTP_GET, TCP_SOCKET, GRPC] } else { &[EXEC, HTTP_GET, TCP_SOCKET, SLEEP] }
    }

    /// Whether the agent answers it in this mode. Where the app runs everywhere, it is there for everything that the kubelet asks.
    fn is_agents(self, mode: Mode) -> bool {
        match mode {
            Mode::Run => true,
            Mode::Ready => self.field == READINESS,
            Mode::Observe => false,
        }
    }

    /// Where it stands in a container.
    fn path(self, container: &str) -> String {
        if self.is_probe {
            format!("{container}.{}", self.field)
        } else {
            format!("{container}.{LIFECYCLE}.{}", self.field)
        }
    }

    /// The probe or hook, null where there is none.
    fn of(self, container: &Value) -> &Value {
        if self.is_probe { &container[self.field] } else { &container[LIFECYCLE][self.field] }
    }

    /// The probe or hook, if there is one.
    fn of_mut(self, container: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
        let parent = if self.is_probe { container } else { container.get_mut(LIFECYCLE)?.as_object_mut()? };
        parent.get_mut(self.field)?.as_object_mut()
    }

    /// The kinds of the handlers in a probe or hook.
    fn present(self, holder: &Map<String, Value>) -> Vec<&'static str> {
        let has = |kind: &&str| holder.get(*kind).is_some_and(|handler| !handler.is_null());
        self.kinds().iter().copied().filter(has).collect()
    }

    /// The agent's handler: its kind and itself.
    fn of_agent(self, way: Way) -> (&'static str, Value) {
        let command = if self.is_probe { probe::COMMAND } else { hook::COMMAND };
        match way {
            Way::Port(port) if self.is_probe => {
                let path = format!("{}{}", names::PROBE_PATH, self.name);
                (HTTP_GET, json!({"path": path, "port": port, "scheme": "HTTP"}))
            }
            _ => (EXEC, json!({"command": [names::AGENT_PATH, command, self.name]})),
        }
    }
}

/// The way from the kubelet to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over HTTP at this port of the pod.
    Port(u16),
    /// By a program in the container, which talks to the agent over its Unix socket.
    Exec,
}

impl Way {
    /// The way in a pod of this specification. With the node's network no port is safe unless the user names it: two replicas
    /// may share a node.
    pub(super) fn new(spec: &Value, asked: Option<u16>) -> Self {
        match asked {
            Some(port) => Self::Port(port),
            None if spec["hostNetwork"] == true => Self::Exec,
            None => Self::Port(names::DEFAULT_PORT),
        }
    }

    /// The way of an injection whose agent opens this port, or none.
    pub(super) fn by(port: Option<u16>) -> Self {
        port.map_or(Self::Exec, Self::Port)
    }

    /// The port that the agent opens.
    pub(super) fn port(self) -> Option<u16> {
        match self {
            Self::Port(port) => Some(port),
            Self::Exec => None,
        }
    }
}

/// The pod's `terminationGracePeriodSeconds` when it states none (`SetDefaults_PodSpec`, `DefaultTerminationGracePeriodSeconds`).
const DEFAULT_TERMINATION_GRACE: i64 = 30;

/// The user's handlers, ready to be carried out, and what bounds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resolved {
    /// `liveness`, `readiness`, `startup`.
    pub probes: Map<String, Value>,
    /// `postStart`, `preStop`.
    pub hooks: Map<String, Value>,
    /// The pod's `terminationGracePeriodSeconds`, unless it is the default.
    pub termination_grace: Option<i64>,
}

impl Resolved {
    /// Reads the chosen container of a pod in which nothing is injected.
    pub(super) fn new(spec: &Value, chosen: Chosen<'_>, mode: Mode) -> Result<Self, Refusal> {
        let grace = spec["terminationGracePeriodSeconds"].as_i64().filter(|_| mode != Mode::Observe);
        let mut resolved = Self {
            // What is stated and what the API server fills in give the same record.
            termination_grace: grace.filter(|&seconds| seconds != DEFAULT_TERMINATION_GRACE),
            ..Self::default()
        };
        for place in PLACES.into_iter().filter(|place| place.is_agents(mode)) {
            if let Some(ready) = resolve::resolve(place, chosen)? {
                let list = if place.is_probe { &mut resolved.probes } else { &mut resolved.hooks };
                list.insert(place.key.to_owned(), ready);
            }
        }
        Ok(resolved)
    }
}

/// Refuses handlers that cannot be routed, and ports that the agent needs.
pub(super) fn check(spec: &Value, chosen: Chosen<'_>, way: Way, mode: Mode) -> Result<(), Refusal> {
    resolve::ports(spec, chosen, way)?;
    Resolved::new(spec, chosen, mode).map(drop)
}

/// Whether one of these connects to the pod's address, which the agent then has to know.
pub(super) fn needs_address(probes: &Map<String, Value>, hooks: &Map<String, Value>) -> bool {
    let connects = |handlers: &Value| {
        [HTTP_GET, TCP_SOCKET, GRPC]
            .into_iter()
            .any(|kind| handlers[kind].is_object() && handlers[kind]["host"].as_str().unwrap_or_default().is_empty())
    };
    probes.values().chain(hooks.values()).any(connects)
}

/// Puts the agent's handlers in the place of the user's, and remembers those; adds a readiness probe where there is none, so
/// that a rollout to pods that can never elect stops. An empty field that gave way is noted; the user's handlers are returned by
/// the name of their field, null for the added one.
pub(super) fn route(
    container: &mut Map<String, Value>,
    way: Way,
    mode: Mode,
    notes: &mut Map<String, Value>,
) -> Map<String, Value> {
    let mut originals = Map::new();
    for place in PLACES.into_iter().filter(|place| place.is_agents(mode)) {
        let (kind, agents) = place.of_agent(way);
        let before = match place.of_mut(container) {
            Some(holder) => {
                // There is exactly one: it was checked.
                let Some(users) = place.present(holder).first().copied() else { continue };
                let handler = holder.get(users).cloned().unwrap_or_default();
                replace(holder, users, kind, agents);
                json!({ users: handler })
            }
            None if place.field == READINESS => {
                let mut added = Map::from_iter([(kind.to_owned(), agents)]);
                added.extend(added_timing(mode).map(|(field, seconds)| (field.to_owned(), seconds.into())));
                set(container, READINESS, added.into(), notes);
                Value::Null
            }
            None => continue,
        };
        originals.insert(place.field.to_owned(), before);
    }
    originals
}

/// Puts one handler in the place of another, at its position.
///
/// The new kind may stand there already, as null: then each takes the other's key, which [`put_back`] understands.
fn replace(holder: &mut Map<String, Value>, old: &str, new: &str, handler: Value) {
    if old != new && holder.contains_key(new) {
        holder.insert(old.to_owned(), Value::Null);
    }
    if holder.contains_key(new) {
        holder.insert(new.to_owned(), handler);
        return;
    }
    let fields = std::mem::take(holder);
    let mut handler = Some(handler);
    *holder = fields
        .into_iter()
        .map(
            |(key, value)| if key == old { (new.to_owned(), handler.take().unwrap_or_default()) } else { (key, value) },
        )
        .collect();
}

/// Undoes [`replace`].
fn put_back(holder: &mut Map<String, Value>, agents: &str, users: &str, handler: Value) {
    if agents != users && holder.get(users).is_some_and(Value::is_null) {
        holder.insert(agents.to_owned(), Value::Null);
        holder.insert(users.to_owned(), handler);
    } else {
        if agents != users {
            holder.shift_remove(users);
        }
        replace(holder, agents, users, handler);
    }
}

/// Whether a container's handlers are the agent's as its record says, and no others are.
pub(super) fn is_routed(container: &Value, record: &Record) -> bool {
    PLACES.into_iter().all(|place| {
        let holder = place.of(container);
        if !record.original.handlers.contains_key(place.field) {
            return !restore::has_agents(place, holder);
        }
        let (kind, agents) = place.of_agent(Way::by(record.port));
        let is_alone = holder.as_object().is_some_and(|holder| place.present(holder) == [kind]);
        is_alone && canonical::handler(kind, &holder[kind]) == canonical::handler(kind, &agents)
    })
}

/// Whether a record's handlers are what they would be if `chosen` were injected now.
pub(super) fn fit(record: &Record, spec: &Value, chosen: Chosen<'_>, way: Way) -> bool {
    let Ok(resolved) = Resolved::new(spec, chosen, record.mode) else { return false };
    // The first version knew no handlers, and injected only where there were none.
    let knew = !record.original.handlers.is_empty() || record.mode == Mode::Observe;
    let same = resolved.probes == record.probes && resolved.hooks == record.hooks;
    same && (!knew || Way::by(record.port) == way && resolved.termination_grace == record.termination_grace)
}

/// Whether a handler of the agent's is in a container.
pub(super) fn has_traces(container: &Value) -> bool {
    PLACES.into_iter().any(|place| restore::has_agents(place, place.of(container)))
}
