//! The manifests of `tests/corpus` on a real API server: accepted as they are injected, and given back as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use leader_agent::names;
use leader_tests::Cluster;
use leader_tests::image::{Format, Image};
use leader_tests::kit::Namespace;
use leader_webhook::cli;
use serde_json::{Map, Value, json};

use crate::stage::Stage;

/// In the manifests the name of an image that has an entry point.
const WITH_ENTRY_POINT: &str = "registry.example/entry-point:1";
/// Kinds that leader injects where the id stands on them.
const INJECTED: [&str; 4] = ["Deployment", "StatefulSet", "DaemonSet", "Pod"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The API server's own list of a pod's fields, as `fields.txt` has it.
fn documented(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let text = cluster.kubectl(&["get", "--raw", "/openapi/v3/apis/apps/v1"]).run()?;
    let document: Value = serde_json::from_str(&text)?;
    let schemas = &document["components"]["schemas"];
    let has_fields = |name: &str| schemas[name]["properties"].is_object();
    let reference = |schema: &Value| {
        let inside = schema["allOf"].as_array().into_iter().flatten().chain([schema, &schema["items"]]);
        let names: Vec<String> = inside
            .chain(schema["items"]["allOf"].as_array().into_iter().flatten())
            .filter_map(|schema| Some(schema["$ref"].as_str()?.rsplit('/').next()?.to_owned()))
            .collect();
        names.into_iter().find(|name| has_fields(name))
    };
    let short = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let (mut fields, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut open = vec!["io.k8s.api.core.v1.PodSpec".to_owned()];
    while let Some(kind) = open.pop() {
        if !seen.insert(kind.clone()) {
            continue;
        }
        let properties = schemas[&kind]["properties"].as_object().with_context(|| format!("{kind} has no fields"))?;
        for (name, schema) in properties {
            let field = format!("{}.{name}", short(&kind));
            match reference(schema) {
                Some(of) => {
                    fields.insert(format!("{field} {}", short(&of)));
                    open.push(of);
                }
                None => drop(fields.insert(field)),
            }
        }
    }
    Ok(fields)
}

#[test]
fn corpus_list_of_fields_is_the_api_servers() -> Result<()> {
    let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
    let text = fs::read_to_string(folder().join("fields.txt"))?;
    let listed: BTreeSet<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let documented = documented(cluster)?;
    let missing: Vec<_> = documented.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&documented).collect();
    ensure!(
        missing.is_empty() && gone.is_empty(),
        "fields.txt lacks {missing:#?}, and has {gone:#?} that are not documented"
    );
    Ok(())
}

/// `kubectl leader` on a text.
fn leader(words: &[&str], text: &str) -> Result<String> {
    let cli = cli::Cli::try_parse_from([&["kubectl-leader"], words, &["-f", "-"]].concat())?;
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    cli::run(&cli, text.as_bytes(), &mut printed, &mut said, false)?;
    Ok(String::from_utf8(printed)?)
}

/// The objects in what kubectl or the command line prints: one after the other, or in a list.
fn objects(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter() {
        let mut value: Value = value?;
        if value["kind"] == "List" {
            objects.append(value["items"].as_array_mut().context("a list without items")?);
        } else {
            objects.push(value);
        }
    }
    Ok(objects)
}

/// Where the pod template of an object is, or the pod itself.
fn pod_of(object: &Value) -> Option<&'static str> {
    match object["kind"].as_str()? {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => object.pointer("/spec/template/spec").map(|_| "/spec/template"),
    }
}

fn id(holder: &Value) -> Option<&str> {
    holder["metadata"]["annotations"][names::ID].as_str()
}

/// The API server, asked what it would store.
struct Server<'a>(&'a Namespace<'static>);

impl Server<'_> {
    fn would_store(&self, object: &Value) -> Result<Value> {
        let create = self.0.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"]);
        Ok(serde_json::from_str(&create.input(object.to_string()).run()?)?)
    }

    /// What it would store of the user's word in an object: all but what differs between two requests.
    fn word(&self, object: &Value) -> Result<Value> {
        Ok(word(&self.would_store(object)?))
    }
}

/// The specification, and the user's labels and annotations.
fn word(stored: &Value) -> Value {
    let mut stored = stored.clone();
    let metadata = &stored["metadata"];
    let metadata = json!({"labels": metadata["labels"], "annotations": metadata["annotations"]});
    stored["metadata"] = metadata;
    stored.as_object_mut().map(|stored| stored.shift_remove("status"));
    told_apart(&mut stored);
    stored
}

/// Takes out what the API server invents anew for each request: the name of a pod's token volume, and the uid of a Job.
fn told_apart(value: &mut Value) {
    const TOKEN: &str = "kube-api-access-";
    match value {
        Value::Array(items) => items.iter_mut().for_each(told_apart),
        Value::Object(fields) => {
            for key in ["controller-uid", "batch.kubernetes.io/controller-uid"] {
                fields.shift_remove(key);
            }
            fields.values_mut().for_each(told_apart);
        }
        Value::String(text) if text.starts_with(TOKEN) => TOKEN.clone_into(text),
        _ => {}
    }
}

/// Without our annotations, those on the pod template too.
fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    let pod = pod_of(&object).unwrap_or_default();
    for holder in ["", pod] {
        let metadata = object.pointer_mut(&format!("{holder}/metadata")).and_then(Value::as_object_mut);
        let Some(metadata) = metadata else { continue };
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| !key.starts_with(names::PREFIX));
            if annotations.is_empty() {
                metadata.shift_remove("annotations");
            }
        }
    }
    object
}

fn ejected(object: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&leader(&["eject", "-o", "json"], &object.to_string())?)?)
}

fn differs(what: &str, expected: &Value, found: &Value) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    bail!("{what} differs: {}", json_patch::diff(expected, found))
}

fn ensure_injected(stored: &Value) -> Result<()> {
    let pod = stored.pointer(pod_of(stored).unwrap_or_default()).context("no pod")?;
    let init = &pod["spec"]["initContainers"][0];
    ensure!(init["name"] == names::INIT_CONTAINER, "it is not injected: {pod:#}");
    Ok(())
}

/// An object with the id on it: through the webhook, and injected by hand before.
fn by_object(server: &Server<'_>, object: &Value) -> Result<()> {
    let expected = server.word(&plain(object)).context("the plain one")?;
    let stored = server.would_store(object).context("through the webhook")?;
    ensure_injected(&stored)?;
    differs("what the webhook injects, ejected,", &expected, &word(&ejected(&stored)?))?;
    let mut by_hand = object.clone();
    if object.to_string().contains("/corpus:1") {
        // The command line is outside of the cluster's network, and cannot ask its registry.
        by_hand["metadata"]["annotations"]["leader.io/command"] = r#"["/specimen"]"#.into();
    }
    let injected: Value = serde_json::from_str(&leader(&["inject", "--offline", "-o", "json"], &by_hand.to_string())?)?;
    let stored = server.would_store(&injected).context("injected by hand")?;
    ensure_injected(&stored)?;
    // A file's handlers are without the defaults that the API server fills in, and so they are in the record.
    let mut ejected = ejected(&stored)?;
    ejected["metadata"].as_object_mut().map(|metadata| metadata.shift_remove("uid"));
    differs("what was injected by hand, ejected and stored,", &expected, &server.word(&ejected)?)
}

/// An object with the id on its pod template: it stays, and the pod that comes of it is injected.
fn by_template(server: &Server<'_>, object: &Value) -> Result<()> {
    let stored = server.would_store(object).context("through the webhook")?;
    let expected = server.word(&plain(object)).context("the plain one")?;
    differs("what carries the id on its template", &expected, &plain(&word(&stored)))?;
    let template = stored.pointer(pod_of(object).unwrap_or_default()).context("no template")?;
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["generateName"] = "made-".into();
    by_object(server, &pod).context("its pod")
}

/// What the ids need to be there already, because a dry run makes nothing: pods of an account that does not exist are refused. Nobody
/// names these ids for longer than two minutes on a busy machine: a hold keeps the controller from collecting what they have.
fn accounts(namespace: &Namespace<'_>, ids: &BTreeSet<String>) -> Result<()> {
    let account = |name: String, labels: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": labels}});
    let mut items = Vec::new();
    for id in ids {
        let labels = json!({"app.kubernetes.io/managed-by": "leader.io", names::ID: id});
        items.push(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": id, "labels": labels, "annotations": {names::HOLD: "the corpus is read"}},
            "spec": {},
        }));
        items.push(account(format!("leader-{id}"), labels));
    }
    for users in ["signer", "old-timer", "release-name-shop"] {
        items.push(account(users.to_owned(), json!({})));
    }
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).map(drop)
}

/// The files in a folder of the corpus, by their names, with an image in place that the cluster can ask about.
fn files(folder: &Path, image: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "yaml" || kind == "json") {
            let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
            files.insert(name, fs::read_to_string(&path)?.replace(WITH_ENTRY_POINT, image));
        }
    }
    Ok(files)
}

#[test]
fn corpus_is_accepted_and_given_back_as_it_was() -> Result<()> {
    Stage::bare("corpus", &[], |stage| {
        let cluster = stage.namespace.cluster();
        cluster.apply(&fs::read_to_string(folder().join("support/cluster.yaml"))?)?;
        cluster.kubectl(&["wait", "crd/rollouts.rollouts.corpus.example", "--for=condition=Established"]).run()?;
        let registry = cluster.image_registry();
        let image = Image::from(&registry, stage.image("leader-specimen")?)?
            .configured(json!({"Entrypoint": ["/specimen"], "Cmd": ["$(WORD)"], "StopSignal": "SIGQUIT"}))
            .push(&registry, "corpus:1", Format::Oci)?;
        let files = files(&folder(), &image)?;
        ensure!(files.len() >= 45, "only {} manifests", files.len());

        let server = Server(&stage.namespace);
        let mut all = Vec::new();
        let mut failed = Vec::new();
        for (name, text) in &files {
            let read = stage.namespace.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", "-"]);
            // As kubectl reads it, and as the command line does.
            let read = objects(&read.input(&**text).run().with_context(|| name.clone())?)?;
            let own = objects(&leader(&["eject", "-o", "json"], text).with_context(|| name.clone())?)?;
            for (kubectls, own) in read.iter().zip(&own) {
                let specification = |object: &Value| without_empty(&plain(object)["spec"]);
                if let Err(error) = differs("what kubectl reads", &specification(kubectls), &specification(own)) {
                    failed.push(format!("{name}: {error:#}"));
                }
            }
            all.extend(read.into_iter().map(|object| (name, object)));
        }
        let ids = all.iter().flat_map(|(_, object)| {
            let holders = ["", pod_of(object).unwrap_or_default()];
            holders.into_iter().filter_map(|holder| id(object.pointer(holder)?).map(str::to_owned)).collect::<Vec<_>>()
        });
        accounts(&stage.namespace, &ids.collect())?;
        let mut elected = 0;
        for (name, object) in &all {
            let on_template =
                pod_of(object).and_then(|place| object.pointer(place)).is_some_and(|pod| id(pod).is_some());
            let result = if id(object).is_some() {
                ensure!(INJECTED.iter().any(|kind| object["kind"] == *kind), "{name}: {object:#}");
                by_object(&server, object)
            } else if on_template {
                by_template(&server, object)
            } else {
                continue;
            };
            elected += 1;
            if let Err(error) = result {
                failed.push(format!("{name}: {} {}: {error:#}", object["kind"], object["metadata"]["name"]));
            }
        }
        ensure!(failed.is_empty(), "{} of {elected} failed:\n{}", failed.len(), failed.join("\n"));
        ensure!(elected >= 60, "only {elected} objects are elected");
        Ok(())
    })
}

/// Without nulls and what is empty, of which kubectl drops some; and 1e9 is 1000000000.
fn without_empty(value: &Value) -> Value {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match value {
        Value::Array(items) => items.iter().map(without_empty).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            fields.filter(|(_, value)| !is_empty(value)).collect::<Map<_, _>>().into()
        }
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 => json!(whole),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

#[test]
fn corpus_of_refusals_is_refused() -> Result<()> {
    Stage::bare("corpus-refused", &[], |stage| {
        accounts(&stage.namespace, &BTreeSet::from(["debugged".to_owned()]))?;
        for (name, text) in files(&folder().join("refused"), "")? {
            let reason = text.lines().next().and_then(|line| line.split_once(": ")).context("no reason")?.1;
            let create = stage.namespace.kubectl(&["create", "--dry-run=server", "-f", "-"]);
            let said = create.input(&*text).output()?;
            ensure!(!said.success(), "{name} was let through: {}", said.stdout);
            ensure!(said.stderr.contains(reason), "{name}: no `{reason}` in {}", said.stderr);
        }
        Ok(())
    })
}
