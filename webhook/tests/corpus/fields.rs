//! Every field that the API documents is used by some manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use serde_json::Value;

use super::{folder, manifests, pod_of};

/// Fields that only a refused manifest uses, by the beginning of their names, with the reason.
const ONLY_REFUSED: [(&str, &str); 5] = [
    ("EphemeralContainer.", "nobody may create a pod with ephemeral containers"),
    ("PodSpec.ephemeralContainers", "as above"),
    ("WindowsSecurityContextOptions.", "Windows has no agent"),
    ("PodSecurityContext.windowsOptions", "as above"),
    ("SecurityContext.windowsOptions", "as above"),
];

/// Fields that no manifest uses, by the beginning of their names, with the reason.
const UNUSED: [(&str, &str); 2] = [
    ("ManagedFieldsEntry.", "written by the API server"),
    ("OwnerReference.", "may not be set in an ephemeral volume's claim, the only object in a pod's specification"),
];

/// Fields of [`ObjectMeta`](UNUSED) that may be set in an ephemeral volume's claim.
const CLAIM_METADATA: [&str; 2] = ["ObjectMeta.annotations", "ObjectMeta.labels"];

/// The documented fields, each with the type that its own fields are of.
fn documented() -> BTreeMap<String, Option<String>> {
    let text = fs::read_to_string(folder(".").join("fields.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| match line.split_once(' ') {
            Some((field, kind)) => (field.to_owned(), Some(kind.to_owned())),
            None => (line.to_owned(), None),
        })
        .collect()
}

/// Takes down the fields of a value of this type, and of the values in it.
fn walk(value: &Value, kind: &str, documented: &BTreeMap<String, Option<String>>, used: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, kind, documented, used)),
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let field = format!("{kind}.{name}");
                let below = documented.get(&field).unwrap_or_else(|| panic!("the API documents no {field}"));
                if let Some(kind) = below {
                    walk(value, kind, documented, used);
                }
                used.insert(field);
            }
        }
        _ => {}
    }
}

fn used(folder: &str) -> BTreeSet<String> {
    let documented = documented();
    let mut used = BTreeSet::new();
    for manifest in manifests(folder) {
        for object in manifest.objects() {
            if let Some(pod) = pod_of(&object) {
                walk(&object.pointer(pod).unwrap()["spec"], "PodSpec", &documented, &mut used);
            }
        }
    }
    used
}

#[test]
fn every_documented_field_is_used() {
    let (accepted, refused) = (used("."), used("refused"));
    let excepted = |field: &str, exceptions: &[(&str, &str)]| exceptions.iter().any(|(of, _)| field.starts_with(of));
    let missing: Vec<String> = documented()
        .into_keys()
        .filter(|field| !accepted.contains(field))
        .filter(|field| !(refused.contains(field) && excepted(field, &ONLY_REFUSED)))
        .filter(|field| !excepted(field, &UNUSED))
        .filter(|field| !field.starts_with("ObjectMeta.") || CLAIM_METADATA.contains(&field.as_str()))
        .collect();
    assert!(missing.is_empty(), "no manifest of tests/corpus uses {missing:#?}");
}

#[test]
fn exceptions_are_needed() {
    let (accepted, refused) = (used("."), used("refused"));
    for (of, why) in ONLY_REFUSED {
        assert!(refused.iter().any(|field| field.starts_with(of)), "{of} ({why}) is in no refused manifest");
        assert!(!accepted.iter().any(|field| field.starts_with(of)), "{of} ({why}) is in an accepted manifest");
    }
    for (of, why) in UNUSED {
        assert!(documented().keys().any(|field| field.starts_with(of)), "{of} ({why}) is not documented");
    }
}
