//! The `caBundle` of a webhook configuration: what stands in it, and the patch that makes it what it should be.

use std::fmt;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use serde_json::{Value, json};

use crate::anchor::Anchor;

/// How annotations begin by which cert-manager's CA injector is told to write a bundle:
/// <https://cert-manager.io/docs/concepts/ca-injector/>.
const INJECTOR: &str = "cert-manager.io/inject-";

/// The Service that a webhook is reached through, by which its entries in a configuration are recognized.
#[derive(Clone, Debug)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceName {
    /// The name that the API server asks for when it calls the Service.
    pub fn dns_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    /// The names under which clients inside a cluster reach the Service, [`ServiceName::dns_name`] first.
    pub fn dns_names(&self) -> Vec<String> {
        let Self { namespace, name } = self;
        vec![self.dns_name(), format!("{name}.{namespace}.svc.cluster.local"), format!("{name}.{namespace}")]
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// What stands in a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The certificates by which every webhook of ours can be reached.
    pub anchors: Vec<Anchor>,
    /// Whether each of them has these and nothing else.
    pub is_uniform: bool,
    /// Whether cert-manager's CA injector writes them, too, as while a roll-out changes from one to the other.
    pub is_shared: bool,
}

fn ours<'a>(
    configuration: &'a MutatingWebhookConfiguration,
    service: &'a ServiceName,
) -> impl Iterator<Item = &'a MutatingWebhook> {
    configuration.webhooks.iter().flatten().filter(|webhook| {
        let called = webhook.client_config.service.as_ref();
        called.is_some_and(|called| called.name == service.name && called.namespace == service.namespace)
    })
}

/// The certificates of one webhook; none where it has no bundle, or one that the API server could not use.
fn anchors(webhook: &MutatingWebhook) -> Option<Vec<Anchor>> {
    webhook.client_config.ca_bundle.as_ref().and_then(|bundle| Anchor::all_from_pem(&bundle.0).ok())
}

/// Reads the bundles of the configuration's webhooks that call `service`; nothing where none does: whoever installed it must put
/// that right.
pub fn read(configuration: &MutatingWebhookConfiguration, service: &ServiceName) -> Option<Published> {
    let mut webhooks = ours(configuration, service);
    let first = anchors(webhooks.next()?);
    let is_shared = configuration.metadata.annotations.iter().flatten().any(|(key, _)| key.starts_with(INJECTOR));
    let mut published = Published { is_uniform: first.is_some(), anchors: first.unwrap_or_default(), is_shared };
    for webhook in webhooks {
        let other = anchors(webhook).unwrap_or_default();
        let before = published.anchors.len();
        published.anchors.retain(|anchor| other.contains(anchor));
        published.is_uniform &= published.anchors.len() == before && other.len() == before;
    }
    Some(published)
}

/// The strategic merge patch that gives every webhook of ours `bundle`, provided that the configuration has not changed since.
pub fn patch(configuration: &MutatingWebhookConfiguration, service: &ServiceName, bundle: &[Anchor]) -> Value {
    let text: String = bundle.iter().map(Anchor::pem).collect();
    let wanted = k8s_openapi::ByteString(text.into_bytes());
    let webhooks: Vec<Value> = ours(configuration, service)
        .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": wanted } }))
        .collect();
    // The version keeps the merge from adding a webhook that was taken out in between.
    let metadata = json!({ "resourceVersion": configuration.metadata.resource_version });
    json!({ "metadata": metadata, "webhooks": webhooks })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;
    use crate::authority::Authority;

    fn configuration(webhooks: &[(&str, &str, Option<String>)]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<Value> = webhooks
            .iter()
            .map(|(name, service, bundle)| {
                let bundle = bundle.as_ref().map(|bundle| ByteString(bundle.as_bytes().to_vec()));
                let service = json!({ "namespace": "leader-system", "name": service });
                json!({
                    "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": { "service": service, "caBundle": bundle },
                })
            })
            .collect();
        serde_json::from_value(json!({ "metadata": { "resourceVersion": "5" }, "webhooks": webhooks })).unwrap()
    }

    fn service() -> ServiceName {
        ServiceName { namespace: "leader-system".to_owned(), name: "leader-webhook".to_owned() }
    }

    fn two() -> [Anchor; 2] {
        [(); 2].map(|()| Authority::generate("2026-11-21T00:00:00Z".parse().unwrap()).unwrap().anchor().clone())
    }

    #[test]
    fn what_every_webhook_of_ours_has_counts() {
        let [one, other] = two();
        let both = one.pem() + &other.pem();
        let turned = other.pem() + &one.pem();
        let read = |bundles: &[Option<&String>]| {
            let mut webhooks: Vec<_> =
                bundles.iter().map(|bundle| ("ours", "leader-webhook", bundle.cloned())).collect();
            webhooks.push(("theirs", "another", Some("theirs".to_owned())));
            read(&configuration(&webhooks), &service()).unwrap()
        };
        let uniform = |anchors: &[&Anchor]| Published {
            anchors: anchors.iter().map(|&anchor| anchor.clone()).collect(),
            is_uniform: true,
            is_shared: false,
        };
        let mixed = |anchors: &[&Anchor]| Published { is_uniform: false, ..uniform(anchors) };
        assert_eq!(read(&[Some(&both), Some(&turned)]), uniform(&[&one, &other]));
        assert_eq!(read(&[Some(&both), Some(&one.pem())]), mixed(&[&one]));
        assert_eq!(read(&[Some(&one.pem()), Some(&both)]), mixed(&[&one]));
        assert_eq!(read(&[Some(&one.pem()), None]), mixed(&[]));
        assert_eq!(read(&[Some(&one.pem()), Some(&other.pem())]), mixed(&[]));
        // The API server refuses to call with it, or with none trusts what its machine does.
        let broken = one.pem().replace("MII", "MXX");
        assert_eq!(read(&[Some(&broken)]), mixed(&[]));
        assert_eq!(read(&[None]), mixed(&[]));
    }

    #[test]
    fn the_ca_injector_is_noticed() {
        let mut given = configuration(&[("a", "leader-webhook", None)]);
        given.metadata.annotations = Some([("cert-manager.io/inject-ca-from".to_owned(), "a/b".to_owned())].into());
        assert!(read(&given, &service()).unwrap().is_shared);
    }

    #[test]
    fn a_configuration_without_a_webhook_of_ours_is_nobodys() {
        assert_eq!(read(&configuration(&[("a", "another", None)]), &service()), None);
        assert_eq!(read(&MutatingWebhookConfiguration::default(), &service()), None);
    }

    #[test]
    fn only_webhooks_of_ours_are_patched_and_only_this_version() {
        let [one, other] = two();
        let given = configuration(&[
            ("a.leader.io", "leader-webhook", None),
            ("b.leader.io", "leader-webhook", Some("old".to_owned())),
            ("c.example.com", "another", Some("theirs".to_owned())),
        ]);
        let bundle = ByteString((one.pem() + &other.pem()).into_bytes());
        let entry = |name| json!({ "name": name, "clientConfig": { "caBundle": bundle } });
        let patch = patch(&given, &service(), &[one, other]);
        assert_eq!(patch["webhooks"], json!([entry("a.leader.io"), entry("b.leader.io")]));
        assert_eq!(patch["metadata"], json!({ "resourceVersion": "5" }));
    }
}
