//! Patches of the three types, and whole objects as they are stored, edited by hand.

use anyhow::Result;
use leader_tests::command::Output;
use serde_json::{Value, json};

use super::manifest::Expected::{AsPlain, Nothing, Rollout};
use super::manifest::{MAIN, base};
use super::pair::{Pair, Side};
use super::table::Group;
use super::{Run, image, pair_of};
use crate::stage::Stage;

pub(super) const GROUPS: &[(&str, Run)] = &[
    ("patch", |name| pair_of(name, "Deployment", |stage, pair, group| rows(stage, pair, group, false))),
    ("patch, handlers", |name| {
        pair_of(name, "Deployment", |stage, pair, group| {
            rows(stage, pair, group, true)?;
            handlers(pair, group);
            Ok(())
        })
    }),
];

fn patch(side: &Side<'_>, kind: &str, patch: &Value) -> Result<Output> {
    side.kubectl(&["patch", &side.object, "--type", kind, "--patch", &patch.to_string()])
}

/// A strategic patch of the wrapped container.
fn main(fields: &Value) -> Value {
    let mut main = json!({"name": MAIN});
    for (key, value) in fields.as_object().into_iter().flatten() {
        main[key] = value.clone();
    }
    json!({"spec": {"template": {"spec": {"containers": [main]}}}})
}

/// `kubectl edit`: the stored object, changed, replaces itself.
fn edited(side: &Side<'_>, edit: &dyn Fn(&mut Value) -> Option<()>) -> Result<Output> {
    // As an editor gets it from kubectl, and with the id on the elected side already.
    side.replace(edit)
}

/// The wrapped container, wherever it is.
fn main_of(object: &mut Value) -> Option<&mut Value> {
    let containers = object.pointer_mut("/spec/template/spec/containers")?.as_array_mut()?;
    containers.iter_mut().find(|container| container["name"] == MAIN)
}

fn rows(stage: &Stage, pair: &Pair<'_>, group: &mut Group, handlers: bool) -> Result<()> {
    let image = image(stage)?;
    let manifest = base("Deployment", image, handlers);
    pair.start(&|side| side.send(&["apply"], &manifest))?;
    let (next, last) = (format!("{image}-next"), format!("{image}-last"));
    let containers = manifest["spec"]["template"]["spec"]["containers"].clone();
    let path = |rest: &str| format!("/spec/template/spec/containers/0/{rest}");

    let mut row = |what: &str, expected, kind: &str, with: Value| {
        pair.row(group, what, expected, &|side| patch(side, kind, &with));
    };
    row("strategic: nothing new", Nothing, "strategic", main(&json!({"image": image})));
    row("strategic: image", Rollout, "strategic", main(&json!({"image": next})));
    row("strategic: command", Rollout, "strategic", main(&json!({"command": ["/ledger-writer", "patched"]})));
    row("strategic: arguments away", Rollout, "strategic", main(&json!({"args": null})));
    row("strategic: a variable", Rollout, "strategic", main(&json!({"env": [{"name": "NEW", "value": "1"}]})));
    row(
        "strategic: a variable away",
        Rollout,
        "strategic",
        main(&json!({"env": [{"name": "NEW", "$patch": "delete"}]})),
    );
    row("strategic: a volume", Rollout, "strategic", {
        json!({"spec": {"template": {"spec": {"volumes": [{"name": "more", "emptyDir": {}}]}}}})
    });
    row("strategic: an annotation", Nothing, "strategic", json!({"metadata": {"annotations": {"a": "b"}}}));
    row("strategic: replicas", Nothing, "strategic", json!({"spec": {"revisionHistoryLimit": 20}}));
    row("strategic: an annotation on the template", Rollout, "strategic", {
        json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "1"}}}}})
    });

    row("merge: nothing new", Nothing, "merge", json!({"spec": {"revisionHistoryLimit": 20}}));
    row("merge: the user's whole list of containers", Rollout, "merge", {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    });
    row("merge: the same list again", Nothing, "merge", {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    });
    row("merge: no volumes but the user's", AsPlain, "merge", {
        json!({"spec": {"template": {"spec": {"volumes": [{"name": "scratch", "emptyDir": {}}]}}}})
    });
    row(
        "merge: no init containers",
        Rollout,
        "merge",
        json!({"spec": {"template": {"spec": {"initContainers": null}}}}),
    );
    row("merge: an annotation", Nothing, "merge", json!({"metadata": {"annotations": {"a": "c"}}}));
    row(
        "merge: node selector",
        Rollout,
        "merge",
        json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}}),
    );

    row("json: a test only", Nothing, "json", json!([{"op": "test", "path": path("name"), "value": MAIN}]));
    row("json: image", Rollout, "json", json!([{"op": "replace", "path": path("image"), "value": last}]));
    row(
        "json: command",
        Rollout,
        "json",
        json!([{"op": "replace", "path": path("command"), "value": ["/ledger-writer", "json"]}]),
    );
    row("json: a variable first", Rollout, "json", {
        json!([{"op": "add", "path": path("env/0"), "value": {"name": "ZERO", "value": "0"}}])
    });
    row("json: a variable last", Rollout, "json", {
        json!([{"op": "add", "path": path("env/-"), "value": {"name": "LAST", "value": "z"}}])
    });
    row("json: the first variable away", Rollout, "json", json!([{"op": "remove", "path": path("env/0")}]));
    row("json: all variables away", Rollout, "json", json!([{"op": "remove", "path": path("env")}]));
    row("json: all mounts away", Rollout, "json", json!([{"op": "remove", "path": path("volumeMounts")}]));
    row("json: a label on the template", Rollout, "json", {
        json!([{"op": "add", "path": "/spec/template/metadata/labels/version", "value": "3"}])
    });

    let mut row = |what: &str, expected, edit: &dyn Fn(&mut Value) -> Option<()>| {
        pair.row(group, what, expected, &|side| edited(side, edit));
    };
    row("edit: nothing", Nothing, &|_| Some(()));
    row("edit: image", Rollout, &|object| {
        main_of(object)?["image"] = next.clone().into();
        Some(())
    });
    row("edit: arguments", Rollout, &|object| {
        main_of(object)?["args"] = json!(["--edited"]);
        Some(())
    });
    row("edit: an annotation", Nothing, &|object| {
        object["metadata"]["annotations"]["edited"] = "yes".into();
        Some(())
    });
    row("edit: a new last word of the command", Rollout, &|object| {
        main_of(object)?["command"].as_array_mut().map(|command| command.push("--word".into()))
    });
    Ok(())
}

fn handlers(pair: &Pair<'_>, group: &mut Group) {
    let mut row = |what: &str, expected, kind: &str, with: Value| {
        pair.row(group, what, expected, &|side| patch(side, kind, &with));
    };
    row("strategic: every handler", AsPlain, "strategic", {
        main(&json!({
            "livenessProbe": {"$patch": "replace", "httpGet": {"path": "/live", "port": "http"}},
            "readinessProbe": {"$patch": "replace", "exec": {"command": ["/ready"]}},
            "startupProbe": {"$patch": "replace", "tcpSocket": {"port": 8080}},
            "lifecycle": {"$patch": "replace", "preStop": {"sleep": {"seconds": 3}}},
        }))
    });
    row("strategic: every handler again", Nothing, "strategic", {
        main(&json!({
            "livenessProbe": {"$patch": "replace", "httpGet": {"path": "/live", "port": "http"}},
            "readinessProbe": {"$patch": "replace", "exec": {"command": ["/ready"]}},
            "startupProbe": {"$patch": "replace", "tcpSocket": {"port": 8080}},
            "lifecycle": {"$patch": "replace", "preStop": {"sleep": {"seconds": 3}}},
        }))
    });
    row(
        "strategic: a probe's path",
        Rollout,
        "strategic",
        main(&json!({"livenessProbe": {"httpGet": {"path": "/alive"}}})),
    );
    row(
        "strategic: a probe's port",
        Rollout,
        "strategic",
        main(&json!({"livenessProbe": {"httpGet": {"port": 8081}}})),
    );
    row("strategic: a probe's timing", Rollout, "strategic", main(&json!({"livenessProbe": {"periodSeconds": 9}})));
    row("strategic: another kind of probe", Rollout, "strategic", {
        main(&json!({"livenessProbe": {"httpGet": null, "tcpSocket": {"port": 8080}}}))
    });
    row(
        "strategic: a hook",
        Rollout,
        "strategic",
        main(&json!({"lifecycle": {"postStart": {"exec": {"command": ["/hello"]}}}})),
    );
    row("strategic: a hook away", Rollout, "strategic", main(&json!({"lifecycle": {"preStop": null}})));
    row("strategic: a probe away", Rollout, "strategic", main(&json!({"livenessProbe": null})));
    row("strategic: the readiness probe away", Rollout, "strategic", main(&json!({"readinessProbe": null})));
    let path = |rest: &str| format!("/spec/template/spec/containers/0/{rest}");
    row("json: a probe", Rollout, "json", {
        json!([{"op": "add", "path": path("livenessProbe"), "value": {"grpc": {"port": 9000}}}])
    });
    row("json: another kind of probe", Rollout, "json", {
        json!([{"op": "replace", "path": path("livenessProbe"), "value": {"exec": {"command": ["/live"]}}}])
    });
    row("json: a probe's timing", Rollout, "json", {
        json!([{"op": "replace", "path": path("livenessProbe/failureThreshold"), "value": 9}])
    });
    row("json: a probe away", Rollout, "json", json!([{"op": "remove", "path": path("startupProbe")}]));
    row("json: all hooks away", Rollout, "json", json!([{"op": "remove", "path": path("lifecycle")}]));
}
