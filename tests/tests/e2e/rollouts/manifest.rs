//! The workload of the table, and the edits of its manifest that people make.

use leader_agent::names;
use serde_json::{Value, json};

/// Name and id of the workload.
pub(super) const NAME: &str = "billing";
/// The container that is wrapped.
pub(super) const MAIN: &str = "main";

/// A manifest of a workload that rolls out in no time: it has no pods unless a row scales it.
///
/// `handlers` says whether it has every probe and hook, each of another kind.
pub(super) fn base(kind: &str, image: &str, handlers: bool) -> Value {
    let mut main = json!({
        "name": MAIN,
        "image": image,
        "command": ["/ledger-writer"],
        "args": ["--node=$(NODE)"],
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "FIRST", "value": "1"},
        ],
        "ports": [{"name": "http", "containerPort": 8080}],
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "resources": {"requests": {"cpu": "10m"}},
    });
    if handlers {
        main["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 7});
        main["readinessProbe"] = json!({"exec": {"command": ["/ledger-writer", "--ready"]}});
        main["startupProbe"] = json!({"grpc": {"port": 9000}, "failureThreshold": 30});
        main["lifecycle"] = json!({
            "postStart": {"exec": {"command": ["/ledger-writer", "--started"]}},
            "preStop": {"httpGet": {"path": "/drain", "port": "http"}},
        });
    }
    let labels = json!({"app": NAME});
    let mut workload = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "initContainers": [{"name": "setup", "image": image, "command": ["/ledger-writer", "--version"]}],
                    "containers": [main, {"name": "side", "image": image, "command": ["/ledger-keeper"]}],
                    "volumes": [{"name": "scratch", "emptyDir": {}}],
                },
            },
        },
    });
    match kind {
        "DaemonSet" => workload["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "such-node"}),
        "StatefulSet" => {
            workload["spec"]["replicas"] = 0.into();
            workload["spec"]["serviceName"] = NAME.into();
        }
        _ => workload["spec"]["replicas"] = 0.into(),
    }
    workload
}

/// Where the id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On the workload, which is injected.
    Workload,
    /// On its pod template, which stays as it is: its pods are injected.
    Template,
}

/// The same manifest with the id.
pub(super) fn elected(manifest: &Value, place: Place) -> Value {
    let mut manifest = manifest.clone();
    let holder = match place {
        Place::Workload => &mut manifest,
        Place::Template => &mut manifest["spec"]["template"],
    };
    holder["metadata"]["annotations"][names::ID] = NAME.into();
    manifest
}

/// Whether a write changes the pod template, and so has to roll out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// The stored template stays as it is, to the last byte.
    Nothing,
    /// One more revision.
    Rollout,
    /// Whatever the same write does to a workload that is not elected.
    AsPlain,
    /// Refused, as it would be without leader.
    Refused,
}

/// A manifest as it is after an edit, and what applying it has to do.
pub(super) struct Edit {
    pub(super) what: &'static str,
    pub(super) manifest: Value,
    pub(super) expected: Expected,
}

/// Edits one after the other: each begins with the manifest that the one before ended with.
pub(super) struct Edits {
    manifest: Value,
    list: Vec<Edit>,
}

impl Edits {
    pub(super) fn of(manifest: &Value) -> Self {
        Self { manifest: manifest.clone(), list: Vec::new() }
    }

    pub(super) fn finish(self) -> Vec<Edit> {
        self.list
    }

    fn expect(&mut self, expected: Expected, what: &'static str, edit: impl FnOnce(&mut Value)) {
        edit(&mut self.manifest);
        self.list.push(Edit { what, manifest: self.manifest.clone(), expected });
    }

    /// An edit of the wrapped container.
    fn main(&mut self, what: &'static str, edit: impl FnOnce(&mut Value)) {
        self.expect(Expected::Rollout, what, |manifest| {
            edit(&mut manifest["spec"]["template"]["spec"]["containers"][0]);
        });
    }

    /// An edit of the pod's specification.
    fn pod(&mut self, what: &'static str, edit: impl FnOnce(&mut Value)) {
        self.expect(Expected::Rollout, what, |manifest| edit(&mut manifest["spec"]["template"]["spec"]));
    }

    /// No edit at all.
    pub(super) fn same(&mut self, what: &'static str) {
        self.expect(Expected::Nothing, what, |_| {});
    }

    /// Everything but handlers.
    pub(super) fn ordinary(&mut self, image: &str) {
        let other = format!("{image}-next");
        self.same("the same manifest");
        self.expect(Expected::Nothing, "an annotation of the user's", |manifest| {
            manifest["metadata"]["annotations"]["team"] = "payments".into();
        });
        self.expect(Expected::Nothing, "a label on the workload", |manifest| {
            manifest["metadata"]["labels"]["tier"] = "back".into();
        });
        self.main("another command", |main| main["command"] = json!(["/ledger-writer", "run"]));
        self.main("no arguments", |main| remove(main, "args"));
        self.main("other arguments", |main| main["args"] = json!(["--literal=$$(NODE)"]));
        self.main("a variable first", |main| insert(main, "env", 0, json!({"name": "ZERO", "value": "0"})));
        self.main("a variable last", |main| push(main, "env", json!({"name": "LAST", "value": "z"})));
        self.main("another value", |main| main["env"][2]["value"] = "one".into());
        self.main("no variables", |main| remove(main, "env"));
        self.main("variables again", |main| main["env"] = json!([{"name": "FIRST", "value": "1"}]));
        self.main("no mounts", |main| remove(main, "volumeMounts"));
        self.main("mounts again", |main| main["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/s"}]));
        self.main("other resources", |main| main["resources"] = json!({"limits": {"cpu": "1", "memory": "64Mi"}}));
        self.main("a security context", |main| main["securityContext"] = json!({"readOnlyRootFilesystem": true}));
        self.pod("a volume more", |pod| push(pod, "volumes", json!({"name": "more", "emptyDir": {}})));
        self.pod("a volume less", |pod| pop(pod, "volumes"));
        self.pod("an init container first", |pod| {
            insert(pod, "initContainers", 0, json!({"name": "before", "image": image, "command": ["/a"]}));
        });
        self.pod("an init container last", |pod| {
            push(pod, "initContainers", json!({"name": "after", "image": image, "command": ["/b"]}));
        });
        self.pod("no init containers", |pod| remove(pod, "initContainers"));
        self.pod("another image of the neighbour", |pod| pod["containers"][1]["image"] = other.clone().into());
        self.pod("a neighbour more", |pod| {
            push(pod, "containers", json!({"name": "third", "image": image, "command": ["/c"]}));
        });
        self.pod("a neighbour less", |pod| pop(pod, "containers"));
        self.pod("another grace period", |pod| pod["terminationGracePeriodSeconds"] = 6.into());
        self.pod("a service account", |pod| pod["serviceAccountName"] = "builder".into());
        self.pod("another service account", |pod| pod["serviceAccountName"] = "default".into());
        self.expect(Expected::AsPlain, "no service account", |manifest| {
            remove(&mut manifest["spec"]["template"]["spec"], "serviceAccountName");
        });
        self.expect(Expected::Rollout, "an annotation on the template", |manifest| {
            manifest["spec"]["template"]["metadata"]["annotations"]["checksum"] = "1".into();
        });
        self.expect(Expected::Rollout, "no annotation on the template", |manifest| {
            remove(&mut manifest["spec"]["template"]["metadata"], "annotations");
        });
        self.expect(Expected::Rollout, "a label on the template", |manifest| {
            manifest["spec"]["template"]["metadata"]["labels"]["version"] = "2".into();
        });
        self.same("the same manifest after all of it");
    }

    /// Probes and hooks: from each kind to each other one, and away. The manifest has all of them at first.
    pub(super) fn handlers(&mut self) {
        self.main("a probe's timing", |main| main["livenessProbe"]["timeoutSeconds"] = 3.into());
        self.main("a probe's path", |main| main["livenessProbe"]["httpGet"]["path"] = "/alive".into());
        self.main("a probe's port", |main| main["livenessProbe"]["httpGet"]["port"] = 8081.into());
        self.main("a probe's headers", |main| {
            main["livenessProbe"]["httpGet"]["httpHeaders"] = json!([{"name": "X-Probe", "value": "1"}]);
        });
        self.main("a probe's scheme", |main| main["livenessProbe"]["httpGet"]["scheme"] = "HTTPS".into());
        self.main("a probe from httpGet to tcpSocket", |main| {
            main["livenessProbe"] = json!({"tcpSocket": {"port": "http"}, "periodSeconds": 7});
        });
        self.main("a probe from tcpSocket to exec", |main| {
            main["livenessProbe"] = json!({"exec": {"command": ["/live"]}, "periodSeconds": 7});
        });
        self.main("a probe from exec to grpc", |main| {
            main["livenessProbe"] = json!({"grpc": {"port": 9000, "service": "live"}, "periodSeconds": 7});
        });
        self.main("a probe from grpc to httpGet", |main| {
            main["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 7});
        });
        self.same("the same probes");
        self.main("a dropped httpGet probe", |main| remove(main, "livenessProbe"));
        self.same("the same without it");
        self.main("a dropped exec probe", |main| remove(main, "readinessProbe"));
        self.main("a dropped grpc probe", |main| remove(main, "startupProbe"));
        self.main("a tcpSocket probe", |main| main["livenessProbe"] = json!({"tcpSocket": {"port": 8080}}));
        self.main("a dropped tcpSocket probe", |main| remove(main, "livenessProbe"));
        self.main("a readiness probe", |main| {
            main["readinessProbe"] = json!({"httpGet": {"port": 8080}, "timeoutSeconds": 5, "periodSeconds": 5});
        });
        self.main("a dropped readiness probe", |main| remove(main, "readinessProbe"));
        self.main("a hook's command", |main| {
            main["lifecycle"]["postStart"] = json!({"exec": {"command": ["/ledger-writer", "--hello"]}});
        });
        self.main("a hook from exec to sleep", |main| {
            main["lifecycle"]["postStart"] = json!({"sleep": {"seconds": 1}});
        });
        self.main("a hook from httpGet to exec", |main| {
            main["lifecycle"]["preStop"] = json!({"exec": {"command": ["/bye"]}});
        });
        self.main("a dropped hook", |main| remove(&mut main["lifecycle"], "postStart"));
        self.main("no hooks", |main| remove(main, "lifecycle"));
        self.main("hooks again", |main| {
            main["lifecycle"] =
                json!({"preStop": {"sleep": {"seconds": 2}}, "postStart": {"exec": {"command": ["/hi"]}}});
        });
        self.main("every probe at once", |main| {
            main["livenessProbe"] = json!({"exec": {"command": ["/live"]}});
            main["readinessProbe"] = json!({"grpc": {"port": 9000}});
            main["startupProbe"] = json!({"httpGet": {"port": "http", "path": "/started"}});
        });
        self.main("no handlers at all", |main| {
            for key in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                remove(main, key);
            }
        });
        self.same("the same without handlers");
    }
}

fn remove(parent: &mut Value, key: &str) {
    parent.as_object_mut().unwrap().shift_remove(key);
}

fn list<'a>(parent: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    parent[key].as_array_mut().unwrap()
}

fn insert(parent: &mut Value, key: &str, at: usize, value: Value) {
    list(parent, key).insert(at, value);
}

fn push(parent: &mut Value, key: &str, value: Value) {
    list(parent, key).push(value);
}

fn pop(parent: &mut Value, key: &str) {
    list(parent, key).pop();
}
