//! Probes and hooks as Kubernetes writes them, ready to be carried out: ports are numbers, words are expanded.
//!
//! The fields and their defaults are those of the API (`core/v1` Probe and `LifecycleHandler`; `SetDefaults_Probe` and
//! `SetDefaults_HTTPGetAction` in pkg/apis/core/v1/defaults.go of Kubernetes).

use std::{num::NonZeroU16, time::Duration};

use serde::{Deserialize, Deserializer};

/// The three probes, each where the user has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Probes {
    /// `livenessProbe`.
    pub liveness: Option<Probe>,
    /// `readinessProbe`.
    pub readiness: Option<Probe>,
    /// `startupProbe`.
    pub startup: Option<Probe>,
}

/// The two hooks, each where the user has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hooks {
    /// `lifecycle.postStart`.
    pub post_start: Option<Handler>,
    /// `lifecycle.preStop`.
    pub pre_stop: Option<Handler>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawProbe")]
pub struct Probe {
    /// What is done.
    pub handler: Handler,
    /// From the app's start to the first time.
    pub initial_delay: Duration,
    /// After this the probe has failed.
    pub timeout: Duration,
    /// From one time to the next.
    pub period: Duration,
    /// How often in a row it must fail to have failed for good.
    pub failure_threshold: u32,
}

/// What a probe or hook does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawHandler")]
pub enum Handler {
    /// Runs a program beside the app.
    Exec(Exec),
    /// Sends an HTTP request.
    HttpGet(HttpGet),
    /// Opens a connection.
    TcpSocket(TcpSocket),
    /// Asks by the gRPC health protocol.
    Grpc(Grpc),
    /// Waits.
    Sleep(Sleep),
}

/// `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    #[serde(default, deserialize_with = "null_is_default")]
    pub command: Vec<String>,
}

/// `httpGet`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// The host; empty: the pod's address.
    #[serde(default, deserialize_with = "null_is_default")]
    pub host: String,
    /// The port.
    pub port: NonZeroU16,
    /// The path, with a query where there is one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub path: String,
    /// `HTTP` or `HTTPS`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub scheme: Scheme,
    /// Headers in their order; a name may come twice.
    #[serde(default, deserialize_with = "null_is_default")]
    pub http_headers: Vec<Header>,
}

/// The scheme of an HTTP request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// Plain.
    #[default]
    #[serde(alias = "", alias = "http")]
    Http,
    /// Over TLS, whose certificate is not checked.
    #[serde(alias = "https")]
    Https,
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value.
    #[serde(default, deserialize_with = "null_is_default")]
    pub value: String,
}

/// `tcpSocket`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TcpSocket {
    /// The host; empty: the pod's address.
    #[serde(default, deserialize_with = "null_is_default")]
    pub host: String,
    /// The port.
    pub port: NonZeroU16,
}

/// `grpc`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Grpc {
    /// The port.
    pub port: NonZeroU16,
    /// The service's name; empty: the server as a whole.
    #[serde(default, deserialize_with = "null_is_default")]
    pub service: String,
}

/// `sleep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Sleep {
    /// How long.
    pub seconds: u32,
}

/// Why something is no handler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} of exec, httpGet, tcpSocket, grpc and sleep are given: there must be exactly one")]
pub struct HandlerError(usize);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHandler {
    exec: Option<Exec>,
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    sleep: Option<Sleep>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProbe {
    exec: Option<Exec>,
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    initial_delay_seconds: Option<u32>,
    timeout_seconds: Option<u32>,
    period_seconds: Option<u32>,
    failure_threshold: Option<u32>,
}

impl TryFrom<RawHandler> for Handler {
    type Error = HandlerError;

    fn try_from(raw: RawHandler) -> Result<Self, Self::Error> {
        let RawHandler { exec, http_get, tcp_socket, grpc, sleep } = raw;
        let given = [
            exec.map(Self::Exec),
            http_get.map(Self::HttpGet),
            tcp_socket.map(Self::TcpSocket),
            grpc.map(Self::Grpc),
            sleep.map(Self::Sleep),
        ];
        let count = given.iter().flatten().count();
        given.into_iter().flatten().next().filter(|_| count == 1).ok_or(HandlerError(count))
    }
}

impl TryFrom<RawProbe> for Probe {
    type Error = HandlerError;

    fn try_from(raw: RawProbe) -> Result<Self, Self::Error> {
        let RawProbe { exec, http_get, tcp_socket, grpc, .. } = raw;
        // The API takes zero for "not given" where zero makes no sense.
        let or = |value: Option<u32>, default| value.filter(|value| *value != 0).unwrap_or(default);
        let seconds = |value, default| Duration::from_secs(or(value, default).into());
        Ok(Self {
            handler: RawHandler { exec, http_get, tcp_socket, grpc, sleep: None }.try_into()?,
            initial_delay: seconds(raw.initial_delay_seconds, 0),
            timeout: seconds(raw.timeout_seconds, 1),
            period: seconds(raw.period_seconds, 10),
            failure_threshold: or(raw.failure_threshold, 3),
        })
    }
}

/// Reads `null` like a missing field, as the API server does.
fn null_is_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn probe(value: serde_json::Value) -> Result<Probe, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn a_probe_gets_the_defaults_of_the_api() {
        let read = probe(json!({ "tcpSocket": { "port": 80 }, "successThreshold": 2, "new": 1 })).unwrap();
        let expected = Probe {
            handler: Handler::TcpSocket(TcpSocket { host: String::new(), port: NonZeroU16::new(80).unwrap() }),
            initial_delay: Duration::ZERO,
            timeout: Duration::from_secs(1),
            period: Duration::from_secs(10),
            failure_threshold: 3,
        };
        assert_eq!(read, expected);
        let zero = json!({ "tcpSocket": { "port": 80, "host": null }, "timeoutSeconds": 0, "periodSeconds": 0,
            "failureThreshold": 0, "initialDelaySeconds": 0 });
        assert_eq!(probe(zero).unwrap(), expected);
    }

    #[test]
    fn there_is_exactly_one_handler() {
        for (value, part) in [
            (json!({}), "0 of"),
            (json!({ "exec": { "command": ["true"] }, "grpc": { "port": 1 } }), "2 of"),
            (json!({ "exec": null, "grpc": null }), "0 of"),
        ] {
            let error = probe(value).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(serde_json::from_value::<Handler>(json!({ "sleep": { "seconds": 3 } })).is_ok());
    }

    #[test]
    fn a_scheme_may_be_small_or_empty() {
        for (scheme, expected) in [("HTTP", Scheme::Http), ("", Scheme::Http), ("https", Scheme::Https)] {
            let read = probe(json!({ "httpGet": { "port": 1, "scheme": scheme } })).unwrap();
            assert!(matches!(read.handler, Handler::HttpGet(HttpGet { scheme, .. }) if scheme == expected));
        }
    }
}
