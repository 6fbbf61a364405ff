//! When an arriving record is believed, and what in it is a change.

use serde_json::{Value, json};

use super::{
    cluster::defaulted,
    inject, record, review, template,
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
