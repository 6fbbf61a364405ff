//! What is shown of elections, and what is asked of the API server for it.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use clap::Parser;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn lease(id: &str, holder: &str) -> Value {
    json!({
        "metadata": { "name": id, "namespace": "shop", "uid": "l1", "annotations": {} },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 7,
            "acquireTime": "2026-11-21T11:30:00.000000Z", "renewTime": "2026-11-21T11:59:58.000000Z",
        },
    })
}

fn pod(id: &str, name: &str, uid: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("{id}-5d9f-{name}"), "namespace": "shop", "uid": uid,
            "labels": { "leader.io/id": id, "pod-template-hash": "5d9f" },
            "annotations": { "leader.io/injected": json!({ "version": 1, "id": id, "container": "app" }).to_string() },
            "ownerReferences": [{ "kind": "ReplicaSet", "name": format!("{id}-5d9f"), "controller": true }],
        },
        "spec": { "nodeName": "node-1" },
        "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "app", "state": { "running": {} } }],
        },
    })
}

/// Elections of most shapes.
fn all() -> Vec<Election> {
    let with = |mut object: Value, pointer: &str, value: Value| {
        *object.pointer_mut(pointer).unwrap() = value;
        object
    };
    let annotated =
        |object: Value, key: &str, value: &str| with(object, "/metadata/annotations", json!({ key: value }));
    let leases = [
        lease("billing", "billing-5d9f-a_u1_app"),
        annotated(lease("held", ""), "leader.io/hold", "database upgrade"),
        annotated(
            lease("new", ""),
            "leader.io/turning-on",
            r#"{"Deployment/new":{"selector":"","version":"1","pods":{}}}"#,
        ),
        with(lease("stale", "stale-5d9f-a_u1_app"), "/spec/renewTime", json!("2026-11-21T11:59:00.000000Z")),
        lease("alone", "laptop"),
        lease("empty", ""),
        annotated(
            lease("asked", "asked-5d9f-a_u1_app"),
            "leader.io/step-down",
            "l1/asked-5d9f-a_u1_app/7/2026-11-21T11:30:00.000000Z",
        ),
    ];
    let pods = [
        pod("billing", "a", "u1"),
        pod("billing", "b", "u2"),
        with(pod("billing", "c", "u3"), "/status/conditions/0/status", json!("False")),
        with(pod("billing", "d", "u4"), "/status/containerStatuses/0/state", json!({ "waiting": {} })),
        pod("held", "a", "u1"),
        pod("new", "a", "u1"),
        with(
            pod("lost", "a", "u1"),
            "/metadata/ownerReferences/0",
            json!({ "kind": "StatefulSet", "name": "lost", "controller": true }),
        ),
        pod("asked", "a", "u1"),
        pod("asked", "b", "u2"),
    ];
    elections(&leases, &pods, now())
}

fn options(words: &str) -> Options {
    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        options: Options,
    }
    Alone::try_parse_from(["status"].into_iter().chain(words.split_whitespace())).unwrap().options
}

fn printed(words: &str) -> String {
    render::Printer::new(&options(words)).all(&all(), now()).unwrap()
}

#[test]
fn a_table() {
    insta::assert_snapshot!(printed(""), @r"
    ID        WORKLOAD             LEADER           NODE     SINCE   TRANSITIONS   STANDBYS   RENEWED   TROUBLE
    alone     -                    laptop           -        30m     7             0          2s        laptop holds it and is not there; no standby
    asked     deployment/asked     asked-5d9f-a     node-1   30m     7             1          2s        giving leadership away
    billing   deployment/billing   billing-5d9f-a   node-1   30m     7             1/2        2s        -
    empty     -                    -                -        -       7             0          -         no pods
    held      deployment/held      -                -        -       7             1          -         on hold: database upgrade
    lost      statefulset/lost     -                -        -       0             1          -         its Lease is not there
    new       deployment/new       -                -        -       7             1          -         being turned on: waits for pods of Deployment/new
    stale     -                    stale-5d9f-a     -        30m     7             0          60s       not renewed for 60s, and the Lease lasts 15s; stale-5d9f-a holds it and is not there; no standby
    ");
}

#[test]
fn a_wide_table_of_all_namespaces() {
    let text = printed("-A -o wide");
    let billing: Vec<_> =
        text.lines().filter(|line| line.contains(" billing ") || line.starts_with("NAMESPACE")).collect();
    insta::assert_snapshot!(billing.join("\n"), @r"
    NAMESPACE   ID        WORKLOAD             MODE   LEADER           NODE     SINCE   TRANSITIONS   STANDBYS   STANDBY PODS                    RENEWED   LASTS   TROUBLE
    shop        billing   deployment/billing   run    billing-5d9f-a   node-1   30m     7             1/2        billing-5d9f-b,billing-5d9f-c   2s        15s     -
    ");
}

#[test]
fn names_for_scripts() {
    assert_eq!(printed("-o name"), "laptop\npod/asked-5d9f-a\npod/billing-5d9f-a\n");
    let why = |id: &str| unnamed(all().iter().find(|election| election.id == id).unwrap());
    for id in ["billing", "alone"] {
        assert_eq!(why(id), None);
    }
    assert!(why("empty").unwrap().starts_with("nobody leads `empty`: no pods"), "{:?}", why("empty"));
    let stale = why("stale").unwrap();
    assert!(stale.starts_with("`stale` is held by stale-5d9f-a_u1_app, which is no name of a pod"), "{stale}");
}

/// Whoever may write a Lease may name any holder.
#[test]
fn a_script_is_given_nothing_but_names() {
    for holder in ["x;reboot", "a\nb", "\u{1b}[2J", "$(id)", "-rf", "a/b"] {
        let one = elections(&[lease("billing", holder)], &[], now());
        let text = render::Printer::new(&options("billing -o name")).all(&one, now()).unwrap();
        assert_eq!(text, "", "{holder:?}");
        assert!(unnamed(&one[0]).is_some(), "{holder:?}");
    }
}

/// Programs read it: fields are added, and none is taken away or renamed.
#[test]
fn the_form_of_json() {
    let one: Vec<_> = all().into_iter().filter(|election| election.id == "billing").collect();
    let text = render::Printer::new(&options("billing -o json")).all(&one, now()).unwrap();
    insta::assert_snapshot!(text, @r#"
    {
      "namespace": "shop",
      "id": "billing",
      "workloads": [
        "deployment/billing"
      ],
      "mode": "run",
      "leader": {
        "identity": "billing-5d9f-a_u1_app",
        "pod": "billing-5d9f-a",
        "container": "app",
        "node": "node-1",
        "ready": true
      },
      "since": "2026-11-21T11:30:00.000000Z",
      "transitions": 7,
      "standbys": [
        {
          "pod": "billing-5d9f-b",
          "node": "node-1",
          "ready": true
        },
        {
          "pod": "billing-5d9f-c",
          "node": "node-1",
          "ready": false
        }
      ],
      "others": [
        {
          "pod": "billing-5d9f-d",
          "node": "node-1",
          "ready": true
        }
      ],
      "renewed": "2026-11-21T11:59:58.000000Z",
      "leaseDurationSeconds": 15,
      "hold": null,
      "turningOn": null,
      "steered": null,
      "trouble": []
    }
    "#);
    let all: Value = serde_json::from_str(&printed("-o json")).unwrap();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(8));
}

#[test]
fn only_what_has_changed_is_printed_again() {
    let options = options("-w --no-headers");
    let mut printer = render::Printer::new(&options);
    let first = printer.all(&all(), now()).unwrap();
    assert_eq!(first.lines().count(), 8);
    let mut later = all();
    for election in &mut later {
        election.renewed = Some("2026-11-21T12:00:00.000000Z".to_owned());
        for trouble in &mut election.trouble {
            *trouble = trouble.replace("60s", "61s");
        }
    }
    assert_eq!(printer.more(&later, now()).unwrap(), "", "a leader that renews its Lease, or does not, is no news");
    let billing = later.iter_mut().find(|election| election.id == "billing").unwrap();
    billing.leader = None;
    let text = printer.more(&later, now()).unwrap();
    assert!(text.starts_with("billing   deployment/billing   -") && text.lines().count() == 1, "{text}");
    assert_eq!(printer.more(&later, now()).unwrap(), "");
}

#[test]
fn a_leader_whose_pod_is_seen_later_than_its_lease_is_named_then() {
    let options = options("-w -o name");
    let mut printer = render::Printer::new(&options);
    let leases = [lease("billing", "billing-5d9f-a_u1_app")];
    assert_eq!(printer.all(&elections(&leases, &[], now()), now()).unwrap(), "");
    let seen = elections(&leases, &[pod("billing", "a", "u1")], now());
    assert_eq!(printer.more(&seen, now()).unwrap(), "pod/billing-5d9f-a\n");
    assert_eq!(printer.more(&seen, now()).unwrap(), "");
}

#[test]
fn a_pod_that_is_named_as_the_holder_and_is_another_does_not_lead() {
    let leases = [lease("billing", "billing-5d9f-a_u9_app")];
    let election = elections(&leases, &[pod("billing", "a", "u1")], now()).remove(0);
    let leader = election.leader.unwrap();
    assert_eq!((leader.pod.as_deref(), leader.name()), (None, "billing-5d9f-a"));
    assert_eq!(election.standbys.len(), 1);
    assert_eq!(election.trouble, ["billing-5d9f-a holds it and is not there"]);
}

#[test]
fn what_a_request_of_an_earlier_term_says_is_no_trouble() {
    let mut lease = lease("billing", "billing-5d9f-a_u1_app");
    lease["metadata"]["annotations"] =
        json!({ "leader.io/step-down": "l1/billing-5d9f-a_u1_app/6/2026-11-21T11:30:00.000000Z" });
    let pods = [pod("billing", "a", "u1"), pod("billing", "b", "u2")];
    assert_eq!(elections(&[lease], &pods, now())[0].trouble, [""; 0]);
}

/// A client of an API server that answers from a table, and the paths that it was asked for.
fn client(table: Vec<(&'static str, Value)>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (log, table) = (Arc::clone(&asked), Arc::new(table));
    let router = Router::new().fallback(move |request: axum::extract::Request| {
        let (log, table) = (Arc::clone(&log), Arc::clone(&table));
        async move {
            let path = request.uri().to_string();
            let found = table.iter().find(|(known, _)| *known == path).map(|(_, object)| object.clone());
            let is_read = request.method() == "GET";
            log.lock().unwrap().push(path);
            let answer: Response = if let Some(object) = found.filter(|_| is_read) {
                Json(object).into_response()
            } else {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "it is not there", "reason": "NotFound", "code": 404 });
                (StatusCode::NOT_FOUND, Json(status)).into_response()
            };
            ([("date", "Sat, 21 Nov 2026 12:00:00 GMT")], answer)
        }
    });
    (Client::new(router, "default"), asked)
}

#[tokio::test]
async fn a_namespace_is_read_by_labels_and_adopted_leases_by_name() {
    let list = |items: Value| json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items });
    let (client, asked) = client(vec![
        (
            "/api/v1/namespaces/shop/pods?limit=500&labelSelector=leader.io/id",
            list(json!([pod("billing", "a", "u1"), pod("old", "a", "u2")])),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/shop/leases?limit=500&labelSelector=leader.io/id",
            list(json!([lease("billing", "billing-5d9f-a_u1_app")])),
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/shop/leases/old", lease("old", "")),
    ]);
    let (seen, at) = look(&client, Some("shop")).await.unwrap();
    assert!(at.duration_since(now()).as_secs() < 60, "{at} is not of the API server's clock");
    let ids: Vec<_> = seen.iter().map(|election| (election.id.as_str(), election.leader.is_some())).collect();
    assert_eq!(ids, [("billing", true), ("old", false)]);
    assert_eq!(asked.lock().unwrap().len(), 4, "{asked:?}");
}

#[tokio::test]
async fn one_election_is_read_alone() {
    let (client, asked) = client(vec![
        (
            "/api/v1/namespaces/shop/pods?limit=500&labelSelector=leader.io/id%3Dbilling",
            json!({ "metadata": {}, "items": [pod("billing", "a", "u1")] }),
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing", lease("billing", "billing-5d9f-a_u1_app")),
        (
            "/api/v1/namespaces/shop/pods?limit=500&labelSelector=leader.io/id%3Dnone",
            json!({ "metadata": {}, "items": [] }),
        ),
    ]);
    let seen = look_at(&client, "shop", &"billing".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(seen.leader.unwrap().pod.as_deref(), Some("billing-5d9f-a"));
    assert_eq!(asked.lock().unwrap().len(), 3, "{asked:?}");
    assert_eq!(look_at(&client, "shop", &"none".parse().unwrap()).await.unwrap(), None);
}
