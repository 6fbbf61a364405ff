//! Add: puts the agent into the pod template that the user wrote, and writes the record of it.

use leader_agent::{mode::Mode, names};
use serde_json::{Map, Value};

use super::{
    Refusal, follow,
    handlers::{self, Way},
    json::{annotation, containers_mut, open_list, open_map, set, text},
    observer,
    options::Chosen,
    parts, pull_secrets,
    record::{AccountMode, Injection, Original, dedicated_name, volumes},
    root::Root,
    status::{self, Share},
};

/// The injected template for a user's one. `injection` names the container that was `chosen` in it.
pub(super) fn add(plain: &Value, chosen: Chosen<'_>, injection: Injection) -> Result<Value, Refusal> {
    let mut template = plain.clone();
    let image = text(chosen.container, "image").map(str::to_owned);
    let mut original = Original {
        safe_to_evict_local_volumes: annotation(plain, parts::SAFE_TO_EVICT).map(str::to_owned),
        ..Original::default()
    };
    let mode = injection.mode;
    let status = match injection.status_file.as_deref() {
        Some(path) => Some((status::share(plain, chosen, path)?, status::folder(path).to_owned())),
        None => None,
    };
    let status_volume = matches!(status, Some((Share::Ours, _)));
    let place = injection.prefer.is_some();
    let address = handlers::needs_address(&injection.probes, &injection.hooks);
    if mode != Mode::Observe
        && let Some(container) = containers_mut(&mut template).get_mut(chosen.index).and_then(Value::as_object_mut)
    {
        let notes = &mut original.empty;
        set(container, "command", parts::wrap(&injection.entry.command).into(), notes);
        if let Some(args) = &injection.entry.args {
            set(container, "args", args.clone().into(), notes);
        }
        let variables = parts::variables(address, place).map(|name| parts::variable(name, chosen.name));
        open_list(container, "env", notes).extend(variables);
        open_list(container, "volumeMounts", notes).extend(parts::mounts());
        original.handlers = handlers::route(container, Way::by(injection.port), mode, notes);
    }
    if let Some((share @ Share::Ours, folder)) = &status {
        for index in status::mounted_in(plain, chosen, folder) {
            let Some(container) = containers_mut(&mut template).get_mut(index).and_then(Value::as_object_mut) else {
                continue;
            };
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let is_chosen = index == chosen.index;
            let mut beside = Map::new();
            let notes = if is_chosen { &mut original.empty } else { &mut beside };
            // It may have been noted when the other mounts were added, and is not empty any more.
            open_list(container, "volumeMounts", notes).push(share.mount(folder));
            if !beside.is_empty() {
                original.beside.insert(name, beside);
            }
        }
    }
    let followers = follow::add(&mut template, &injection.follow, &mut original);
    let notes = &mut original.empty;
    if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
        let init = match &status {
            Some((share, folder)) if mode == Mode::Observe => observer::container(
                &injection.agent_image,
                chosen.container,
                &observer::environment(place),
                injection.port,
                &share.mount(folder),
            ),
            _ => parts::init_container(&injection.agent_image, chosen.container),
        };
        open_list(spec, "initContainers", notes).insert(0, init);
        open_list(spec, "volumes", notes).extend(volumes(mode, status_volume).into_iter().map(parts::volume));
        pull_secrets::add(spec, &injection.pull_secrets, notes);
        if injection.account == AccountMode::Dedicated {
            account(spec, &dedicated_name(injection.id.as_str()), &mut original);
        }
    }
    let ours = volumes(mode, status_volume);
    let list = parts::with_our_volumes(original.safe_to_evict_local_volumes.as_deref(), &ours);
    let Some(template_fields) = template.as_object_mut() else { return Ok(template) };
    let metadata = open_map(template_fields, "metadata", &mut original.empty);
    open_map(metadata, "labels", &mut original.empty).insert(names::ID.to_owned(), injection.id.as_str().into());
    let annotations = open_map(metadata, "annotations", &mut original.empty);
    // Pods of an injected template are not to be injected once more; a pod itself says by them what it was injected for.
    if chosen.root != Root::Pod {
        let ours = annotations.iter().enumerate().filter(|(_, (key, _))| key.starts_with(names::PREFIX));
        original.annotations = ours.map(|(at, (key, value))| (at, key.clone(), value.clone())).collect();
        annotations.retain(|key, _| !key.starts_with(names::PREFIX));
    }
    if let Some(list) = list {
        annotations.insert(parts::SAFE_TO_EVICT.to_owned(), list.into());
    }
    let record = injection.record(image, status_volume, followers, original);
    annotations.insert(names::INJECTED.to_owned(), record.to_annotation()?.into());
    Ok(template)
}

/// Sets the account and, where it is present, its deprecated twin: the API server lets the new field win and fills in an
/// absent twin.
///
/// The record does not depend on whether the twin was filled in already, so that file and live object get the same one.
fn account(spec: &mut Map<String, Value>, ours: &str, original: &mut Original) {
    let named = |key: &str| spec.get(key).and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
    original.service_account_name = named("serviceAccountName");
    original.service_account =
        named("serviceAccount").filter(|twin| original.service_account_name.as_ref() != Some(twin));
    if spec.contains_key("serviceAccount") {
        set(spec, "serviceAccount", ours.into(), &mut original.empty);
    }
    set(spec, "serviceAccountName", ours.into(), &mut original.empty);
}
