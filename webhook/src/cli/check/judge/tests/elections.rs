//! Elections: workloads, images, access, leaders.

use jiff::SignedDuration;
use serde_json::json;

use super::{ago, broken, found, healthy, set, template};
use crate::cli::check::{
    judge::judge,
    snapshot::{Answer, Snapshot},
};

#[test]
fn workloads_that_are_not_injected_or_of_an_old_version() {
    let bare = broken(|snapshot| {
        let workload = &mut snapshot.workloads.as_mut().unwrap()[0];
        workload["spec"]["template"] = json!({ "metadata": {}, "spec": { "containers": [{ "name": "app" }] } });
    });
    assert!(bare.starts_with("workloads Problem Deployment shop/billing: it asks for an election"), "{bare}");
    let older = broken(|snapshot| set(&mut snapshot.workloads, "/spec/template", template("agent:0.0.9")));
    assert!(older.starts_with("workloads Warning Deployment shop/billing: its agent is agent:0.0.9"), "{older}");
    let ancient = broken(|snapshot| {
        snapshot.answer = Ok(Answer::Stored(Box::new(json!({ "spec": { "template": template("agent:0.3.0") } }))));
    });
    assert!(ancient.starts_with("workloads Problem") && ancient.contains("more than one version apart"), "{ancient}");
    let pod = broken(|snapshot| {
        let metadata = json!({ "name": "x", "namespace": "shop", "annotations": { "leader.io/id": "x" } });
        snapshot.bare_pods = Ok(vec![json!({ "kind": "Pod", "metadata": metadata })]);
    });
    assert!(
        pod.starts_with("workloads Problem Pod shop/x: it asks for an election by leader.io/id and has no agent"),
        "{pod}"
    );
}

#[test]
fn an_agents_image_that_cannot_be_pulled() {
    let found = broken(|snapshot| {
        let status = json!({ "phase": "Pending", "initContainerStatuses": [{
            "name": "leader-agent", "image": "private/agent:1",
            "state": { "waiting": { "reason": "ImagePullBackOff", "message": "401 Unauthorized" } },
        }] });
        set(&mut snapshot.pods, "/status", status);
    });
    assert_eq!(
        found,
        "images Problem Pod shop/billing-1: the agent's image private/agent:1 cannot be pulled: 401 Unauthorized"
    );
}

#[test]
fn access_that_is_missing() {
    let role = broken(|snapshot| snapshot.roles = Ok(vec![]));
    assert!(role.starts_with("access Problem Role shop/leader-billing: it does not exist"), "{role}");
    let less = broken(|snapshot| set(&mut snapshot.roles, "/rules/0/verbs", json!(["get"])));
    assert!(less.contains("it does not give its agents what they do"), "{less}");
    let other = broken(|snapshot| set(&mut snapshot.roles, "/rules/0/resourceNames", json!(["orders"])));
    assert!(other.contains("it does not give its agents what they do"), "{other}");
    let binding = broken(|snapshot| snapshot.bindings = Ok(vec![]));
    assert!(binding.contains("RoleBinding shop/leader-billing: it does not exist"), "{binding}");
    let unbound = broken(|snapshot| set(&mut snapshot.bindings, "/subjects", json!([])));
    assert!(unbound.contains("it does not bind service account leader-billing"), "{unbound}");
    let account = broken(|snapshot| snapshot.accounts = Ok(vec![]));
    assert!(account.contains("ServiceAccount shop/leader-billing: it does not exist"), "{account}");
    let lease = broken(|snapshot| snapshot.leases = Ok(vec![]));
    assert!(lease.contains("Lease shop/billing: it does not exist: nobody can lead"), "{lease}");
}

fn leaderless(snapshot: &mut Snapshot) {
    set(&mut snapshot.leases, "/spec/holderIdentity", json!(""));
}

#[test]
fn an_id_without_a_leader() {
    let empty = broken(leaderless);
    assert_eq!(empty, "leaders Problem Lease shop/billing: it has no leader: nobody holds it");
    let stale = broken(|snapshot| set(&mut snapshot.leases, "/spec/renewTime", json!(ago(120))));
    assert!(stale.contains("billing-1_u_app held it and has not renewed it since"), "{stale}");
    let young = broken(|snapshot| {
        leaderless(snapshot);
        set(&mut snapshot.pods, "/metadata/creationTimestamp", json!(ago(10)));
    });
    assert!(young.starts_with("leaders Warning"), "{young}");
    let annotated = |key: &str| {
        broken(|snapshot| {
            leaderless(snapshot);
            snapshot.leases.as_mut().unwrap()[0]["metadata"]["annotations"] =
                json!({ key: "{\"Deployment/billing\":{}}" });
        })
    };
    assert!(annotated("leader.io/hold").starts_with("leaders Warning Lease shop/billing: nobody may lead"));
    assert!(annotated("leader.io/turning-on").contains("may still run the application (Deployment/billing)"));
    let no_pods = broken(|snapshot| snapshot.pods = Ok(vec![]));
    assert!(no_pods.contains("Deployment shop/billing: it has no pods"), "{no_pods}");
    let mut none_wanted = healthy();
    none_wanted.pods = Ok(vec![]);
    set(&mut none_wanted.workloads, "/spec/replicas", json!(0));
    assert_eq!(found(&judge(&none_wanted)), Vec::<String>::new());
}

#[test]
fn a_network_policy_that_blocks_is_named_when_nobody_leads() {
    let policy = json!({
        "metadata": { "name": "deny-all", "namespace": "shop" }, "spec": { "podSelector": {}, "policyTypes": ["Egress"] },
    });
    let mut led = healthy();
    led.network_policies = Ok(vec![policy.clone()]);
    assert_eq!(found(&judge(&led)), Vec::<String>::new());
    let blocked = broken(|snapshot| {
        leaderless(snapshot);
        snapshot.network_policies = Ok(vec![policy]);
    });
    assert!(blocked.contains("NetworkPolicy deny-all keeps its agents from the API server"), "{blocked}");
}

#[test]
fn an_account_that_was_made_again() {
    let found = broken(|snapshot| set(&mut snapshot.accounts, "/metadata/creationTimestamp", json!(ago(60))));
    assert!(found.starts_with("leaders Warning ServiceAccount shop/leader-billing: it was made again at"), "{found}");
    assert!(found.contains("pods that run under it (billing-1)"), "{found}");
    // The holder renews: its token is a new one.
    let mut renewed = healthy();
    set(&mut renewed.accounts, "/metadata/creationTimestamp", json!(ago(60)));
    renewed.pods.as_mut().unwrap()[0]["metadata"]["uid"] = json!("u");
    assert_eq!(self::found(&judge(&renewed)), Vec::<String>::new());
    let mut later = healthy();
    set(&mut later.accounts, "/metadata/creationTimestamp", json!(ago(590)));
    let judged = judge(&later);
    assert!(judged.checks.iter().any(|check| !check.findings.is_empty()));
    later.now += SignedDuration::from_secs(20);
    assert_eq!(self::found(&judge(&later)), Vec::<String>::new());
}
