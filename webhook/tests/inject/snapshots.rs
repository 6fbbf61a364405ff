//! The patch for Deployments as they are met in the world, to be read by a person.

use leader_webhook::inject::{Facts, patch};
use serde_json::{Value, json};

fn snapshot(name: &str, object: &Value, facts: &Facts) {
    let outcome = super::done(object, None, super::AGENT_IMAGE, facts).unwrap();
    let patch = patch(object, &outcome.object);
    let seen = json!({
        "patch": patch,
        "record": super::record(&outcome.object),
        "warnings": outcome.warnings,
        "account": outcome.election.unwrap().account.name(),
    });
    insta::assert_snapshot!(name, serde_json::to_string_pretty(&seen).unwrap());
}

#[test]
fn knative_controller() {
    snapshot(
        "knative_controller",
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "controller",
                "namespace": "knative-serving",
                "annotations": {"leader.io/id": "serving-controller"},
            },
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "controller"}},
                "template": {
                    "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}, "labels": {"app": "controller"}},
                    "spec": {
                        "serviceAccountName": "controller",
                        "containers": [{
                            "name": "controller",
                            "command": ["/ko-app/controller"],
                            "env": [
                                {"name": "SYSTEM_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                                {"name": "METRICS_DOMAIN", "value": "knative.dev/serving"},
                            ],
                            "ports": [{"containerPort": 9090, "name": "metrics"}],
                            "resources": {"limits": {"cpu": "1000m", "memory": "1000Mi"}, "requests": {"cpu": "100m", "memory": "100Mi"}},
                            "securityContext": {"allowPrivilegeEscalation": false},
                        }],
                    },
                },
            },
        }),
        &Facts::default(),
    );
}

/// The least that a Deployment can be.
#[test]
fn smallest() {
    snapshot(
        "smallest",
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "tick", "annotations": {"leader.io/id": "tick"}},
            "spec": {
                "selector": {"matchLabels": {"app": "tick"}},
                "template": {
                    "metadata": {"labels": {"app": "tick"}},
                    "spec": {"containers": [{"name": "tick", "image": "busybox", "command": ["sh", "-c", "while date; do sleep 1; done"]}]},
                },
            },
        }),
        &Facts::default(),
    );
}

/// A queue worker with a migration before it, a sidecar beside it, volumes, and an entry point from the image.
#[test]
fn worker_with_sidecar() {
    snapshot(
        "worker_with_sidecar",
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "mailer",
                "namespace": "shop",
                "annotations": {
                    "leader.io/id": "mailer",
                    "leader.io/container": "worker",
                    "leader.io/command": "[\"/usr/local/bin/entrypoint.sh\", \"--pid=$$\"]",
                    "leader.io/lease-duration": "30s",
                    "leader.io/stop-grace": "10s",
                },
            },
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "mailer"}},
                "template": {
                    "metadata": {
                        "labels": {"app": "mailer"},
                        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "spool"},
                    },
                    "spec": {
                        "initContainers": [{"name": "migrate", "image": "shop/mailer:4.2", "command": ["/migrate"]}],
                        "containers": [
                            {"name": "log-shipper", "image": "fluent/fluent-bit:4", "volumeMounts": [{"name": "spool", "mountPath": "/spool"}]},
                            {
                                "name": "worker",
                                "image": "shop/mailer:4.2",
                                "args": ["work", "--queue=$(QUEUE)"],
                                "env": [{"name": "QUEUE", "value": "mail"}],
                                "volumeMounts": [{"name": "spool", "mountPath": "/spool"}],
                            },
                        ],
                        "volumes": [{"name": "spool", "emptyDir": {"sizeLimit": "1Gi"}}],
                    },
                },
            },
        }),
        &Facts::default(),
    );
}

/// A hardened pod of Guaranteed quality of service, as the API server hands it over.
#[test]
fn hardened_as_the_api_server_has_it() {
    snapshot(
        "hardened_as_the_api_server_has_it",
        &super::cluster::defaulted(&json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "ledger",
                "namespace": "bank",
                "annotations": {"leader.io/id": "ledger", "leader.io/service-account": "dedicated", "deployment.kubernetes.io/revision": "7"},
            },
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "ledger"}},
                "template": {
                    "metadata": {"labels": {"app": "ledger"}},
                    "spec": {
                        "serviceAccountName": "ledger",
                        "automountServiceAccountToken": false,
                        "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                        "containers": [{
                            "name": "ledger",
                            "image": "bank/ledger@sha256:9b7d1c0e",
                            "command": ["/ledger"],
                            "args": ["serve"],
                            "resources": {"limits": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"}},
                            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                        }],
                    },
                },
            },
        })),
        &Facts::default(),
    );
}

/// A node-level job with shared process namespace, root, a GPU, and `default` in use.
#[test]
fn everything_risky() {
    snapshot(
        "everything_risky",
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "trainer", "annotations": {"leader.io/id": "trainer"}},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "trainer"}},
                "template": {
                    "metadata": {"labels": {"app": "trainer"}, "annotations": {"kubectl.kubernetes.io/default-container": "gone"}},
                    "spec": {
                        "shareProcessNamespace": true,
                        "containers": [
                            {
                                "name": "train",
                                "image": "ml/train:latest",
                                "command": ["/bin/bash", "-lc", "exec python3 train.py --node $(NODE)"],
                                "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
                            },
                            {"name": "tensorboard", "image": "ml/board:latest"},
                        ],
                    },
                },
            },
        }),
        &Facts { default_account_in_use: true, ..Facts::default() },
    );
}
