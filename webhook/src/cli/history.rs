//! `kubectl leader history`: what became of an election, from the Events about its Lease.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::Client;
use leader_agent::id::LeaderId;
use serde::Serialize;
use serde_json::Value;

use super::{
    Error,
    api::{self, CORE, Clock},
    connection::{Connected, Connection},
    json,
    objects::time,
    session::Voice,
    table::{Table, age},
};
use crate::{api_error, events::REPORTER};

/// Which election, and how its history is printed.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// The id of the election.
    id: LeaderId,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Something that was told about an election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    /// When, by the clock of the webhook's replica; the last time where it was told more than once.
    pub(super) time: Option<Timestamp>,
    /// `Normal` or `Warning`.
    pub(super) r#type: String,
    /// One word for it.
    pub(super) reason: String,
    /// What it was.
    pub(super) message: String,
    /// How often.
    pub(super) count: u64,
}

/// What was told about an election's Lease, the oldest first. Events end after an hour, unless the API server was told otherwise.
pub(super) async fn look(client: &Client, namespace: &str, id: &LeaderId) -> Result<Vec<Told>, kube::Error> {
    let about = format!("fieldSelector=involvedObject.kind%3DLease%2CinvolvedObject.name%3D{id}");
    Ok(told(&api::list(client, &api::path(CORE, Some(namespace), "events"), &about).await?))
}

fn told(events: &[Value]) -> Vec<Told> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // Others may write Events about a Lease, and say nothing about leadership.
    let ours = events.iter().filter(|event| event["reportingComponent"] == REPORTER);
    let mut told: Vec<Told> = ours
        .map(|event| {
            let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"]];
            Told {
                time: times.into_iter().find_map(time).or_else(|| time(&event["metadata"]["creationTimestamp"])),
                r#type: text(&event["type"]),
                reason: text(&event["reason"]),
                message: text(&event["message"]),
                count: event["series"]["count"].as_u64().or_else(|| event["count"].as_u64()).unwrap_or(1).max(1),
            }
        })
        .collect();
    told.sort_by_key(|told| told.time);
    told
}

/// Prints the history; gives the exit code.
pub(super) async fn run(options: &Options, voice: &Voice) -> Result<u8, Error> {
    let Connected { client, namespace } = options.connection.connect().await?;
    let failed = |error: kube::Error| Error::Cluster { reason: api_error::reason(&error) };
    let told = look(&client, &namespace, &options.id).await.map_err(failed)?;
    match options.output {
        Output::Json => {
            voice.out(json::text(&serde_json::json!({ "items": told }), false)?)?;
        }
        Output::Table if told.is_empty() => {
            let of = format!("{namespace}/{}", options.id);
            voice.aside(&format!(
                "No Events are left about Lease {of}: the API server keeps them for an hour, if nobody said otherwise."
            ))?;
        }
        Output::Table => voice.out(table(&told, Clock::ask(&client).await.map_err(failed)?.now()))?,
    }
    Ok(0)
}

fn table(told: &[Told], now: Timestamp) -> String {
    let mut rows = vec![["WHEN", "AGE", "TYPE", "REASON", "MESSAGE"].map(str::to_owned).to_vec()];
    rows.extend(told.iter().map(|told| {
        let second = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time).to_string();
        let often = if told.count > 1 { format!(" ({} times)", told.count) } else { String::new() };
        let when = told.time.map_or_else(|| "-".to_owned(), second);
        let ago = told.time.map_or_else(|| "-".to_owned(), |time| age(now.duration_since(time)));
        vec![when, ago, told.r#type.clone(), told.reason.clone(), format!("{}{often}", told.message)]
    }));
    Table::default().print(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events() -> Vec<Value> {
        let event = |reason: &str, message: &str, at: &str| {
            json!({
                "metadata": { "creationTimestamp": "2026-11-21T11:00:00Z" }, "reportingComponent": "leader.io/webhook",
                "type": "Normal", "reason": reason, "message": message, "eventTime": at,
                "firstTimestamp": null, "lastTimestamp": null,
            })
        };
        let mut again = event("LeaderReleased", "nobody does at the moment", "2026-11-21T11:40:00.000000Z");
        again["series"] = json!({ "count": 3, "lastObservedTime": "2026-11-21T11:59:30.000000Z" });
        let mut foreign = event("Other", "else", "2026-11-21T11:00:00.000000Z");
        foreign["reportingComponent"] = json!("somebody");
        let elected = event("LeaderElected", "pod billing-2 leads `billing` (term 4)", "2026-11-21T11:55:00.500000Z");
        vec![again, elected, foreign]
    }

    #[test]
    fn the_oldest_first() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        insta::assert_snapshot!(table(&told(&events()), now), @r"
        WHEN                   AGE     TYPE     REASON           MESSAGE
        2026-11-21T11:55:00Z   4m59s   Normal   LeaderElected    pod billing-2 leads `billing` (term 4)
        2026-11-21T11:59:30Z   30s     Normal   LeaderReleased   nobody does at the moment (3 times)
        ");
    }

    #[test]
    fn the_form_of_json() {
        let told = serde_json::to_value(&told(&events())[0]).unwrap();
        let expected = json!({
            "time": "2026-11-21T11:55:00.5Z", "type": "Normal", "reason": "LeaderElected",
            "message": "pod billing-2 leads `billing` (term 4)", "count": 1,
        });
        assert_eq!(told, expected);
    }
}
