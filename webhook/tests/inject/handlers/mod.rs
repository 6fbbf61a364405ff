//! Probes and lifecycle hooks: routed through the agent, and given back from every mixture in which they come back.

mod mixtures;
mod properties;
mod refused;
mod routed;

use serde_json::{Value, json};

use super::{deployment, review, template, without_id};

const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
const HOOKS: [(&str, &str); 2] = [("postStart", "post-start"), ("preStop", "pre-stop")];

/// A workload whose container has these fields.
fn workload(fields: &Value) -> Value {
    let mut container = json!({
        "name": "app",
        "image": "registry.example/app:1",
        "command": ["/app"],
        "env": [{"name": "PORT", "value": "8080"}, {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "ports": [{"name": "web", "containerPort": 8080}, {"name": "admin", "containerPort": 8081}],
    });
    for (key, value) in fields.as_object().unwrap() {
        container[key] = value.clone();
    }
    let spec = json!({"containers": [container, {"name": "proxy", "image": "registry.example/proxy:1"}]});
    deployment(&json!({"metadata": {"labels": {"app": "billing"}}, "spec": spec}), Some("billing"))
}

fn container(object: &Value) -> &Value {
    &template(object)["spec"]["containers"][0]
}

fn container_mut(object: &mut Value) -> &mut Value {
    &mut object["spec"]["template"]["spec"]["containers"][0]
}

/// A probe or hook in a container, where it stands.
fn at<'a>(container: &'a mut Value, field: &str) -> &'a mut Value {
    if HOOKS.iter().any(|(hook, _)| *hook == field) {
        &mut container["lifecycle"][field]
    } else {
        &mut container[field]
    }
}

/// The fields of a container that has `holder` there.
fn with(field: &str, holder: &Value) -> Value {
    if HOOKS.iter().any(|(hook, _)| *hook == field) {
        json!({"lifecycle": {field: holder}})
    } else {
        json!({field: holder})
    }
}

fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap()
}

fn ejected(object: &Value) -> Value {
    review(&without_id(object), None).unwrap().object
}

fn handlers() -> Vec<Value> {
    vec![
        json!({"httpGet": {"path": "/healthz", "port": "web"}}),
        json!({"httpGet": {"port": 8080, "scheme": "HTTPS", "host": "example.org", "httpHeaders": [{"name": "Host", "value": "x"}]}}),
        json!({"exec": {"command": ["cat", "/ready"]}}),
        json!({"tcpSocket": {"port": "web"}}),
    ]
}

/// Every field that may have a handler, with every handler that it may have.
fn every_place() -> Vec<(&'static str, Value)> {
    let probe = PROBES.iter().flat_map(|&(field, _)| {
        let grpc = json!({"grpc": {"port": 9000, "service": "health"}});
        handlers().into_iter().chain([grpc]).map(move |handler| (field, handler))
    });
    let hook = HOOKS.iter().flat_map(|&(field, _)| {
        handlers().into_iter().chain([json!({"sleep": {"seconds": 5}})]).map(move |handler| (field, handler))
    });
    probe.chain(hook).collect()
}

fn joined(one: &Value, other: &Value) -> Value {
    let mut both = one.as_object().unwrap().clone();
    both.extend(other.as_object().unwrap().clone());
    both.into()
}

/// The agent's handler there.
fn agents(field: &str) -> Value {
    if let Some((_, name)) = PROBES.iter().find(|(probe, _)| *probe == field) {
        return json!({"httpGet": {"path": format!("/leader.io/probe/{name}"), "port": 9809, "scheme": "HTTP"}});
    }
    let (_, name) = HOOKS.iter().find(|(hook, _)| *hook == field).unwrap();
    json!({"exec": {"command": ["/leader/agent", "hook", name]}})
}
