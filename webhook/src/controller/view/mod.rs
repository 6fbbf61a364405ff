//! The view: what the watches have told so far about everything that belongs to an id.
//!
//! It may lag behind and is never asked before something that cannot be taken back is done. [`store`] keeps the objects of one kind,
//! [`facts`] says what is read of large ones.

pub(super) mod facts;
mod store;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Resource, ResourceExt, runtime::watcher::Event};
use leader_agent::{id::LeaderId, names};

pub use self::facts::{Part, PodFacts, WorkloadFacts};
use self::store::{Fact, Store};
use super::Key;
use crate::services::slices::{ServiceFacts, is_managed};

/// What one watch tells.
#[derive(Debug)]
pub enum Change {
    /// Leases with an id's label.
    Lease(Event<Lease>),
    /// Service accounts with an id's label.
    Account(Event<ServiceAccount>),
    /// The namespaces' service accounts `default`.
    DefaultAccount(Event<ServiceAccount>),
    /// Roles with an id's label.
    Role(Event<Role>),
    /// `RoleBindings` with an id's label.
    Binding(Event<RoleBinding>),
    /// Pods with an id's label.
    Pod(Event<Pod>),
    /// All Deployments.
    Deployment(Event<Deployment>),
    /// All `StatefulSets`.
    StatefulSet(Event<StatefulSet>),
    /// All `DaemonSets`.
    DaemonSet(Event<DaemonSet>),
    /// All Services.
    Service(Event<Service>),
    /// `EndpointSlices` with an id's label.
    Slice(Event<EndpointSlice>),
}

/// To whom a Service matters: to its namespace, and where it is leader-only to that id alone.
type Steered = (String, Option<LeaderId>);

/// The objects of all kinds.
#[derive(Debug, Default)]
struct Stores {
    leases: Store<Key, Lease>,
    /// The Lease of an id when it was last seen, also after it was deleted.
    last_leases: HashMap<Key, Arc<Lease>>,
    /// Leases of others that are used as ids, as they were last read.
    adopted: HashMap<Key, Arc<Lease>>,
    accounts: Store<Key, ServiceAccount>,
    default_accounts: Store<String, ServiceAccount>,
    roles: Store<Key, Role>,
    bindings: Store<Key, RoleBinding>,
    pods: Store<Key, PodFacts>,
    deployments: Store<Key, WorkloadFacts>,
    stateful_sets: Store<Key, WorkloadFacts>,
    daemon_sets: Store<Key, WorkloadFacts>,
    services: Store<Steered, ServiceFacts>,
    slices: Store<Key, EndpointSlice>,
}

/// The view.
#[derive(Debug, Default)]
pub struct View {
    stores: RwLock<Stores>,
}

impl View {
    /// Takes in what a watch tells; the ids for which anything has changed.
    pub fn apply(&self, change: Change) -> HashSet<Key> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner).apply(change)
    }

    /// Whether every kind was read once to its end. Before that, what is not there may only not have been seen yet.
    pub fn is_complete(&self) -> bool {
        let stores = self.read();
        stores.leases.is_complete()
            && stores.accounts.is_complete()
            && stores.default_accounts.is_complete()
            && stores.roles.is_complete()
            && stores.bindings.is_complete()
            && stores.pods.is_complete()
            && stores.deployments.is_complete()
            && stores.stateful_sets.is_complete()
            && stores.daemon_sets.is_complete()
            && stores.services.is_complete()
            && stores.slices.is_complete()
    }

    /// The Lease of an id; one that was adopted as it was a few seconds ago.
    pub fn lease(&self, key: &Key) -> Option<Arc<Lease>> {
        let stores = self.read();
        stores.leases.named(key, key.id.as_str()).or_else(|| stores.adopted.get(key).cloned())
    }

    /// Whether the Lease of an id was not made for it.
    pub fn is_adopted(&self, key: &Key) -> bool {
        let stores = self.read();
        stores.adopted.contains_key(key) && stores.leases.named(key, key.id.as_str()).is_none()
    }

    /// Takes in a Lease that is used as an id though it was not made for that; `None` where there is none any more.
    pub fn adopt(&self, key: &Key, lease: Option<Lease>) {
        let mut stores = self.stores.write().unwrap_or_else(PoisonError::into_inner);
        match lease {
            Some(lease) => drop(stores.adopted.insert(key.clone(), Arc::new(lease))),
            None => drop(stores.adopted.remove(key)),
        }
    }

    /// The Lease of an id when it was last seen, also after it was deleted.
    pub fn last_lease(&self, key: &Key) -> Option<Arc<Lease>> {
        self.read().last_leases.get(key).cloned()
    }

    /// The dedicated account of an id.
    pub fn account(&self, key: &Key) -> Option<Arc<ServiceAccount>> {
        self.read().accounts.named(key, &access_name(key))
    }

    /// The namespace's account `default`.
    pub fn default_account(&self, namespace: &str) -> Option<Arc<ServiceAccount>> {
        self.read().default_accounts.of(&namespace.to_owned()).pop()
    }

    /// The Role of an id.
    pub fn role(&self, key: &Key) -> Option<Arc<Role>> {
        self.read().roles.named(key, &access_name(key))
    }

    /// The `RoleBinding` of an id.
    pub fn binding(&self, key: &Key) -> Option<Arc<RoleBinding>> {
        self.read().bindings.named(key, &access_name(key))
    }

    /// The pods that carry the id's label, terminating ones too.
    pub fn pods(&self, key: &Key) -> Vec<Arc<PodFacts>> {
        self.read().pods.of(key)
    }

    /// The workloads that name the id.
    pub fn workloads(&self, key: &Key) -> Vec<Arc<WorkloadFacts>> {
        let stores = self.read();
        [&stores.deployments, &stores.stateful_sets, &stores.daemon_sets]
            .into_iter()
            .flat_map(|kind| kind.of(key))
            .collect()
    }

    /// The Services that send their traffic to the leader of the id only.
    pub fn leader_only_services(&self, key: &Key) -> Vec<Arc<ServiceFacts>> {
        self.read().services.of(&(key.namespace.clone(), Some(key.id.clone())))
    }

    /// The namespace's other Services.
    pub fn ordinary_services(&self, namespace: &str) -> Vec<Arc<ServiceFacts>> {
        self.read().services.of(&(namespace.to_owned(), None))
    }

    /// The slices that were made for leader-only Services of the id.
    pub fn slices(&self, key: &Key) -> Vec<Arc<EndpointSlice>> {
        self.read().slices.of(key)
    }

    /// Every id of which anything is there.
    pub fn keys(&self) -> BTreeSet<Key> {
        let stores = self.read();
        let kinds = stores.leases.keys().chain(stores.accounts.keys()).chain(stores.roles.keys());
        let kinds = kinds.chain(stores.bindings.keys()).chain(stores.pods.keys()).chain(stores.deployments.keys());
        kinds.chain(stores.stateful_sets.keys()).chain(stores.daemon_sets.keys()).cloned().collect()
    }

    /// Whether anything of an id is there: of its election, or of Services that are for its leader, also where nobody was ever elected.
    pub fn knows(&self, key: &Key) -> bool {
        self.elects(key) || !self.leader_only_services(key).is_empty() || !self.slices(key).is_empty()
    }

    /// Whether anything of an id's election is there.
    pub fn elects(&self, key: &Key) -> bool {
        self.has_objects(key) || self.is_named(key)
    }

    /// Whether objects that were made for the id are there. Others that carry its label do not count.
    pub fn has_objects(&self, key: &Key) -> bool {
        self.lease(key).is_some_and(|_| !self.is_adopted(key))
            || self.account(key).is_some()
            || self.role(key).is_some()
            || self.binding(key).is_some()
    }

    /// Whether a workload or a pod names the id.
    pub fn is_named(&self, key: &Key) -> bool {
        !self.workloads(key).is_empty() || !self.pods(key).is_empty()
    }

    /// Forgets what is kept of an id's deleted Lease.
    pub fn forget(&self, key: &Key) {
        let mut stores = self.stores.write().unwrap_or_else(PoisonError::into_inner);
        if stores.leases.of(key).is_empty() {
            stores.last_leases.remove(key);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Stores> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stores {
    fn apply(&mut self, change: Change) -> HashSet<Key> {
        match change {
            Change::Lease(event) => {
                let changed = self.leases.apply(event, owned);
                for key in &changed {
                    if let Some(lease) = self.leases.named(key, key.id.as_str()) {
                        self.last_leases.insert(key.clone(), lease);
                    }
                }
                changed
            }
            Change::Account(event) => self.accounts.apply(event, owned),
            Change::DefaultAccount(event) => {
                let namespaces = self.default_accounts.apply(event, |mut account: ServiceAccount| {
                    account.metadata.managed_fields = None;
                    // Its version changes with every token that is written into it; only this is read.
                    account.metadata.resource_version = None;
                    account.secrets = None;
                    Some((account.namespace()?, account))
                });
                // Those that have an account which follows it.
                let following = self.accounts.keys().filter(|key| namespaces.contains(&key.namespace));
                following.cloned().collect()
            }
            Change::Role(event) => self.roles.apply(event, owned),
            Change::Binding(event) => self.bindings.apply(event, owned),
            Change::Pod(event) => self.pods.apply(event, |object| facts::pod(&object)),
            Change::Deployment(event) => self.deployments.apply(event, |object| facts::workload(&object)),
            Change::StatefulSet(event) => self.stateful_sets.apply(event, |object| facts::workload(&object)),
            Change::DaemonSet(event) => self.daemon_sets.apply(event, |object| facts::workload(&object)),
            Change::Service(event) => {
                let changed = self.services.apply(event, |object| {
                    let facts = ServiceFacts::of(&object);
                    Some(((object.namespace()?, facts.leader_only.clone()), facts))
                });
                changed.into_iter().flat_map(|steered| self.concerned(steered)).collect()
            }
            Change::Slice(event) => {
                self.slices.apply(event, |object| owned(object).filter(|(_, slice)| is_managed(slice)))
            }
        }
    }
}

impl Stores {
    /// The ids for which a change of these Services means anything: their own, or those whose standbys they reach.
    fn concerned(&self, (namespace, id): Steered) -> Vec<Key> {
        if let Some(id) = id {
            return vec![Key { namespace, id }];
        }
        let services = self.services.of(&(namespace.clone(), None));
        let kinds = [&self.deployments, &self.stateful_sets, &self.daemon_sets];
        let workloads = kinds.into_iter().flat_map(|kind| kind.keys().map(move |key| (kind, key)));
        let reached = workloads.filter(|(kind, key)| {
            key.namespace == namespace
                && kind.of(key).iter().any(|workload| services.iter().any(|service| workload.is_reached_by(service)))
        });
        reached.map(|(_, key)| key.clone()).collect()
    }
}

impl Fact for Lease {
    /// Leaders renew every few seconds, of which nobody has to hear.
    fn is_like(&self, before: &Self) -> bool {
        let what_lasts = |lease: &Self| {
            let mut lease = lease.clone();
            lease.metadata.resource_version = None;
            lease.spec.get_or_insert_default().renew_time = None;
            lease
        };
        what_lasts(self) == what_lasts(before)
    }
}

impl Fact for ServiceAccount {}
impl Fact for Role {}
impl Fact for RoleBinding {}
impl Fact for PodFacts {}
impl Fact for WorkloadFacts {}
impl Fact for ServiceFacts {}
impl Fact for EndpointSlice {
    /// Only that wakes somebody; but what is written starts from the newest.
    fn is_like(&self, before: &Self) -> bool {
        let what_lasts = |slice: &Self| {
            let mut slice = slice.clone();
            slice.metadata.resource_version = None;
            slice.metadata.generation = None;
            slice
        };
        what_lasts(self) == what_lasts(before)
    }
}

/// An object that carries an id's label, without what only the API server reads.
fn owned<K: Resource<DynamicType = ()>>(mut object: K) -> Option<(Key, K)> {
    object.meta_mut().managed_fields = None;
    let key = Key::parse(&object.namespace()?, object.labels().get(names::ID)?)?;
    Some((key, object))
}

/// The name of an id's account, Role and `RoleBinding`.
fn access_name(key: &Key) -> String {
    format!("leader-{}", key.id)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key() -> Key {
        Key::parse("shop", "billing").unwrap()
    }

    fn metadata(name: &str) -> Value {
        json!({ "name": name, "namespace": "shop", "labels": { "leader.io/id": "billing" }, "managedFields": [{}] })
    }

    fn lease(holder: &str) -> Lease {
        serde_json::from_value(json!({ "metadata": metadata("billing"), "spec": { "holderIdentity": holder } }))
            .unwrap()
    }

    #[test]
    fn a_deleted_lease_is_remembered_until_it_is_forgotten() {
        let view = View::default();
        assert_eq!(view.apply(Change::Lease(Event::Apply(lease("me")))), HashSet::from([key()]));
        assert_eq!(view.lease(&key()).unwrap().metadata.managed_fields, None);
        view.apply(Change::Lease(Event::Delete(lease("me"))));
        assert!(view.lease(&key()).is_none() && !view.knows(&key()));
        let last = view.last_lease(&key()).unwrap();
        assert_eq!(last.spec.as_ref().unwrap().holder_identity.as_deref(), Some("me"));
        view.forget(&key());
        assert!(view.last_lease(&key()).is_none());
    }

    #[test]
    fn a_renewal_is_no_change_and_is_seen() {
        let view = View::default();
        let renewed = |at: &str, holder: &str| {
            let mut lease = lease(holder);
            lease.metadata.resource_version = Some(at.to_owned());
            lease.spec.as_mut().unwrap().renew_time = Some(serde_json::from_value(json!(at)).unwrap());
            Change::Lease(Event::Apply(lease))
        };
        assert_eq!(view.apply(renewed("2026-01-01T00:00:00.000000Z", "me")).len(), 1);
        assert!(view.apply(renewed("2026-01-01T00:00:02.000000Z", "me")).is_empty());
        let seen = view.lease(&key()).unwrap().spec.as_ref().unwrap().renew_time.as_ref().unwrap().0;
        assert_eq!(seen.to_string(), "2026-01-01T00:00:02Z");
        assert_eq!(view.apply(renewed("2026-01-01T00:00:04.000000Z", "you")).len(), 1);
    }

    #[test]
    fn an_adopted_lease_is_seen_and_is_no_object_of_the_id() {
        let view = View::default();
        view.adopt(&key(), Some(lease("another-program")));
        assert!(view.lease(&key()).is_some() && view.is_adopted(&key()) && !view.has_objects(&key()));
        // A Lease of our own goes before it.
        view.apply(Change::Lease(Event::Apply(lease("me"))));
        assert!(!view.is_adopted(&key()) && view.has_objects(&key()));
        view.apply(Change::Lease(Event::Delete(lease("me"))));
        view.adopt(&key(), None);
        assert!(view.lease(&key()).is_none());
    }

    #[test]
    fn the_account_default_matters_to_accounts_that_follow_it() {
        let view = View::default();
        let account = |name: &str, more: Value| -> ServiceAccount {
            let mut object = json!({ "metadata": { "name": name, "namespace": "shop" } });
            object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(object).unwrap()
        };
        let default = account("default", json!({ "imagePullSecrets": [{ "name": "registry" }] }));
        assert!(view.apply(Change::DefaultAccount(Event::Apply(default.clone()))).is_empty());
        let ours: ServiceAccount = serde_json::from_value(json!({ "metadata": metadata("leader-billing") })).unwrap();
        view.apply(Change::Account(Event::Apply(ours)));
        assert!(view.account(&key()).is_some());
        assert!(view.apply(Change::DefaultAccount(Event::Apply(default))).is_empty(), "nothing has changed");
        let changed = view.apply(Change::DefaultAccount(Event::Apply(account("default", json!({})))));
        assert_eq!(changed, HashSet::from([key()]));
        assert!(view.default_account("shop").is_some() && view.default_account("elsewhere").is_none());
    }

    #[test]
    fn a_service_wakes_the_id_that_it_is_for_and_those_whose_standbys_it_reaches() {
        let view = View::default();
        let workload = |id: &str| {
            let template = json!({ "metadata": { "labels": { "app": id }, "annotations": { "leader.io/id": id } } });
            let object = json!({ "metadata": { "name": id, "namespace": "shop" }, "spec": { "template": template, "selector": {} } });
            Change::Deployment(Event::Apply(serde_json::from_value(object).unwrap()))
        };
        view.apply(workload("billing"));
        view.apply(workload("orders"));
        let service = |annotations: Value, spec: Value| {
            let mut object = json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec });
            object["metadata"]["annotations"] = annotations;
            view.apply(Change::Service(Event::Apply(serde_json::from_value(object).unwrap())))
        };
        let ordinary = json!({ "selector": { "app": "billing" }, "ports": [{ "port": 80 }] });
        assert_eq!(service(Value::Null, ordinary.clone()), HashSet::from([key()]));
        assert!(service(Value::Null, ordinary).is_empty(), "nothing has changed");
        let other = Key::parse("shop", "orders").unwrap();
        let woken = service(json!({ "leader.io/leader-only": "orders" }), json!({ "ports": [{ "port": 80 }] }));
        assert!(woken.contains(&other), "{woken:?}");
        assert_eq!((view.leader_only_services(&other).len(), view.ordinary_services("shop").len()), (1, 0));
        let woken = service(json!({ "leader.io/leader-only": "billing" }), json!({ "ports": [{ "port": 80 }] }));
        assert_eq!(woken, HashSet::from([key(), other]));
    }

    #[test]
    fn it_is_complete_when_every_kind_is() {
        fn listed<K>() -> [Event<K>; 2] {
            [Event::Init, Event::InitDone]
        }
        let view = View::default();
        for event in listed() {
            drop(view.apply(Change::Lease(event)));
        }
        for event in listed() {
            drop(view.apply(Change::Account(event)));
        }
        for event in listed() {
            drop(view.apply(Change::DefaultAccount(event)));
        }
        for event in listed() {
            drop(view.apply(Change::Role(event)));
        }
        for event in listed() {
            drop(view.apply(Change::Binding(event)));
        }
        for event in listed() {
            drop(view.apply(Change::Pod(event)));
        }
        for event in listed() {
            drop(view.apply(Change::Deployment(event)));
        }
        for event in listed() {
            drop(view.apply(Change::StatefulSet(event)));
        }
        for event in listed() {
            drop(view.apply(Change::DaemonSet(event)));
        }
        for event in listed() {
            drop(view.apply(Change::Service(event)));
        }
        assert!(!view.is_complete());
        for event in listed() {
            drop(view.apply(Change::Slice(event)));
        }
        assert!(view.is_complete());
    }

    #[test]
    fn who_is_there() {
        let view = View::default();
        let pod = json!({ "metadata": metadata("billing-1"), "spec": { "containers": [] } });
        view.apply(Change::Pod(Event::Apply(serde_json::from_value(pod).unwrap())));
        assert!(view.is_named(&key()) && !view.has_objects(&key()) && view.knows(&key()));
        view.apply(Change::Lease(Event::Apply(lease(""))));
        assert!(view.has_objects(&key()));
        assert_eq!(view.keys().into_iter().collect::<Vec<_>>(), [key()]);
    }
}
