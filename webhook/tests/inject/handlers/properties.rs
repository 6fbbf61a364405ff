//! The invariants, over arbitrary probes and hooks.

use proptest::{collection::vec, option::of, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::{
    super::{
        apply::{client_side, server_side},
        cluster::defaulted,
        inject, record, upgraded,
    },
    HOOKS, PROBES, ejected, review, template, text, workload,
};

fn request() -> impl Strategy<Value = Value> {
    let path = of(select(vec!["/healthz", "/", "", "/a?b=c"]));
    let port = select(vec![json!(8080), json!("web"), json!("admin"), json!("8090")]);
    let header = select(vec![
        json!([]),
        json!([{"name": "Host", "value": "x"}]),
        json!([{"name": "A"}, {"name": "A", "value": "b"}]),
    ]);
    let scheme = of(select(vec!["HTTP", "HTTPS", ""]));
    (path, port, of(select(vec!["", "example.org"])), of(header), scheme, any::<bool>()).prop_map(
        |(path, port, host, headers, scheme, port_first)| {
            let mut fields = Map::new();
            if port_first {
                fields.insert("port".to_owned(), port.clone());
            }
            fields.extend(path.map(|path| ("path".to_owned(), path.into())));
            fields.extend(host.map(|host| ("host".to_owned(), host.into())));
            fields.extend(headers.map(|headers| ("httpHeaders".to_owned(), headers)));
            fields.extend(scheme.map(|scheme| ("scheme".to_owned(), scheme.into())));
            fields.insert("port".to_owned(), port);
            Value::from(fields)
        },
    )
}

fn handler(is_probe: bool) -> impl Strategy<Value = (&'static str, Value)> {
    let exec = vec(select(vec!["cat", "$(PORT)", "", "é\n", "$$"]), 1..3)
        .prop_map(|words| ("exec", json!({"command": words})));
    let socket =
        (of(select(vec!["", "example.org"])), select(vec![json!(8080), json!("web")])).prop_map(|(host, port)| {
            let socket = host.map_or(json!({"port": port}), |host| json!({"host": host, "port": port}));
            ("tcpSocket", socket)
        });
    let grpc = of(select(vec!["", "health"])).prop_map(|service| {
        let grpc = service.map_or(json!({"port": 9000}), |service| json!({"port": 9000, "service": service}));
        ("grpc", grpc)
    });
    let last = if is_probe { grpc.boxed() } else { Just(("sleep", json!({"seconds": 4}))).boxed() };
    prop_oneof![exec.boxed(), request().prop_map(|fields| ("httpGet", fields)).boxed(), socket.boxed(), last]
}

/// A probe or hook with its fields in any order, nulls among them.
fn holder(is_probe: bool) -> impl Strategy<Value = Value> {
    let timing =
        select(vec!["initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "fieldOfTheFuture"]);
    let timing = vec((timing, 0..6), 0..if is_probe { 4 } else { 1 });
    let kinds =
        if is_probe { ["exec", "httpGet", "tcpSocket", "grpc"] } else { ["exec", "httpGet", "tcpSocket", "sleep"] };
    (handler(is_probe), timing, vec(select(kinds.to_vec()), 0..2), any::<prop::sample::Index>()).prop_map(
        |((kind, handler), timing, nulls, at)| {
            let mut fields: Vec<(String, Value)> = Vec::new();
            for (key, value) in nulls
                .into_iter()
                .map(|kind| (kind, Value::Null))
                .chain(timing.into_iter().map(|(key, value)| (key, json!(value))))
            {
                if key != kind && fields.iter().all(|(other, _)| other != key) {
                    fields.push((key.to_owned(), value));
                }
            }
            fields.insert(at.index(fields.len() + 1), (kind.to_owned(), handler));
            Value::Object(fields.into_iter().collect())
        },
    )
}

prop_compose! {
    /// The handlers of a container: any may be absent.
    fn fields()(
        probes in [of(holder(true)), of(holder(true)), of(holder(true))],
        hooks in [of(holder(false)), of(holder(false))],
        signal in any::<bool>(),
        host_network in any::<bool>(),
    ) -> (Value, bool) {
        let mut fields = Map::new();
        for ((field, _), probe) in PROBES.into_iter().zip(probes) {
            fields.extend(probe.map(|probe| (field.to_owned(), probe)));
        }
        let mut lifecycle = Map::new();
        for ((field, _), hook) in HOOKS.into_iter().zip(hooks) {
            lifecycle.extend(hook.map(|hook| (field.to_owned(), hook)));
        }
        if signal {
            lifecycle.insert("stopSignal".to_owned(), "SIGINT".into());
        }
        if !lifecycle.is_empty() {
            fields.insert("lifecycle".to_owned(), lifecycle.into());
        }
        (fields.into(), host_network)
    }
}

fn any_workload() -> impl Strategy<Value = Value> {
    fields().prop_map(|(fields, host_network)| {
        let mut object = workload(&fields);
        if host_network {
            object["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        }
        object
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn ejecting_gives_every_handler_back_at_its_position(user in any_workload()) {
        let stored = inject(&user);
        prop_assert_eq!(text(template(&ejected(&stored))), text(template(&user)));
        let live = defaulted(&stored);
        let (gone, never_injected) = (defaulted(&ejected(&live)), defaulted(&user));
        prop_assert_eq!(template(&gone), template(&never_injected));
    }

    #[test]
    fn injecting_handlers_twice_is_injecting_them_once(user in any_workload()) {
        let once = inject(&user);
        prop_assert_eq!(text(&inject(&once)), text(&once));
        let live = defaulted(&once);
        // Exported and created again.
        prop_assert_eq!(text(&inject(&live)), text(&live));
        prop_assert_eq!(text(&upgraded(&live, Some(&live)).unwrap().object), text(&live));
    }

    #[test]
    fn every_apply_of_the_same_manifest_gives_the_live_template(user in any_workload(), injected_by_cli in any::<bool>()) {
        let live = if injected_by_cli { defaulted(&inject(&user)) } else { defaulted(&inject(&defaulted(&user))) };
        for arriving in [client_side(&live, &user, &user), server_side(&live, &user, &user), defaulted(&user)] {
            let answer = upgraded(&arriving, Some(&live)).unwrap();
            prop_assert_eq!(text(template(&answer.object)), text(template(&live)), "{}", arriving);
        }
    }

    #[test]
    fn applying_another_manifest_is_injecting_that_one(before in any_workload(), after in any_workload()) {
        let live = defaulted(&inject(&defaulted(&before)));
        let expected = defaulted(&inject(&defaulted(&after)));
        for arriving in [client_side(&live, &before, &after), server_side(&live, &before, &after), defaulted(&after)] {
            let stored = defaulted(&review(&arriving, Some(&live)).unwrap().object);
            let (mut stored, mut expected) = (ejected(&stored), ejected(&expected));
            for object in [&mut stored, &mut expected] {
                object["metadata"] = Value::Null;
            }
            prop_assert_eq!(defaulted(&stored), defaulted(&expected), "{}", arriving);
        }
    }

    #[test]
    fn file_and_stored_object_resolve_to_the_same(user in any_workload()) {
        let (mut file, mut stored) = (record(&inject(&user)), record(&inject(&defaulted(&user))));
        for record in [&mut file, &mut stored] {
            let original = record["original"].as_object_mut().unwrap();
            // As they stood: in files without the defaults.
            original.shift_remove("handlers");
            original.shift_remove("empty");
        }
        prop_assert_eq!(file, stored);
    }

    #[test]
    fn nothing_of_ours_is_left_without_a_record(user in any_workload(), forged in select(vec![None, Some("{"), Some("{}")])) {
        let mut arriving = inject(&user);
        let annotations = arriving["spec"]["template"]["metadata"]["annotations"].as_object_mut().unwrap();
        match forged {
            Some(forged) => annotations.insert("leader.io/injected".to_owned(), forged.into()),
            None => annotations.shift_remove("leader.io/injected"),
        };
        let gone = ejected(&arriving);
        prop_assert!(!text(template(&gone)).contains("/leader"), "{}", gone);
        let again = inject(&arriving);
        prop_assert_eq!(text(&inject(&again)), text(&again));
        prop_assert!(!text(&record(&again)["original"]).contains("/leader"));
    }
}
