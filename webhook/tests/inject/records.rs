//! When an arriving record is believed, and what in it is a change.

use serde_json::{Value, json};

use super::{
    cluster::defaulted,
    inject, record, review, template, without_id,
    writes::{live, user},
};

/// A record is what the agent goes by, so one that says something else than the annotations is not kept.
#[test]
fn an_arriving_record_that_does_not_say_what_the_annotations_say_is_made_anew() {
    let mut user = user();
    user["metadata"]["annotations"]["leader.io/service-account"] = "dedicated".into();
    let injected = defaulted(&inject(&user));
    for (field, value) in [
        ("leaseDuration", json!("30s")),
        ("stopGrace", json!("1s")),
        ("serviceAccount", json!("keep")),
        ("leaseDuration", json!("much")),
    ] {
        let mut forged = injected.clone();
        let mut said = record(&forged);
        said[field] = value;
        forged["spec"]["template"]["metadata"]["annotations"]["leader.io/injected"] = said.to_string().into();
        for old in [None, Some(&injected)] {
            let answer = review(&forged, old).unwrap();
            let stored = record(&answer.object);
            assert_eq!(stored["leaseDuration"], "15s");
            assert_eq!((&stored["stopGrace"], &stored["serviceAccount"]), (&Value::Null, &json!("dedicated")));
            assert_eq!(answer.election.unwrap().account.name(), "leader-billing");
        }
    }
}

#[test]
fn an_init_container_of_ours_that_does_something_else_is_made_anew() {
    for (field, value) in [
        ("command", json!(["/leader-agent", "install", "/elsewhere"])),
        ("command", json!(["/leader-agent"])),
        ("args", json!(["--more"])),
    ] {
        let mut edited = live();
        edited["spec"]["template"]["spec"]["initContainers"][0][field] = value;
        // Exported; stored while nobody looked; put back by undo.
        for old in [None, Some(&edited), Some(&live())] {
            let answer = review(&edited, old).unwrap();
            let init = &template(&answer.object)["spec"]["initContainers"][0];
            assert_eq!(init["command"], json!(["/leader-agent", "install", "/leader"]));
            assert!(init.get("args").is_none(), "{init}");
        }
    }
}

#[test]
fn stating_a_default_or_taking_it_away_is_no_change() {
    for (key, value) in
        [("lease-duration", "15s"), ("lease-duration", "15000ms"), ("stop-grace", "4s"), ("mode", "run")]
    {
        let mut stated = user();
        stated["metadata"]["annotations"][format!("leader.io/{key}")] = value.into();
        assert_eq!(template(&review(&stated, Some(&live())).unwrap().object), template(&live()), "{key}");
        let live = defaulted(&inject(&stated));
        assert_eq!(template(&review(&user(), Some(&live)).unwrap().object), template(&live), "{key}");
        assert_eq!(record(&live), record(&super::writes::live()), "{key}");
    }
    // The default of the stop grace is a part of the lease duration.
    let mut longer = user();
    longer["metadata"]["annotations"]["leader.io/lease-duration"] = "30s".into();
    longer["metadata"]["annotations"]["leader.io/stop-grace"] = "4s".into();
    assert_eq!(record(&inject(&longer))["stopGrace"], "4s");
    longer["metadata"]["annotations"]["leader.io/stop-grace"] = "8s".into();
    assert_eq!(record(&inject(&longer))["options"], json!({"lease-duration": "30s"}));
}

/// Whoever may write an annotation of the template is given nothing by it that he could not write into the template.
#[test]
fn a_forged_record_brings_no_volume_along() {
    let volumes = json!([{"name": "root", "hostPath": {"path": "/"}}]);
    let mut forged = live();
    let mut said = record(&forged);
    said["original"]["empty"] = json!({"volumes": volumes, "initContainers": [{"name": "mine", "image": "mine:1"}]});
    forged["spec"]["template"]["metadata"]["annotations"]["leader.io/injected"] = said.to_string().into();
    let mut bare = user();
    bare["spec"]["template"]["metadata"]["annotations"]["leader.io/injected"] = said.to_string().into();
    for object in [forged, bare] {
        for (object, old) in
            [(object.clone(), None), (object.clone(), Some(live())), (without_id(&object), Some(object))]
        {
            let stored = review(&object, old.as_ref()).unwrap().object;
            assert!(!stored["spec"].to_string().contains("hostPath\":"), "{stored:#}");
            let inits = template(&stored)["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
            assert!(inits.iter().all(|init| init["name"] != "mine"), "{stored:#}");
        }
    }
}

/// An agent that finds no Lease has to know whether it may have been lost while pods without an agent were waited for.
#[test]
fn a_template_that_is_made_while_pods_without_the_agent_run_says_so_from_then_on() {
    let born = |object: &Value| record(object)["bornUnderTurningOn"].clone();
    assert_eq!(born(&live()), Value::Null);
    let mut plain = without_id(&user());
    let annotated = defaulted(&review(&user(), Some(&plain)).unwrap().object);
    assert_eq!(born(&annotated), json!(true));
    // Nothing that is written later takes it away, and it starts no rollout.
    assert_eq!(template(&review(&user(), Some(&annotated)).unwrap().object), template(&annotated));
    let mut newer = annotated.clone();
    newer["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/billing:2".into();
    assert_eq!(born(&review(&newer, Some(&annotated)).unwrap().object), json!(true));
    let mut renamed = live();
    renamed["metadata"]["annotations"]["leader.io/id"] = "invoices".into();
    assert_eq!(born(&review(&renamed, Some(&live())).unwrap().object), json!(true));
    plain["spec"]["template"] = template(&review(&without_id(&annotated), Some(&annotated)).unwrap().object).clone();
    assert_eq!(template(&plain), template(&without_id(&user())));
}
