//! The webhook's rights: none is missing, and there is none that it does not use.
//!
//! The test does what makes the webhook use each of them, and reads in the API server's audit log which it used. What other tests of
//! the run made it do counts as well, so that a request that was forbidden to it is seen whenever it was.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_tests::kit::Namespace;
use leader_tests::{Cluster, wait};
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::{Stage, until};
use crate::writer::Writer;

const NAMESPACE: &str = "leader-system";
const IN_NAMESPACE: &str = "--namespace=leader-system";
const USER: &str = "system:serviceaccount:leader-system:leader-webhook";
const CONFIGURATION: &str = "mutatingwebhookconfiguration/leader-webhook";
/// Above the time that the objects of an id are kept after its last pod.
const COLLECTION: Duration = Duration::from_mins(8);
/// At one of so many looks at the log, of which there are ten in a second, the refusal is asked for that is to be counted.
const SELDOM: usize = 100;

/// A verb on a kind of object that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    /// Where: everywhere, or in one namespace.
    namespace: Option<String>,
    group: String,
    resource: String,
    /// On these alone, where there are any.
    names: Vec<String>,
    verb: String,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    namespace: String,
    group: String,
    resource: String,
    name: String,
    verb: String,
}

impl Right {
    fn allows(&self, request: &Request) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace)
            && (self.names.is_empty() || self.names.contains(&request.name))
            && [(&self.group, &request.group), (&self.resource, &request.resource), (&self.verb, &request.verb)]
                .iter()
                .all(|(allowed, asked)| allowed == asked)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, group, resource, names, verb } = self;
        let whose = namespace.as_deref().map_or("ClusterRole", |_| "Role");
        write!(formatter, "{whose}: {verb} {resource}.{group} {}", names.join(", "))
    }
}

/// What the rules of a role allow, one by one.
fn rights(role: &Value, namespace: Option<&str>) -> Result<Vec<Right>> {
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut found = Vec::new();
    for rule in role["rules"].as_array().context("a role without rules")? {
        let (groups, resources, verbs) = (words(&rule["apiGroups"]), words(&rule["resources"]), words(&rule["verbs"]));
        for group in &groups {
            for resource in &resources {
                for verb in &verbs {
                    found.push(Right {
                        namespace: namespace.map(str::to_owned),
                        group: group.clone(),
                        resource: resource.clone(),
                        names: words(&rule["resourceNames"]),
                        verb: verb.clone(),
                    });
                }
            }
        }
    }
    Ok(found)
}

/// All that the webhook has.
fn all_rights(cluster: &Cluster) -> Result<Vec<Right>> {
    let installed = "--selector=app.kubernetes.io/part-of=leader.io";
    let (everywhere, at_home) =
        (cluster.get(&["clusterroles", installed])?, cluster.get(&[IN_NAMESPACE, "roles", installed])?);
    let mut all = Vec::new();
    for (roles, namespace) in [(everywhere, None), (at_home, Some(NAMESPACE))] {
        for role in roles["items"].as_array().context("a list without items")? {
            all.extend(rights(role, namespace)?);
        }
    }
    Ok(all)
}

/// The webhook's requests, from a line of the audit log: what it asked, and whether that was forbidden to it.
fn request(line: &str) -> Option<(Request, bool)> {
    // Most lines are others'.
    if !line.contains(USER) {
        return None;
    }
    let event: Value = serde_json::from_str(line).ok()?;
    if event["user"]["username"] != USER {
        return None;
    }
    let object = event.get("objectRef")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match object["subresource"].as_str() {
        Some(part) => format!("{}/{part}", text(&object["resource"])),
        None => text(&object["resource"]),
    };
    let request = Request {
        namespace: text(&object["namespace"]),
        group: text(&object["apiGroup"]),
        resource,
        name: text(&object["name"]),
        verb: text(&event["verb"]),
    };
    // A namespace that is being removed answers 403, too: that is no right that is missing.
    Some((request, event["annotations"]["authorization.k8s.io/decision"] == "forbid"))
}

/// What the webhook asked for, as far as the audit log was read.
#[derive(Default)]
struct Log {
    /// Up to where each file was read. The API server renames a file that has grown long; its number stays.
    read: HashMap<u64, u64>,
    asked: BTreeSet<Request>,
    forbidden: BTreeSet<Request>,
}

impl Log {
    fn read_on(&mut self, cluster: &Cluster) -> Result<()> {
        for path in cluster.audit_logs()? {
            // Renamed meanwhile: it is found under its new name the next time.
            let Ok(file) = File::open(path) else { continue };
            self.read_file(file)?;
        }
        Ok(())
    }

    fn read_file(&mut self, mut file: File) -> Result<()> {
        let read = self.read.entry(file.metadata()?.ino()).or_default();
        file.seek(SeekFrom::Start(*read))?;
        let mut lines = BufReader::new(file);
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            // The last line may be half written.
            if !line.ends_with('\n') {
                break;
            }
            *read += u64::try_from(line.len())?;
            if let Some((request, forbidden)) = request(&line) {
                let seen = if forbidden { &mut self.forbidden } else { &mut self.asked };
                seen.insert(request);
            }
            line.clear();
        }
        Ok(())
    }
}

#[test]
fn every_right_is_used_and_none_is_missing() -> Result<()> {
    let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
    // What the controller does in its own time needs no quiet, and goes on while other tests run.
    let slow = Namespace::new(cluster, "rights-slow")?;
    let mut granted = None;
    Stage::alone("rights", |stage| {
        abandon(&slow)?;
        leave_without_leader(&slow)?;
        make_a_bare_pod(&slow)?;
        turn_on(&slow)?;
        steer(&slow)?;
        stage.start(&Writer::new("rights").replicas(1).without_stamps().elected())?;
        granted = Some(rights(&stage.namespace.get(&["role/leader-rights"])?, None)?);
        edit_the_objects_of_an_id(stage)?;
        ask_for_entry_points(stage)?;
        lose_what_the_webhook_keeps(stage)
    })?;
    // Left out, as was said.
    let Some(granted) = granted else { return Ok(()) };

    let rights = all_rights(cluster)?;
    let (mut log, mut looks) = (Log::default(), 0);
    wait::until("every right to be used", COLLECTION, || {
        if looks % SELDOM == 0 {
            be_refused(&slow)?;
        }
        looks += 1;
        log.read_on(cluster)?;
        let unused = rights.iter().filter(|right| {
            // Only who has a right may give it to an id's pods.
            let given = granted.iter().any(|given| {
                (&given.group, &given.resource, &given.verb) == (&right.group, &right.resource, &right.verb)
            });
            !given && !log.asked.iter().any(|request| right.allows(request))
        });
        let unused: Vec<String> = unused.map(ToString::to_string).collect();
        ensure!(unused.is_empty(), "rights that the webhook does not use (deploy/base/access.yaml): {unused:#?}");
        Ok(())
    })?;
    // An API server that has just started forbids everything for a moment.
    let missing = log.forbidden.iter().filter(|request| !rights.iter().any(|right| right.allows(request)));
    let missing: Vec<_> = missing.collect();
    ensure!(missing.is_empty(), "the webhook asked for what it may not do (deploy/base/access.yaml): {missing:#?}");
    Ok(())
}

/// What [`maker`] makes, by another name, which its pods have as a label: nobody takes them for its own.
fn named(name: &str, mut object: Value) -> Value {
    let labels = json!({"app": name});
    object["metadata"]["name"] = json!(name);
    if object["spec"]["template"].is_object() {
        let is_old = object["kind"] == "ReplicationController";
        object["spec"]["selector"] = if is_old { labels.clone() } else { json!({"matchLabels": labels}) };
        object["spec"]["template"]["metadata"]["labels"] = labels;
    }
    object
}

/// An id whose workload is deleted: in the end its objects are removed.
fn abandon(namespace: &Namespace<'_>) -> Result<()> {
    let asking = json!({names::ID: "abandoned", "leader.io/lease-duration": "5s"});
    let mut workload = named("abandoned", maker("Deployment", &asking, &json!({})));
    workload["spec"]["replicas"] = json!(0);
    namespace.apply(&workload.to_string())?;
    namespace.run(&["get", "lease/abandoned", "serviceaccount/leader-abandoned"])?;
    namespace.run(&["delete", "deployment/abandoned"]).map(drop)
}

/// Ids with pods that cannot start, in a namespace with a network policy: nobody leads, and that is looked into.
fn leave_without_leader(namespace: &Namespace<'_>) -> Result<()> {
    for (kind, name) in [("StatefulSet", "one-by-one"), ("DaemonSet", "everywhere")] {
        let asking = json!({names::ID: name, "leader.io/lease-duration": "5s"});
        namespace.apply(&named(name, maker(kind, &asking, &json!({}))).to_string())?;
    }
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "no-way-out"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
    });
    namespace.apply(&policy.to_string()).map(drop)
}

/// A pod that nobody but its writer made: an Event is about itself.
fn make_a_bare_pod(namespace: &Namespace<'_>) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "annotations": {names::ID: "bare"}},
        "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
    });
    namespace.apply(&pod.to_string()).map(drop)
}

/// The same refusal at every call: its Event is made once, and counted from then on.
fn be_refused(namespace: &Namespace<'_>) -> Result<()> {
    let output = namespace.kubectl(&["annotate", "statefulset/one-by-one", "leader.io/port=nonsense"]).output()?;
    ensure!(!output.success() && output.stderr.contains("nonsense"), "{output:?}");
    Ok(())
}

/// Workloads of every kind whose pods there were before the annotation.
fn turn_on(namespace: &Namespace<'_>) -> Result<()> {
    let kinds = [
        ("Deployment", "deployed"),
        ("ReplicaSet", "replicated"),
        ("ReplicationController", "controlled"),
        ("CronJob", "scheduled"),
    ];
    for (kind, name) in kinds {
        let asking = json!({names::ID: name});
        let (on_workload, on_template) = if kind == "Deployment" { (asking, json!({})) } else { (json!({}), asking) };
        namespace.apply(&named(name, maker(kind, &json!({}), &json!({}))).to_string())?;
        namespace.apply(&named(name, maker(kind, &on_workload, &on_template)).to_string())?;
    }
    Ok(())
}

/// A Service for an id's leader, made, changed and given back: its slice is made, changed, and deleted in the end.
fn steer(namespace: &Namespace<'_>) -> Result<()> {
    let service = |port: u16, annotations: &Value| {
        let spec = json!({"selector": {"app": "one-by-one"}, "ports": [{"port": port}]});
        let metadata = json!({"name": "steered", "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}).to_string()
    };
    let slice_has = |port: u16| {
        until("the slice to have the Service's port", || {
            let slice = namespace.get(&["endpointslice", "steered-leader-ipv4"])?;
            ensure!(slice["ports"][0]["port"] == port, "{slice:#}");
            Ok(())
        })
    };
    // As a plain one it has Endpoints and a slice that are deleted.
    namespace.apply(&service(80, &json!({})))?;
    let only = json!({names::LEADER_ONLY: "one-by-one"});
    for port in [80, 81] {
        namespace.apply(&service(port, &only))?;
        slice_has(port)?;
    }
    namespace.apply(&service(81, &json!({})))?;
    // An Event about it needs its uid.
    namespace.apply(&service(80, &only).replace("steered", "made-for-the-leader")).map(drop)
}

/// Each object is changed where only a write, or a deletion, puts it right.
fn edit_the_objects_of_an_id(stage: &Stage) -> Result<()> {
    let object = "leader-rights";
    let patch = |kind: &str, patch: &Value| {
        let what = format!("{kind}/{object}");
        stage.namespace.run(&["patch", &what, "--type=merge", "--patch", &patch.to_string()])
    };
    patch("serviceaccount", &json!({"automountServiceAccountToken": false}))?;
    patch("role", &json!({"rules": []}))?;
    patch("rolebinding", &json!({"subjects": []}))?;
    repaired(stage)?;
    // What a binding gives cannot be changed: it is made again.
    stage.namespace.run(&["delete", "rolebinding", object])?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": object, "labels": {names::ID: "rights", "app.kubernetes.io/managed-by": "leader.io"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "another"},
    });
    // The controller may have been faster.
    let _ = stage.namespace.kubectl(&["create", "-f", "-"]).input(binding.to_string()).output()?;
    repaired(stage)
}

/// The next review of the workload, or the controller before it, puts everything right.
fn repaired(stage: &Stage) -> Result<()> {
    let mut tick = 0;
    until("the objects of the id to be as they should be", || {
        tick += 1;
        stage.namespace.run(&["annotate", "--overwrite", "deployment/rights", &format!("tick={tick}")])?;
        let role = stage.namespace.get(&["role/leader-rights"])?;
        ensure!(role["rules"][0]["resourceNames"] == json!(["rights"]), "{role:#}");
        let binding = stage.namespace.get(&["rolebinding/leader-rights"])?;
        ensure!(binding["subjects"][0]["name"] == "leader-rights", "{binding:#}");
        ensure!(binding["roleRef"]["name"] == "leader-rights", "{binding:#}");
        let account = stage.namespace.get(&["serviceaccount/leader-rights"])?;
        ensure!(account["automountServiceAccountToken"] != false, "{account:#}");
        Ok(())
    })
}

/// Entry points are asked for: with a pull secret, and where the registry does not answer.
fn ask_for_entry_points(stage: &Stage) -> Result<()> {
    let dry_run = |object: &Value| {
        stage.namespace.kubectl(&["create", "--dry-run=server", "-f", "-"]).input(object.to_string()).output()
    };
    let login = ["--docker-server=registry.invalid", "--docker-username=nobody", "--docker-password=nothing"];
    stage.namespace.run(&[&["create", "secret", "docker-registry", "login"], &login[..]].concat())?;
    let mut workload = maker("Deployment", &json!({names::ID: "asking"}), &json!({}));
    let pod = &mut workload["spec"]["template"]["spec"];
    pod["containers"] = json!([{"name": "app", "image": stage.image("leader-agent")?}]);
    pod["imagePullSecrets"] = json!([{"name": "login"}]);
    let output = dry_run(&workload)?;
    ensure!(output.success(), "{}", output.stderr);

    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "a", "controller": true}]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "asking", "annotations": {names::ID: "asking"}, "ownerReferences": owner},
        "spec": {"containers": [{"name": "app", "image": "127.0.0.1:1/app:1"}]},
    });
    let output = dry_run(&pod)?;
    ensure!(!output.success(), "an image whose registry does not answer has an entry point: {}", output.stdout);
    Ok(())
}

/// The authority's Secret is spoilt and deleted, the bundle emptied, and a replica started.
fn lose_what_the_webhook_keeps(stage: &Stage) -> Result<()> {
    let cluster = stage.namespace.cluster();
    let secret = [IN_NAMESPACE, "secret/leader-webhook-ca"];
    let bundle =
        || -> Result<Value> { Ok(cluster.get(&[CONFIGURATION])?["webhooks"][0]["clientConfig"]["caBundle"].clone()) };
    let answered = || {
        let probe = Writer::new("probe").without_stamps().elected().manifest(stage)?.to_string();
        until("reviews to be answered", || {
            stage.namespace.kubectl(&["create", "-f", "-", "--dry-run=server"]).input(&*probe).run()
        })
    };
    let empty = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
    cluster.kubectl(&["patch", CONFIGURATION, "--type=json", "--patch", &empty]).run()?;
    until("the bundle to be written", || {
        ensure!(bundle()?.is_string(), "it is empty");
        Ok(())
    })?;
    let spoilt = json!({"data": {"tls.key": "c3BvaWx0"}}).to_string();
    cluster.kubectl(&["patch", "--type=merge", "--patch", &spoilt]).args(secret).run()?;
    until("the Secret to be repaired", || {
        ensure!(cluster.get(&secret)?["data"]["tls.key"] != "c3BvaWx0", "it is spoilt");
        Ok(())
    })?;
    answered()?;
    cluster.kubectl(&["delete"]).args(secret).run()?;
    until("the Secret to be made again", || cluster.get(&secret))?;
    answered()?;
    cluster.kubectl(&["rollout", "restart", "deployment/leader-webhook", IN_NAMESPACE]).run()?;
    let status = ["rollout", "status", "deployment/leader-webhook", IN_NAMESPACE, "--timeout=180s"];
    cluster.kubectl(&status).run()?;
    answered().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verb: &str, object: &Value, decision: &str) -> String {
        json!({
            "verb": verb, "user": {"username": USER}, "objectRef": object,
            "annotations": {"authorization.k8s.io/decision": decision},
        })
        .to_string()
    }

    #[test]
    fn what_is_asked_for_is_told_from_the_log() {
        let secret = json!({"resource": "secrets", "namespace": "leader-system", "name": "ca"});
        let (asked, forbidden) = request(&line("get", &secret, "allow")).unwrap();
        assert!(!forbidden && request(&line("get", &secret, "forbid")).unwrap().1);
        assert_eq!((asked.resource.as_str(), asked.group.as_str(), asked.name.as_str()), ("secrets", "", "ca"));
        let part = json!({"resource": "pods", "subresource": "status", "namespace": "a", "name": "b"});
        assert_eq!(request(&line("patch", &part, "allow")).unwrap().0.resource, "pods/status");
        assert_eq!(request(&line("get", &secret, "allow").replace(USER, "somebody")), None);
        assert_eq!(request("{\"half"), None);
    }

    #[test]
    fn what_a_rule_allows() {
        let role = json!({"rules": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["ca"], "verbs": ["get", "update"]},
            {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["list"]},
        ]});
        let rights = rights(&role, Some("leader-system")).unwrap();
        assert_eq!(rights.len(), 4);
        let asked = |verb: &str, namespace: &str, name: &str| {
            let object = json!({"resource": "secrets", "namespace": namespace, "name": name});
            let (request, _) = request(&line(verb, &object, "allow")).unwrap();
            rights.iter().any(|right| right.allows(&request))
        };
        assert!(asked("get", "leader-system", "ca") && asked("list", "leader-system", ""));
        assert!(!asked("get", "leader-system", "other") && !asked("get", "shop", "ca"));
        assert!(!asked("delete", "leader-system", "ca"));
    }
}
