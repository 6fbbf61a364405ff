//! Resolve: reads the user's probes and hooks, and makes of each what the agent needs to carry it out as the kubelet would.

use std::{borrow::Cow, collections::BTreeMap};

use leader_agent::names;
use serde_json::{Map, Value, json};

use super::{
    EXEC, GRPC, HTTP_GET, PLACES, Place, SLEEP, TCP_SOCKET, TIMING, Way,
    canonical::{handler as canonical, is_default},
};
use crate::inject::{
    Refusal,
    json::{is_empty, items, text, texts},
    options::Chosen,
};

/// The probe or hook at a place of the chosen container, ready to be carried out; `None` where there is none.
pub(super) fn resolve(place: Place, chosen: Chosen<'_>) -> Result<Option<Value>, Refusal> {
    let path = place.path(&chosen.path());
    let lifecycle = &chosen.container[super::LIFECYCLE];
    if !lifecycle.is_null() && !lifecycle.is_object() {
        return Err(malformed(format!("{}.{}", chosen.path(), super::LIFECYCLE), "a map"));
    }
    let holder = place.of(chosen.container);
    if holder.is_null() {
        return Ok(None);
    }
    let Some(holder) = holder.as_object() else { return Err(malformed(path, "a map")) };
    let kind = match place.present(holder)[..] {
        [kind] => kind,
        [] => return Err(no_handler(place, path, holder)),
        ref found => return Err(Refusal::SeveralHandlers { path, found: found.to_vec() }),
    };
    let path_of_handler = format!("{path}.{kind}");
    let Some(handler) = holder[kind].as_object() else { return Err(malformed(path_of_handler, "a map")) };
    types(kind, handler, &path_of_handler)?;
    reserved(kind, &holder[kind], &path_of_handler)?;
    let mut ready = canonical(kind, &holder[kind]);
    match kind {
        // pkg/kubelet/prober/prober.go runs a probe's words expanded, pkg/kubelet/lifecycle/handlers.go a hook's as they stand.
        EXEC if place.is_probe => {
            let known = statically_known(chosen.container);
            let words = texts(&ready, "command");
            ready["command"] = words.iter().map(|word| expand(word, &known)).collect();
        }
        HTTP_GET | TCP_SOCKET => ready["port"] = port(&ready["port"], chosen, &path_of_handler)?.into(),
        _ => {}
    }
    let mut ready = json!({ kind: ready });
    if place.is_probe {
        for field in TIMING {
            let Some(value) = holder.get(field) else { continue };
            if !is_default(field, value) {
                ready[field] = value.clone();
            }
        }
    }
    Ok(Some(ready))
}

fn no_handler(place: Place, path: String, holder: &Map<String, Value>) -> Refusal {
    let known = |key: &str| place.kinds().contains(&key) || place.is_probe && TIMING.contains(&key);
    let unknown = holder.keys().filter(|key| !known(key)).cloned().collect();
    Refusal::NoHandler { path, unknown, known: place.kinds() }
}

/// Checks the types of the fields of a container's probes beside their handlers.
pub(in crate::inject) fn timing(container: &Value, path: &str) -> Result<(), Refusal> {
    for place in PLACES.into_iter().filter(|place| place.is_probe) {
        let probe = place.of(container);
        for field in TIMING {
            number(&probe[field], || format!("{}.{field}", place.path(path)))?;
        }
    }
    Ok(())
}

/// Checks the types that the API gives a handler's fields. The API server has checked its objects; files come as they are.
fn types(kind: &str, handler: &Map<String, Value>, path: &str) -> Result<(), Refusal> {
    let field = |key: &str| handler.get(key).unwrap_or(&Value::Null);
    let is_text = |key: &str| match field(key) {
        Value::Null | Value::String(_) => Ok(()),
        _ => Err(malformed(format!("{path}.{key}"), "a text: put it in quotes")),
    };
    match kind {
        EXEC => {
            let at = || format!("{path}.command");
            let words = field("command").as_array().filter(|words| !words.is_empty());
            let words = words.ok_or_else(|| malformed(at(), "a list of texts with at least the program"))?;
            match words.iter().position(|word| !word.is_string()) {
                Some(index) => Err(malformed(format!("{}[{index}]", at()), "a text: put it in quotes")),
                None => Ok(()),
            }
        }
        HTTP_GET => {
            ["path", "host", "scheme"].into_iter().try_for_each(is_text)?;
            if !matches!(field("scheme").as_str().unwrap_or_default(), "" | "HTTP" | "HTTPS") {
                return Err(malformed(format!("{path}.scheme"), "`HTTP` or `HTTPS`"));
            }
            headers(field("httpHeaders"), path)
        }
        TCP_SOCKET => is_text("host"),
        GRPC => {
            is_text("service")?;
            let is_port = field("port").as_u64().is_some_and(|port| (1..=65535).contains(&port));
            // `GRPCAction.port` is a number, names are not allowed there.
            if is_port { Ok(()) } else { Err(malformed(format!("{path}.port"), "a number from 1 to 65535")) }
        }
        SLEEP => match field("seconds") {
            Value::Null => Err(malformed(format!("{path}.seconds"), "a number of seconds")),
            seconds => number(seconds, || format!("{path}.seconds")),
        },
        _ => Ok(()),
    }
}

fn headers(list: &Value, path: &str) -> Result<(), Refusal> {
    if list.is_null() {
        return Ok(());
    }
    let path = format!("{path}.httpHeaders");
    let Some(list) = list.as_array() else { return Err(malformed(path, "a list")) };
    for (index, header) in list.iter().enumerate() {
        let well_formed = text(header, "name").is_some() && matches!(header["value"], Value::Null | Value::String(_));
        if !well_formed {
            return Err(malformed(format!("{path}[{index}]"), "a map with the texts `name` and `value`"));
        }
    }
    Ok(())
}

fn number(value: &Value, path: impl Fn() -> String) -> Result<(), Refusal> {
    let fits = value.is_null() || value.as_i64().is_some_and(|number| (0..=i64::from(i32::MAX)).contains(&number));
    if fits { Ok(()) } else { Err(malformed(path(), "a number, 0 or more")) }
}

fn malformed(path: String, expected: &'static str) -> Refusal {
    Refusal::Malformed { path, expected }
}

/// A program that is the agent would ask the agent about itself. The agent's own handlers have been taken out before.
fn reserved(kind: &str, handler: &Value, path: &str) -> Result<(), Refusal> {
    if kind == EXEC && texts(handler, "command").iter().any(|word| word == names::AGENT_PATH) {
        return Err(Refusal::Collision {
            path: format!("{path}.command"),
            what: format!("the path `{}`", names::AGENT_PATH),
            fix: "give the app's own handler, the agent's is put in its place by injection".to_owned(),
        });
    }
    Ok(())
}

/// Refuses ports of the pod at which the agent could not listen, because the app does.
pub(super) fn ports(spec: &Value, chosen: Chosen<'_>, way: Way) -> Result<(), Refusal> {
    let Way::Port(agents) = way else { return Ok(()) };
    let collision = |path: String| Refusal::Collision {
        path,
        what: format!("the port {agents}"),
        fix: "give the agent a free one with the annotation leader.io/port, or the container another".to_owned(),
    };
    // All containers of a pod share its network.
    for key in ["initContainers", "containers"] {
        for (container, fields) in items(spec, key).iter().enumerate() {
            let ports = items(fields, "ports").iter().enumerate();
            let mut taken = ports.filter(|(_, port)| matches!(port["protocol"].as_str(), None | Some("" | "TCP")));
            // An ordinary init container has ended before the agent starts.
            let runs_beside = key == "containers" || fields["restartPolicy"] == "Always";
            if let Some((index, _)) = taken.find(|(_, port)| runs_beside && port["containerPort"] == agents) {
                return Err(collision(format!("{}.{key}[{container}].ports[{index}]", chosen.root.spec())));
            }
        }
    }
    for place in super::PLACES {
        for kind in [HTTP_GET, TCP_SOCKET, GRPC] {
            let handler = &place.of(chosen.container)[kind];
            if handler["port"] == agents && is_empty(&handler["host"]) {
                return Err(collision(format!("{}.{kind}.port", place.path(&chosen.path()))));
            }
        }
    }
    Ok(())
}

/// The number of a port, as `probe.ResolveContainerPort` (pkg/probe/util.go of Kubernetes) finds it: a name is looked up among
/// the ports of the same container, and read as a number when it is none of them.
fn port(port: &Value, chosen: Chosen<'_>, path: &str) -> Result<u16, Refusal> {
    let ports = items(chosen.container, "ports");
    let number = match port {
        Value::Number(number) => number.as_i64(),
        Value::String(name) => match ports.iter().find(|port| text(port, "name") == Some(name)) {
            Some(port) => port["containerPort"].as_i64(),
            None => name.parse().ok(),
        },
        _ => {
            return Err(malformed(
                format!("{path}.port"),
                "a number from 1 to 65535, or the name of a port of the container",
            ));
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|&number| number != 0).ok_or_else(|| {
        Refusal::NoSuchPort {
            path: format!("{path}.port"),
            port: port.as_str().map_or_else(|| port.to_string(), str::to_owned),
            container: chosen.name.to_owned(),
            named: ports.iter().filter_map(|port| text(port, "name")).map(str::to_owned).collect(),
        }
    })
}

/// The variables that `ExpandContainerCommandOnlyStatic` (pkg/kubelet/container/helpers.go of Kubernetes) knows: those of the
/// container's `env`, by the last entry of a name. One with `valueFrom` is there, and empty, because only `value` is read.
fn statically_known(container: &Value) -> BTreeMap<&str, &str> {
    let value = |variable| text(variable, "value").unwrap_or_default();
    items(container, "env").iter().filter_map(|variable| Some((text(variable, "name")?, value(variable)))).collect()
}

/// Replaces `$(NAME)` as `Expand` does (`third_party/forked/golang/expansion/expand.go` of Kubernetes): unknown names stay, `$$`
/// becomes `$`.
fn expand(word: &str, known: &BTreeMap<&str, &str>) -> String {
    let mut done = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        let (text, taken): (Cow<'_, str>, usize) = if let Some((name, _)) = reference {
            let text = known.get(name).map_or_else(|| format!("$({name})").into(), |&value| value.into());
            (text, name.len() + 2)
        } else if after.starts_with('$') {
            ("$".into(), 1)
        } else {
            ("$".into(), 0)
        };
        done.push_str(&text);
        rest = &after[taken..];
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of `third_party/forked/golang/expansion/expand_test.go`, with the same variables.
    #[test]
    fn words_are_expanded_as_the_kubelet_does() {
        let known = BTreeMap::from([("VAR_A", "A"), ("VAR_B", "B"), ("VAR_REF", "$(VAR_A)"), ("VAR_EMPTY", "")]);
        for (word, expected) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)-1", "A-1"),
            ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$$(VAR_A)", "$$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$(VAR_EMPTY)", ""),
            ("foo$(VAR_EMPTY", "foo$(VAR_EMPTY"),
            ("foo\\$(VAR_A)", "foo\\A"),
            ("foo$", "foo$"),
            ("$VAR_A", "$VAR_A"),
            ("$(VAR_DNE)", "$(VAR_DNE)"),
            ("$(VAR_A$(VAR_B))", "$(VAR_A$(VAR_B))"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$?_boo_$!", "$?_boo_$!"),
            ("$()", "$()"),
            ("$é$(VAR_A)", "$éA"),
            ("--$($($($($--", "--$($($($($--"),
        ] {
            assert_eq!(expand(word, &known), expected, "{word}");
        }
    }
}
