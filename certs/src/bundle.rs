//! The `caBundle` of a webhook configuration: whether it is what it should be, and the patch that makes it so.

use std::fmt;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::{Value, json};

/// The Service that a webhook is reached through, by which its entries in a configuration are recognized.
#[derive(Clone, Debug)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceName {
    /// The names under which clients inside a cluster reach the Service. The API server uses the first.
    pub fn dns_names(&self) -> Vec<String> {
        let Self { namespace, name } = self;
        vec![
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.cluster.local"),
            format!("{name}.{namespace}"),
        ]
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// What a look at a configuration says.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Every webhook of ours trusts exactly `bundle`.
    Current,
    /// No webhook in it is ours: whoever installed it must put that right.
    NotOurs,
    /// Some do not; this strategic merge patch makes them, provided that the configuration has not changed since.
    Outdated(Value),
}

/// Compares the configuration's webhooks that call `service` with `bundle` (PEM).
pub fn decide(configuration: &MutatingWebhookConfiguration, service: &ServiceName, bundle: &str) -> Decision {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let mut ours = webhooks
        .iter()
        .filter(|webhook| {
            let called = webhook.client_config.service.as_ref();
            called.is_some_and(|called| called.name == service.name && called.namespace == service.namespace)
        })
        .peekable();
    if ours.peek().is_none() {
        return Decision::NotOurs;
    }
    let wanted = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
    let outdated: Vec<Value> = ours
        .filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted))
        .map(|webhook| json!({ "name": webhook.name, "clientConfig": { "caBundle": wanted } }))
        .collect();
    if outdated.is_empty() {
        return Decision::Current;
    }
    // The version keeps the merge from adding a webhook that was taken out in between.
    let metadata = json!({ "resourceVersion": configuration.metadata.resource_version });
    Decision::Outdated(json!({ "metadata": metadata, "webhooks": outdated }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(webhooks: &[(&str, &str, Option<&str>)]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<Value> = webhooks
            .iter()
            .map(|(name, service, bundle)| {
                let bundle = bundle.map(|bundle| k8s_openapi::ByteString(bundle.as_bytes().to_vec()));
                let service = json!({ "namespace": "leader-system", "name": service });
                json!({
                    "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": { "service": service, "caBundle": bundle },
                })
            })
            .collect();
        serde_json::from_value(json!({ "metadata": { "resourceVersion": "5" }, "webhooks": webhooks })).unwrap()
    }

    fn ours() -> ServiceName {
        ServiceName { namespace: "leader-system".to_owned(), name: "leader-webhook".to_owned() }
    }

    #[test]
    fn only_our_webhooks_that_trust_something_else_are_patched() {
        let given = configuration(&[
            ("a.leader.io", "leader-webhook", None),
            ("b.leader.io", "leader-webhook", Some("old")),
            ("c.leader.io", "leader-webhook", Some("new")),
            ("d.example.com", "another", Some("theirs")),
        ]);
        let Decision::Outdated(patch) = decide(&given, &ours(), "new") else { panic!("not outdated") };
        // base64 of "new"
        let entry = |name| json!({ "name": name, "clientConfig": { "caBundle": "bmV3" } });
        assert_eq!(patch["webhooks"], json!([entry("a.leader.io"), entry("b.leader.io")]));
        assert_eq!(patch["metadata"], json!({ "resourceVersion": "5" }));
    }

    #[test]
    fn nothing_to_do() {
        assert_eq!(decide(&configuration(&[("a", "leader-webhook", Some("new"))]), &ours(), "new"), Decision::Current);
        assert_eq!(decide(&configuration(&[("a", "another", None)]), &ours(), "new"), Decision::NotOurs);
        assert_eq!(decide(&MutatingWebhookConfiguration::default(), &ours(), "new"), Decision::NotOurs);
    }
}
