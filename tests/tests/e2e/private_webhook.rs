//! A webhook of a test's own beside the installed one: its own Service, Secret and configuration, asked about the `ConfigMaps` of one
//! namespace and about nothing else. It has no right to do anything but keep its certificates, so that it is in nobody's way.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use leader_tests::command::Output;
use leader_tests::progress::say;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::stage::{Stage, until};

/// Of Deployment, Service, account and container.
pub(crate) const NAME: &str = "leader-webhook";
/// The Secret with its authorities.
pub(crate) const SECRET: &str = "secret/leader-webhook-ca";
/// The folder in which a mounted certificate is.
const FOLDER: &str = "/certificate";
/// How many `ConfigMaps` are asked for at once: kubectl takes longer to start than a review takes.
const AT_ONCE: usize = 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The webhook; what it has outside the namespace is gone when this is dropped.
pub(crate) struct PrivateWebhook<'a> {
    stage: &'a Stage,
    /// The name of its configuration and of its rights.
    name: String,
}

/// How it gets its certificate.
pub(crate) enum Certificate<'a> {
    /// It makes authorities and leaves that live so long.
    Own { authority: &'a str, leaf: &'a str },
    /// From the Secret of this name.
    Mounted(&'a str),
}

impl<'a> PrivateWebhook<'a> {
    /// Applies everything, and waits for nothing: without a certificate no replica gets ready.
    pub(crate) fn apply(stage: &'a Stage, replicas: u32, certificate: &Certificate<'_>) -> Result<Self> {
        let webhook = Self { stage, name: stage.namespace.name().to_owned() };
        let items = [webhook.access(), vec![service(), webhook.deployment(replicas, certificate)?]].concat();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        stage.namespace.apply(&list.to_string())?;
        stage.namespace.apply(&webhook.configuration().to_string())?;
        Ok(webhook)
    }

    /// As `kubectl` names its configuration.
    pub(crate) fn configuration_name(&self) -> String {
        format!("mutatingwebhookconfiguration/{}", self.name)
    }

    fn access(&self) -> Vec<Value> {
        let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let mut own =
            rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", &["get", "list", "watch", "patch"]);
        own["resourceNames"] = json!([self.name]);
        let at_home = json!([
            rule("", "secrets", &["get", "list", "watch", "create", "update"]),
            rule("", "pods", &["get"]),
            rule("events.k8s.io", "events", &["create", "patch"]),
        ]);
        let object = |kind: &str, name: &str, more: Value| {
            let mut object = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
            });
            json_patch::merge(&mut object, &more);
            object
        };
        let binding = |kind: &str, name: &str| {
            json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": self.stage.namespace.name()}],
            })
        };
        vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME}}),
            object("ClusterRole", &self.name, json!({"rules": [own]})),
            object("ClusterRoleBinding", &self.name, binding("ClusterRole", &self.name)),
            object("Role", NAME, json!({"rules": at_home})),
            object("RoleBinding", NAME, binding("Role", NAME)),
        ]
    }

    fn deployment(&self, replicas: u32, certificate: &Certificate<'_>) -> Result<Value> {
        let mut variables = vec![
            json!({"name": "LEADER_WEBHOOK_NAMESPACE", "value": self.stage.namespace.name()}),
            json!({"name": "LEADER_WEBHOOK_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            json!({"name": "LEADER_WEBHOOK_CONFIGURATION", "value": self.name}),
            json!({"name": "LEADER_AGENT_IMAGE", "value": self.stage.image("leader-agent")?}),
        ];
        let mut variable = |name: &str, value: &str| variables.push(json!({"name": name, "value": value}));
        let (mut volumes, mut mounts) = (json!([]), json!([]));
        match certificate {
            Certificate::Own { authority, leaf } => {
                variable("LEADER_WEBHOOK_CA_LIFETIME", authority);
                variable("LEADER_WEBHOOK_CERTIFICATE_LIFETIME", leaf);
            }
            Certificate::Mounted(secret) => {
                variable("LEADER_WEBHOOK_TLS_CERT", &format!("{FOLDER}/tls.crt"));
                variable("LEADER_WEBHOOK_TLS_KEY", &format!("{FOLDER}/tls.key"));
                volumes = json!([{"name": "certificate", "secret": {"secretName": secret}}]);
                mounts = json!([{"name": "certificate", "mountPath": FOLDER, "readOnly": true}]);
            }
        }
        let container = json!({
            "name": NAME,
            "image": self.stage.image("leader-webhook")?,
            "env": variables,
            "volumeMounts": mounts,
            "readinessProbe": {
                "httpGet": {"path": "/readyz", "port": 10250, "scheme": "HTTPS"}, "periodSeconds": 1, "timeoutSeconds": 5,
            },
            "resources": {"requests": {"cpu": "50m"}},
            "securityContext": crate::writer::container_security(),
        });
        let labels = json!({"app": NAME});
        Ok(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": NAME,
                        "terminationGracePeriodSeconds": 10,
                        "securityContext": crate::writer::pod_security(),
                        "containers": [container],
                        "volumes": volumes,
                    },
                },
            },
        }))
    }

    fn configuration(&self) -> Value {
        let namespace = self.stage.namespace.name();
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": [{
                "name": "inject.leader.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"namespace": namespace, "name": NAME, "path": "/inject"}},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"],
                }],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "timeoutSeconds": 30,
            }],
        })
    }

    pub(crate) fn wait_until_rolled_out(&self) -> Result<()> {
        let deployment = format!("deployment/{NAME}");
        self.stage.namespace.run(&["rollout", "status", &deployment, "--timeout=180s"]).map(drop)
    }

    /// Asks for reviews, which store nothing.
    fn ask(&self) -> Result<Output> {
        let one = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "probe-"}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": vec![one; AT_ONCE]});
        self.stage.namespace.kubectl(&["create", "--dry-run=server", "-f", "-"]).input(list.to_string()).output()
    }

    /// Asks for some reviews; gives how many were asked for, and why the first that was refused was.
    pub(crate) fn review(&self) -> Result<(usize, Option<String>)> {
        let output = self.ask()?;
        Ok((AT_ONCE, (!output.success()).then_some(output.stderr)))
    }

    /// Waits until reviews are answered.
    pub(crate) fn wait_until_answering(&self) -> Result<()> {
        until("the private webhook to answer", || {
            let (_, refused) = self.review()?;
            ensure!(refused.is_none(), "{}", refused.unwrap_or_default());
            Ok(())
        })
    }

    /// The replicas, by name and address.
    pub(crate) fn pods(&self) -> Result<Vec<(String, IpAddr)>> {
        let pods = self.stage.namespace.get(&["pods", &format!("--selector=app={NAME}")])?;
        let pods = pods["items"].as_array().context("a list without items")?;
        let one = |pod: &Value| -> Result<(String, IpAddr)> {
            let name = pod["metadata"]["name"].as_str().context("no name")?.to_owned();
            Ok((name, pod["status"]["podIP"].as_str().context("no address")?.parse()?))
        };
        pods.iter().map(one).collect()
    }

    /// What the API server trusts, as PEM; empty where there is nothing.
    pub(crate) fn bundle(&self) -> Result<Vec<u8>> {
        let configuration = self.stage.namespace.cluster().get(&[&self.configuration_name()])?;
        let text = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        Ok(BASE64_STANDARD.decode(text)?)
    }

    /// Writes what the API server trusts.
    pub(crate) fn write_bundle(&self, pem: &str) -> Result<()> {
        let patch = json!([{
            "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": BASE64_STANDARD.encode(pem),
        }]);
        let patch = patch.to_string();
        let arguments = ["patch", &self.configuration_name(), "--type=json", "--patch", &patch];
        self.stage.namespace.cluster().kubectl(&arguments).run().map(drop)
    }

    /// The certificate that a replica shows to a client that trusts `bundle`, to be called in the cluster's network.
    pub(crate) fn shown(&self, address: IpAddr, bundle: &[u8]) -> Result<CertificateDer<'static>> {
        let mut stream = self.connect(address, bundle)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        stream.conn.send_close_notify();
        stream.flush()?;
        let shown = stream.conn.peer_certificates().and_then(<[_]>::first).context("no certificate was shown")?;
        Ok(shown.clone().into_owned())
    }

    /// What a replica answers to a client that trusts `bundle`, with the answer's header; to be called in the cluster's network.
    pub(crate) fn get(&self, address: IpAddr, bundle: &[u8], path: &str) -> Result<String> {
        let mut stream = self.connect(address, bundle)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn connect(&self, address: IpAddr, bundle: &[u8]) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(format!("{NAME}.{}.svc", self.stage.namespace.name()))?;
        let connection = ClientConnection::new(Arc::new(config), name)?;
        let stream = TcpStream::connect_timeout(&SocketAddr::from((address, 10250)), CONNECT)?;
        stream.set_read_timeout(Some(CONNECT))?;
        stream.set_write_timeout(Some(CONNECT))?;
        Ok(StreamOwned::new(connection, stream))
    }

    /// The notes of Events with this reason.
    pub(crate) fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = self.stage.namespace.get(&["events", &format!("--field-selector=reason={reason}")])?;
        let events = events["items"].as_array().context("a list without items")?;
        Ok(events.iter().filter_map(|event| event["message"].as_str()).map(str::to_owned).collect())
    }

    /// Waits for an Event with this reason, whose note has `part`.
    pub(crate) fn wait_for_event(&self, reason: &str, part: &str) -> Result<()> {
        until(&format!("an Event {reason}"), || {
            let notes = self.events(reason)?;
            ensure!(notes.iter().any(|note| note.contains(part)), "{notes:?}");
            Ok(())
        })
    }
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": [{"port": 443, "targetPort": 10250}]},
    })
}

impl Drop for PrivateWebhook<'_> {
    fn drop(&mut self) {
        let names = ["mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding"]
            .map(|kind| format!("{kind}/{}", self.name));
        let delete = self.stage.namespace.cluster().kubectl(&["delete", "--ignore-not-found"]).args(&names);
        if let Err(error) = delete.run() {
            say(format!("something of the private webhook {} is still there: {error:#}", self.name));
        }
    }
}
