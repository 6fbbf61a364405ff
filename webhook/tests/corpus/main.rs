//! The manifests in `tests/corpus`: what users write, in every shape that the API has a field for.

mod fields;
mod files;
mod round_trips;

use std::{fs, path::PathBuf};

use leader_agent::names;
use serde_json::Value;

/// A file of the corpus.
struct Manifest {
    /// Its name in the folder.
    name: String,
    text: String,
}

/// The folder with this name in the corpus, `.` for the corpus itself.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus").join(name)
}

/// The manifests in a folder of the corpus, in the order of their names.
fn manifests(name: &str) -> Vec<Manifest> {
    let paths = fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path());
    let is_manifest = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "yaml" || kind == "json");
    let mut paths: Vec<PathBuf> = paths.filter(is_manifest).collect();
    paths.sort();
    let read = |path: PathBuf| Manifest {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        text: fs::read_to_string(&path).unwrap(),
    };
    paths.into_iter().map(read).collect()
}

impl Manifest {
    /// Its objects, those in lists one by one.
    fn objects(&self) -> Vec<Value> {
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&self.text, options)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let objects = documents.into_iter().flat_map(|document| match document {
            Value::Object(mut list) if list["kind"] == "List" => {
                list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()
            }
            Value::Null => Vec::new(),
            object => vec![object],
        });
        objects.collect()
    }
}

/// Where the pod of an object is: its metadata and specification, as a JSON pointer.
fn pod_of(object: &Value) -> Option<&'static str> {
    match object["kind"].as_str()? {
        "Pod" => Some(""),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => object.pointer("/spec/template/spec").map(|_| "/spec/template"),
    }
}

/// The id that an object or the pod template in it asks for.
fn id(metadata: &Value) -> Option<&str> {
    metadata["annotations"][names::ID].as_str()
}

/// The object without our annotations, those on its pod template too. A map that held nothing else goes as well.
fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    for holder in ["", pod_of(&object).unwrap_or_default()] {
        let metadata = object.pointer_mut(&format!("{holder}/metadata")).and_then(Value::as_object_mut);
        let Some(metadata) = metadata else { continue };
        let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { continue };
        let before = annotations.len();
        annotations.retain(|key, _| !key.starts_with(names::PREFIX));
        if annotations.is_empty() && before > 0 {
            metadata.shift_remove("annotations");
        }
    }
    object
}
