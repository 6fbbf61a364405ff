//! The requests, against an API server that answers from a table.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    cli::check::snapshot::is_injected,
    inject::{Decision, Defaults, Facts, ImageAnswer, workload},
};

#[test]
fn the_sample_is_a_workload_that_would_be_injected() {
    let defaults = Defaults { agent_image: "agent:1".to_owned(), agent_pull_secret: None };
    let facts = Facts { image: Some(ImageAnswer::Failed("no".to_owned())), ..Facts::default() };
    let Ok(Decision::Done(outcome)) = workload(&sample("default"), None, &defaults, &facts) else {
        panic!("it was refused")
    };
    assert!(is_injected(&outcome.object["spec"]["template"]));
}

#[test]
fn of_the_authoritys_secret_only_certificates_are_kept() {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let certificate = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
    let secret = json!({ "data": {
        "tls.crt": encoded(certificate),
        "tls.key": encoded("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"),
        "both": encoded(&format!("{certificate}-----BEGIN EC PRIVATE KEY-----\nsecret")),
        "state": encoded("{}"),
    } });
    let kept = certificates(&secret);
    assert!(kept.contains("MII=") && !kept.contains("secret") && !kept.contains("{}"), "{kept}");
}

/// The requests that were made, as `METHOD path?query`.
type Asked = Arc<Mutex<Vec<String>>>;

/// A client of an API server that answers GETs from `table`, whose paths may have a query, and knows of nothing else.
fn client(table: Vec<(&'static str, Value)>) -> (Client, Asked) {
    let (asked, table) = (Asked::default(), Arc::new(table));
    let log = Arc::clone(&asked);
    let router = Router::new().fallback(move |request: Request<axum::body::Body>| {
        let (log, table) = (Arc::clone(&log), Arc::clone(&table));
        async move {
            let path = request.uri().to_string();
            log.lock().unwrap().push(format!("{} {path}", request.method()));
            let found = table.iter().find(|(known, _)| *known == path);
            let found = found.or_else(|| table.iter().find(|(known, _)| *known == request.uri().path()));
            let date = [(header::DATE, "Sat, 21 Nov 2026 12:00:00 GMT")];
            let answer: Response = match found {
                Some((_, Value::String(text))) => text.clone().into_response(),
                Some((_, object)) => Json(object.clone()).into_response(),
                None => {
                    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": format!("{path} is not there"), "reason": "NotFound", "code": 404 });
                    (StatusCode::NOT_FOUND, Json(status)).into_response()
                }
            };
            (date, answer)
        }
    });
    (Client::new(router, "default"), asked)
}

const PLACES: Places<'static> = Places { system: "leader-system", elections: None, review: "default" };

fn version_of() -> (&'static str, Value) {
    (
        "/version",
        json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "" }),
    )
}

#[tokio::test]
async fn everything_that_is_there_is_found() {
    let deployment = |name: &str, annotations: Value| json!({ "metadata": { "name": name, "namespace": "shop", "annotations": annotations, "managedFields": [{}] } });
    let list = |kind: &str, items: Value, next: &str| json!({ "kind": kind, "apiVersion": "apps/v1", "metadata": { "continue": next }, "items": items });
    let deployments = "/apis/apps/v1/deployments?limit=500";
    let (client, asked) = client(vec![
        version_of(),
        (deployments, list("DeploymentList", json!([deployment("plain", json!({}))]), "more")),
        (
            "/apis/apps/v1/deployments?limit=500&continue=more",
            list("DeploymentList", json!([deployment("billing", json!({ "leader.io/id": "billing" }))]), ""),
        ),
        ("/apis/apps/v1/statefulsets", list("StatefulSetList", json!([]), "")),
        ("/apis/apps/v1/daemonsets", list("DaemonSetList", json!([]), "")),
        ("/apis/batch/v1/cronjobs", list("CronJobList", json!([]), "")),
        ("/apis/coordination.k8s.io/v1/leases", list("LeaseList", json!([]), "")),
        (
            "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing",
            json!({ "kind": "Lease", "metadata": { "name": "billing", "namespace": "shop" } }),
        ),
        (
            "/api/v1/namespaces/leader-system/pods",
            list("PodList", json!([{ "metadata": { "name": "leader-webhook-1", "namespace": "leader-system" } }]), ""),
        ),
        ("/api/v1/namespaces/leader-system/pods/https:leader-webhook-1:10250/proxy/metrics", json!("a_metric 1\n")),
        (
            "/api/v1/pods?limit=500",
            list(
                "PartialObjectMetadataList",
                json!([
                    { "metadata": { "name": "bare", "namespace": "shop", "annotations": { "leader.io/id": "x" } } },
                    { "metadata": { "name": "ours", "namespace": "shop", "annotations": { "leader.io/id": "x" },
                        "labels": { "leader.io/id": "x" } } },
                ]),
                "",
            ),
        ),
        (
            "/api/v1/namespaces/default/services/kubernetes",
            json!({ "spec": { "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 443 }] } }),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            list(
                "EndpointSliceList",
                json!([{ "endpoints": [{ "addresses": ["10.10.1.1"] }], "ports": [{ "port": 6443 }] }]),
                "",
            ),
        ),
    ]);
    let snapshot = gather(&client, &PLACES).await.unwrap();
    assert_eq!(snapshot.now.to_string(), "2026-11-21T12:00:00Z");
    assert_eq!(snapshot.server.unwrap().minor, "36");
    let workloads = snapshot.workloads.unwrap();
    assert_eq!(workloads.len(), 1);
    assert_eq!((name(&workloads[0]), &workloads[0]["kind"]), ("billing", &json!("Deployment")));
    assert!(workloads[0]["metadata"]["managedFields"].is_null());
    // It has no label: it was adopted.
    assert_eq!(snapshot.leases.unwrap().len(), 1);
    assert_eq!(snapshot.figures["leader-webhook-1"], Ok("a_metric 1\n".to_owned()));
    let bare = snapshot.bare_pods.unwrap();
    assert_eq!((bare.len(), name(&bare[0]), &bare[0]["kind"]), (1, "bare", &json!("Pod")));
    let targets = [("10.96.0.1".parse().unwrap(), 443), ("10.10.1.1".parse().unwrap(), 6443)];
    assert_eq!(snapshot.api_server, Ok(targets.to_vec()));
    // What is not there is nothing, what cannot be listed has a reason, and the dry run is the only write.
    assert_eq!((snapshot.configuration, snapshot.deployment), (Ok(None), Ok(None)));
    assert_eq!((snapshot.authority, snapshot.rights), (Ok(None), Ok((None, None))));
    assert!(snapshot.policies.unwrap_err().contains("validatingadmissionpolicies?limit=500 is not there"));
    assert!(matches!(snapshot.answer, Ok(Answer::Refused { code: 404, .. })));
    let writes: Vec<_> = asked.lock().unwrap().iter().filter(|asked| !asked.starts_with("GET ")).cloned().collect();
    assert_eq!(writes, ["POST /apis/apps/v1/namespaces/default/deployments?dryRun=All&fieldManager=kubectl-leader"]);
}

#[tokio::test]
async fn one_namespace_alone_is_looked_at() {
    let (client, asked) = client(vec![version_of()]);
    gather(&client, &Places { elections: Some("shop"), ..PLACES }).await.unwrap();
    let asked = asked.lock().unwrap();
    for path in [
        "/apis/apps/v1/namespaces/shop/deployments",
        "/api/v1/namespaces/shop/pods",
        "/apis/coordination.k8s.io/v1/namespaces/shop/leases",
        "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies",
        "/api/v1/namespaces/shop/services",
    ] {
        assert!(asked.iter().any(|asked| asked.starts_with(&format!("GET {path}?"))), "{path} is not among {asked:#?}");
    }
    assert!(!asked.iter().any(|asked| asked.contains("/v1/deployments")), "{asked:#?}");
}

#[tokio::test]
async fn who_does_not_answer_at_all_is_an_error() {
    let (client, _) = client(vec![]);
    let error = gather(&client, &PLACES).await.err().unwrap();
    assert!(api_error::reason(&error).contains("/version is not there"), "{error}");
}
