//! The judge of the table: a plain twin of the elected workload, which gets each write as well.
//!
//! What Kubernetes makes of a write is seen at the twin. The elected workload has to roll out when the twin does and not
//! otherwise, and what its user reads after ejecting it has to be what the twin's user reads.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use leader_agent::names;
use leader_tests::command::Output;
use leader_tests::kit::Namespace;
use leader_tests::wait;
use leader_webhook::cli;
use serde_json::{Value, json};

use super::manifest::{self, Expected, MAIN, NAME, Place};
use super::table::{Group, Outcome};
use crate::stage::Stage;

const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// What kubectl and controllers write beside the user's annotations.
const NOT_THE_USERS: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "kubernetes.io/change-cause",
];

/// One of the two workloads.
pub(super) struct Side<'a> {
    namespace: &'a Namespace<'static>,
    /// As kubectl names it.
    pub(super) object: String,
    /// Where it has the id; the twin has none.
    place: Option<Place>,
}

impl Side<'_> {
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.namespace.kubectl(arguments).output()
    }

    /// `kubectl VERB -f -` of a manifest, with the id when this is the elected side.
    pub(super) fn send(&self, verb: &[&str], plain: &Value) -> Result<Output> {
        let manifest = self.place.map_or_else(|| plain.clone(), |place| manifest::elected(plain, place));
        self.send_plain(verb, &manifest)
    }

    /// As [`Side::send`], without the id on either side. Some verbs read before they write: a controller may write between the two, and
    /// they are to be said again.
    pub(super) fn send_plain(&self, verb: &[&str], plain: &Value) -> Result<Output> {
        wait::until("a write without a conflict", Duration::from_mins(1), || {
            let output = self.namespace.kubectl(verb).args(["-f", "-"]).input(plain.to_string()).output()?;
            ensure!(!output.stderr.contains("(Conflict)"), "{}", output.stderr);
            Ok(output)
        })
    }

    /// Replaces the object by what `edit` makes of it, read again where its controller has written meanwhile.
    pub(super) fn replace(&self, edit: impl Fn(&mut Value) -> Option<()>) -> Result<Output> {
        wait::until("a replacement without a conflict", Duration::from_mins(1), || {
            let mut object = self.get()?;
            edit(&mut object).context("the object is not as expected")?;
            let output = self.namespace.kubectl(&["replace", "-f", "-"]).input(object.to_string()).output()?;
            ensure!(!output.stderr.contains("(Conflict)"), "{}", output.stderr);
            Ok(output)
        })
    }

    pub(super) fn get(&self) -> Result<Value> {
        self.namespace.get(&[&self.object])
    }

    /// The workload once its controller has seen the last write.
    pub(super) fn settled(&self) -> Result<Seen> {
        let revisions = if self.object.starts_with("deployment/") { "replicasets" } else { "controllerrevisions" };
        let kinds = format!("{},{revisions}", self.object.split('/').next().unwrap_or_default());
        wait::until("the controller to see the write", Duration::from_mins(1), || {
            // Both at once: kubectl is what takes the time.
            let mut list = self.namespace.get(&[&kinds])?;
            let mut items = list["items"].as_array_mut().map(std::mem::take).context("a list without items")?;
            let at = items.iter().position(|item| item["metadata"]["name"] == NAME).context("it is not there")?;
            let object = items.swap_remove(at);
            let (stored, seen) = (&object["metadata"]["generation"], &object["status"]["observedGeneration"]);
            ensure!(stored == seen, "generation {stored} is stored, {seen} was seen");
            items.retain(|item| item["metadata"]["ownerReferences"][0]["uid"] == object["metadata"]["uid"]);
            let mut all: Vec<String> =
                items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect();
            all.sort();
            Ok(Seen { newest: items.iter().filter_map(revision).max().unwrap_or_default(), all, object })
        })
    }
}

/// The number of a revision: a ReplicaSet has it as an annotation.
fn revision(item: &Value) -> Option<u64> {
    let annotation = &item["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
    item["revision"].as_u64().or_else(|| annotation.as_str()?.parse().ok())
}

/// What is there after a write.
pub(super) struct Seen {
    pub(super) object: Value,
    newest: u64,
    all: Vec<String>,
}

impl Seen {
    pub(super) fn template(&self) -> &Value {
        &self.object["spec"]["template"]
    }

    /// Whether a rollout began since `before`, be it to a new revision or to an old one again. Old revisions go away at any time after one
    /// (`revisionHistoryLimit`), which begins none.
    pub(super) fn rolled_since(&self, before: &Self) -> bool {
        self.newest != before.newest || self.all.iter().any(|name| !before.all.contains(name))
    }
}

/// An elected workload and its twin.
pub(super) struct Pair<'a> {
    stage: &'a Stage,
    twin: &'a Namespace<'static>,
    object: String,
    place: Place,
    /// The agent's image that the webhook injects.
    agent: String,
}

impl<'a> Pair<'a> {
    pub(super) fn new(stage: &'a Stage, twin: &'a Namespace<'static>, kind: &str, place: Place) -> Result<Self> {
        for namespace in [&stage.namespace, twin] {
            namespace.run(&["create", "serviceaccount", "builder"])?;
        }
        let object = format!("{}/{NAME}", kind.to_lowercase());
        Ok(Self { stage, twin, object, place, agent: stage.image("leader-agent")?.to_owned() })
    }

    pub(super) fn elected(&self) -> Side<'_> {
        Side { namespace: &self.stage.namespace, object: self.object.clone(), place: Some(self.place) }
    }

    pub(super) fn plain(&self) -> Side<'_> {
        Side { namespace: self.twin, object: self.object.clone(), place: None }
    }

    /// Makes both with a write, which is no row.
    pub(super) fn start(&self, write: &dyn Fn(&Side<'_>) -> Result<Output>) -> Result<()> {
        for side in [self.plain(), self.elected()] {
            let output = write(&side)?;
            ensure!(output.success(), "{}", output.stderr);
            side.settled()?;
        }
        self.same_content()
    }

    /// A row: the same write to both.
    pub(super) fn row(
        &self,
        group: &mut Group,
        what: &str,
        expected: Expected,
        write: &dyn Fn(&Side<'_>) -> Result<Output>,
    ) {
        group.row(what, || self.judge(expected, write));
    }

    fn judge(&self, expected: Expected, write: &dyn Fn(&Side<'_>) -> Result<Output>) -> Result<Outcome> {
        let (plain, elected) = (self.plain(), self.elected());
        let (plain_before, elected_before) = (plain.settled()?, elected.settled()?);
        let plain_said = write(&plain).context("the twin")?;
        let elected_said = write(&elected).context("the elected workload")?;
        match (plain_said.success(), elected_said.success()) {
            (true, true) => {}
            // A person would be refused without leader as well.
            (false, false) => {
                let may_be = [Expected::Refused, Expected::AsPlain].contains(&expected);
                ensure!(may_be, "both were refused: {plain_said:?}");
                ensure!(!elected.settled()?.rolled_since(&elected_before), "a refused write rolled out");
                return Ok(Outcome::Refused);
            }
            _ => bail!("the twin's writer was told {plain_said:?}, the elected one's {elected_said:?}"),
        }
        let (plain_after, elected_after) = (plain.settled()?, elected.settled()?);
        let (twin, rolled) = (plain_after.rolled_since(&plain_before), elected_after.rolled_since(&elected_before));
        let differs = || differences(elected_before.template(), elected_after.template());
        ensure!(twin == rolled, "rolled out: {rolled}, its twin: {twin}; in the template {}", differs());
        match expected {
            Expected::Nothing => ensure!(!rolled, "rolled out; in the template {}", differs()),
            Expected::Rollout => ensure!(rolled, "did not roll out: {}", elected_after.template()),
            Expected::AsPlain => {}
            Expected::Refused => bail!("nobody refused it: {elected_said:?}"),
        }
        if !rolled {
            ensure!(elected_after.template() == elected_before.template(), "in the template {}", differs());
        }
        self.compare(&elected_after.object, &plain_after.object)?;
        Ok(if rolled { Outcome::RolledOut } else { Outcome::Unchanged })
    }

    /// The elected workload is injected, and its user reads what the twin's user reads.
    pub(super) fn same_content(&self) -> Result<()> {
        self.compare(&self.elected().get()?, &self.plain().get()?)
    }

    fn compare(&self, elected: &Value, plain: &Value) -> Result<()> {
        match self.place {
            Place::Workload => self.injected(elected, plain)?,
            Place::Template => left_alone(elected)?,
        }
        let given_back = eject(elected)?;
        let (ours, theirs) = (at_no_time(&given_back["spec"]["template"]), at_no_time(&plain["spec"]["template"]));
        ensure!(ours == theirs, "ejected, against the twin: {}", differences(&theirs, &ours));
        let (ours, theirs) = (annotations(&given_back), annotations(plain));
        ensure!(ours == theirs, "annotations, ejected, against the twin: {}", differences(&theirs, &ours));
        Ok(())
    }

    /// The agent is where it has to be, in front of what the twin runs.
    fn injected(&self, elected: &Value, plain: &Value) -> Result<()> {
        let template = &elected["spec"]["template"];
        let spec = &template["spec"];
        let first = &spec["initContainers"][0];
        ensure!(first["name"] == names::INIT_CONTAINER, "the first init container is {first}");
        ensure!(first["image"] == *self.agent, "the agent's image is {}, not {}", first["image"], self.agent);
        ensure!(template["metadata"]["labels"][names::ID] == NAME, "the labels are {}", template["metadata"]["labels"]);
        let main = container(spec, MAIN)?;
        let twin = container(&plain["spec"]["template"]["spec"], MAIN)?;
        let mut command = json!([names::AGENT_PATH, "run", "--"]);
        command.as_array_mut().context("a list")?.extend(twin["command"].as_array().into_iter().flatten().cloned());
        ensure!(main["command"] == command, "the command is {}, not {command}", main["command"]);
        let record = record(template)?;
        for probe in PROBES {
            let users = twin[probe].as_object();
            ensure!(
                record["probes"][probe.trim_end_matches("Probe")].is_object() == users.is_some(),
                "{probe} of the user's is {users:?}, the record has {}",
                record["probes"]
            );
            if users.is_none() && probe != "readinessProbe" {
                ensure!(main[probe].is_null(), "{probe} is {}", main[probe]);
                continue;
            }
            let handlers: Vec<&str> = HANDLERS.into_iter().filter(|key| !main[probe][key].is_null()).collect();
            ensure!(handlers == ["httpGet"], "{probe} has {handlers:?}: {}", main[probe]);
            let path = main[probe]["httpGet"]["path"].as_str().unwrap_or_default();
            ensure!(path.starts_with("/leader.io/probe/"), "{probe} asks {path}");
        }
        for hook in ["postStart", "preStop"] {
            let users = twin["lifecycle"][hook].is_object();
            ensure!(record["hooks"][hook].is_object() == users, "{hook} in the record: {}", record["hooks"]);
            let ours = &main["lifecycle"][hook];
            let agents =
                ours.as_object().is_some_and(|hook| hook.len() == 1) && ours["exec"]["command"][0] == names::AGENT_PATH;
            ensure!(if users { agents } else { ours.is_null() }, "{hook} is {ours}, the user's {}", twin["lifecycle"]);
        }
        Ok(())
    }
}

/// The template asks for an election, and nothing is injected into it.
fn left_alone(elected: &Value) -> Result<()> {
    let template = &elected["spec"]["template"];
    let annotations = &template["metadata"]["annotations"];
    ensure!(annotations[names::ID] == NAME, "the template's annotations are {annotations}");
    ensure!(annotations[names::INJECTED].is_null(), "the template is injected");
    let inits = template["spec"]["initContainers"].as_array().into_iter().flatten();
    ensure!(inits.into_iter().all(|init| init["name"] != names::INIT_CONTAINER), "the template is injected");
    Ok(())
}

/// The record on an injected template.
pub(super) fn record(template: &Value) -> Result<Value> {
    let text = template["metadata"]["annotations"][names::INJECTED].as_str().context("no record")?;
    Ok(serde_json::from_str(text)?)
}

pub(super) fn container<'v>(spec: &'v Value, name: &str) -> Result<&'v Value> {
    let mut all = spec["containers"].as_array().into_iter().flatten();
    all.find(|container| container["name"] == name).with_context(|| format!("no container {name} in {spec}"))
}

/// What `kubectl leader eject` gives back.
pub(super) fn eject(object: &Value) -> Result<Value> {
    let cli = cli::Cli::try_parse_from(["kubectl-leader", "eject", "-f", "-", "-o", "json"])?;
    let (mut ejected, mut said) = (Vec::new(), Vec::new());
    cli::run(&cli, object.to_string().as_bytes(), &mut ejected, &mut said, false)?;
    Ok(serde_json::from_slice(&ejected)?)
}

/// The user's annotations on the workload.
fn annotations(object: &Value) -> Value {
    let all = object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    all.into_iter().filter(|(key, _)| !NOT_THE_USERS.contains(&key.as_str())).collect::<serde_json::Map<_, _>>().into()
}

/// A template without the moment of its restart: the two were not written in the same one.
fn at_no_time(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(moment) = template.pointer_mut("/metadata/annotations/kubectl.kubernetes.io~1restartedAt") {
        *moment = "at some time".into();
    }
    template
}

/// What differs, as a JSON Patch from one to the other.
pub(super) fn differences(from: &Value, to: &Value) -> String {
    json_patch::diff(from, to).to_string()
}
