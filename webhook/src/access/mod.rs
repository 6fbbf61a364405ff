//! The objects of an id: service account, Role, RoleBinding and Lease, which let its pods elect and nothing else.
//!
//! They exist before the review is answered, because pods may start the moment after, and because a pod whose account does not
//! exist is refused after all webhooks
//! (<https://github.com/kubernetes/kubernetes/blob/v1.36.0/plugin/pkg/admission/serviceaccount/admission.go>). None has an
//! ownerReference: a deleted workload's pods are still shutting down, and a fresh Lease would let the next ones start beside
//! them. [`objects`] decides from values; the requests are here.

mod account;
mod objects;

use std::time::Duration;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::ServiceAccount};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use leader_agent::{id::LeaderId, names};

use self::objects::{Objects, Owned, Step, plan};
pub use self::{
    account::Inherited,
    objects::{COLLECTING, Existing, Place, slices_of, with_slices},
};
use crate::{
    api_error,
    inject::{Account, Election},
    turning_on::{
        self,
        review::{Asked, SetError},
    },
};

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
    /// The Lease does not say whom the election has to wait for.
    #[error("noting on Lease {namespace}/{id} whose pods are waited for failed: {source}")]
    TurningOn {
        /// The Lease's namespace.
        namespace: String,
        /// The id.
        id: LeaderId,
        /// Why.
        source: SetError,
    },
}

impl AccessError {
    /// Whether nothing can be made because the namespace is being deleted.
    pub fn is_of_a_namespace_that_ends(&self) -> bool {
        let Self::Request { source, .. } = self else { return false };
        let kube::Error::Api(status) = &**source else { return false };
        let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
        status.code == 403 && causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// Whether the workload is at fault, and trying again changes nothing.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::AccountName { .. })
    }
}

/// A write that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What was done, e.g. `creating`.
    pub action: &'static str,
    /// To which object.
    pub place: Place,
}

/// Makes the objects of an election, or repairs them, before its review is answered. With `dry_run` nothing is written, and what would
/// be refused is refused. `agent_pull_secret` is the secret that private agent images are pulled with. When it returns, the Lease says
/// whom the election has to wait for.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    election: &Election,
    agent_pull_secret: Option<&str>,
    asked: &Asked,
    dry_run: bool,
) -> Result<(), AccessError> {
    let mode = Mode { dry_run, with_lease: true, turning_on: asked.of_new_lease.as_deref() };
    Box::pin(make(client, namespace, election, agent_pull_secret, mode)).await?;
    if let Some(waiting) = asked.waiting.as_ref().filter(|_| !dry_run) {
        turning_on::review::set(client, namespace, &election.id, waiting).await.map_err(|source| {
            AccessError::TurningOn { namespace: namespace.to_owned(), id: election.id.clone(), source }
        })?;
    }
    Ok(())
}

/// Repairs the objects of an election that goes on, and tells what was done. Without the Lease when that is left to the agents, which
/// know who leads. `turning_on` is what the Lease said about that before it was lost.
pub async fn repair(
    client: &Client,
    namespace: &str,
    election: &Election,
    agent_pull_secret: Option<&str>,
    with_lease: bool,
    turning_on: Option<&str>,
) -> Result<Vec<Done>, AccessError> {
    let mode = Mode { dry_run: false, with_lease, turning_on };
    Box::pin(make(client, namespace, election, agent_pull_secret, mode)).await
}

/// Which objects of an election are missing, or are not as they should be, by what is known of them. No request is made.
pub fn amiss(election: &Election, namespace: &str, inherited: &Inherited, existing: &Existing<'_>) -> Vec<Place> {
    fn look<K: Owned>(existing: Option<&K>, wanted: K, namespace: &str) -> Option<Place> {
        let place = Place::of(&wanted, namespace);
        (plan(existing.cloned(), wanted) != Step::Keep).then_some(place)
    }
    let Objects { account, role, binding, lease } = Objects::of(election, namespace, inherited);
    let places = [
        look(existing.lease, lease, namespace),
        account.and_then(|account| look(existing.account, account, namespace)),
        look(existing.role, role, namespace),
        look(existing.binding, binding, namespace),
    ];
    places.into_iter().flatten().collect()
}

/// Whether somebody who may edit the Lease allows its use as an id, though it was not made for one.
pub fn is_adopted(lease: &Lease) -> bool {
    Owned::is_adopted(lease)
}

/// Whether a Lease is used as this id: it was made for it, or adopted. Others that have its name are left alone.
pub fn is_for(lease: &Lease, id: &LeaderId) -> bool {
    is_adopted(lease) || lease.labels().get(names::ID).is_some_and(|label| label == id.as_str())
}

/// How much is made.
#[derive(Clone, Copy)]
struct Mode<'a> {
    dry_run: bool,
    with_lease: bool,
    /// What a Lease that is made says of who is waited for: from its first moment on, because agents count from that.
    turning_on: Option<&'a str>,
}

async fn make(
    client: &Client,
    namespace: &str,
    election: &Election,
    agent_pull_secret: Option<&str>,
    mode: Mode<'_>,
) -> Result<Vec<Done>, AccessError> {
    let id = &election.id;
    let account = election.account.name();
    if !is_dns_subdomain(account) {
        return Err(AccessError::AccountName { name: account.to_owned() });
    }
    let inherited = match election.account {
        Account::Dedicated(_) => inherited(client, namespace, agent_pull_secret).await?,
        Account::Keep(_) => Inherited::default(),
    };
    let mut objects = Objects::of(election, namespace, &inherited);
    if let Some(text) = mode.turning_on {
        objects.lease.annotations_mut().insert(names::TURNING_ON.to_owned(), text.to_owned());
    }
    let leases = mode.with_lease.then(|| Object::new(client, namespace, id, objects.lease));
    let roles = Object::new(client, namespace, id, objects.role);
    let bindings = Object::new(client, namespace, id, objects.binding);
    let accounts = objects.account.map(|account| Object::new(client, namespace, id, account));
    // All are looked at before one is written, so that a refusal leaves nothing behind.
    let (lease, role, binding, account) =
        futures::try_join!(look(leases.as_ref()), roles.look(), bindings.look(), look(accounts.as_ref()))?;
    if mode.dry_run {
        return Ok(Vec::new());
    }
    // The Lease first: a Role must not name one that somebody else makes in between.
    let lease = write(leases.as_ref(), lease).await?;
    // A RoleBinding can only be made by someone who has what its Role gives, so the Role must be there.
    let grant = async {
        let role = roles.write(role).await?;
        Ok::<_, AccessError>([role, bindings.write(binding).await?])
    };
    let (granted, account) = futures::try_join!(grant, write(accounts.as_ref(), account))?;
    Ok([lease, account].into_iter().chain(granted).flatten().collect())
}

/// What is to be done with an object that may not be wanted at all.
async fn look<K>(object: Option<&Object<'_, K>>) -> Result<Option<Step<K>>, AccessError>
where
    K: Owned + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    match object {
        Some(object) => object.look().await.map(Some),
        None => Ok(None),
    }
}

/// Does it.
async fn write<K>(object: Option<&Object<'_, K>>, step: Option<Step<K>>) -> Result<Option<Done>, AccessError>
where
    K: Owned + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    match (object, step) {
        (Some(object), Some(step)) => object.write(step).await,
        _ => Ok(None),
    }
}

/// What Kubernetes takes as the name of most objects, a service account and a pod among them (RFC 1123). The API server judges an
/// account in a template by it only after this webhook, and a RoleBinding to such a name not before its Lease and Role are there.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// What the account `default` says about its pods: those that ran under it and run under ours get the same.
async fn inherited(
    client: &Client,
    namespace: &str,
    agent_pull_secret: Option<&str>,
) -> Result<Inherited, AccessError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = accounts.get_opt("default").await.map_err(|error| AccessError::Request {
        action: "reading",
        place: Place { kind: "ServiceAccount".to_owned(), namespace: namespace.to_owned(), name: "default".to_owned() },
        source: Box::new(error),
    })?;
    Ok(Inherited::of(account.as_ref(), agent_pull_secret))
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
        let place = Place::of(&wanted, namespace);
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
    async fn write(&self, mut step: Step<K>) -> Result<Option<Done>, AccessError> {
        let parameters = PostParams { field_manager: Some("leader-webhook".to_owned()), ..PostParams::default() };
        for race in 0..RACES {
            let (action, written) = match &step {
                Step::Keep | Step::Foreign => return Ok(None),
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
                    return Ok(Some(Done { action, place: self.place.clone() }));
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
