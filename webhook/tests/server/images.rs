//! Reviews of workloads whose entry point only their image knows.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Method, StatusCode},
    response::IntoResponse,
};
use futures::future::join_all;
use leader_webhook::registry::Options;
use serde_json::{Value, json};

use crate::{
    registry::{Registry, silent},
    running::{Running, create, deployment, patched, refusal, request, review_of},
};

/// `user` and `password`.
const BASIC: &str = "Basic dXNlcjpwYXNzd29yZA==";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

/// A webhook, and a registry that it knows, with the image `team/app:1`.
async fn start() -> (Running, Registry) {
    let registry = Registry::start().await;
    let config = json!({ "Entrypoint": ["/app"], "Cmd": ["serve", "$HOME"], "StopSignal": "SIGQUIT" });
    registry.put_image("team/app", Some("1"), &config);
    let options = Options { plain_http_registry: vec![registry.host()], registry_ca: None };
    (Running::start_with(&options).await, registry)
}

/// A Deployment that leaves the entry point to its image.
fn workload(registry: &Registry) -> Value {
    let mut object = deployment();
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(format!("{}/team/app:1", registry.host()));
    container.as_object_mut().unwrap().remove("command");
    object
}

fn container(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]
}

/// The Secret that `docker login` would make.
fn secret(registry: &Registry) -> Value {
    let config = json!({ "auths": { registry.host(): { "username": "user", "password": "password" } } }).to_string();
    let data = serde_json::to_value(k8s_openapi::ByteString(config.into_bytes())).unwrap();
    json!({ "metadata": { "name": "regcred" }, "type": "kubernetes.io/dockerconfigjson", "data": { ".dockerconfigjson": data } })
}

#[tokio::test]
async fn the_entry_point_comes_from_the_image_once() {
    let (running, registry) = start().await;
    let object = workload(&registry);
    let stored = patched(&object, &running.review(&create(&object)).await);
    assert_eq!(container(&stored)["command"], json!(["/leader/agent", "run", "--", "/app"]));
    assert_eq!(container(&stored)["args"], json!(["serve", "$$HOME"]));
    let asked = registry.asked().len();

    // A re-apply, a scaled one and an undone annotation ask nobody.
    registry.rule(|_| panic!("the registry was asked"));
    let again = patched(&object, &running.review(&review_of("UPDATE", &object, &stored)).await);
    assert_eq!(again["spec"]["template"], stored["spec"]["template"]);
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(3);
    let scaled_stored = patched(&scaled, &running.review(&review_of("UPDATE", &scaled, &stored)).await);
    assert_eq!(scaled_stored["spec"]["template"], stored["spec"]["template"]);
    assert_eq!(registry.asked().len(), asked);

    let (_, metrics) = running.get("/metrics").await;
    assert!(metrics.contains("leader_webhook_image_lookups_total{result=\"found\"} 1\n"), "{metrics}");
    assert!(metrics.contains("leader_webhook_image_lookup_duration_seconds_count 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_dry_run_asks_as_well() {
    let (running, registry) = start().await;
    let object = workload(&registry);
    let mut review = create(&object);
    review["request"]["dryRun"] = json!(true);
    let stored = patched(&object, &running.review(&review).await);
    assert_eq!(container(&stored)["command"], json!(["/leader/agent", "run", "--", "/app"]));
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn the_pods_own_secrets_are_used_and_else_their_accounts() {
    let (running, registry) = start().await;
    registry.require_token(BASIC);
    let mut object = workload(&registry);
    let denied = running.review(&create(&object)).await;
    assert!(refusal(&denied).contains("denies access to team/app"), "{denied}");

    object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{ "name": "regcred" }]);
    let missing = running.review(&create(&object)).await;
    assert!(refusal(&missing).contains("; secret regcred does not exist"), "{missing}");

    running.api.put(&format!("{SECRETS}/regcred"), secret(&registry));
    let stored = patched(&object, &running.review(&create(&object)).await);
    assert_eq!(container(&stored)["command"], json!(["/leader/agent", "run", "--", "/app"]));

    // Of the account `default`, whose pull secrets the pods' own account has too.
    object["spec"]["template"]["spec"].as_object_mut().unwrap().remove("imagePullSecrets");
    let account = json!({ "metadata": { "name": "default" }, "imagePullSecrets": [{ "name": "regcred" }] });
    running.api.put("/api/v1/namespaces/shop/serviceaccounts/default", account);
    patched(&object, &running.review(&create(&object)).await);

    // Somebody else's namespace gets nothing from that.
    let mut stranger = workload(&registry);
    stranger["metadata"]["namespace"] = json!("elsewhere");
    let refused = running.review(&create(&stranger)).await;
    assert!(refusal(&refused).contains("denies access to team/app"), "{refused}");
}

#[tokio::test]
async fn secrets_that_may_not_be_read_are_a_part_of_the_reason() {
    let (running, registry) = start().await;
    running.api.forbid(&format!("{SECRETS}/regcred"));
    let mut object = workload(&registry);
    object["spec"]["template"]["spec"]["imagePullSecrets"] = json!([{ "name": "regcred" }]);
    // What anybody may pull is found all the same.
    patched(&object, &running.review(&create(&object)).await);
    registry.require_token(BASIC);
    container_mut(&mut object)["image"] = json!(format!("{}/team/app:2", registry.host()));
    let refused = running.review(&create(&object)).await;
    let reason = refusal(&refused);
    assert!(reason.contains("denies access") && reason.contains("; secret regcred cannot be read: "), "{reason}");
}

fn container_mut(object: &mut Value) -> &mut Value {
    &mut object["spec"]["template"]["spec"]["containers"][0]
}

/// A webhook in a cluster with these nodes, and a registry whose image differs by platform.
async fn start_with_nodes(nodes: &[(&str, &str)]) -> (Running, Registry) {
    let (running, registry) = start().await;
    for (system, architecture) in nodes {
        let name = format!("{system}-{architecture}");
        let labels = json!({ "kubernetes.io/os": system, "kubernetes.io/arch": architecture });
        running.api.put(&format!("/api/v1/nodes/{name}"), json!({ "metadata": { "name": name, "labels": labels } }));
    }
    let put = |word: &str| registry.put_image("team/app", None, &json!({ "Entrypoint": [word] }));
    let variants = [("linux/amd64", put("/amd")), ("linux/arm64", put("/arm"))];
    registry.put_index("team/app", "1", &variants);
    (running, registry)
}

#[tokio::test]
async fn the_nodes_say_which_platforms_matter() {
    let (running, registry) = start_with_nodes(&[("linux", "arm64"), ("windows", "amd64")]).await;
    let object = workload(&registry);
    let stored = patched(&object, &running.review(&create(&object)).await);
    assert_eq!(container(&stored)["command"], json!(["/leader/agent", "run", "--", "/arm"]));

    let (running, registry) = start_with_nodes(&[("linux", "arm64"), ("linux", "amd64")]).await;
    let mut object = workload(&registry);
    let refused = running.review(&create(&object)).await;
    let reason = refusal(&refused);
    assert!(reason.contains("team/app:1") && reason.contains("linux/amd64 and linux/arm64 differ"), "{reason}");
    object["spec"]["template"]["spec"]["nodeSelector"] = json!({ "kubernetes.io/arch": "amd64" });
    let stored = patched(&object, &running.review(&create(&object)).await);
    assert_eq!(container(&stored)["command"], json!(["/leader/agent", "run", "--", "/amd"]));
    assert_eq!(running.api.lists().iter().filter(|path| *path == "/api/v1/nodes").count(), 1);
}

#[tokio::test]
async fn a_registry_that_fails_is_named_with_the_ways_out() {
    let (running, registry) = start().await;
    registry.answer("/manifests/", || StatusCode::SERVICE_UNAVAILABLE.into_response());
    let object = workload(&registry);
    let refused = running.review(&create(&object)).await;
    let reason = refusal(&refused);
    for part in ["/team/app:1", "503 Service Unavailable", "command", "leader.io/command"] {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
    assert_eq!(running.api.writes(), Vec::<String>::new());

    // The second way out.
    let mut told = object.clone();
    told["metadata"]["annotations"]["leader.io/command"] = json!("[\"/told\"]");
    let stored = patched(&told, &running.review(&create(&told)).await);
    assert_eq!(container(&stored)["command"], json!(["/leader/agent", "run", "--", "/told"]));

    let (_, metrics) = running.get("/metrics").await;
    assert!(metrics.contains("leader_webhook_image_lookups_total{result=\"unusable\"}"), "{metrics}");
}

#[tokio::test]
async fn a_silent_registry_is_waited_for_within_the_reviews_time_and_holds_nobody_up() {
    let (running, registry) = start().await;
    registry.answer("/manifests/", || silent("application/json"));
    let object = workload(&registry);
    let review = async |number: usize| {
        let mut object = object.clone();
        // Each its own image, so that none waits for another one's look-up.
        container_mut(&mut object)["image"] = json!(format!("{}/team/app:{number}", registry.host()));
        let body = Body::from(create(&object).to_string());
        let started = Instant::now();
        let (_, text) = running.send(request(Method::POST, "/inject?timeout=3s", "application/json", body)).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        (started.elapsed(), refusal(&answer["response"]).to_owned())
    };
    // More than are worked on at once.
    let waiting = join_all((0..20).map(review));
    let others = async {
        while registry.count("/manifests/") < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let started = Instant::now();
        let mut told = deployment();
        container_mut(&mut told)["lifecycle"] = json!({ "stopSignal": "SIGTERM" });
        patched(&told, &running.review(&create(&told)).await);
        started.elapsed()
    };
    let (answers, others) = futures::join!(waiting, others);
    assert!(others < Duration::from_secs(2), "{others:?}");
    assert!(answers.iter().all(|(_, reason)| reason.contains("did not answer within")), "{answers:?}");
    // The fastest: a busy machine adds its own time to the others'.
    assert!(answers.iter().any(|(took, _)| *took < Duration::from_secs(3)), "{answers:?}");
}

#[tokio::test]
async fn a_pod_is_told_by_another_one_of_the_same_owner() {
    let (running, registry) = start().await;
    let owner =
        json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "billing-1", "uid": "1", "controller": true }]);
    let pod = |name: &str| {
        let mut spec = workload(&registry)["spec"]["template"]["spec"].clone();
        spec["serviceAccountName"] = json!("default");
        json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec, "metadata": { "name": name, "namespace": "shop",
            "ownerReferences": owner, "annotations": { "leader.io/id": "billing" } } })
    };
    let first = patched(&pod("billing-1-a"), &running.review(&create(&pod("billing-1-a"))).await);
    assert_eq!(first["metadata"]["labels"]["leader.io/id"], "billing");
    running.api.put("/api/v1/namespaces/shop/pods/billing-1-a", first.clone());

    // Another replica of the webhook, which has nothing in its memory.
    let options = Options { plain_http_registry: vec![registry.host()], registry_ca: None };
    let other = Running::start_with(&options).await;
    registry.answer("/v2/", || StatusCode::SERVICE_UNAVAILABLE.into_response());
    let alone = other.review(&create(&pod("billing-1-b"))).await;
    assert!(refusal(&alone).contains("503"), "{alone}");
    other.api.put("/api/v1/namespaces/shop/pods/billing-1-a", first.clone());
    let response = other.review(&create(&pod("billing-1-b"))).await;
    let second = patched(&pod("billing-1-b"), &response);
    assert_eq!(second["spec"]["containers"][0]["command"], first["spec"]["containers"][0]["command"]);
    assert!(response["warnings"].to_string().contains("503"), "{response}");
}
