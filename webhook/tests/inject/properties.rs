//! The invariants, over arbitrary pod templates.

use leader_webhook::inject::patch;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    cluster::defaulted,
    deployment,
    images::{inject, review, upgraded},
    of_kind, record, template,
    templates::{any_pod_template, ask},
    without_id, wrappers,
    writes::{self, Write},
};

fn asked(template: &Value, (kind, account): (&str, Option<&str>)) -> Value {
    let mut object = of_kind(&deployment(template, Some("billing")), kind);
    if let Some(account) = account {
        object["metadata"]["annotations"]["leader.io/service-account"] = account.into();
    }
    object
}

fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap()
}

/// The object without null, `[]` and `{}`, and without the deprecated account, which is remembered where it stood alone.
fn without_empty(value: &Value) -> Value {
    let is_empty = |value: &Value| value.is_null() || [json!([]), json!({}), json!("")].contains(value);
    match value {
        Value::Array(list) => list.iter().map(without_empty).collect(),
        Value::Object(map) => {
            let mut map: serde_json::Map<String, Value> = map
                .iter()
                .filter(|(_, value)| !is_empty(value))
                .map(|(key, value)| (key.clone(), without_empty(value)))
                .filter(|(_, value)| !is_empty(value))
                .collect();
            map.shift_remove("serviceAccount");
            Value::Object(map)
        }
        other => other.clone(),
    }
}

/// The same value with all keys in alphabetical order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(fields.into_iter().collect())
        }
        other => other.clone(),
    }
}

fn forged() -> impl Strategy<Value = Option<Value>> {
    let nonsense = prop_oneof![
        Just("{"),
        Just("{}"),
        Just("[]"),
        Just(""),
        Just("null"),
        Just("{\"version\":1,\"id\":\"billing\"}")
    ];
    let command = prop_oneof![
        Just(json!(["/leader/agent", "run", "--", "/leader/agent", "run", "--", "x"])),
        Just(json!([])),
        Just(json!(["y"])),
    ];
    let plausible =
        ("[a-z]{1,6}", "app|proxy|none", command, any::<bool>()).prop_map(|(id, container, command, sets)| {
            json!({
            "version": 1, "id": id, "container": container, "leaseDuration": "15s", "serviceAccount": "dedicated",
            "command": command, "agentImage": "evil", "original": {"setsCommand": sets, "serviceAccountName": "admin"},
        })
        .to_string()
        .into()
        });
    prop_oneof![Just(None), nonsense.prop_map(|text| Some(text.into())), plausible.prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn ejecting_gives_back_what_the_user_wrote(plain in any_pod_template(), account in ask()) {
        let injected = inject(&asked(&plain, account));
        prop_assert_eq!(wrappers(&injected), 1);
        let ejected = review(&without_id(&injected), Some(&injected)).unwrap();
        prop_assert_eq!(template(&ejected.object), &plain);
        prop_assert_eq!(ejected.election, None);
        // Also without the live object to compare with, as the CLI does it.
        let alone = review(&without_id(&injected), None).unwrap().object;
        prop_assert_eq!(text(template(&alone)), text(&plain), "in the order of its keys, too");
        // And in the order of `kubectl get`, where what was added stands among the user's.
        let alone = review(&without_id(&sorted(&injected)), None).unwrap().object;
        prop_assert_eq!(text(template(&alone)), text(&sorted(&plain)));
    }

    #[test]
    fn ejecting_what_the_api_server_stored_gives_back_what_it_would_have_stored(plain in any_pod_template(), account in ask()) {
        let live = defaulted(&inject(&asked(&plain, account)));
        let ejected = defaulted(&review(&without_id(&live), Some(&live)).unwrap().object);
        let never_injected = defaulted(&deployment(&plain, None));
        prop_assert_eq!(template(&ejected), template(&never_injected));
    }

    #[test]
    fn injecting_twice_is_injecting_once(plain in any_pod_template(), account in ask()) {
        let once = inject(&asked(&plain, account));
        prop_assert_eq!(text(&inject(&once)), text(&once));
        prop_assert_eq!(text(&review(&once, Some(&once)).unwrap().object), text(&once));
        let stored = defaulted(&once);
        prop_assert_eq!(text(&review(&stored, Some(&stored)).unwrap().object), text(&stored));
        prop_assert_eq!(text(&upgraded(&stored, Some(&stored)).unwrap().object), text(&stored));
    }

    #[test]
    fn file_and_live_object_get_the_same_record(plain in any_pod_template(), account in ask()) {
        // Empty fields are only in files, and are remembered from there.
        let mut from_file = record(&inject(&asked(&plain, account)));
        let mut from_api = record(&inject(&defaulted(&asked(&plain, account))));
        for record in [&mut from_file, &mut from_api] {
            record["original"].as_object_mut().unwrap().shift_remove("empty");
        }
        let twins_differ = {
            let spec = &plain["spec"];
            let named = |key: &str| spec[key].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
            named("serviceAccountName") != named("serviceAccount")
        };
        if !twins_differ {
            prop_assert_eq!(from_file, from_api);
        }
    }

    #[test]
    fn no_write_of_the_same_template_starts_a_rollout(
        plain in any_pod_template(),
        account in ask(),
        write in prop::sample::select(writes::SAME.to_vec()),
        injected_by_cli in any::<bool>(),
    ) {
        let user = asked(&plain, account);
        let live = if injected_by_cli { defaulted(&inject(&user)) } else { defaulted(&inject(&defaulted(&user))) };
        let arriving = write.arriving(&defaulted(&user), &live);
        for decide in [review, upgraded] {
            let answer = decide(&arriving, Some(&live)).unwrap();
            prop_assert_eq!(text(template(&answer.object)), text(template(&live)), "{:?}", write);
            prop_assert!(!answer.election.unwrap().injected_afresh);
            prop_assert_eq!(&answer.warnings, &Vec::<String>::new());
        }
    }

    #[test]
    fn a_change_is_stored_as_if_it_had_been_made_first(
        plain in any_pod_template(),
        account in ask(),
        write in prop::sample::select(vec![Write::Reapply, Write::Replace, Write::Patch]),
    ) {
        let user = defaulted(&asked(&plain, account));
        let live = defaulted(&inject(&user));
        let mut changed = user.clone();
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/app:2".into();
        changed["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/new", "$(X)"]);
        let mut arriving = write.arriving(&changed, &live);
        arriving["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/app:2".into();
        if write == Write::Patch {
            arriving["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["/new", "$(X)"]);
        }
        let answer = review(&arriving, Some(&live)).unwrap();
        prop_assert!(answer.election.unwrap().injected_afresh);
        prop_assert_eq!(defaulted(&answer.object), defaulted(&inject(&changed)));
    }

    #[test]
    fn a_forged_or_missing_record_never_wraps_twice(
        plain in any_pod_template(),
        account in ask(),
        forged in forged(),
        live in any::<bool>(),
    ) {
        let injected = inject(&asked(&plain, account));
        let mut arriving = injected.clone();
        let annotations = arriving["spec"]["template"]["metadata"]["annotations"].as_object_mut().unwrap();
        match forged {
            Some(record) => annotations.insert("leader.io/injected".to_owned(), record),
            None => annotations.shift_remove("leader.io/injected"),
        };
        // A forged record may say that there was no command at all, which is refused; never is anything wrapped twice.
        if let Ok(answer) = review(&arriving, live.then_some(&injected)) {
            prop_assert_eq!(wrappers(&answer.object), 1);
            prop_assert_eq!(text(&inject(&answer.object)), text(&answer.object));
        }
        let ejected = review(&without_id(&arriving), live.then_some(&injected)).unwrap().object;
        prop_assert_eq!(wrappers(&ejected), 0);
    }

    #[test]
    fn the_patch_makes_the_same_object(plain in any_pod_template(), account in ask()) {
        let object = asked(&plain, account);
        let injected = inject(&object);
        let mut patched = object.clone();
        json_patch::patch(&mut patched, &patch(&object, &injected)).unwrap();
        prop_assert_eq!(&patched, &injected);
        let ejected = review(&without_id(&injected), None).unwrap().object;
        json_patch::patch(&mut patched, &patch(&injected, &ejected)).unwrap();
        prop_assert_eq!(patched, ejected);
    }

    #[test]
    fn the_patch_made_from_the_file_stores_what_the_webhook_stores(plain in any_pod_template(), account in ask()) {
        // Fields that are present and empty are only in files; a patch of them cannot apply to an object that has none.
        let mut file = without_empty(&asked(&plain, account));
        file["spec"]["template"]["metadata"]["labels"]["app"] = "billing".into();
        let held = defaulted(&file);
        let mut patched = held.clone();
        json_patch::patch(&mut patched, &patch(&file, &inject(&file))).unwrap();
        prop_assert_eq!(defaulted(&patched), defaulted(&inject(&held)));
    }

    #[test]
    fn any_two_objects_are_patched_into_each_other(before in any_pod_template(), after in any_pod_template()) {
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch(&before, &after)).unwrap();
        prop_assert_eq!(patched, after);
    }

    #[test]
    fn quality_of_service_quota_and_ratio_stay(plain in any_pod_template()) {
        let stored = defaulted(&inject(&deployment(&plain, Some("billing"))));
        let spec = &template(&stored)["spec"];
        let (init, app) = (&spec["initContainers"][0]["resources"], &spec["containers"][0]["resources"]);
        for kind in ["limits", "requests"] {
            for name in ["cpu", "memory", "ephemeral-storage"] {
                prop_assert_eq!(&init[kind][name], &app[kind][name], "{} {}", kind, name);
            }
            prop_assert!(init[kind]["nvidia.com/gpu"].is_null());
        }
    }
}
