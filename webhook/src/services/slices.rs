//! The `EndpointSlices` of a leader-only Service: one for each of its families of addresses, as they should be but for who is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::{
        core::v1::{Pod, PodSpec, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use leader_agent::{id::LeaderId, names};

use super::leader_only;

/// The label by which everybody finds the slices of a Service:
/// <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#ownership>.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says whose a slice is. Kubernetes' own controllers leave those of others alone.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// What stands in [`MANAGED_BY`] on ours.
pub const MANAGER: &str = "leader.io";
/// The label of slices of headless Services, which kube-proxy need not read.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A port of a container: its name, and its protocol.
pub type NamedPort = (String, String);

/// What is read of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// To whose leader alone it sends its traffic.
    pub leader_only: Option<LeaderId>,
    /// Its selector, as Kubernetes sees it.
    pub selector: BTreeMap<String, String>,
    /// Its families of addresses, as the API writes them: `IPv4`, `IPv6`.
    pub families: Vec<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// It has no address of its own.
    pub is_headless: bool,
    /// Its endpoints count before they are ready.
    pub publishes_not_ready: bool,
    /// It is a name in DNS.
    pub is_external_name: bool,
    /// It is about to go.
    pub is_being_deleted: bool,
}

impl ServiceFacts {
    /// What is read of `service`.
    pub fn of(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        Self {
            name: service.name_any(),
            uid: service.uid().unwrap_or_default(),
            leader_only: leader_only(service.metadata.annotations.as_ref()),
            selector: spec.selector.unwrap_or_default(),
            families: spec.ip_families.unwrap_or_default(),
            ports: spec.ports.unwrap_or_default(),
            is_headless: spec.cluster_ip.as_deref() == Some("None"),
            publishes_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            is_being_deleted: service.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Whether the leader of an id is what it stands for at present: the webhook has seen it.
    pub fn is_taken_over(&self) -> bool {
        self.leader_only.is_some() && self.selector.is_empty() && !self.is_external_name && !self.is_being_deleted
    }

    /// Whether a port's number depends on the pod.
    pub fn names_ports(&self) -> bool {
        self.ports.iter().any(|port| matches!(port.target_port, Some(IntOrString::String(_))))
    }
}

/// The ports of a pod's containers that have a name.
pub fn named_ports(spec: &PodSpec) -> BTreeMap<NamedPort, i32> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some(((port.name.clone()?, protocol), port.container_port))
    });
    // Of several the first counts, as for Kubernetes' own controller.
    let mut found = BTreeMap::new();
    for (name, number) in named {
        found.entry(name).or_insert(number);
    }
    found
}

/// The name of a Service's slice of one family. A Service's name has at most 63 characters, a slice's 253.
pub fn name(service: &str, family: &str) -> String {
    format!("{service}-leader-{}", family.to_lowercase())
}

/// The slices of a Service that was taken over for `id`, without endpoints. `named` are the named ports of its leader's pod.
pub fn wanted(
    service: &ServiceFacts,
    namespace: &str,
    id: &LeaderId,
    named: &BTreeMap<NamedPort, i32>,
) -> Vec<EndpointSlice> {
    service.families.iter().map(|family| wanted_of_family(service, namespace, id, named, family)).collect()
}

fn wanted_of_family(
    service: &ServiceFacts,
    namespace: &str,
    id: &LeaderId,
    named: &BTreeMap<NamedPort, i32>,
    family: &str,
) -> EndpointSlice {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut labels = BTreeMap::from([
        pair("app.kubernetes.io/managed-by", MANAGER),
        pair(MANAGED_BY, MANAGER),
        pair(SERVICE_NAME, &service.name),
        pair(names::ID, id.as_str()),
    ]);
    if service.is_headless {
        labels.extend([pair(HEADLESS, "")]);
    }
    let annotations =
        service.publishes_not_ready.then(|| BTreeMap::from([pair(leader_agent::slices::PUBLISH_NOT_READY, "true")]));
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name(&service.name, family)),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            annotations,
            // It goes with its Service. Without `blockOwnerDeletion`, which some clusters grant to few.
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: service.name.clone(),
                uid: service.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Vec::new(),
        ports: Some(service.ports.iter().filter_map(|port| endpoint_port(port, named)).collect()),
    }
}

/// A Service's port as its endpoints have it; `None` where it is a name that the pod does not have.
fn endpoint_port(port: &ServicePort, named: &BTreeMap<NamedPort, i32>) -> Option<EndpointPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => *named.get(&(name.clone(), protocol.clone()))?,
    };
    Some(EndpointPort {
        // A single port of a Service may have no name.
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol),
        app_protocol: port.app_protocol.clone(),
    })
}

/// Whether a slice was made here, for this id.
pub fn is_ours(slice: &EndpointSlice, id: &LeaderId) -> bool {
    is_managed(slice) && slice.labels().get(names::ID).is_some_and(|label| label == id.as_str())
}

/// Whether a slice was made here, for whatever id.
pub fn is_managed(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// The slice that exists with all put right but for who is in it; `None` where nothing has to be.
pub fn put_right(existing: &EndpointSlice, wanted: &EndpointSlice) -> Option<EndpointSlice> {
    let mut right = existing.clone();
    let labels = right.metadata.labels.get_or_insert_default();
    labels.remove(HEADLESS);
    labels.extend(wanted.labels().clone());
    let annotations = right.metadata.annotations.get_or_insert_default();
    annotations.remove(leader_agent::slices::PUBLISH_NOT_READY);
    annotations.extend(wanted.annotations().clone());
    if annotations.is_empty() && existing.metadata.annotations.is_none() {
        right.metadata.annotations = None;
    }
    right.metadata.owner_references.clone_from(&wanted.metadata.owner_references);
    // An empty list may come back as none.
    if right.ports.as_deref().unwrap_or_default() != wanted.ports.as_deref().unwrap_or_default() {
        right.ports.clone_from(&wanted.ports);
    }
    (right != *existing).then_some(right)
}

/// The name and the uid of the pod that an endpoint says it is.
pub fn pod_of(endpoint: &Endpoint) -> Option<(&str, &str)> {
    let target = endpoint.target_ref.as_ref()?;
    Some((target.name.as_deref()?, target.uid.as_deref()?))
}

/// The addresses of a pod, as far as its kubelet has reported them.
pub fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|address| &address.ip).chain(&status.pod_ip);
    let mut addresses: Vec<IpAddr> = all.filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Whether an endpoint has these addresses only.
pub fn is_at(endpoint: &Endpoint, addresses: &[IpAddr]) -> bool {
    endpoint.addresses.iter().all(|address| address.parse().is_ok_and(|address: IpAddr| addresses.contains(&address)))
}

/// The annotation of a Lease that names these slices; `None` where there are none.
pub fn to_annotation(names: &BTreeSet<String>) -> Option<String> {
    (!names.is_empty()).then(|| serde_json::json!(names).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(spec: &Value) -> ServiceFacts {
        let annotations = json!({ "leader.io/leader-only": "billing" });
        let metadata = json!({ "name": "web", "namespace": "shop", "uid": "u1", "annotations": annotations });
        ServiceFacts::of(&serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap())
    }

    fn slices(spec: &Value, named: &[(&str, &str, i32)]) -> Vec<Value> {
        let named =
            named.iter().map(|&(name, protocol, port)| ((name.to_owned(), protocol.to_owned()), port)).collect();
        let wanted = wanted(&facts(spec), "shop", &"billing".parse().unwrap(), &named);
        wanted.into_iter().map(|slice| serde_json::to_value(slice).unwrap()).collect()
    }

    #[test]
    fn one_slice_for_each_family_with_the_ports_of_the_pod() {
        let spec = json!({
            "ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd00::1",
            "ports": [
                { "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c" },
                { "name": "dns", "port": 53, "targetPort": "web", "protocol": "UDP" },
                { "name": "metrics", "port": 9090, "targetPort": 19090 },
                { "name": "plain", "port": 7000 },
                { "name": "nowhere", "port": 1, "targetPort": "unknown" },
            ],
        });
        let made = slices(&spec, &[("web", "TCP", 8080), ("web", "UDP", 5353)]);
        assert_eq!(made.len(), 2);
        assert_eq!(
            (&made[0]["metadata"]["name"], &made[0]["addressType"]),
            (&json!("web-leader-ipv6"), &json!("IPv6"))
        );
        assert_eq!(
            (&made[1]["metadata"]["name"], &made[1]["addressType"]),
            (&json!("web-leader-ipv4"), &json!("IPv4"))
        );
        let expected = json!([
            { "name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c" },
            { "name": "dns", "port": 5353, "protocol": "UDP" },
            { "name": "metrics", "port": 19090, "protocol": "TCP" },
            { "name": "plain", "port": 7000, "protocol": "TCP" },
        ]);
        assert_eq!(made[0]["ports"], expected);
        assert_eq!(made[0]["endpoints"], json!([]));
        let owner = &made[0]["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Service"), &json!("u1")));
        let labels = &made[0]["metadata"]["labels"];
        assert_eq!(
            (&labels[SERVICE_NAME], &labels[MANAGED_BY], &labels["leader.io/id"]),
            (&json!("web"), &json!("leader.io"), &json!("billing"))
        );
        assert!(labels[HEADLESS].is_null() && made[0]["metadata"]["annotations"].is_null());
    }

    #[test]
    fn headless_ones_and_those_that_do_not_wait_say_so() {
        let made =
            slices(&json!({ "ipFamilies": ["IPv4"], "clusterIP": "None", "publishNotReadyAddresses": true }), &[]);
        assert_eq!(made[0]["metadata"]["labels"][HEADLESS], "");
        assert_eq!(made[0]["metadata"]["annotations"][leader_agent::slices::PUBLISH_NOT_READY], "true");
        assert_eq!(made[0]["ports"], json!([]));
    }

    #[test]
    fn a_slice_keeps_who_is_in_it() {
        let spec = |port: i32| json!({ "ipFamilies": ["IPv4"], "clusterIP": "10.0.0.1", "ports": [{ "port": 80, "targetPort": port }] });
        let one = |port| wanted(&facts(&spec(port)), "shop", &"billing".parse().unwrap(), &BTreeMap::new()).remove(0);
        let mut existing = one(8080);
        existing.metadata.resource_version = Some("7".to_owned());
        existing.metadata.labels.get_or_insert_default().insert("team".to_owned(), "shop".to_owned());
        existing.endpoints = serde_json::from_value(
            json!([{ "addresses": ["10.1.0.1"], "targetRef": { "name": "web-1", "uid": "p1" } }]),
        )
        .unwrap();
        assert_eq!(put_right(&existing, &one(8080)), None);
        let right = put_right(&existing, &one(8081)).unwrap();
        assert_eq!(right.endpoints, existing.endpoints);
        assert_eq!(right.ports.as_ref().unwrap()[0].port, Some(8081));
        assert_eq!(
            (right.labels().get("team").map(String::as_str), right.resource_version().as_deref()),
            (Some("shop"), Some("7"))
        );
        assert_eq!(pod_of(&right.endpoints[0]), Some(("web-1", "p1")));
    }

    #[test]
    fn an_endpoint_is_at_its_pod_however_its_addresses_are_written() {
        let pod = |status: Value| addresses(&serde_json::from_value(json!({ "status": status })).unwrap());
        let dual = pod(json!({ "podIP": "10.1.0.1", "podIPs": [{ "ip": "10.1.0.1" }, { "ip": "fd00::7" }] }));
        assert_eq!((dual.len(), pod(json!({ "podIP": "10.1.0.1" })).len(), pod(Value::Null).len()), (2, 1, 0));
        let endpoint = |all: Value| serde_json::from_value::<Endpoint>(json!({ "addresses": all })).unwrap();
        for own in [json!(["10.1.0.1"]), json!(["fd00:0:0::7"]), json!(["fd00::7", "10.1.0.1"])] {
            assert!(is_at(&endpoint(own.clone()), &dual), "{own}");
        }
        for other in [json!(["10.1.0.2"]), json!(["10.1.0.1", "10.1.0.2"]), json!(["payments.example.com"])] {
            assert!(!is_at(&endpoint(other.clone()), &dual), "{other}");
        }
        assert_eq!(pod_of(&endpoint(json!([]))), None);
    }

    #[test]
    fn what_was_not_seen_by_the_webhook_is_not_taken_over() {
        assert!(facts(&json!({ "ipFamilies": ["IPv4"] })).is_taken_over());
        assert!(!facts(&json!({ "selector": { "app": "billing" } })).is_taken_over());
        assert!(!facts(&json!({ "type": "ExternalName" })).is_taken_over());
    }

    #[test]
    fn ports_are_named_by_any_container_of_the_pod() {
        let pod = json!({
            "containers": [{ "name": "app", "ports": [{ "name": "web", "containerPort": 8080 }, { "containerPort": 1 }] }],
            "initContainers": [{ "name": "proxy", "ports": [{ "name": "web", "containerPort": 9 }, { "name": "tls", "containerPort": 8443, "protocol": "UDP" }] }],
        });
        let named = named_ports(&serde_json::from_value(pod).unwrap());
        let pair = |name: &str, protocol: &str| (name.to_owned(), protocol.to_owned());
        assert_eq!(named, BTreeMap::from([(pair("web", "TCP"), 8080), (pair("tls", "UDP"), 8443)]));
    }
}
