//! Restore: gives the user's handlers back, judged by what stands in the place of each.
//!
//! Client-side and server-side apply merge field by field, so that the user's handler may stand beside the agent's, or its
//! fields among the agent's. What is exactly the agent's is undone; everything else is the user's new word.

use leader_agent::names::{self, hook, probe};
use serde_json::{Map, Value};

use super::{EXEC, HTTP_GET, LIFECYCLE, PLACES, Place, READINESS, put_back};
use crate::inject::{
    json::{clear, is_empty, texts},
    record::Record,
};

/// Whose a handler is.
enum Whose {
    /// The agent's.
    Agents,
    /// Nobody's: the API server's defaults, left behind when an applier took its fields away.
    Nobodys,
    /// The user's, or with fields of the user's among the agent's.
    Users(Value),
}

/// Gives a container its own handlers back. `record` is that of the injection into this very container.
pub(in crate::inject) fn restore(container: &mut Map<String, Value>, record: Option<&Record>) {
    for place in PLACES {
        let Some(holder) = place.of_mut(container) else { continue };
        let original = record.and_then(|record| record.original.handlers.get(place.field));
        let port = record.and_then(|record| record.port);
        if stays(place, holder, original, port) {
            continue;
        }
        match container.get_mut(LIFECYCLE).and_then(Value::as_object_mut) {
            Some(lifecycle) if !place.is_probe => {
                lifecycle.shift_remove(place.field);
                if lifecycle.is_empty() {
                    container.shift_remove(LIFECYCLE);
                }
            }
            _ => match record.filter(|_| place.field == READINESS && original.is_some_and(Value::is_null)) {
                Some(record) => clear(container, READINESS, &record.original.empty),
                None => {
                    container.shift_remove(place.field);
                }
            },
        }
    }
}

/// Gives one probe or hook its handler back; `false` when the user has none there.
///
/// `original` is null where injection added the probe, and absent where it is not known that anything was injected.
fn stays(place: Place, holder: &mut Map<String, Value>, original: Option<&Value>, port: Option<u16>) -> bool {
    let (mut agents, mut nobodys, mut users) = (Vec::new(), Vec::new(), Vec::new());
    for kind in place.present(holder) {
        match whose(kind, &holder[kind], original, port) {
            Whose::Agents => agents.push(kind),
            Whose::Nobodys if original.is_some() => nobodys.push(kind),
            Whose::Nobodys => users.push((kind, holder[kind].clone())),
            Whose::Users(handler) => users.push((kind, handler)),
        }
    }
    if original.is_none() && agents.is_empty() {
        return true;
    }
    // Where the user has none of another kind, one of the agent's holds the place for what was there.
    let before = original.and_then(Value::as_object).and_then(|original| original.iter().next());
    let place_holder = agents.first().copied().zip(before).filter(|_| users.is_empty());
    let kept = place_holder.map(|(kind, _)| kind);
    let goes = |kind: &str| agents.contains(&kind) || nobodys.contains(&kind);
    holder.retain(|key, _| Some(key.as_str()) == kept || !goes(key));
    if let Some((agents, (kind, handler))) = place_holder {
        put_back(holder, agents, kind, handler.clone());
        return true;
    }
    // Timing is in numbers, and a handler a map.
    let is_of_a_newer_api =
        |(key, value): (&String, &Value)| !place.kinds().contains(&key.as_str()) && value.is_object();
    let stays = !users.is_empty() || holder.iter().any(is_of_a_newer_api);
    for (kind, handler) in users {
        holder.insert(kind.to_owned(), handler);
    }
    stays
}

fn whose(kind: &str, handler: &Value, original: Option<&Value>, port: Option<u16>) -> Whose {
    match kind {
        EXEC if is_agents_command(handler) => Whose::Agents,
        EXEC if is_empty(&handler["command"]) => Whose::Nobodys,
        HTTP_GET => whose_http(handler, original, port),
        _ => Whose::Users(handler.clone()),
    }
}

/// Judges an `httpGet`, the one kind whose fields merge with the agent's.
fn whose_http(handler: &Value, original: Option<&Value>, port: Option<u16>) -> Whose {
    let Some(fields) = handler.as_object() else { return Whose::Users(handler.clone()) };
    let agents_path = is_agents_path(handler);
    let agents_port = port.is_some_and(|port| handler["port"] == port);
    if original.is_none() && agents_path {
        return Whose::Agents;
    }
    // The API writes an absent port as 0.
    if is_empty(&handler["port"]) || handler["port"] == 0 {
        let nothing = agents_path || is_empty(&handler["path"]) || handler["path"] == "/";
        return if nothing { Whose::Nobodys } else { Whose::Users(handler.clone()) };
    }
    if !agents_path && !agents_port {
        return Whose::Users(handler.clone());
    }
    let is_agents = |key: &str, value: &Value| match key {
        "path" => agents_path,
        "port" => agents_port,
        "scheme" => is_empty(value) || value == "HTTP",
        _ => is_empty(value),
    };
    if fields.iter().all(|(key, value)| is_agents(key, value)) {
        return Whose::Agents;
    }
    let mut merged = original.and_then(|original| original[HTTP_GET].as_object()).cloned().unwrap_or_default();
    for (key, value) in fields.iter().filter(|(key, value)| !is_agents(key, value)) {
        merged.insert(key.clone(), value.clone());
    }
    Whose::Users(merged.into())
}

/// Whether a handler of the agent's is in a probe or hook, alone or with fields of the user's in it.
pub(super) fn has_agents(place: Place, holder: &Value) -> bool {
    let holder = holder.as_object();
    holder.is_some_and(|holder| {
        place.present(holder).into_iter().any(|kind| match kind {
            EXEC => is_agents_command(&holder[kind]),
            HTTP_GET => is_agents_path(&holder[kind]),
            _ => false,
        })
    })
}

/// Also behind another program, and for another probe: somebody copied it.
pub(super) fn is_agents_command(exec: &Value) -> bool {
    let words = texts(exec, "command");
    words.windows(2).any(|words| words[0] == names::AGENT_PATH && [probe::COMMAND, hook::COMMAND].contains(&&*words[1]))
}

pub(super) fn is_agents_path(http_get: &Value) -> bool {
    http_get["path"].as_str().is_some_and(|path| path.starts_with(names::PROBE_PATH))
}
