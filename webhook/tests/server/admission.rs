//! What the webhook answers to reviews, good ones and broken ones.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use serde_json::{Value, json};

use crate::running::{Running, create, deployment, patched, post, refusal, request, review_of};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";

#[tokio::test]
async fn an_annotated_deployment_is_injected_and_its_objects_are_made() {
    let running = Running::start().await;
    let response = running.review(&create(&deployment())).await;
    assert_eq!(response["uid"], "0c9a8d74");
    let stored = patched(&deployment(), &response);
    let template = &stored["spec"]["template"]["spec"];
    assert_eq!(template["containers"][0]["command"], json!(["/leader/agent", "run", "--", "/billing"]));
    assert_eq!(template["initContainers"][0]["image"], "agent:1");
    assert_eq!(template["serviceAccountName"], "leader-billing");

    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop";
    let core = "/api/v1/namespaces/shop/serviceaccounts/leader-billing".to_owned();
    let paths =
        [core, format!("{rbac}/roles/leader-billing"), format!("{rbac}/rolebindings/leader-billing"), LEASE.to_owned()];
    for path in paths {
        let object = running.api.get(&path).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(object["metadata"]["labels"]["leader.io/id"], "billing", "{path}");
        assert!(object["metadata"]["ownerReferences"].is_null(), "{path}");
    }
    let lease = running.api.get(LEASE).unwrap();
    assert!(lease["spec"]["holderIdentity"].is_null() && lease["metadata"]["annotations"].is_null());

    // The same once more: the live template is kept, nothing is looked up, and nothing is written.
    let (writes, lists) = (running.api.writes(), running.api.lists());
    assert!(!lists.is_empty());
    let again = running.review(&review_of("UPDATE", &deployment(), &stored)).await;
    assert_eq!(patched(&deployment(), &again)["spec"]["template"], stored["spec"]["template"]);
    assert_eq!((running.api.writes(), running.api.lists()), (writes, lists));

    // Without the annotation it is as it was.
    let mut plain = stored.clone();
    plain["metadata"].as_object_mut().unwrap().remove("annotations");
    let ejected = running.review(&review_of("UPDATE", &plain, &stored)).await;
    assert_eq!(patched(&plain, &ejected)["spec"]["template"], deployment()["spec"]["template"]);

    let (_, metrics) = running.get("/metrics").await;
    for result in ["injected", "kept", "ejected"] {
        let line = format!("leader_webhook_reviews_total{{result=\"{result}\"}} 1\n");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_dry_run_makes_nothing_and_refuses_what_would_be_refused() {
    let running = Running::start().await;
    let mut review = create(&deployment());
    review["request"]["dryRun"] = json!(true);
    patched(&deployment(), &running.review(&review).await);
    assert_eq!(running.api.writes(), Vec::<String>::new());

    running.api.put(LEASE, json!({ "metadata": { "name": "billing", "namespace": "shop" }, "spec": {} }));
    let response = running.review(&review).await;
    assert!(refusal(&response).contains("Lease shop/billing exists and was not made for the id billing"), "{response}");
}

#[tokio::test]
async fn somebody_elses_lease_is_refused_and_nothing_is_left_behind() {
    let running = Running::start().await;
    running.api.put(LEASE, json!({ "metadata": { "name": "billing", "namespace": "shop" }, "spec": {} }));
    let response = running.review(&create(&deployment())).await;
    assert!(refusal(&response).contains("leader.io/adopt=true"), "{response}");
    assert_eq!(running.api.writes(), Vec::<String>::new());

    running.api.put(
        LEASE,
        json!({ "metadata": { "name": "billing", "annotations": { "leader.io/adopt": "true" } }, "spec": {} }),
    );
    patched(&deployment(), &running.review(&create(&deployment())).await);
}

#[tokio::test]
async fn a_bound_default_account_is_kept_and_bound() {
    let running = Running::start().await;
    let binding = json!({ "metadata": { "name": "viewers" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default", "namespace": "shop" }] });
    running.api.put("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/viewers", binding);
    let response = running.review(&create(&deployment())).await;
    let stored = patched(&deployment(), &response);
    assert_ne!(stored["spec"]["template"]["spec"]["serviceAccountName"], "leader-billing");
    assert_eq!(running.api.get("/api/v1/namespaces/shop/serviceaccounts/leader-billing"), None);
    let bound =
        running.api.get("/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/leader-billing").unwrap();
    assert_eq!(bound["subjects"][0]["name"], "default");
}

#[tokio::test]
async fn an_ids_own_binding_does_not_make_others_keep_the_account() {
    let running = Running::start().await;
    let mut keeping = deployment();
    keeping["metadata"]["name"] = json!("reports");
    keeping["metadata"]["annotations"] = json!({ "leader.io/id": "reports", "leader.io/service-account": "keep" });
    patched(&keeping, &running.review(&create(&keeping)).await);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop";
    let bound = running.api.get(&format!("{rbac}/rolebindings/leader-reports")).unwrap();
    assert_eq!(bound["subjects"][0]["name"], "default");
    let stored = patched(&deployment(), &running.review(&create(&deployment())).await);
    assert_eq!(stored["spec"]["template"]["spec"]["serviceAccountName"], "leader-billing");
}

#[tokio::test]
async fn what_passes_and_what_is_refused() {
    let running = Running::start().await;
    let change = |edit: fn(&mut Value)| {
        let mut object = deployment();
        edit(&mut object);
        object
    };
    let plain = change(|object| object["metadata"]["annotations"] = json!({ "team": "billing" }));
    let deleted = change(|object| object["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z"));
    let inherited = change(|object| {
        object["kind"] = json!("ReplicaSet");
        object["metadata"]["ownerReferences"] = json!([{ "kind": "Deployment", "controller": true }]);
    });
    for object in [&plain, &deleted, &inherited] {
        let response = running.review(&create(object)).await;
        assert_eq!(patched(object, &response), *object);
    }
    let orphaned = change(|object| object["kind"] = json!("ReplicaSet"));
    let response = running.review(&review_of("UPDATE", &orphaned, &inherited)).await;
    assert_eq!(patched(&orphaned, &response), orphaned);
    let deletion = running.review(&review_of("DELETE", &Value::Null, &deployment())).await;
    assert_eq!(deletion["allowed"], true);

    let of_the_system = change(|object| object["metadata"]["namespace"] = json!("kube-system"));
    let of_the_webhook = change(|object| object["metadata"]["namespace"] = json!("leader-system"));
    let bad_id = change(|object| object["metadata"]["annotations"]["leader.io/id"] = json!("Billing"));
    let refused =
        [(of_the_system, "namespace kube-system"), (of_the_webhook, "namespace leader-system"), (bad_id, "Billing")];
    for (object, part) in refused {
        let response = running.review(&create(&object)).await;
        assert!(refusal(&response).contains(part), "{response}");
    }
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_review_is_an_error_and_never_an_admission() {
    let running = Running::start().await;
    let good = create(&deployment());
    let change = |edit: fn(&mut Value)| {
        let mut review = good.clone();
        edit(&mut review);
        review.to_string()
    };
    let bad = [
        (String::new(), "not JSON"),
        ("{".to_owned(), "not JSON"),
        ("\u{0}".to_owned(), "not JSON"),
        ("[".repeat(100_000), "not JSON"),
        ("null".to_owned(), "kind"),
        ("[]".to_owned(), "kind"),
        ("{}".to_owned(), "kind"),
        (change(|review| review["kind"] = json!("ConversionReview")), "ConversionReview"),
        (change(|review| review["kind"] = json!(["AdmissionReview"])), "kind"),
        (change(|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")), "v1beta1"),
        (change(|review| review["apiVersion"] = json!("admission.k8s.io/v2")), "admission.k8s.io/v2"),
        (change(|review| review["request"] = Value::Null), "missing"),
        (change(|review| review["request"] = json!("text")), "missing"),
        (change(|review| review["request"]["uid"] = Value::Null), "no uid"),
        (change(|review| review["request"]["uid"] = json!("")), "no uid"),
        (change(|review| review["request"]["uid"] = json!(7)), "no uid"),
    ];
    for (body, part) in bad {
        let shown: String = body.chars().take(200).collect();
        let (status, text) = running.send(post(body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{shown}: {text}");
        assert!(text.contains(part), "{shown}: {text}");
    }

    // Where the uid is known, the refusal is one that the user reads.
    let known: [fn(&mut Value); 7] = [
        |review| review["request"]["object"] = Value::Null,
        |review| review["request"]["object"] = json!([]),
        |review| review["request"]["object"] = json!("text"),
        |review| review["request"]["oldObject"] = json!(1),
        |review| review["request"]["operation"] = json!("PATCH"),
        |review| review["request"]["operation"] = json!("UPDATE"),
        |review| review["request"]["kind"] = json!("Deployment"),
    ];
    for edit in known {
        let body = change(edit);
        let response = running.review(&serde_json::from_str(&body).unwrap()).await;
        assert_eq!(response["uid"], "0c9a8d74", "{body}");
        assert!(!refusal(&response).is_empty(), "{body}");
    }

    // Objects that are JSON, but not what the API server would send.
    let odd: [fn(&mut Value); 6] = [
        |object| object["metadata"]["annotations"] = json!({ "leader.io/id": 7 }),
        |object| object["spec"] = Value::Null,
        |object| object["spec"]["template"] = json!([]),
        |object| object["spec"]["template"]["spec"]["containers"] = json!([]),
        |object| object["spec"]["template"]["spec"]["containers"] = json!([null]),
        |object| object["spec"]["template"]["spec"]["containers"][0]["command"] = json!("text"),
    ];
    for edit in odd {
        let mut object = deployment();
        edit(&mut object);
        let response = running.review(&create(&object)).await;
        assert!(!refusal(&response).is_empty(), "{object}");
    }
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_a_refusal_in_time() {
    let running = Running::start().await;
    running.api.fall_silent();
    let mut took = Vec::new();
    for _ in 0..3 {
        let body = Body::from(create(&deployment()).to_string());
        let request = request(Method::POST, "/inject?timeout=2s", "application/json", body);
        let started = std::time::Instant::now();
        let (status, text) = running.send(request).await;
        took.push(started.elapsed());
        assert_eq!(status, StatusCode::OK);
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(refusal(&answer["response"]).contains("did not hear from the API server"), "{text}");
    }
    // The fastest: a busy machine adds its own time.
    assert!(took.iter().any(|took| *took < Duration::from_secs(2)), "{took:?}");
}

#[tokio::test]
async fn work_that_takes_too_long_is_a_refusal_too() {
    let running = Running::start().await;
    let mut object = deployment();
    let env: Vec<Value> = (0..30_000).map(|number| json!({ "name": format!("E{number}"), "value": "x" })).collect();
    object["spec"]["template"]["spec"]["containers"][0]["env"] = json!(env);
    // Nothing to look up: all of the time goes into the object itself.
    object["metadata"]["annotations"] = json!({ "leader.io/container": "app" });
    let of = |path: &str| request(Method::POST, path, "application/json", Body::from(create(&object).to_string()));
    let (status, text) = running.send(of("/inject?timeout=2ms")).await;
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert!(refusal(&answer["response"]).contains("was not done within 1ms"), "{text}");
    let (_, text) = running.send(of("/inject?timeout=20s")).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
}

#[tokio::test]
async fn an_account_that_cannot_exist_is_refused_and_nothing_is_left_behind() {
    let running = Running::start().await;
    let mut object = deployment();
    object["spec"]["template"]["spec"]["serviceAccountName"] = json!("Not_A_Name");
    let response = running.review(&create(&object)).await;
    assert!(refusal(&response).contains("`Not_A_Name` is not the name of a service account"), "{response}");
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_the_api_server_says_is_said_once() {
    let running = Running::start().await;
    running.api.forbid_roles();
    let response = running.review(&create(&deployment())).await;
    let message = refusal(&response);
    assert_eq!(message.matches("Forbidden").count(), 1, "{message}");
    assert!(!message.contains("Status {"), "{message}");
}

#[tokio::test]
async fn a_role_that_the_api_server_does_not_know_yet_is_waited_for() {
    let running = Running::start().await;
    running.api.forget_roles(4);
    patched(&deployment(), &running.review(&create(&deployment())).await);
    let binding = running.api.get("/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/leader-billing");
    assert!(binding.is_some());
}

#[tokio::test]
async fn a_binding_that_is_made_again_binds_whom_it_bound() {
    let running = Running::start().await;
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/leader-billing";
    patched(&deployment(), &running.review(&create(&deployment())).await);
    let mut changed = running.api.get(path).unwrap();
    changed["roleRef"]["name"] = json!("admin");
    changed["subjects"][0]["name"] = json!("earlier");
    running.api.put(path, changed);
    // The first attempt after the deletion fails.
    running.api.forget_roles(1);
    patched(&deployment(), &running.review(&create(&deployment())).await);
    let made = running.api.get(path).unwrap();
    assert_eq!(made["roleRef"]["name"], "leader-billing");
    let bound: Vec<&Value> = made["subjects"].as_array().unwrap().iter().map(|subject| &subject["name"]).collect();
    assert_eq!(bound, ["earlier", "leader-billing"]);
}
