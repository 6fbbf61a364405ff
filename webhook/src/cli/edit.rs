//! Injects and ejects the workloads of a file.

use leader_agent::names;
use serde_json::{Map, Value};

use super::{Error, Refused, documents::File, images::ImageSource};
use crate::inject::{self, Decision, Defaults, Facts, Outcome, Refusal};

/// Namespaces in which an installed webhook refuses what is annotated: the API server's own and, unless it was installed
/// elsewhere, the webhook's.
const NOT_INJECTED: [&str; 2] = ["kube-system", "leader-system"];

/// What the command line asks for beside the annotations.
pub(super) struct Asked<'a> {
    pub id: Option<&'a str>,
    pub container: Option<&'a str>,
    pub command: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// Key, option and value of each.
    fn annotations(&self) -> impl Iterator<Item = (&'static str, &'static str, &'a str)> {
        [
            (names::ID, "id", self.id),
            ("leader.io/container", "container", self.container),
            ("leader.io/command", "command", self.command),
        ]
        .into_iter()
        .filter_map(|(key, option, value)| Some((key, option, value?)))
    }
}

/// Injects what is annotated, and what was asked for. Returns warnings.
pub(super) fn inject(
    file: &mut File,
    asked: &Asked<'_>,
    defaults: &Defaults,
    source: &ImageSource,
) -> Result<Vec<String>, Error> {
    annotate(file, asked)?;
    let mut warnings = Vec::new();
    let mut refused = Vec::new();
    let mut elected = false;
    each_object(file, |place, object| match decide(object, defaults, source) {
        Ok(outcome) => {
            elected |= outcome.election.is_some();
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            if outcome.election.is_some() && NOT_INJECTED.contains(&namespace) {
                warnings.push(format!(
                    "{place}: the webhook refuses annotated workloads in namespace {namespace}: use another namespace"
                ));
            }
            warnings.extend(outcome.warnings.into_iter().map(|warning| format!("{place}: {warning}")));
            *object = outcome.object;
        }
        Err(refusal) => refused.push(Refused { place: place.to_owned(), refusal }),
    });
    if !refused.is_empty() {
        return Err(Error::Refused(refused));
    }
    if !elected {
        warnings.push(format!(
            "{}: nothing to inject: no workload, pod or pod template is annotated with leader.io/id; annotate one, or give --id",
            file.name
        ));
    }
    Ok(warnings)
}

/// The decision about an object of a file: nothing is live, and what the cluster's accounts are used for is not known.
fn decide(object: &Value, defaults: &Defaults, source: &ImageSource) -> Result<Outcome, Refusal> {
    let mut facts = Facts::default();
    loop {
        match inject::workload(object, None, defaults, &facts)? {
            Decision::Done(outcome) => return Ok(outcome),
            Decision::NeedsImage(request) => facts.image = Some(source.ask(&request)),
        }
    }
}

/// Ejects what is injected and takes our annotations off. Returns warnings.
pub(super) fn eject(file: &mut File) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut found = false;
    each_object(file, |place, object| {
        let outcome = inject::off(object);
        warnings.extend(outcome.warnings.into_iter().map(|warning| format!("{place}: {warning}")));
        found |= outcome.object != *object;
        *object = outcome.object;
    });
    if !found {
        warnings.push(format!("{}: nothing to eject: no workload or pod is injected or annotated", file.name));
    }
    warnings
}

/// Writes what was asked for into the annotations of the workload that it is about.
fn annotate(file: &mut File, asked: &Asked<'_>) -> Result<(), Error> {
    if asked.annotations().next().is_none() {
        return Ok(());
    }
    let mut workloads = Vec::new();
    let with_id = asked.id.is_some();
    each_object(file, |place, object| {
        let elected = object.pointer("/metadata/annotations").is_some_and(|all| all.get(names::ID).is_some());
        // --id turns one on, the others are about one that is on.
        if is_workload(object) && (with_id || elected) {
            workloads.push(place.to_owned());
        }
    });
    if workloads.len() != 1 {
        return Err(Error::NotOne {
            file: file.name.clone(),
            options: if with_id { "--id" } else { "--container or --command" },
            found: workloads,
            fix: if with_id {
                "annotate the ones to elect with leader.io/id instead, or give a file with one workload"
            } else {
                "annotate one workload with leader.io/id, or give --id"
            },
        });
    }
    let mut failure = None;
    each_object(file, |place, object| {
        if *place == workloads[0] {
            failure = write(place, object, asked).err();
        }
    });
    failure.map_or(Ok(()), Err)
}

/// Writes what was asked for into the annotations of a workload.
fn write(place: &str, object: &mut Value, asked: &Asked<'_>) -> Result<(), Error> {
    let annotations =
        annotations(object).map_err(|refusal| Error::Refused(vec![Refused { place: place.to_owned(), refusal }]))?;
    for (key, option, value) in asked.annotations() {
        match annotations.get(key) {
            Some(annotated) if *annotated != value => {
                return Err(Error::Contradiction {
                    workload: place.to_owned(),
                    key,
                    option,
                    annotated: annotated.as_str().map_or_else(|| annotated.to_string(), str::to_owned),
                    asked: value.to_owned(),
                });
            }
            _ => annotations.insert(key.to_owned(), value.into()),
        };
    }
    Ok(())
}

/// The annotations of an object, made where there are none.
fn annotations(object: &mut Value) -> Result<&mut Map<String, Value>, Refusal> {
    let mut place = object;
    for (key, path) in [("metadata", "metadata"), ("annotations", "metadata.annotations")] {
        if place[key].is_null() {
            place[key] = Value::Object(Map::new());
        }
        place = &mut place[key];
        if !place.is_object() {
            return Err(malformed(path));
        }
    }
    place.as_object_mut().ok_or_else(|| malformed("metadata.annotations"))
}

fn malformed(path: &str) -> Refusal {
    Refusal::Malformed { path: path.to_owned(), expected: "a map" }
}

fn is_workload(object: &Value) -> bool {
    matches!(object["kind"].as_str(), Some("Deployment" | "StatefulSet" | "DaemonSet"))
}

/// Calls `change` with the place and the value of each object of a file, those in lists too, and marks changed documents.
fn each_object(file: &mut File, mut change: impl FnMut(&str, &mut Value)) {
    for document in &mut file.documents {
        let mut value = document.changed.clone().unwrap_or_else(|| document.value.clone());
        let before = value.clone();
        let place = format!("{}:{}", document.file, document.line + document.head().lines().count());
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        let single = std::slice::from_mut(&mut value);
        let objects = match single {
            [Value::Object(list)] if is_list => {
                list.get_mut("items").and_then(Value::as_array_mut).map_or(&mut [][..], |items| items)
            }
            other => other,
        };
        for object in objects.iter_mut().filter(|object| object.is_object()) {
            change(&format!("{place}: {}", title(object)), object);
        }
        if value != before {
            document.changed = Some(value);
        }
    }
}

/// Kind and name of an object, as `Deployment shop/billing`.
pub(super) fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&object["kind"]).unwrap_or_else(|| "object".to_owned());
    let name = text(&object["metadata"]["name"]).unwrap_or_else(|| "without a name".to_owned());
    match text(&object["metadata"]["namespace"]) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
