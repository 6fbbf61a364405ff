//! Eject: gives back the pod template that the user wrote, from an injected one or any mixture of both.

use leader_agent::{mode::Mode, names};
use serde_json::{Map, Value};

use super::{
    handlers,
    json::{
        annotation, clear, close, containers, containers_mut, is_empty, items, list_of_texts, take_out, text, texts,
    },
    parts, pull_secrets,
    record::{Original, Record, dedicated_name},
};

/// Whether something of an injection is in a template, beside the record.
fn has_traces(template: &Value) -> bool {
    containers(template).iter().any(|container| {
        ["command", "args"].iter().any(|key| parts::unwrap(&texts(container, key)).is_some())
            || handlers::has_traces(container)
    }) || template.get("spec").is_some_and(|spec| items(spec, "initContainers").iter().any(parts::is_init_container))
}

/// Whether an injection was into this container, as far as what is left of it tells.
fn is_wrapped(container: &Value) -> bool {
    ["command", "args"].iter().any(|key| parts::unwrap(&texts(container, key)).is_some())
        || handlers::has_traces(container)
        || items(container, "volumeMounts").iter().any(parts::is_agents_mount)
        || items(container, "env").iter().any(parts::is_record)
}

/// Something of an injection, or of a record, is in the template.
pub(super) fn is_touched(template: &Value) -> bool {
    annotation(template, names::INJECTED).is_some() || has_traces(template)
}

/// The user's template in an injected one.
///
/// Without a record it takes out what it knows by name, and what stood there before the injection is not known. `ids` are
/// the ids under which the template may have been injected, beside the record's.
pub(super) fn eject(template: &Value, record: Option<&Record>, ids: &[&str]) -> Value {
    let mut template = template.clone();
    let unknown = Original::default();
    let original = record.map_or(&unknown, |record| &record.original);
    let ids: Vec<&str> = record.map(|record| record.id.as_str()).into_iter().chain(ids.iter().copied()).collect();
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        take_out(spec, "initContainers", &original.empty, parts::is_init_container);
        take_out(spec, "volumes", &original.empty, parts::is_volume);
        pull_secrets::remove(spec, record, &original.empty);
        account(spec, record, original, &ids);
    }
    // It was renamed, then.
    let is_gone = record.is_some_and(|record| {
        containers(&template).iter().all(|container| text(container, "name") != Some(&record.container))
    });
    for container in containers_mut(&mut template) {
        let name = text(container, "name").unwrap_or_default().to_owned();
        let mut names = vec![name.as_str()];
        names.extend(record.map(|record| record.container.as_str()));
        let renamed = is_gone && handlers::has_traces(container);
        let handlers_of = record.filter(|record| record.container == name || renamed);
        let record = record.filter(|record| record.container == name);
        // Another container may have the same variables for a purpose of its own.
        let wrapped = record.is_some_and(|record| record.mode != Mode::Observe) || is_wrapped(container);
        let Some(container) = container.as_object_mut() else { continue };
        handlers::restore(container, handlers_of);
        let nothing = Map::new();
        let beside = original.beside.get(&name).unwrap_or(&nothing);
        let notes = record.map_or(beside, |record| &record.original.empty);
        take_out(container, "volumeMounts", notes, parts::is_mount);
        take_out(container, "env", notes, |item| wrapped && parts::is_variable(item, &names));
        command(container, record, notes);
    }
    metadata(&mut template, record, original, &ids);
    template
}

/// Puts the container's own command back, or keeps the new one that stands in its place.
fn command(container: &mut Map<String, Value>, record: Option<&Record>, notes: &Map<String, Value>) {
    let now = list_of_texts(container.get("command"));
    let is_ours = |args: &Vec<String>| list_of_texts(container.get("args")) == *args;
    if record.and_then(|record| record.args.as_ref()).is_some_and(is_ours) {
        // Beside a new command of the user's too: the image's CMD is not for that one.
        clear(container, "args", notes);
    }
    let of_record = |record: &&Record| record.mode != Mode::Observe && now == parts::wrap(&record.command);
    if let Some(record) = record.filter(of_record) {
        if record.original.sets_command {
            container.insert("command".to_owned(), record.command.clone().into());
        } else {
            clear(container, "command", notes);
        }
    }
    // Edited by hand, behind another wrapper, or with a record that says something else: never wrapped twice.
    for key in ["command", "args"] {
        if let Some(rest) = parts::unwrap(&list_of_texts(container.get(key))) {
            container.insert(key.to_owned(), rest.into());
            close(container, key, notes);
        }
    }
}

/// Puts the account and its deprecated twin back where they are ours; another one is the user's new word.
fn account(spec: &mut Map<String, Value>, record: Option<&Record>, original: &Original, ids: &[&str]) {
    let ours = match record {
        Some(record) => record.dedicated_account().into_iter().collect(),
        None => ids.iter().map(|id| dedicated_name(id)).collect::<Vec<_>>(),
    };
    let is_ours = |value: Option<&Value>| {
        value.and_then(Value::as_str).is_some_and(|name| ours.iter().any(|account| account == name))
    };
    let named = spec.get("serviceAccountName").cloned();
    let new_word = named.filter(|name| !is_ours(Some(name)) && !is_empty(name));
    if is_ours(spec.get("serviceAccountName")) {
        put_back(spec, "serviceAccountName", original.service_account_name.as_ref(), original);
    }
    if is_ours(spec.get("serviceAccount")) {
        let new_word = new_word.as_ref().and_then(Value::as_str).map(str::to_owned);
        let twin = new_word.or_else(|| original.service_account.clone());
        put_back(spec, "serviceAccount", twin.as_ref().or(original.service_account_name.as_ref()), original);
    }
}

fn put_back(spec: &mut Map<String, Value>, key: &str, name: Option<&String>, original: &Original) {
    match name {
        Some(name) if !original.empty.contains_key(key) => {
            spec.insert(key.to_owned(), name.clone().into());
        }
        _ => clear(spec, key, &original.empty),
    }
}

fn metadata(template: &mut Value, record: Option<&Record>, original: &Original, ids: &[&str]) {
    let list = annotation(template, parts::SAFE_TO_EVICT).map(str::to_owned);
    let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let before = metadata.clone();
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(names::INJECTED);
        if let Some(list) = list {
            let before = original.safe_to_evict_local_volumes.clone();
            let made = |record: &Record| parts::with_our_volumes(before.as_deref(), &record.volumes());
            let is_before = record.is_some() && before.as_ref() == Some(&list);
            let now = if is_before || record.and_then(made).is_some_and(|made| made == list) {
                before
            } else {
                parts::without_our_volumes(&list)
            };
            match now {
                Some(now) => annotations.insert(parts::SAFE_TO_EVICT.to_owned(), now.into()),
                None => annotations.shift_remove(parts::SAFE_TO_EVICT),
            };
        }
    }
    if !original.annotations.is_empty()
        && let Some(annotations) = open(metadata, "annotations")
    {
        for (position, key, value) in &original.annotations {
            if !annotations.contains_key(key) {
                annotations.shift_insert((*position).min(annotations.len()), key.clone(), value.clone());
            }
        }
    }
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut)
        && labels.get(names::ID).and_then(Value::as_str).is_some_and(|id| ids.contains(&id))
    {
        labels.shift_remove(names::ID);
    }
    for key in ["annotations", "labels"] {
        if metadata.get(key) != before.get(key) {
            close(metadata, key, &original.empty);
        }
    }
    if *metadata != before
        && let Some(template) = template.as_object_mut()
    {
        close(template, "metadata", &original.empty);
    }
}

/// A map, made when it is absent.
fn open<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    parent.entry(key).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// The template with the same meaning for the API server: two that are equal in this form are stored as the same object.
pub(super) fn canonical(template: &Value) -> Value {
    let mut template = template.clone();
    let nothing = Map::new();
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        for key in ["initContainers", "volumes", "imagePullSecrets", "serviceAccountName", "serviceAccount"] {
            close(spec, key, &nothing);
        }
        // The API server fills the twin in and lets the new field win.
        if let Some(twin) = spec.shift_remove("serviceAccount") {
            spec.entry("serviceAccountName").or_insert(twin);
        }
    }
    for container in containers_mut(&mut template) {
        let Some(container) = container.as_object_mut() else { continue };
        for key in ["env", "volumeMounts", "command", "args"] {
            close(container, key, &nothing);
        }
        handlers::canonical(container);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["annotations", "labels", "creationTimestamp"] {
            close(metadata, key, &nothing);
        }
    }
    if let Some(template) = template.as_object_mut() {
        close(template, "metadata", &nothing);
    }
    template
}
