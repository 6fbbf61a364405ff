//! What reviews of the other kinds are answered with, and those of pods.

use serde_json::{Value, json};

use crate::running::{IMAGE, Running, create, deployment, patched, refusal, review_of};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/billing";
const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/leader-billing";

fn asking() -> Value {
    json!({ "leader.io/id": "billing" })
}

fn specification() -> Value {
    json!({ "containers": [{ "name": "app", "image": IMAGE, "command": ["/billing"] }] })
}

/// An object that makes pods; the annotations stand on its metadata and on its pod template.
fn maker(kind: &str, annotations: &Value, on_template: &Value) -> Value {
    let labels = json!({ "app": "nightly" });
    let template = json!({ "metadata": { "labels": labels, "annotations": on_template }, "spec": specification() });
    let version = match kind {
        "Job" | "CronJob" => "batch/v1",
        "ReplicationController" => "v1",
        _ => "apps/v1",
    };
    let spec = match kind {
        "CronJob" => json!({ "jobTemplate": { "spec": { "template": template } } }),
        "Job" => json!({ "template": template }),
        "ReplicationController" => json!({ "replicas": 2, "selector": labels, "template": template }),
        _ => json!({ "replicas": 2, "selector": { "matchLabels": labels }, "template": template }),
    };
    json!({ "apiVersion": version, "kind": kind,
        "metadata": { "name": "nightly", "namespace": "shop", "annotations": annotations }, "spec": spec })
}

fn owned_by(mut object: Value, version: &str, kind: &str) -> Value {
    object["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": version, "kind": kind, "name": "owner", "uid": "1", "controller": true }]);
    object
}

/// A pod as a ReplicaSet makes it: it has no name yet, and what comes before webhooks has filled in its account.
fn pod(annotations: &Value) -> Value {
    let mut spec = specification();
    spec["serviceAccountName"] = json!("default");
    spec["serviceAccount"] = json!("default");
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": { "generateName": "billing-7d-", "namespace": "shop", "annotations": annotations } });
    owned_by(pod, "apps/v1", "ReplicaSet")
}

#[tokio::test]
async fn a_pod_is_injected_when_it_is_created_and_its_account_is_there() {
    let running = Running::start().await;
    let response = running.review(&create(&pod(&asking()))).await;
    let stored = patched(&pod(&asking()), &response);
    assert_eq!(stored["spec"]["containers"][0]["command"], json!(["/leader/agent", "run", "--", "/billing"]));
    assert_eq!(stored["spec"]["serviceAccountName"], "leader-billing");
    assert_eq!(stored["spec"]["serviceAccount"], "leader-billing");
    assert_eq!(stored["metadata"]["annotations"]["leader.io/id"], "billing");
    assert!(running.api.get(ACCOUNT).is_some() && running.api.get(LEASE).is_some());

    // The API server asks again when another webhook changed it afterwards.
    let again = running.review(&create(&stored)).await;
    assert_eq!(patched(&stored, &again), stored);
    assert!(again.get("patch").is_none(), "{again}");
}

#[tokio::test]
async fn a_dry_run_of_a_pod_makes_nothing() {
    let running = Running::start().await;
    let mut review = create(&pod(&asking()));
    review["request"]["dryRun"] = json!(true);
    patched(&pod(&asking()), &running.review(&review).await);
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_exists_is_never_injected() {
    let running = Running::start().await;
    let plain = pod(&json!({}));
    let (late, other) = (pod(&asking()), pod(&json!({ "leader.io/id": "other" })));
    for review in [review_of("UPDATE", &late, &plain), review_of("UPDATE", &other, &late)] {
        let response = running.review(&review).await;
        assert!(refusal(&response).contains("from its creation on"), "{response}");
    }
    // It has ended, say, and a controller takes its finalizer off; or somebody takes the id off.
    for (object, old) in [(&late, &late), (&plain, &late)] {
        let response = running.review(&review_of("UPDATE", object, old)).await;
        assert_eq!(patched(object, &response), *object);
    }
    let mut shown = pod(&asking());
    shown["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("1");
    let response = running.review(&create(&shown)).await;
    assert!(refusal(&response).contains("static pod"), "{response}");
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn pods_of_an_injected_template_pass() {
    let running = Running::start().await;
    let record = json!({ "leader.io/injected": "{}" });
    let response = running.review(&create(&pod(&record))).await;
    assert_eq!(patched(&pod(&record), &response), pod(&record));
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn stateful_and_daemon_sets_are_injected() {
    let running = Running::start().await;
    for kind in ["StatefulSet", "DaemonSet"] {
        let object = maker(kind, &asking(), &json!({}));
        let stored = patched(&object, &running.review(&create(&object)).await);
        let spec = &stored["spec"]["template"]["spec"];
        assert_eq!(spec["containers"][0]["command"], json!(["/leader/agent", "run", "--", "/billing"]), "{kind}");
        assert!(running.api.get(LEASE).is_some());
        let plain = maker(kind, &json!({}), &json!({}));
        let mut ejected = stored.clone();
        ejected["metadata"]["annotations"] = json!({});
        let response = running.review(&review_of("UPDATE", &ejected, &stored)).await;
        assert_eq!(patched(&ejected, &response)["spec"], plain["spec"], "{kind}");
    }
}

#[tokio::test]
async fn with_the_id_on_the_template_objects_are_made_and_the_workload_stays_as_it_is() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "ReplicationController"] {
        let running = Running::start().await;
        let object = maker(kind, &json!({}), &asking());
        for review in [create(&object), review_of("UPDATE", &object, &maker(kind, &json!({}), &json!({})))] {
            let response = running.review(&review).await;
            assert_eq!(patched(&object, &response), object, "{kind}");
            assert!(!response["warnings"].is_null(), "{kind} says nothing");
        }
        assert!(running.api.get(ACCOUNT).is_some() && running.api.get(LEASE).is_some(), "{kind}");
    }
}

#[tokio::test]
async fn kinds_that_are_not_injected_are_told_where_the_id_belongs() {
    let running = Running::start().await;
    let (plain, none) = (|kind: &str| maker(kind, &json!({}), &json!({})), json!({}));
    for kind in ["ReplicaSet", "Job", "CronJob", "ReplicationController"] {
        for object in [maker(kind, &asking(), &none), maker(kind, &asking(), &json!({ "leader.io/id": "other" }))] {
            for review in [create(&object), review_of("UPDATE", &object, &plain(kind))] {
                let response = running.review(&review).await;
                assert!(refusal(&response).contains("put it on the pod template"), "{kind}: {response}");
            }
            let response = running.review(&review_of("UPDATE", &plain(kind), &object)).await;
            assert_eq!(patched(&plain(kind), &response), plain(kind));
        }
        assert_eq!(patched(&plain(kind), &running.review(&create(&plain(kind))).await), plain(kind));
    }
    // It would come to stand on the Jobs.
    let mut object = plain("CronJob");
    object["spec"]["jobTemplate"]["metadata"] = json!({ "annotations": asking() });
    let response = running.review(&create(&object)).await;
    assert!(refusal(&response).contains("put it on the pod template"), "{response}");
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn what_another_object_makes_is_not_judged_twice() {
    let running = Running::start().await;
    let made = [
        owned_by(maker("ReplicaSet", &asking(), &json!({})), "apps/v1", "Deployment"),
        owned_by(maker("ReplicaSet", &asking(), &asking()), "argoproj.io/v1alpha1", "Rollout"),
        owned_by(maker("Job", &json!({}), &asking()), "batch/v1", "CronJob"),
        owned_by(maker("ReplicationController", &asking(), &json!({})), "apps.openshift.io/v1", "DeploymentConfig"),
    ];
    for object in &made {
        for review in [create(object), review_of("UPDATE", object, object)] {
            let response = running.review(&review).await;
            assert_eq!(patched(object, &response), *object);
        }
        // `kubectl delete --cascade=orphan` takes the owner away.
        let mut orphan = object.clone();
        orphan["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        let response = running.review(&review_of("UPDATE", &orphan, object)).await;
        assert_eq!(patched(&orphan, &response), orphan);
    }
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn excluded_namespaces_have_no_elections_of_any_kind() {
    let running = Running::start().await;
    for namespace in ["kube-system", "leader-system"] {
        let mut objects = vec![pod(&asking()), maker("StatefulSet", &asking(), &json!({}))];
        objects.extend(["Deployment", "Job", "CronJob"].map(|kind| maker(kind, &json!({}), &asking())));
        for object in &mut objects {
            object["metadata"]["namespace"] = json!(namespace);
            let response = running.review(&create(object)).await;
            assert!(refusal(&response).contains(&format!("namespace {namespace}")), "{response}");
        }
        // What was injected elsewhere, and lost its id, may be put right here.
        let mut left = deployment();
        left["metadata"] = json!({ "name": "billing", "namespace": namespace });
        left["spec"]["template"]["metadata"]["annotations"] = json!({ "leader.io/injected": "{}" });
        assert_eq!(running.review(&create(&left)).await["allowed"], true);
    }
    assert_eq!(running.api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn two_workloads_under_one_id_are_named() {
    let running = Running::start().await;
    let other = maker("StatefulSet", &asking(), &json!({}));
    running.api.put("/apis/apps/v1/namespaces/shop/statefulsets/nightly", other);
    let said = async |object: &Value| {
        let response = running.review(&create(object)).await;
        assert_eq!(response["allowed"], true, "{response}");
        response["warnings"].to_string()
    };
    for object in [deployment(), maker("Deployment", &json!({}), &asking())] {
        let warnings = said(&object).await;
        assert!(warnings.contains("StatefulSet/nightly"), "{warnings}");
    }
    let of_another_id = maker("Deployment", &json!({ "leader.io/id": "other" }), &json!({}));
    let warnings = said(&of_another_id).await;
    assert!(!warnings.contains("StatefulSet/nightly"), "{warnings}");
}
