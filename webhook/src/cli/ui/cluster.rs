//! The elections of a real cluster, read and steered as the other commands do it.

use std::fmt::Display;

use jiff::Timestamp;
use kube::Client;
use serde::Serialize;
use serde_json::Value;

use super::{
    desk::{Elections, Place, Wish},
    view::{Election, Happening, Pod, Seen, Term},
};
use crate::{
    api_error,
    cli::{
        history, status,
        steer::{Steering, Wait},
    },
    controller::leadership,
};

/// The most Events of the past that are read.
const EVENTS: u32 = 2_000;

/// A cluster as a person may see it: the elections of one namespace, or of all.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: Option<String>,
}

impl Elections for Cluster {
    async fn look(&self) -> Result<Seen, String> {
        let found = status::look(&self.client, self.namespace.as_deref()).await;
        let (found, now) = found.map_err(|error| api_error::reason(&error))?;
        let elections: Result<_, String> =
            found.iter().map(|election| Ok(Election::of(&as_printed(election)?))).collect();
        Ok(Seen { elections: elections?, now: now.as_millisecond() })
    }

    async fn terms(&self) -> Result<Vec<Term>, String> {
        let place = self.namespace.as_ref().map_or(String::new(), |namespace| format!("namespaces/{namespace}/"));
        let path = format!(
            "/api/v1/{place}events?limit={EVENTS}&fieldSelector=involvedObject.kind%3DLease%2CreportingComponent%3Dleader.io%2Fwebhook"
        );
        let request = http::Request::get(path).body(Vec::new()).map_err(text)?;
        let list: Value = match self.client.request(request).await {
            Ok(list) => list,
            // Who may not read Events sees the past from now on.
            Err(kube::Error::Api(status)) if status.code == 403 => Value::Null,
            Err(error) => return Err(api_error::reason(&error)),
        };
        Ok(list["items"].as_array().into_iter().flatten().filter_map(term).collect())
    }

    async fn happened(&self, of: &Place) -> Result<Vec<Happening>, String> {
        let told = history::look(&self.client, &of.namespace, &of.id).await;
        let told = told.map_err(|error| api_error::reason(&error))?;
        told.iter().map(|told| Ok(happening(&as_printed(told)?))).collect()
    }

    async fn ask(&self, of: &Place, wish: &Wish) -> Result<String, String> {
        let Place { namespace, id } = of;
        let steering = Steering { client: &self.client, namespace, id, wait: Wait::Default, tell: &|_| {} };
        let outcome = match wish {
            Wish::StepDown => steering.step_down().await,
            Wish::Transfer { to } => steering.transfer(to).await,
            Wish::Hold { reason } => steering.hold(reason.as_deref().filter(|reason| !reason.is_empty())).await,
            Wish::Resume => steering.resume(false).await,
        };
        let outcome = outcome.map_err(text)?;
        if outcome.as_asked { Ok(outcome.text) } else { Err(outcome.text) }
    }
}

/// What `kubectl leader` prints of it with `-o json`, which is what the page is made of as well.
fn as_printed(printed: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(printed).map_err(text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// A time as text, in milliseconds.
fn milliseconds(time: &Value) -> Option<i64> {
    Some(time.as_str()?.parse::<Timestamp>().ok()?.as_millisecond())
}

fn happening(told: &Value) -> Happening {
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    Happening {
        at: milliseconds(&told["time"]).unwrap_or_default(),
        reason: text("reason"),
        note: text("message"),
        warning: told["type"] == "Warning",
    }
}

/// What an Event of a Lease tells of who leads.
fn term(event: &Value) -> Option<Term> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    let leader = match text("/reason")? {
        leadership::ELECTED => Some(leadership::leader_told(text("/message")?)?.to_owned()),
        leadership::RELEASED => None,
        _ => return None,
    };
    let time = ["/eventTime", "/firstTimestamp"].into_iter().find_map(|path| milliseconds(event.pointer(path)?));
    let namespace = text("/involvedObject/namespace")?.to_owned();
    Some(Term { namespace, id: text("/involvedObject/name")?.to_owned(), at: time?, leader })
}

impl Election {
    /// One that `kubectl leader status -o json` prints.
    fn of(printed: &Value) -> Self {
        let text = |name: &str| printed[name].as_str().unwrap_or_default().to_owned();
        let texts = |name: &str| {
            printed[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let pods = |name: &str| printed[name].as_array().into_iter().flatten().map(Pod::of).collect();
        Self {
            namespace: text("namespace"),
            id: text("id"),
            workloads: texts("workloads"),
            leader: Some(&printed["leader"]).filter(|leader| !leader.is_null()).map(Pod::of),
            since: milliseconds(&printed["since"]),
            renewed: milliseconds(&printed["renewed"]),
            lasts: printed["leaseDurationSeconds"].as_i64().map(|seconds| seconds.saturating_mul(1000)),
            transitions: printed["transitions"].as_i64().unwrap_or_default(),
            standbys: pods("standbys"),
            others: pods("others"),
            mode: text("mode"),
            hold: printed["hold"].as_str().map(str::to_owned),
            turning_on: texts("turningOn"),
            trouble: texts("trouble"),
        }
    }
}

impl Pod {
    fn of(printed: &Value) -> Self {
        let text = |name: &str| printed[name].as_str().map(str::to_owned);
        // A leader whose pod is gone, or that is none, has its identity alone.
        let identity = || printed["identity"].as_str().map(|identity| status::pod_of(identity).to_owned());
        Self {
            name: text("pod").or_else(identity).unwrap_or_default(),
            node: text("node"),
            ready: printed["ready"] == true,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, http::StatusCode};
    use serde_json::json;

    use super::*;

    /// Only an answer says that there is nothing to read: what failed is asked again.
    #[tokio::test]
    async fn who_may_not_read_events_is_told_nothing_and_who_cannot_is_told_why() {
        for (code, is_told) in [(StatusCode::FORBIDDEN, true), (StatusCode::INTERNAL_SERVER_ERROR, false)] {
            let answer = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "no Events", "reason": "", "code": code.as_u16() });
            let router = Router::new().fallback(move || async move { (code, Json(answer)) });
            let cluster = Cluster { client: Client::new(router, "default"), namespace: None };
            let terms = cluster.terms().await;
            assert_eq!(terms, if is_told { Ok(Vec::new()) } else { Err("no Events".to_owned()) });
        }
    }

    #[test]
    fn what_status_prints_is_what_the_page_shows() {
        let printed = json!({
            "namespace": "shop", "id": "billing", "workloads": ["deployment/billing"],
            "leader": {"identity": "billing-1_u1_app", "pod": "billing-1", "node": "n1", "ready": true},
            "since": "2026-11-18T11:06:40.120000Z", "transitions": 3,
            "standbys": [{"pod": "billing-2", "node": "n2", "ready": true}], "others": [],
            "renewed": "2026-11-18T11:06:42Z", "leaseDurationSeconds": 15, "mode": "run", "hold": null, "turningOn": null,
            "steered": null, "trouble": ["one replica"],
        });
        let election = Election::of(&printed);
        let pod = |name: &str, node: &str| Pod { name: name.to_owned(), node: Some(node.to_owned()), ready: true };
        assert_eq!(election.leader, Some(pod("billing-1", "n1")));
        assert_eq!(election.standbys, [pod("billing-2", "n2")]);
        assert_eq!((election.since, election.renewed), (Some(1_795_000_000_120), Some(1_795_000_002_000)));
        assert_eq!((election.lasts, election.transitions), (Some(15_000), 3));
        assert_eq!((election.hold, election.turning_on.len(), election.trouble.len()), (None, 0, 1));
        let foreign = json!({"leader": {"identity": "laptop", "pod": null, "node": null, "ready": null}, "hold": "", "turningOn": ["a"]});
        let foreign = Election::of(&foreign);
        assert_eq!(foreign.leader.map(|leader| leader.name), Some("laptop".to_owned()));
        assert_eq!((foreign.hold.as_deref(), foreign.turning_on.len()), (Some(""), 1));
        let gone = json!({"leader": {"identity": "billing-3_u3_app", "pod": null}});
        assert_eq!(Election::of(&gone).leader.map(|leader| leader.name), Some("billing-3".to_owned()));
        assert_eq!(Election::of(&json!({"leader": null})).leader, None);
    }

    #[test]
    fn events_tell_who_led() {
        let event = |reason: &str, message: &str, time: &Value| {
            json!({
                "reason": reason, "message": message, "eventTime": time, "firstTimestamp": "2026-11-18T11:06:41Z",
                "involvedObject": {"kind": "Lease", "namespace": "shop", "name": "billing"},
            })
        };
        let at = json!("2026-11-18T11:06:40.120000Z");
        let elected =
            term(&event("LeaderElected", "pod billing-2 leads `billing`, after pod billing-1 (term 4)", &at)).unwrap();
        assert_eq!((elected.leader.as_deref(), elected.at), (Some("billing-2"), 1_795_000_000_120));
        let released =
            term(&event("LeaderReleased", "pod billing-2 does not lead `billing` any more", &Value::Null)).unwrap();
        assert_eq!((released.leader, released.at), (None, 1_795_000_001_000));
        assert_eq!(term(&event("LeaderHeld", "on hold", &at)), None);
        assert_eq!(term(&json!({})), None);
    }
}
