//! Annotations: what a workload asks for, with every key and value checked.

use std::{collections::BTreeMap, time::Duration};

use leader_agent::{
    id::LeaderId,
    mode::{Mode, WITHDRAWAL},
    names::{self, DEFAULT_LEASE_SECONDS, FOLLOW, MODE, PREFER, STATUS_FILE, UNHEALTHY_STEP_DOWN},
    preference::Preference,
    timing::{Timing, parse_duration, parse_patience},
};
use serde_json::{Value, json};

use super::{
    Refusal, follow,
    json::{items, text},
    observer,
    record::AccountMode,
    root::Root,
    status,
};

pub(super) const CONTAINER: &str = "leader.io/container";
pub(super) const COMMAND: &str = "leader.io/command";
pub(super) const SERVICE_ACCOUNT: &str = "leader.io/service-account";
const LEASE_DURATION: &str = "leader.io/lease-duration";
const STOP_GRACE: &str = "leader.io/stop-grace";
const PORT: &str = "leader.io/port";

/// Keys that a workload may carry.
const KNOWN: [&str; 12] = [
    names::ID,
    CONTAINER,
    COMMAND,
    LEASE_DURATION,
    STOP_GRACE,
    SERVICE_ACCOUNT,
    MODE,
    PORT,
    STATUS_FILE,
    PREFER,
    UNHEALTHY_STEP_DOWN,
    FOLLOW,
];
/// Keys that belong elsewhere.
const ELSEWHERE: [(&str, &str); 9] = [
    (names::INJECTED, "it is written by the webhook, on the pod template; remove it"),
    (names::LEADER_ONLY, "put it on a Service"),
    (names::HOLD, ON_A_LEASE),
    (names::ADOPT, ON_A_LEASE),
    (names::TRANSFER_TO, ON_A_LEASE),
    (names::STEP_DOWN, ON_A_LEASE),
    (names::TURNING_ON, WRITTEN_BY_US),
    (names::RELEASED, WRITTEN_BY_US),
    (names::SLICES, WRITTEN_BY_US),
];
const ON_A_LEASE: &str = "put it on the Lease";
const WRITTEN_BY_US: &str = "it is written by leader itself, on the Lease; remove it";

/// The container that `kubectl logs` and `kubectl exec` take, on a pod template.
pub(super) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// What a workload asks for.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub id: LeaderId,
    pub container: Option<String>,
    pub command: Option<Vec<String>>,
    /// L as written, or the default.
    pub lease_duration: String,
    /// The stop grace as written, unless it is the default.
    pub stop_grace: Option<String>,
    pub account: Option<AccountMode>,
    /// The agent's port, where it is stated.
    pub port: Option<u16>,
    pub mode: Mode,
    /// Where the status file is, in the modes that have one.
    pub status_file: Option<String>,
    /// Where the leader had better be.
    pub prefer: Option<String>,
    /// For how long a leader may be unready.
    pub unhealthy_step_down: Option<String>,
    /// The containers that run and stop with the app.
    pub follow: Vec<String>,
    /// The options as written, by key without prefix; what says the default is left out.
    pub written: BTreeMap<String, String>,
    lease: Duration,
    grace: Option<Duration>,
}

/// Our annotations on a workload.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// The id is there.
    Election(Box<Options>),
    /// The id is not there; the keys that were left behind.
    Nothing(Vec<String>),
}

/// What carries annotations: an object or a pod template.
pub(super) struct Holder<'a> {
    pub object: &'a Value,
    /// What it is, for refusals.
    pub kind: &'a str,
    /// The path of its metadata.
    pub path: &'static str,
}

/// Reads the annotations of `holder`, which are about pods of this specification.
pub(super) fn read(holder: &Holder<'_>, spec: &Value) -> Result<Asked, Refusal> {
    let mut ours = BTreeMap::new();
    let annotations = holder.object.pointer("/metadata/annotations").and_then(Value::as_object);
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(names::PREFIX)) {
        if key == names::INJECTED && holder.kind == "Pod" {
            continue;
        }
        known(key, holder.kind)?;
        let Some(value) = value.as_str() else {
            return Err(Refusal::Malformed {
                path: format!("{}.annotations[{key}]", holder.path),
                expected: "a text: put it in quotes",
            });
        };
        ours.insert(key.as_str(), value);
    }
    let Some(id) = ours.get(names::ID) else {
        return Ok(Asked::Nothing(ours.into_keys().map(str::to_owned).collect()));
    };
    let id: LeaderId = id.parse()?;
    let mode = mode(ours.get(MODE).copied())?;
    fit_mode(mode, |key| ours.contains_key(key))?;
    let status_file = status_file(mode, ours.get(STATUS_FILE).copied())?;
    let follow = ours.get(FOLLOW).map(|text| followers(text)).transpose()?.unwrap_or_default();
    let prefer = ours.get(PREFER).map(|text| prefer(text)).transpose()?;
    let unhealthy_step_down = ours.get(UNHEALTHY_STEP_DOWN).map(|text| patience(text)).transpose()?;
    let of = |key: &'static str| ours.get(key).map(|text| duration(key, text)).transpose();
    let (stated, grace) = (of(LEASE_DURATION)?, of(STOP_GRACE)?);
    let port = ours.get(PORT).map(|text| self::port(text)).transpose()?;
    let default = Duration::from_secs(DEFAULT_LEASE_SECONDS);
    let lease = stated.unwrap_or(default);
    let is_default = |key: &str| match key {
        LEASE_DURATION => lease == default,
        STOP_GRACE => Timing::new(lease, None, false).is_ok_and(|timing| Some(timing.grace()) == grace),
        // With the node's network the agent opens a port only when it is asked to.
        PORT => port == Some(names::DEFAULT_PORT) && spec["hostNetwork"] != true,
        MODE => mode.is_default(),
        STATUS_FILE => status_file.as_deref() == Some(status::DEFAULT),
        _ => false,
    };
    // A default that is stated or taken away again changes nothing, so it must not look like a change.
    let chosen = |key: &'static str| ours.get(key).filter(|_| !is_default(key)).map(|&text| text.to_owned());
    Ok(Asked::Election(Box::new(Options {
        id,
        container: ours.get(CONTAINER).map(|&name| name.to_owned()),
        command: ours.get(COMMAND).map(|text| command(text)).transpose()?,
        lease_duration: chosen(LEASE_DURATION).unwrap_or_else(|| format!("{DEFAULT_LEASE_SECONDS}s")),
        stop_grace: chosen(STOP_GRACE),
        account: ours.get(SERVICE_ACCOUNT).map(|text| account(text)).transpose()?,
        port,
        written: ours
            .iter()
            .filter(|&(&key, _)| key != names::ID && !is_default(key))
            .map(|(key, &value)| (key.trim_start_matches(names::PREFIX).to_owned(), value.to_owned()))
            .collect(),
        lease,
        grace,
        mode,
        status_file,
        prefer,
        unhealthy_step_down,
        follow,
    })))
}

impl Options {
    /// The same with the container known.
    pub(super) fn in_container(&self, container: String) -> Self {
        Self { container: Some(container), ..self.clone() }
    }

    /// Checks that the durations fit together in this container of this pod template.
    pub(super) fn check_timing(&self, pod_spec: &Value, container: &Value) -> Result<(), Refusal> {
        let observer = json!({ "resources": observer::resources(container) });
        let container = if self.mode == Mode::Observe { &observer } else { container };
        let starved = [pod_spec, container].into_iter().any(|holder| {
            holder.pointer("/resources/limits/cpu").is_some_and(|limit| cores(limit).is_none_or(|cores| cores < 1.0))
        });
        let keys = match (self.written.contains_key("lease-duration"), self.grace) {
            (true, Some(_)) => "leader.io/lease-duration and leader.io/stop-grace",
            (false, Some(_)) => STOP_GRACE,
            (_, None) => LEASE_DURATION,
        };
        let grace = if self.mode.excludes() { self.grace } else { Some(WITHDRAWAL) };
        Timing::new(self.lease, grace, starved).map(drop).map_err(|error| Refusal::Timing { keys, error })
    }
}

/// Refuses a key of ours that a workload of this kind cannot carry.
fn known(key: &str, kind: &str) -> Result<(), Refusal> {
    if KNOWN.contains(&key) {
        return Ok(());
    }
    if let Some(&(_, instead)) = ELSEWHERE.iter().find(|(other, _)| *other == key) {
        return Err(Refusal::Misplaced { key: key.to_owned(), kind: kind.to_owned(), instead });
    }
    let lower = key.to_lowercase();
    let nearest = KNOWN
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, known), known))
        .min_by_key(|&(distance, _)| distance)
        // More than a third of the word changed is another word.
        .filter(|&(distance, known)| distance * 3 <= known.len() - names::PREFIX.len())
        .map(|(_, known)| known);
    Err(Refusal::UnknownKey { key: shorten(key), nearest, known: KNOWN.to_vec() })
}

fn mode(value: Option<&str>) -> Result<Mode, Refusal> {
    let value = value.unwrap_or(Mode::Run.name());
    value.parse().map_err(|_| wrong(MODE, value, "`run`, `observe` or `ready`".to_owned()))
}

/// Refuses what would do nothing in this mode.
fn fit_mode(mode: Mode, has: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let reason = |key: &str| match (mode, key) {
        (Mode::Run, STATUS_FILE) => Some("the modes `observe` and `ready` have a status file"),
        (Mode::Observe | Mode::Ready, STOP_GRACE) => Some("nothing is stopped there"),
        (Mode::Observe, COMMAND) => Some("the app starts as it does without leader election"),
        (Mode::Observe | Mode::Ready, FOLLOW) => Some("every container runs in every pod there"),
        (Mode::Observe, UNHEALTHY_STEP_DOWN) => Some("the app's readiness is not asked there"),
        _ => None,
    };
    let useless = KNOWN.into_iter().filter(|key| has(key)).find_map(|key| Some((key, reason(key)?)));
    useless.map_or(Ok(()), |(key, reason)| Err(Refusal::NotInMode { key, mode: mode.name(), reason }))
}

fn status_file(mode: Mode, value: Option<&str>) -> Result<Option<String>, Refusal> {
    if mode.excludes() {
        return Ok(None);
    }
    let path = value.unwrap_or(status::DEFAULT);
    status::check(path).map_err(|expected| wrong(STATUS_FILE, path, expected.to_owned()))?;
    Ok(Some(path.to_owned()))
}

fn prefer(value: &str) -> Result<String, Refusal> {
    let read = value.parse::<Preference>();
    read.map(|_| value.to_owned()).map_err(|error| wrong(PREFER, value, format!("a place: {error}")))
}

fn followers(value: &str) -> Result<Vec<String>, Refusal> {
    let expected = "a list of containers with commas between them, each once, e.g. `proxy,cron`";
    follow::parse(value).ok_or_else(|| wrong(FOLLOW, value, expected.to_owned()))
}

fn patience(value: &str) -> Result<String, Refusal> {
    let read = parse_patience(value).map_err(|error| Refusal::Timing { keys: UNHEALTHY_STEP_DOWN, error });
    read.map(|_| value.to_owned())
}

/// A port that needs no privilege.
fn port(value: &str) -> Result<u16, Refusal> {
    const UNPRIVILEGED: u16 = 1024;
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let port = value.parse().ok().filter(|&port: &u16| is_number && port >= UNPRIVILEGED);
    port.ok_or_else(|| wrong(PORT, value, format!("a port from {UNPRIVILEGED} to {}", u16::MAX)))
}

fn account(value: &str) -> Result<AccountMode, Refusal> {
    match value {
        "dedicated" => Ok(AccountMode::Dedicated),
        "keep" => Ok(AccountMode::Keep),
        other => Err(wrong(SERVICE_ACCOUNT, other, "`dedicated` or `keep`".to_owned())),
    }
}

fn command(value: &str) -> Result<Vec<String>, Refusal> {
    let example = "a JSON list of texts, e.g. [\"/app\", \"serve\"]";
    let words: Vec<String> =
        serde_json::from_str(value).map_err(|error| wrong(COMMAND, value, format!("{example}: {error}")))?;
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(wrong(COMMAND, value, format!("{example}: the program is missing"))),
    }
}

fn duration(key: &'static str, text: &str) -> Result<Duration, Refusal> {
    parse_duration(text).map_err(|error| Refusal::Timing { keys: key, error })
}

fn wrong(key: &'static str, value: &str, expected: String) -> Refusal {
    Refusal::Value { key, value: shorten(value), expected }
}

/// Cuts a value that would fill the screen.
fn shorten(value: &str) -> String {
    const SHOWN: usize = 80;
    if value.chars().count() <= SHOWN {
        value.to_owned()
    } else {
        value.chars().take(SHOWN).collect::<String>() + "..."
    }
}

/// A quantity of CPU in cores; `None` when it cannot be read.
pub(super) fn cores(quantity: &Value) -> Option<f64> {
    let text = match quantity {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let (number, factor) = match text.char_indices().last()? {
        (at, 'n') => (&text[..at], 1e-9),
        (at, 'u') => (&text[..at], 1e-6),
        (at, 'm') => (&text[..at], 1e-3),
        (at, 'k') => (&text[..at], 1e3),
        _ => (text.as_str(), 1.0),
    };
    number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * factor)
}

/// The container that is wrapped: the one asked for, kubectl's default, or the first.
pub(super) fn container<'a>(options: &Options, template: &'a Value, root: Root) -> Result<Chosen<'a>, Refusal> {
    let all = super::json::containers(template);
    let named = |name: &str| all.iter().position(|container| text(container, "name") == Some(name));
    let index = match &options.container {
        Some(name) => named(name).ok_or_else(|| Refusal::NoSuchContainer {
            name: shorten(name),
            path: format!("{}.containers", root.spec()),
            is_init: items(&template["spec"], "initContainers").iter().any(|init| text(init, "name") == Some(name)),
            existing: all.iter().filter_map(|container| text(container, "name")).map(str::to_owned).collect(),
        })?,
        None => super::json::annotation(template, DEFAULT_CONTAINER).and_then(named).unwrap_or(0),
    };
    let container = all.get(index).ok_or_else(|| Refusal::Malformed {
        path: format!("{}.containers", root.spec()),
        expected: "a list with at least one container",
    })?;
    Ok(Chosen { index, name: text(container, "name").unwrap_or_default(), container, root })
}

/// The name of the container that is wrapped in the pods of a template with annotations of its own, whatever else those say.
pub(super) fn stated_container(template: &Value) -> Option<String> {
    let all = super::json::containers(template);
    let stands = |wanted: &&str| all.iter().any(|container| text(container, "name") == Some(wanted));
    let stated = super::json::annotation(template, CONTAINER);
    let default = super::json::annotation(template, DEFAULT_CONTAINER).filter(stands);
    stated.or(default).or_else(|| text(all.first()?, "name")).map(str::to_owned)
}

/// The mode of a template with annotations of its own.
pub(super) fn stated_mode(template: &Value) -> Mode {
    super::json::annotation(template, MODE).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The container that is wrapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen<'a> {
    pub index: usize,
    pub name: &'a str,
    pub container: &'a Value,
    /// Where the object has the template that the container is in.
    pub root: Root,
}

impl Chosen<'_> {
    /// Where it stands.
    pub(super) fn path(&self) -> String {
        format!("{}.containers[{}]", self.root.spec(), self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_cpu_are_read_in_cores() {
        for (text, expected) in
            [(json!("100m"), 0.1), (json!("1"), 1.0), (json!(2), 2.0), (json!("0.5"), 0.5), (json!("1e3m"), 1.0)]
        {
            let read = cores(&text).unwrap();
            assert!((read - expected).abs() < 1e-9, "{text} {read}");
        }
        for text in [json!("much"), json!(""), json!(null), json!("NaN")] {
            assert_eq!(cores(&text), None, "{text}");
        }
    }
}
