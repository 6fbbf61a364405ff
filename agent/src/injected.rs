//! What the agent reads from the record of its injection. The webhook writes the record and keeps all of it; here are only the
//! fields that a running pod needs.

use std::{collections::BTreeMap, num::NonZeroU16, path::PathBuf};

use serde::Deserialize;

use crate::{
    mode::Mode,
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
    /// How the election concerns the app.
    #[serde(default)]
    pub mode: Mode,
    /// Where the status file is, in the modes that have one.
    pub status_file: Option<PathBuf>,
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
    /// Where the leader had better be, e.g. `zone=a`.
    pub prefer: Option<String>,
    /// For how long a leader may be unready before it gives leadership away, e.g. `30s`.
    pub unhealthy_step_down: Option<String>,
    /// The containers that run and stop with the app.
    #[serde(default)]
    pub follow: Vec<String>,
    /// What those have to know, by their names.
    #[serde(default)]
    pub followers: BTreeMap<String, InjectedFollower>,
    /// The template was made while pods without it ran the app: a Lease that is not there is one that was lost.
    #[serde(default)]
    pub born_under_turning_on: bool,
}

/// A container that runs and stops with the app.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InjectedFollower {
    /// Its stop signal, e.g. `SIGQUIT`.
    pub stop_signal: Option<StopSignal>,
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
        assert_eq!((read.prefer, read.unhealthy_step_down), (None, None));
        assert_eq!((read.mode, read.status_file), (Mode::Run, None));
        assert!(read.follow.is_empty() && read.followers.is_empty());
        assert!(!read.born_under_turning_on);
    }

    #[test]
    fn probes_hooks_and_signals_are_read() {
        let read = parse(|record| {
            record["stopSignal"] = json!("SIGRTMIN+3");
            record["port"] = json!(9809);
            record["probes"] = json!({ "liveness": { "exec": { "command": ["true"] }, "periodSeconds": 5 } });
            record["hooks"] = json!({ "preStop": { "sleep": { "seconds": 2 } } });
            record["terminationGrace"] = json!(60);
            record["bornUnderTurningOn"] = json!(true);
        })
        .unwrap();
        assert_eq!(read.stop_signal.map(StopSignal::number), Some(37));
        assert_eq!((read.port, read.termination_grace), (NonZeroU16::new(9809), Some(60)));
        assert!(read.probes.is_some_and(|probes| probes.liveness.is_some() && probes.startup.is_none()));
        assert!(read.hooks.is_some_and(|hooks| hooks.pre_stop.is_some()));
        assert!(read.born_under_turning_on);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let http = |key: &'static str, value: Value| {
            move |record: &mut Value| {
                record["probes"]["readiness"]["httpGet"] = json!({ "port": 80 });
                record["probes"]["readiness"]["httpGet"][key] = value;
            }
        };
        let wrong: [(&str, Change); 9] = [
            ("mode: unknown variant `lead`", Box::new(|record| record["mode"] = json!("lead"))),
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
