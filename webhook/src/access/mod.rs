//! The objects of an id: service account, Role, RoleBinding and Lease, which let its pods elect and nothing else.
//!
//! They exist before the review is answered, because pods may start the moment after, and because a pod whose account does not
//! exist is refused after all webhooks
//! (<https://github.com/kubernetes/kubernetes/blob/v1.36.0/plugin/pkg/admission/serviceaccount/admission.go>). None has an
//! ownerReference: a deleted workload's pods are still shutting down, and a fresh Lease would let the next ones start beside
//! them. [`objects`] decides from values; the requests are here.

mod objects;

use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use leader_agent::id::LeaderId;

pub use self::objects::Place;
use self::objects::{Objects, Owned, Step, plan};
use crate::{api_error, inject::Election};

/// How often a write begins again: because somebody else wrote first, or because the API server checks a RoleBinding by a cache
/// that does not have its Role yet ("not found", although it was just created; 0.2 s were measured).
const RACES: u32 = 8;
/// The pause before the first of them; it doubles, so that all together last 1.3 s.
const RACE_PAUSE: Duration = Duration::from_millis(5);

/// Why the objects of an id are not there.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An object of that name belongs to somebody else.
    #[error(
        "{place} exists and was not made for the id {id}: choose another id, or delete it if nothing uses it{hint}"
    )]
    Foreign {
        /// The object.
        place: Place,
        /// The id that it would be used for.
        id: LeaderId,
        /// Another way out, or nothing.
        hint: String,
    },
    /// The account that the pods run under cannot exist.
    #[error(
        "serviceAccountName of the pods: `{name}` is not the name of a service account, which is at most 253 lower-case letters, \
         digits, `-` and `.`, e.g. `billing`"
    )]
    AccountName {
        /// The name.
        name: String,
    },
    /// A request failed.
    #[error("{action} {place} failed: {}", api_error::reason(source))]
    Request {
        /// What was tried.
        action: &'static str,
        /// The object.
        place: Place,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Others kept writing the object.
    #[error("{0} was changed by others {RACES} times in a row: try again")]
    Race(Place),
}

impl AccessError {
    /// Whether the workload is at fault, and trying again changes nothing.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::AccountName { .. })
    }
}

/// Makes the objects of an election, or repairs them. With `dry_run` nothing is written, and what would be refused is refused.
pub async fn ensure(client: &Client, namespace: &str, election: &Election, dry_run: bool) -> Result<(), AccessError> {
    let id = &election.id;
    let account = election.account.name();
    if !is_dns_subdomain(account) {
        return Err(AccessError::AccountName { name: account.to_owned() });
    }
    let objects = Objects::of(election, namespace);
    let leases = Object::new(client, namespace, id, objects.lease);
    let roles = Object::new(client, namespace, id, objects.role);
    let bindings = Object::new(client, namespace, id, objects.binding);
    let accounts = objects.account.map(|account| Object::new(client, namespace, id, account));
    let look_at_account = async {
        let Some(mut object) = accounts else { return Ok(None) };
        object.wanted.automount_service_account_token = default_automount(client, namespace).await?;
        let step = object.look().await?;
        Ok(Some((object, step)))
    };
    // All are looked at before one is written, so that a refusal leaves nothing behind.
    let (lease, role, binding, account) =
        futures::try_join!(leases.look(), roles.look(), bindings.look(), look_at_account)?;
    if dry_run {
        return Ok(());
    }
    // The Lease first: a Role must not name one that somebody else makes in between.
    leases.write(lease).await?;
    let write_account = async {
        match account {
            Some((object, step)) => object.write(step).await,
            None => Ok(()),
        }
    };
    // A RoleBinding can only be made by someone who has what its Role gives, so the Role must be there.
    let grant = async {
        roles.write(role).await?;
        bindings.write(binding).await
    };
    futures::try_join!(grant, write_account)?;
    Ok(())
}

/// What Kubernetes takes as the name of a service account (RFC 1123). The API server judges the template by it only after this
/// webhook, and a RoleBinding to such a name not before its Lease and Role are there.
fn is_dns_subdomain(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// What the account `default` says about mounting tokens: pods that ran under it and got none get none under ours.
async fn default_automount(client: &Client, namespace: &str) -> Result<Option<bool>, AccessError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let place = |name: &str| Place {
        kind: "ServiceAccount".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let account = accounts.get_opt("default").await.map_err(|error| AccessError::Request {
        action: "reading",
        place: place("default"),
        source: Box::new(error),
    })?;
    Ok(account.and_then(|account| account.automount_service_account_token))
}

/// One object of an id: where it is, and what it should be.
struct Object<'a, K> {
    api: Api<K>,
    id: &'a LeaderId,
    place: Place,
    wanted: K,
}

impl<'a, K> Object<'a, K>
where
    K: Owned + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    fn new(client: &Client, namespace: &str, id: &'a LeaderId, wanted: K) -> Self {
        let kind = K::kind(&()).into_owned();
        let place = Place { kind, namespace: namespace.to_owned(), name: wanted.name_any() };
        Self { api: Api::namespaced(client.clone(), namespace), id, place, wanted }
    }

    /// What is to be done, by the object as it is now.
    async fn look(&self) -> Result<Step<K>, AccessError> {
        let existing = self.api.get_opt(&self.place.name).await.map_err(|error| self.failed("reading", error))?;
        match plan(existing, self.wanted.clone()) {
            Step::Foreign => {
                Err(AccessError::Foreign { place: self.place.clone(), id: self.id.clone(), hint: K::hint(&self.place) })
            }
            step => Ok(step),
        }
    }

    /// Does `step`; when somebody else wrote in between, what is to be done then.
    async fn write(&self, mut step: Step<K>) -> Result<(), AccessError> {
        let parameters = PostParams { field_manager: Some("leader-webhook".to_owned()), ..PostParams::default() };
        for race in 0..RACES {
            let (action, written) = match &step {
                Step::Keep | Step::Foreign => return Ok(()),
                Step::Create(object) => ("creating", self.api.create(&parameters, object).await),
                Step::Repair(object) => ("repairing", self.api.replace(&self.place.name, &parameters, object).await),
                Step::Recreate(existing, object) => {
                    let delete = DeleteParams {
                        preconditions: Some(Preconditions { uid: existing.uid(), resource_version: None }),
                        ..DeleteParams::default()
                    };
                    match self.api.delete(&self.place.name, &delete).await {
                        Ok(_) => ("re-creating", self.api.create(&parameters, object).await),
                        Err(error) => ("deleting", Err(error)),
                    }
                }
            };
            match written {
                Ok(_) => {
                    tracing::info!(object = %self.place, "{action} an object of id {}", self.id);
                    return Ok(());
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(self.failed(action, error)),
            }
            tokio::time::sleep(RACE_PAUSE * (1 << race)).await;
            step = match (step, self.look().await?) {
                // What it was made from may be deleted by now, and whom that one bound is known here only.
                (Step::Recreate(_, made) | Step::Create(made), Step::Create(_)) => Step::Create(made),
                (_, step) => step,
            };
        }
        Err(AccessError::Race(self.place.clone()))
    }

    fn failed(&self, action: &'static str, source: kube::Error) -> AccessError {
        AccessError::Request { action, place: self.place.clone(), source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_accounts() {
        for name in ["default", "a", "0", "leader-billing", "a.b-c.d", &"a".repeat(253)] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in ["", "Billing", "a_b", "-a", "a-", "a..b", ".a", "a.", "a/b", "gr\u{fc}n", &"a".repeat(254)] {
            assert!(!is_dns_subdomain(name), "{name}");
        }
    }
}
