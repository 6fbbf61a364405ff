//! Workloads of the specimen, which writes down what happens to it, and the folder in which it does so.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_specimen::event::{self, Event, Process, What};
use serde_json::{Value, json};

use crate::stage::{Stage, until};

/// The container of a specimen's pod.
pub(crate) const CONTAINER: &str = "specimen";
/// Where the program finds its folder.
const FOLDER: &str = "/specimen-folder";

/// A specimen, and all its pods, under one name.
pub(crate) struct Specimen<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) name: String,
    folder: PathBuf,
}

impl<'a> Specimen<'a> {
    /// Makes its folder, and nothing else.
    pub(crate) fn new(stage: &'a Stage, name: &str) -> Result<Self> {
        let folder = stage.stamps(name)?;
        let events = folder.join(event::FILE);
        // Pods of several users write there.
        File::create(&events)?;
        fs::set_permissions(&events, Permissions::from_mode(0o666))?;
        Ok(Self { stage, name: name.to_owned(), folder })
    }

    /// A pod's specification with one container, changed as JSON Merge Patch has it (RFC 7396).
    pub(crate) fn pod(&self, container: &Value) -> Result<Value> {
        let mut whole = json!({
            "name": CONTAINER,
            "image": self.stage.image("leader-specimen")?,
            "command": ["/specimen"],
            "env": environment(&[]),
            // Without a request every busy process of the machine would come first.
            "resources": {"requests": {"cpu": "10m"}},
            "volumeMounts": [{"name": "folder", "mountPath": FOLDER}],
        });
        json_patch::merge(&mut whole, container);
        Ok(json!({
            "terminationGracePeriodSeconds": 5,
            "containers": [whole],
            "volumes": [{"name": "folder", "hostPath": {"path": self.folder, "type": "Directory"}}],
        }))
    }

    /// A Deployment of pods with this specification, elected under its own name.
    pub(crate) fn deployment(&self, replicas: u32, pod: &Value) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.name, "annotations": self.annotations()},
            "spec": self.workload(replicas, pod),
        })
    }

    /// Turns election on.
    pub(crate) fn annotations(&self) -> Value {
        json!({names::ID: self.name, "leader.io/lease-duration": "15s"})
    }

    /// What the specifications of all kinds of workload have.
    pub(crate) fn workload(&self, replicas: u32, pod: &Value) -> Value {
        let labels = json!({"app": self.name});
        json!({
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        })
    }

    /// Applies an object; what kubectl said on standard error, warnings among it.
    pub(crate) fn apply(&self, object: &Value) -> Result<String> {
        let output = self.stage.namespace.kubectl(&["apply", "-f", "-"]).input(object.to_string()).output()?;
        ensure!(output.success(), "kubectl apply: {}", output.stderr);
        Ok(output.stderr)
    }

    /// Applies an object that must be refused; the message.
    pub(crate) fn refused(&self, object: &Value) -> Result<String> {
        let output = self.stage.namespace.kubectl(&["apply", "-f", "-"]).input(object.to_string()).output()?;
        ensure!(!output.success(), "it was let through: {}{}", output.stdout, output.stderr);
        ensure!(output.stderr.contains("denied the request"), "{}", output.stderr);
        Ok(output.stderr)
    }

    pub(crate) fn wait_until_rolled_out(&self, kind: &str) -> Result<()> {
        let object = format!("{kind}/{}", self.name);
        self.stage.namespace.run(&["rollout", "status", &object, "--timeout=180s"]).map(drop)
    }

    /// Everything that happened so far, in order.
    pub(crate) fn events(&self) -> Result<Vec<Event>> {
        event::read(&self.folder).context("cannot read the specimen's events")
    }

    /// How the program was started, each time.
    pub(crate) fn starts(&self) -> Result<Vec<(Event, Process)>> {
        let started = |event: Event| match event.what.clone() {
            What::Started(process) => Some((event, process)),
            _ => None,
        };
        Ok(self.events()?.into_iter().filter_map(started).collect())
    }

    /// Waits for the first start.
    pub(crate) fn started(&self) -> Result<Process> {
        until(&format!("the specimen {} to be started", self.name), || {
            let (_, process) = self.starts()?.into_iter().next().context("it was not")?;
            Ok(process)
        })
    }

    /// Tells the program something by a file: `failing` or `deaf`, of all pods or, as `failing-POD`, of one.
    pub(crate) fn tell(&self, file: &str) -> Result<()> {
        File::create(self.folder.join(file)).map(drop).with_context(|| format!("cannot make the file {file}"))
    }

    /// Takes back what it was told.
    pub(crate) fn take_back(&self, file: &str) -> Result<()> {
        fs::remove_file(self.folder.join(file)).with_context(|| format!("cannot remove the file {file}"))
    }

    /// The pods that are not being deleted.
    pub(crate) fn pods(&self) -> Result<Vec<Value>> {
        let list = self.stage.namespace.get(&["pods", "--selector", &format!("app={}", self.name)])?;
        let pods = list["items"].as_array().context("a list without items")?;
        Ok(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect())
    }

    /// The pod that holds the Lease and whose app runs: waited for.
    pub(crate) fn leader(&self) -> Result<String> {
        self.leader_but(&[])
    }

    /// As [`Specimen::leader`], and it must be none of these.
    pub(crate) fn leader_but(&self, others: &[&str]) -> Result<String> {
        until(&format!("a leader of {} that is none of {others:?}", self.name), || {
            let lease = self.stage.namespace.get(&["lease", &self.name])?;
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            let pod = holder.split('_').next().unwrap_or_default().to_owned();
            ensure!(!pod.is_empty() && !others.contains(&pod.as_str()), "the holder is {holder:?}");
            let running = self.stage.namespace.processes(&pod, CONTAINER)?;
            ensure!(!running.app().is_empty(), "{pod} holds the Lease, and its app does not run");
            Ok(pod)
        })
    }
}

/// The container's `env`, with more variables.
pub(crate) fn environment(more: &[(&str, &str)]) -> Value {
    let mut all = vec![
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "SPECIMEN_FOLDER", "value": FOLDER}),
    ];
    all.extend(more.iter().map(|(name, value)| json!({"name": name, "value": value})));
    all.into()
}

/// Since when a pod has been ready, as the API has it; an error when it is not ready.
pub(crate) fn ready_since(pod: &Value) -> Result<&str> {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.clone().find(|condition| condition["type"] == "Ready").context("no condition Ready")?;
    ensure!(ready["status"] == "True", "{} is not ready: {ready}", name(pod));
    ready["lastTransitionTime"].as_str().context("no time")
}

/// How often a pod's containers were restarted.
pub(crate) fn restarts(pod: &Value) -> u64 {
    let all = ["containerStatuses", "initContainerStatuses"].into_iter();
    all.filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum()
}

/// An object's name.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// A time span that the long run makes longer.
pub(crate) fn watched() -> Duration {
    if crate::stage::long() { Duration::from_mins(5) } else { Duration::from_mins(1) }
}
