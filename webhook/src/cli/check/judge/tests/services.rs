//! Services: leader-only ones and others.

use serde_json::{Value, json};

use super::{broken, found, healthy};
use crate::cli::check::{judge::judge, snapshot::Snapshot};

fn service(annotations: &Value, spec: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": { "name": "web", "namespace": "shop", "annotations": annotations } })
}

fn with(annotations: &Value, spec: &Value) -> impl FnOnce(&mut Snapshot) {
    let service = service(annotations, spec);
    move |snapshot| snapshot.services = Ok(vec![service])
}

fn selecting() -> Value {
    json!({ "selector": { "leader.io/id": "billing" }, "ports": [{ "port": 80, "targetPort": 8080 }] })
}

#[test]
fn one_that_reaches_standbys_is_pointed_out_with_the_command() {
    let said = broken(with(&Value::Null, &selecting()));
    assert!(
        said.starts_with(
            "services Warning Service shop/web: it sends traffic to all pods of leader election `billing`"
        ),
        "{said}"
    );
    let mut snapshot = healthy();
    with(&Value::Null, &selecting())(&mut snapshot);
    let mends: Vec<String> = judge(&snapshot)
        .checks
        .iter()
        .flat_map(|check| check.findings.iter().map(|finding| finding.mend.clone()))
        .collect();
    assert_eq!(mends, ["kubectl -n shop annotate service/web leader.io/leader-only=billing"]);
}

#[test]
fn one_that_the_webhook_did_not_see_and_one_for_nobody() {
    let unseen = broken(with(&json!({ "leader.io/leader-only": "billing" }), &selecting()));
    assert!(unseen.starts_with("services Problem Service shop/web") && unseen.contains("did not see it"), "{unseen}");
    let nobody = broken(with(&json!({ "leader.io/leader-only": "orders" }), &json!({ "ports": [{ "port": 80 }] })));
    assert!(nobody.contains("nobody is elected under that id"), "{nobody}");
}

#[test]
fn what_is_as_it_should_be() {
    for (annotations, spec) in [
        (json!({ "leader.io/leader-only": "billing" }), json!({ "ports": [{ "port": 80 }] })),
        (Value::Null, json!({ "selector": { "app": "another" }, "ports": [{ "port": 80 }] })),
        (Value::Null, json!({ "selector": { "leader.io/id": "billing" }, "ports": [{ "port": 9809 }] })),
    ] {
        let mut snapshot = healthy();
        with(&annotations, &spec)(&mut snapshot);
        assert_eq!(found(&judge(&snapshot)), Vec::<String>::new());
    }
    // In the other modes the app runs in every pod.
    let mut snapshot = healthy();
    with(&Value::Null, &selecting())(&mut snapshot);
    snapshot.workloads.as_mut().unwrap()[0]["metadata"]["annotations"]["leader.io/mode"] = json!("ready");
    assert_eq!(found(&judge(&snapshot)), Vec::<String>::new());
}
