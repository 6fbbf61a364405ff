//! What the agent reads from the record of its injection. The webhook writes the record and keeps all of it; here are only the
//! fields that a running pod needs.

use std::num::NonZeroU16;

use serde::Deserialize;

use crate::{
    probes::spec::{Hooks, Probes},
    stop_signal::StopSignal,
};

/// The part of the record that the agent reads. Unknown fields are the webhook's.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Injected {
    /// The id.
    pub id: String,
    /// The wrapped container.
    pub container: String,
    /// L, e.g. `15s`.
    pub lease_duration: Option<String>,
    /// The stop grace, e.g. `4s`.
    pub stop_grace: Option<String>,
    /// The container's stop signal, e.g. `SIGQUIT`.
    pub stop_signal: Option<StopSignal>,
    /// The agent's port.
    pub port: Option<NonZeroU16>,
    /// The user's probes.
    pub probes: Option<Probes>,
    /// The user's lifecycle hooks.
    pub hooks: Option<Hooks>,
    /// The pod's `terminationGracePeriodSeconds`.
    pub termination_grace: Option<u32>,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", if .0.path().iter().next().is_none() { .0.inner().to_string() } else { .0.to_string() })]
pub struct InjectedError(#[from] serde_path_to_error::Error<serde_json::Error>);

impl Injected {
    /// Reads a record.
    ///
    /// # Errors
    /// When it is no JSON object with `id` and `container`, or a field has a wrong value, which is named: somebody edited the pod.
    pub fn parse(text: &str) -> Result<Self, InjectedError> {
        Ok(serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    type Change = Box<dyn FnOnce(&mut Value)>;

    fn parse(change: impl FnOnce(&mut Value)) -> Result<Injected, String> {
        let mut record = json!({ "version": 1, "id": "billing", "container": "app", "original": {} });
        change(&mut record);
        Injected::parse(&record.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_record_of_the_first_version_has_none_of_the_later_fields() {
        let read = parse(|_| {}).unwrap();
        assert_eq!((read.stop_signal, read.port, read.probes, read.hooks), (None, None, None, None));
    }

    #[test]
    fn probes_hooks_and_signals_are_read() {
        let read = parse(|record| {
            record["stopSignal"] = json!("SIGRTMIN+3");
            record["port"] = json!(9809);
            record["probes"] = json!({ "liveness": { "exec": { "command": ["true"] }, "periodSeconds": 5 } });
            record["hooks"] = json!({ "preStop": { "sleep": { "seconds": 2 } } });
            record["terminationGrace"] = json!(60);
        })
        .unwrap();
        assert_eq!(read.stop_signal.map(StopSignal::number), Some(37));
        assert_eq!((read.port, read.termination_grace), (NonZeroU16::new(9809), Some(60)));
        assert!(read.probes.is_some_and(|probes| probes.liveness.is_some() && probes.startup.is_none()));
        assert!(read.hooks.is_some_and(|hooks| hooks.pre_stop.is_some()));
    }

    #[test]
    fn a_wrong_field_is_named() {
        let http = |key: &'static str, value: Value| {
            move |record: &mut Value| {
                record["probes"]["readiness"]["httpGet"] = json!({ "port": 80 });
                record["probes"]["readiness"]["httpGet"][key] = value;
            }
        };
        let wrong: [(&str, Change); 8] = [
            ("stopSignal: `SIGNOTHING` is not a signal", Box::new(|record| record["stopSignal"] = json!("SIGNOTHING"))),
            ("port: invalid value: integer `70000`", Box::new(|record| record["port"] = json!(70_000))),
            ("probes.readiness.httpGet.port: invalid type", Box::new(http("port", json!("web")))),
            ("probes.readiness.httpGet.port: invalid value: integer `0`", Box::new(http("port", json!(0)))),
            ("probes.readiness.httpGet.scheme: unknown variant `FTP`", Box::new(http("scheme", json!("FTP")))),
            ("probes.startup: 0 of exec", Box::new(|record| record["probes"]["startup"] = json!({ "new": {} }))),
            (
                "hooks.postStart: 2 of",
                Box::new(|record| {
                    record["hooks"]["postStart"] = json!({ "exec": {}, "sleep": { "seconds": 1 } });
                }),
            ),
            ("terminationGrace: invalid value", Box::new(|record| record["terminationGrace"] = json!(-1))),
        ];
        for (start, change) in wrong {
            let error = parse(change).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
        assert!(!Injected::parse("{").unwrap_err().to_string().starts_with('.'));
    }
}
