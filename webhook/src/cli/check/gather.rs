//! Reads the cluster, as the person who asks may: what cannot be read is noted with its reason, and the rest is judged without it.
//!
//! Objects are read as JSON, so that fields newer than this program are there, and nothing is written: the one workload that is sent is
//! a dry run.

use std::{collections::BTreeMap, net::IpAddr};

use http::{Method, Request, header};
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;
use leader_agent::names;
use serde_json::{Value, json};

use super::snapshot::{Answer, Read, Snapshot, id, is_living, name, namespace};
use crate::{api_error, review::has_our_annotations};

/// How many objects one request lists.
const PAGE: usize = 500;
/// The webhook's name, and that of most of its objects.
pub(super) const WEBHOOK: &str = "leader-webhook";
/// The Secret with the certificate authority.
pub(super) const AUTHORITY: &str = "leader-webhook-ca";
/// The name, and the id, of the workload that is sent for a dry run.
const SAMPLE: &str = "leader-check";
/// Metadata alone, which is a hundredth of a pod.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Where to look.
pub(super) struct Places<'a> {
    /// The webhook's namespace.
    pub(super) system: &'a str,
    /// The one namespace whose elections are looked at, or all.
    pub(super) elections: Option<&'a str>,
    /// The namespace of the dry run.
    pub(super) review: &'a str,
}

/// Reads everything. An error is that of the first request: then nothing can be read.
pub(super) async fn gather(client: &Client, places: &Places<'_>) -> Result<Snapshot, kube::Error> {
    let (server, now) = version(client).await?;
    let reader = Reader { client, only: places.elections };
    let system = format!("/api/v1/namespaces/{}", places.system);
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let of_ids = format!("labelSelector={}", names::ID);
    let configuration = format!("{admission}/mutatingwebhookconfigurations/{WEBHOOK}");
    let deployment = format!("/apis/apps/v1/namespaces/{}/deployments/{WEBHOOK}", places.system);
    let webhook_pods =
        reader.list(&format!("{system}/pods"), "labelSelector=app.kubernetes.io/name=leader-webhook").await;
    let mut figures = BTreeMap::new();
    // One that has ended, or was evicted, serves nothing.
    for pod in webhook_pods.as_deref().unwrap_or_default().iter().filter(|pod| is_living(pod)) {
        let path = format!("{system}/pods/https:{}:10250/proxy/metrics", name(pod));
        figures.insert(name(pod).to_owned(), reader.text(&path).await);
    }
    let workloads = reader.workloads().await;
    let mut leases = reader.of_elections("/apis/coordination.k8s.io/v1", "leases", &of_ids).await;
    if let (Ok(leases), Ok(workloads)) = (&mut leases, &workloads) {
        reader.adopted(leases, workloads).await;
    }
    Ok(Snapshot {
        now,
        own_version: env!("CARGO_PKG_VERSION").to_owned(),
        namespace: places.system.to_owned(),
        review_namespace: places.review.to_owned(),
        server: Ok(server),
        configuration: reader.find(&configuration).await,
        policies: reader.list(&format!("{admission}/validatingadmissionpolicies"), "").await,
        policy_bindings: reader.list(&format!("{admission}/validatingadmissionpolicybindings"), "").await,
        deployment: reader.find(&deployment).await,
        webhook_pods,
        figures,
        authority: reader
            .find(&format!("{system}/secrets/{AUTHORITY}"))
            .await
            .map(|secret| secret.map(|secret| certificates(&secret))),
        rights: async {
            let role = reader.find(&format!("{rbac}/clusterroles/{WEBHOOK}")).await?;
            Ok((role, reader.find(&format!("{rbac}/clusterrolebindings/{WEBHOOK}")).await?))
        }
        .await,
        own_rights: async {
            let of = |resource: &str| format!("{rbac}/namespaces/{}/{resource}", places.system);
            Ok((reader.list(&of("roles"), "").await?, reader.list(&of("rolebindings"), "").await?))
        }
        .await,
        answer: reader.dry_run(places.review).await,
        workloads,
        pods: reader.of_elections("/api/v1", "pods", &of_ids).await,
        bare_pods: reader.bare_pods().await,
        leases,
        accounts: reader.of_elections("/api/v1", "serviceaccounts", &of_ids).await,
        roles: reader.of_elections(rbac, "roles", &of_ids).await,
        bindings: reader.of_elections(rbac, "rolebindings", &of_ids).await,
        network_policies: reader.of_elections("/apis/networking.k8s.io/v1", "networkpolicies", "").await,
        services: reader.of_elections("/api/v1", "services", "").await,
        api_server: reader.api_server().await,
    })
}

/// The API server's version, and its clock: that of this machine may be wrong.
async fn version(client: &Client) -> Result<(Info, Timestamp), kube::Error> {
    let request = request(Method::GET, "/version", Vec::new(), None).map_err(kube::Error::HttpError)?;
    let response = client.send(request.map(kube::client::Body::from)).await?;
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    let now = date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
    Ok((client.apiserver_version().await?, now.unwrap_or_else(Timestamp::now)))
}

fn request(method: Method, path: &str, body: Vec<u8>, accept: Option<&str>) -> Result<Request<Vec<u8>>, http::Error> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(accept) = accept {
        builder = builder.header(header::ACCEPT, accept);
    }
    builder.header(header::CONTENT_TYPE, "application/json").body(body)
}

/// The certificates of the authority's Secret, and nothing else of it.
fn certificates(secret: &Value) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    // What is to sign next may be in the Secret before it is in the bundle.
    let signing = secret["data"]["tls.crt"].as_str().into_iter();
    let texts = signing.filter_map(|text| String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok());
    texts
        .filter(|text| text.contains("BEGIN CERTIFICATE") && !text.contains("PRIVATE KEY"))
        .collect::<Vec<_>>()
        .join("\n")
}

struct Reader<'a> {
    client: &'a Client,
    only: Option<&'a str>,
}

impl Reader<'_> {
    async fn get(&self, path: &str, accept: Option<&str>) -> Result<Value, kube::Error> {
        let request = request(Method::GET, path, Vec::new(), accept).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// An object, or nothing where there is none.
    async fn find(&self, path: &str) -> Read<Option<Value>> {
        match self.get(path, None).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(api_error::reason(&error)),
        }
    }

    async fn text(&self, path: &str) -> Read<String> {
        let request = request(Method::GET, path, Vec::new(), None).map_err(|error| error.to_string())?;
        self.client.request_text(request).await.map_err(|error| api_error::reason(&error))
    }

    async fn list(&self, path: &str, query: &str) -> Read<Vec<Value>> {
        self.list_as(path, query, None, |_| true).await
    }

    /// Every object of a list for which `wanted` is true, read page by page.
    async fn list_as(
        &self,
        path: &str,
        query: &str,
        accept: Option<&str>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Read<Vec<Value>> {
        let query = if query.is_empty() { String::new() } else { format!("&{query}") };
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let page = format!("{path}?limit={PAGE}{query}{next}");
            let mut page = self.get(&page, accept).await.map_err(|error| api_error::reason(&error))?;
            // Lists leave the kind of their items out.
            let (version, kind) = (page["apiVersion"].clone(), page["kind"].as_str().unwrap_or_default().to_owned());
            let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) else { return Ok(found) };
            for mut item in items {
                if !wanted(&item) {
                    continue;
                }
                if item["kind"].is_null() {
                    item["kind"] = kind.trim_end_matches("List").into();
                    item["apiVersion"] = version.clone();
                }
                if let Some(metadata) = item["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                }
                found.push(item);
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => next = format!("&continue={token}"),
                _ => return Ok(found),
            }
        }
    }

    /// The path of a resource in the namespaces that are looked at.
    fn path(&self, group: &str, resource: &str) -> String {
        match self.only {
            Some(namespace) => format!("{group}/namespaces/{namespace}/{resource}"),
            None => format!("{group}/{resource}"),
        }
    }

    async fn of_elections(&self, group: &str, resource: &str, query: &str) -> Read<Vec<Value>> {
        self.list(&self.path(group, resource), query).await
    }

    async fn workloads(&self) -> Read<Vec<Value>> {
        let mut workloads = Vec::new();
        for (group, resource) in [
            ("/apis/apps/v1", "deployments"),
            ("/apis/apps/v1", "statefulsets"),
            ("/apis/apps/v1", "daemonsets"),
            ("/apis/batch/v1", "cronjobs"),
        ] {
            let path = self.path(group, resource);
            workloads.extend(self.list_as(&path, "", None, has_our_annotations).await?);
        }
        Ok(workloads)
    }

    /// Adds the Leases that ids use without having been made for them: they do not have the label.
    async fn adopted(&self, leases: &mut Vec<Value>, workloads: &[Value]) {
        for workload in workloads {
            let (namespace, Some(id)) = (namespace(workload), id(workload)) else { continue };
            let is_known = |lease: &Value| (super::snapshot::namespace(lease), name(lease)) == (namespace, id);
            if leases.iter().any(is_known) {
                continue;
            }
            let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{id}");
            if let Ok(Some(lease)) = self.find(&path).await {
                leases.push(lease);
            }
        }
    }

    async fn bare_pods(&self) -> Read<Vec<Value>> {
        let is_bare = |pod: &Value| {
            !pod["metadata"]["annotations"][names::ID].is_null() && pod["metadata"]["labels"][names::ID].is_null()
        };
        let mut pods = self.list_as(&self.path("/api/v1", "pods"), "", Some(METADATA), is_bare).await?;
        for pod in &mut pods {
            pod["kind"] = "Pod".into();
        }
        Ok(pods)
    }

    /// Where the API server is for pods: the Service's addresses, and those behind it, which network policies are applied to.
    async fn api_server(&self) -> Read<Vec<(IpAddr, u16)>> {
        let service = self.find("/api/v1/namespaces/default/services/kubernetes").await?.unwrap_or_default();
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let slices = self.list(slices, "labelSelector=kubernetes.io/service-name=kubernetes").await?;
        let mut found = Vec::new();
        let mut add = |addresses: &Value, ports: &Value, key: &str| {
            for address in addresses.as_array().into_iter().flatten().filter_map(|text| text.as_str()?.parse().ok()) {
                let ports =
                    ports.as_array().into_iter().flatten().filter_map(|port| u16::try_from(port[key].as_u64()?).ok());
                found.extend(ports.map(|port| (address, port)));
            }
        };
        add(&service["spec"]["clusterIPs"], &service["spec"]["ports"], "port");
        for slice in &slices {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                add(&endpoint["addresses"], &slice["ports"], "port");
            }
        }
        Ok(found)
    }

    /// Sends a workload that asks for an election, and stores nothing.
    async fn dry_run(&self, namespace: &str) -> Read<Answer> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments?dryRun=All&fieldManager=kubectl-leader");
        let body = sample(namespace).to_string().into_bytes();
        let request = request(Method::POST, &path, body, None).map_err(|error| error.to_string())?;
        match self.client.request::<Value>(request).await {
            Ok(stored) => Ok(Answer::Stored(Box::new(stored))),
            Err(kube::Error::Api(status)) => Ok(Answer::Refused { code: status.code, message: status.message.clone() }),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A workload that needs nothing of the cluster but the webhook: an account of its own, and an image whose registry is not there, so
/// that asking it takes no time.
fn sample(namespace: &str) -> Value {
    let labels = json!({ "app": SAMPLE });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": SAMPLE,
            "namespace": namespace,
            "annotations": { (names::ID): SAMPLE, "leader.io/service-account": "dedicated" },
        },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
                    "containers": [{
                        "name": "app",
                        "image": "127.0.0.1:1/leader-check:1",
                        "command": ["/leader-check"],
                        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    }],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests;
