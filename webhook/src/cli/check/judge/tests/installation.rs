//! The installation: versions, the webhook, its configuration and certificates, policies and rights.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use leader_certs::authority::Authority;
use serde_json::{Value, json};

use super::{broken, found, healthy, now, set};
use crate::{
    cli::check::{
        judge::{
            installation::{OWN_ROLES, POLICIES, RIGHTS, allows},
            judge,
        },
        report::Level,
        snapshot::Answer,
    },
    inject::Refusal,
};

#[test]
fn an_old_kubernetes() {
    let found = broken(|snapshot| snapshot.server.as_mut().unwrap().minor = "29".to_owned());
    assert!(found.starts_with("kubernetes Problem : the API server is Kubernetes 1.29"), "{found}");
}

#[test]
fn other_versions_of_the_webhook() {
    let found = broken(|snapshot| snapshot.own_version = "0.3.0".to_owned());
    assert!(found.starts_with("versions Warning : the webhook is 0.1.0, and this program 0.3.0"), "{found}");
}

#[test]
fn the_webhook_is_gone_or_not_ready() {
    let gone = broken(|snapshot| snapshot.deployment = Ok(None));
    assert_eq!(gone, "webhook Problem Deployment leader-system/leader-webhook: it does not exist");
    let down = broken(|snapshot| {
        snapshot.deployment = Ok(Some(json!({ "spec": { "replicas": 0 } })));
        snapshot.webhook_pods = Ok(vec![]);
        snapshot.figures.clear();
    });
    assert!(down.contains("it is scaled to no replicas"), "{down}");
    let none = broken(|snapshot| snapshot.deployment = Ok(Some(json!({ "spec": { "replicas": 2 }, "status": {} }))));
    assert!(none.contains("no replica is ready"), "{none}");
    let one = broken(|snapshot| {
        snapshot.deployment = Ok(Some(json!({ "spec": { "replicas": 2 }, "status": { "readyReplicas": 1 } })));
    });
    assert!(one.starts_with("webhook Warning") && one.contains("only 1 of 2 replicas are ready"), "{one}");
    let image = broken(|snapshot| {
        snapshot.webhook_pods.as_mut().unwrap()[0]["status"] = json!({ "initContainerStatuses": [{
            "name": "agent-image", "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } },
        }] });
    });
    assert!(image.contains("Pod leader-system/leader-webhook-1: its container agent-image does not start"), "{image}");
}

#[test]
fn the_configuration_is_gone_or_lets_through() {
    let gone = broken(|snapshot| snapshot.configuration = Ok(None));
    assert!(
        gone.starts_with("configuration Problem MutatingWebhookConfiguration leader-webhook: it does not exist"),
        "{gone}"
    );
    let set = |pointer: &str, value: Value| {
        broken(|snapshot| {
            let configuration = snapshot.configuration.as_mut().unwrap().as_mut().unwrap();
            *configuration.pointer_mut(pointer).unwrap() = value;
        })
    };
    let open = set("/webhooks/0/failurePolicy", json!("Ignore"));
    assert!(open.contains("failurePolicy of inject.leader.io is Ignore"), "{open}");
    let other = set("/webhooks/1/clientConfig/service/namespace", json!("elsewhere"));
    assert!(other.contains("not a Service in leader-system"), "{other}");
    let empty = set("/webhooks/1/clientConfig/caBundle", json!(""));
    assert!(empty.contains("caBundle of pods.inject.leader.io is empty"), "{empty}");
    let one = broken(|snapshot| {
        let configuration = snapshot.configuration.as_mut().unwrap().as_mut().unwrap();
        configuration["webhooks"].as_array_mut().unwrap().remove(1);
    });
    assert!(one.contains("it has no webhook pods.inject.leader.io"), "{one}");
}

#[test]
fn certificates_that_do_not_match_or_end() {
    let other = Authority::generate(now()).unwrap();
    let foreign = broken(|snapshot| {
        let configuration = snapshot.configuration.as_mut().unwrap().as_mut().unwrap();
        configuration["webhooks"][0]["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(other.certificate()));
    });
    assert!(foreign.contains("caBundle of inject.leader.io does not have the authority of Secret"), "{foreign}");
    let junk = broken(|snapshot| {
        let configuration = snapshot.configuration.as_mut().unwrap().as_mut().unwrap();
        configuration["webhooks"][0]["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode("junk"));
    });
    assert!(junk.contains("no certificate that can be read"), "{junk}");
    let leaf = |seconds: i64| {
        broken(|snapshot| {
            let until = now().as_second() + seconds;
            let text = format!("leader_webhook_certificate_expiry_timestamp_seconds{{certificate=\"leaf\"}} {until}\n");
            snapshot.figures = BTreeMap::from([("leader-webhook-1".to_owned(), Ok(text))]);
        })
    };
    assert!(leaf(-1).starts_with("certificate Problem Pod leader-system/leader-webhook-1: its certificate ended at"));
    assert!(
        leaf(600)
            .starts_with("certificate Warning Pod leader-system/leader-webhook-1: its certificate ends in 0.0 days")
    );
    let none = broken(|snapshot| {
        snapshot.figures = BTreeMap::from([("leader-webhook-1".to_owned(), Ok(String::new()))]);
    });
    assert!(none.contains("it shows no certificate that the API server trusts"), "{none}");
    // Another authority, as with cert-manager or a mounted pair, is judged by the dry run.
    let mut snapshot = healthy();
    snapshot.authority = Ok(None);
    assert_eq!(found(&judge(&snapshot)), Vec::<String>::new());
}

#[test]
fn the_dry_run_says_why() {
    let refused = |code: u16, message: &str| {
        let message = message.to_owned();
        broken(move |snapshot| snapshot.answer = Ok(Answer::Refused { code, message }))
    };
    let called = "failed calling webhook \"inject.leader.io\": failed to call webhook: Post \"https://x\":";
    for (code, message, level) in [
        (500, format!("{called} x509: certificate signed by unknown authority"), Level::Problem),
        (500, format!("{called} context deadline exceeded"), Level::Problem),
        (500, format!("{called} no endpoints available for service"), Level::Problem),
        (403, "admission webhook \"inject.leader.io\" denied the request: no".to_owned(), Level::Problem),
        (422, "ValidatingAdmissionPolicy 'leader-injected' denied request".to_owned(), Level::Problem),
        (403, "deployments.apps is forbidden".to_owned(), Level::Unknown),
        (404, "namespaces \"default\" not found".to_owned(), Level::Unknown),
    ] {
        let found = refused(code, &message);
        assert!(found.starts_with(&format!("review {level:?}")), "{found}");
    }
    let elsewhere = broken(|snapshot| {
        let configuration = snapshot.configuration.as_mut().unwrap().as_mut().unwrap();
        configuration["webhooks"][0]["namespaceSelector"] = json!({ "matchLabels": { "leader.io/enabled": "true" } });
        let message = "ValidatingAdmissionPolicy 'leader-injected' denied request".to_owned();
        snapshot.answer = Ok(Answer::Refused { code: 422, message });
    });
    assert!(elsewhere.starts_with("review Unknown") && elsewhere.contains("namespaceSelector"), "{elsewhere}");
    let bare = broken(|snapshot| snapshot.answer = Ok(Answer::Stored(Box::default())));
    assert!(bare.contains("came back without the agent"), "{bare}");
}

#[test]
fn policies_that_are_gone_unbound_or_only_warn() {
    let gone = broken(|snapshot| drop(snapshot.policies.as_mut().unwrap().remove(1)));
    assert!(
        gone.starts_with("policies Problem ValidatingAdmissionPolicy leader-injected-pods: it does not exist"),
        "{gone}"
    );
    let unbound = broken(|snapshot| drop(snapshot.policy_bindings.as_mut().unwrap().remove(0)));
    assert!(unbound.contains("leader-injected: it is not bound"), "{unbound}");
    let warns = broken(|snapshot| set(&mut snapshot.policy_bindings, "/spec/validationActions", json!(["Warn"])));
    assert!(warns.contains("no binding of it has the action Deny"), "{warns}");
    let partly = broken(|snapshot| {
        snapshot.policy_bindings.as_mut().unwrap()[0]["spec"]["matchResources"] = json!({ "namespaceSelector": {} });
    });
    assert!(partly.starts_with("policies Warning"), "{partly}");
}

#[test]
fn rights_of_the_webhook() {
    let role = broken(|snapshot| snapshot.rights.as_mut().unwrap().0 = None);
    assert!(role.starts_with("rights Problem ClusterRole leader-webhook: it does not exist"), "{role}");
    let less = broken(|snapshot| {
        let role = snapshot.rights.as_mut().unwrap().0.as_mut().unwrap();
        role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"][0] != "mutatingwebhookconfigurations");
    });
    assert!(less.contains("it does not give patch on mutatingwebhookconfigurations"), "{less}");
    let binding = broken(|snapshot| snapshot.rights.as_mut().unwrap().1 = None);
    assert!(binding.contains("ClusterRoleBinding leader-webhook: it does not exist"), "{binding}");
    let other = broken(|snapshot| {
        snapshot.rights.as_mut().unwrap().1.as_mut().unwrap()["subjects"][0]["namespace"] = json!("elsewhere");
    });
    assert!(other.contains("it does not bind ServiceAccount leader-system/leader-webhook"), "{other}");
}

#[test]
fn rights_of_the_webhook_at_home() {
    let gone = broken(|snapshot| drop(snapshot.own_rights.as_mut().unwrap().0.remove(0)));
    assert!(
        gone.starts_with("rights Problem Role leader-system/leader-webhook-certificates: it does not exist"),
        "{gone}"
    );
    let unbound = broken(|snapshot| snapshot.own_rights.as_mut().unwrap().1[0]["subjects"] = json!([]));
    assert!(unbound.contains("Role leader-system/leader-webhook-certificates: it is not bound"), "{unbound}");
    let unread = broken(|snapshot| snapshot.own_rights = Err("roles is forbidden".to_owned()));
    assert!(unread.starts_with("rights Unknown"), "{unread}");
    // Somebody else makes the certificates, as an overlay does it.
    let mut elsewhere = healthy();
    elsewhere.own_rights = Ok((vec![], vec![]));
    elsewhere.deployment.as_mut().unwrap().as_mut().unwrap()["spec"]["template"]["spec"]["containers"] = json!([{
        "env": [{ "name": "LEADER_WEBHOOK_TLS_CERT", "value": "/certificate/tls.crt" }],
    }]);
    assert_eq!(found(&judge(&elsewhere)), Vec::<String>::new());
}

/// Where the agent's image is private, namespaces without elections need not have its secret.
#[test]
fn a_namespace_without_the_pull_secret_says_nothing_about_the_webhook() {
    let refusal = Refusal::NoPullSecret { secret: "agent".to_owned(), image: "private/agent:1".to_owned() };
    let message = format!("admission webhook \"inject.leader.io\" denied the request: {refusal}");
    let found = broken(|snapshot| snapshot.answer = Ok(Answer::Refused { code: 400, message }));
    assert!(found.starts_with("review Unknown") && found.contains("secret `agent`"), "{found}");
}

/// The rights that are asked for are those that the manifests give.
#[test]
fn the_manifests_give_what_is_asked_for() {
    let text = include_str!("../../../../../../deploy/base/access.yaml");
    let documents: Vec<Value> =
        text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
    let role = documents.iter().find(|object| object["kind"] == "ClusterRole").unwrap();
    for (group, resource, verb) in RIGHTS {
        assert!(allows(role, group, resource, verb), "{verb} on {resource}");
    }
    for (own, ..) in OWN_ROLES {
        let has =
            |kind: &str| documents.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == own);
        assert!(has("Role") && has("RoleBinding"), "{own}");
    }
    let policies = [
        include_str!("../../../../../../deploy/base/policy.yaml"),
        include_str!("../../../../../../deploy/base/limits.yaml"),
    ]
    .concat();
    for (name, _) in POLICIES {
        assert!(policies.contains(&format!("  policyName: {name}\n")), "{name}");
    }
}
