//! What the objects of an id are, and what one that exists needs to be so: values in, values out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use leader_agent::names;
use serde::{Serialize, de::DeserializeOwned};

use super::account::{self, Inherited};
use crate::inject::{Account, Election};

/// What the agent does with its one Lease: read it, wait for its changes, renew it, and put it back when it was deleted (a PUT,
/// which RBAC can allow by name; a POST it cannot).
const LEASE_VERBS: [&str; 5] = ["get", "list", "watch", "create", "update"];

/// What the agent does with the `EndpointSlices` of its leader-only Services, which somebody else makes: put its pod in, and take it out.
const SLICE_VERBS: [&str; 2] = ["get", "update"];

/// The annotation of a Lease that is about to be collected: since when. Whoever needs the Lease takes it off, which changes its
/// resourceVersion, and so keeps it from being deleted.
pub const COLLECTING: &str = "leader.io/collecting";

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Place {
    /// Where `object` is, or will be.
    pub(super) fn of<K: Resource<DynamicType = ()>>(object: &K, namespace: &str) -> Self {
        Self { kind: K::kind(&()).into_owned(), namespace: namespace.to_owned(), name: object.name_any() }
    }

    /// Whether the object is a Lease.
    pub fn is_lease(&self) -> bool {
        self.kind == "Lease"
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What one object needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step<K> {
    /// It is as it should be.
    Keep,
    /// It is missing.
    Create(K),
    /// It differs: write this one over it.
    Repair(K),
    /// It differs in what cannot be changed: delete it (the first), and create the second.
    Recreate(K, K),
    /// It belongs to somebody else.
    Foreign,
}

/// A kind of object that an id has.
pub(super) trait Owned:
    Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + fmt::Debug + PartialEq
{
    /// The one that exists, with everything put right that an id needs of it.
    fn repaired(self, wanted: &Self) -> Self;
    /// The one that takes the place of one that is beyond repair.
    fn in_place_of(self, _existing: &Self) -> Self {
        self
    }
    /// Whether it differs in a field that the API server does not let anybody change.
    fn is_beyond_repair(&self, _wanted: &Self) -> bool {
        false
    }
    /// Whether somebody who may edit the object allows its use, though it was not made here.
    fn is_adopted(&self) -> bool {
        false
    }
    /// The way out that [`Owned::is_adopted`] offers.
    fn hint(_place: &Place) -> String {
        String::new()
    }
}

impl Owned for Role {
    /// Which slices an id has is known to whoever makes those; no other right is left.
    fn repaired(mut self, wanted: &Self) -> Self {
        let slices = slices_of(&self);
        self.rules.clone_from(&wanted.rules);
        with_slices(self, &slices)
    }
}

/// The slices that a Role lets its pods be put into.
pub fn slices_of(role: &Role) -> BTreeSet<String> {
    let rules = role.rules.iter().flatten();
    let names = rules.filter_map(|rule| {
        let names: BTreeSet<String> = rule.resource_names.iter().flatten().cloned().collect();
        (*rule == slice_rule(&names) && !names.is_empty()).then_some(names)
    });
    names.flatten().collect()
}

/// The Role with the right to these slices, and to no others.
pub fn with_slices(mut role: Role, names: &BTreeSet<String>) -> Role {
    let rules = role.rules.get_or_insert_default();
    rules.retain(|rule| !rule.resources.iter().flatten().any(|resource| resource == "endpointslices"));
    if !names.is_empty() {
        rules.push(slice_rule(names));
    }
    role
}

fn slice_rule(names: &BTreeSet<String>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec!["discovery.k8s.io".to_owned()]),
        resources: Some(vec!["endpointslices".to_owned()]),
        resource_names: Some(names.iter().cloned().collect()),
        verbs: SLICE_VERBS.map(str::to_owned).to_vec(),
        ..PolicyRule::default()
    }
}

impl Owned for RoleBinding {
    /// Other accounts of the namespace stay bound: pods of an earlier template, or of another workload under the same id, use them.
    fn repaired(mut self, wanted: &Self) -> Self {
        let namespace = wanted.metadata.namespace.as_ref();
        let mut subjects = self.subjects.take().unwrap_or_default();
        subjects.retain(|subject| subject.kind == "ServiceAccount" && subject.namespace.as_ref() == namespace);
        for subject in wanted.subjects.iter().flatten() {
            if !subjects.iter().any(|bound| bound.name == subject.name) {
                subjects.push(subject.clone());
            }
        }
        self.subjects = Some(subjects);
        self
    }

    fn in_place_of(mut self, existing: &Self) -> Self {
        self.subjects = existing.clone().repaired(&self).subjects;
        self
    }

    fn is_beyond_repair(&self, wanted: &Self) -> bool {
        self.role_ref != wanted.role_ref
    }
}

impl Owned for Lease {
    /// Its content is the agents' alone. But it is needed, so that it must not be collected.
    fn repaired(mut self, _wanted: &Self) -> Self {
        if self.annotations().contains_key(COLLECTING) {
            self.annotations_mut().remove(COLLECTING);
        }
        self
    }

    fn is_adopted(&self) -> bool {
        self.annotations().get(names::ADOPT).is_some_and(|value| value == "true")
    }

    fn hint(place: &Place) -> String {
        let Place { namespace, name, .. } = place;
        format!(
            ", or, if its other users may be put aside, allow it with `kubectl -n {namespace} annotate lease {name} {}=true`",
            names::ADOPT
        )
    }
}

/// Decides about one object.
pub(super) fn plan<K: Owned>(existing: Option<K>, wanted: K) -> Step<K> {
    let Some(existing) = existing else { return Step::Create(wanted) };
    if existing.is_adopted() {
        return Step::Keep;
    }
    if existing.labels().get(names::ID) != wanted.labels().get(names::ID) {
        return Step::Foreign;
    }
    if existing.is_beyond_repair(&wanted) {
        let wanted = wanted.in_place_of(&existing);
        return Step::Recreate(existing, wanted);
    }
    let repaired = existing.clone().repaired(&wanted);
    if repaired == existing { Step::Keep } else { Step::Repair(repaired) }
}

/// The objects of an id as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Existing<'a> {
    /// The Lease.
    pub lease: Option<&'a Lease>,
    /// The dedicated account.
    pub account: Option<&'a ServiceAccount>,
    /// The Role.
    pub role: Option<&'a Role>,
    /// The `RoleBinding`.
    pub binding: Option<&'a RoleBinding>,
}

/// The objects of an id as they should be.
pub(super) struct Objects {
    pub(super) account: Option<ServiceAccount>,
    pub(super) role: Role,
    pub(super) binding: RoleBinding,
    pub(super) lease: Lease,
}

impl Objects {
    pub(super) fn of(election: &Election, namespace: &str, inherited: &Inherited) -> Self {
        let id = &election.id;
        let name = format!("leader-{id}");
        let metadata = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([
                ("app.kubernetes.io/managed-by".to_owned(), "leader.io".to_owned()),
                (names::ID.to_owned(), id.to_string()),
            ])),
            ..ObjectMeta::default()
        };
        let account = match &election.account {
            Account::Dedicated(name) => Some(account::wanted(metadata(name), inherited)),
            Account::Keep(_) => None,
        };
        let rule = PolicyRule {
            api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
            resources: Some(vec!["leases".to_owned()]),
            resource_names: Some(vec![id.to_string()]),
            verbs: LEASE_VERBS.map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        };
        let binding = RoleBinding {
            metadata: metadata(&name),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: election.account.name().to_owned(),
                namespace: Some(namespace.to_owned()),
                ..Subject::default()
            }]),
        };
        Self {
            account,
            role: Role { metadata: metadata(&name), rules: Some(vec![rule]) },
            binding,
            // Neither a holder nor a proof that a term has ended: whoever wants it waits for a whole L.
            lease: Lease { metadata: metadata(id.as_str()), spec: Some(LeaseSpec::default()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(account: Account) -> Objects {
        let election = Election {
            id: "billing".parse().unwrap(),
            account,
            injected_afresh: true,
            container: "app".to_owned(),
            live_before: false,
            granted_before: false,
        };
        Objects::of(&election, "shop", &Inherited::default())
    }

    fn dedicated() -> Objects {
        objects(Account::Dedicated("leader-billing".to_owned()))
    }

    #[test]
    fn the_objects_of_an_id() {
        let made = dedicated();
        let text = |object: serde_json::Result<serde_json::Value>| object.unwrap();
        insta::assert_yaml_snapshot!([
            text(serde_json::to_value(&made.lease)),
            text(serde_json::to_value(&made.account)),
            text(serde_json::to_value(&made.role)),
            text(serde_json::to_value(&made.binding)),
        ]);
        let kept = objects(Account::Keep("controller".to_owned()));
        assert_eq!(kept.account, None);
        assert_eq!(kept.binding.subjects.unwrap()[0].name, "controller");
    }

    #[test]
    fn missing_is_created_and_equal_is_kept() {
        let made = dedicated();
        assert_eq!(plan(None, made.role.clone()), Step::Create(made.role.clone()));
        let mut stored = made.role.clone();
        stored.metadata.resource_version = Some("7".to_owned());
        stored.labels_mut().insert("team".to_owned(), "billing".to_owned());
        assert_eq!(plan(Some(stored), made.role), Step::Keep);
    }

    #[test]
    fn a_right_that_was_added_is_taken_back() {
        let made = dedicated();
        let mut stored = made.role.clone();
        stored.rules.as_mut().unwrap()[0].resource_names = None;
        assert_eq!(plan(Some(stored), made.role.clone()), Step::Repair(made.role));
    }

    #[test]
    fn the_right_to_slices_stays_and_is_no_other_right() {
        let made = dedicated();
        let names = BTreeSet::from(["web-leader-ipv4".to_owned(), "web-leader-ipv6".to_owned()]);
        let with = with_slices(made.role.clone(), &names);
        assert_eq!(slices_of(&with), names);
        assert_eq!(plan(Some(with.clone()), made.role.clone()), Step::Keep);
        assert_eq!(with_slices(with.clone(), &BTreeSet::new()), made.role);
        for change in [
            (|rule: &mut PolicyRule| rule.resource_names = None) as fn(&mut PolicyRule),
            |rule: &mut PolicyRule| rule.verbs.push("delete".to_owned()),
            |rule: &mut PolicyRule| rule.resources.as_mut().unwrap().push("leases".to_owned()),
        ] {
            let mut more = with.clone();
            change(&mut more.rules.as_mut().unwrap()[1]);
            assert_eq!(plan(Some(more), made.role.clone()), Step::Repair(made.role.clone()));
        }
    }

    #[test]
    fn accounts_of_the_namespace_stay_bound_and_nobody_else() {
        let made = dedicated();
        let subject = |kind: &str, name: &str, namespace: &str| Subject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
            ..Subject::default()
        };
        let mut stored = made.binding.clone();
        stored.subjects = Some(vec![
            subject("ServiceAccount", "earlier", "shop"),
            subject("ServiceAccount", "leader-billing", "elsewhere"),
            subject("User", "mallory", "shop"),
        ]);
        let Step::Repair(repaired) = plan(Some(stored), made.binding) else { panic!("not repaired") };
        let bound = [subject("ServiceAccount", "earlier", "shop"), subject("ServiceAccount", "leader-billing", "shop")];
        assert_eq!(repaired.subjects.unwrap(), bound);
    }

    #[test]
    fn a_binding_to_another_role_is_made_again() {
        let made = dedicated();
        let mut stored = made.binding.clone();
        stored.role_ref.name = "admin".to_owned();
        assert_eq!(plan(Some(stored.clone()), made.binding.clone()), Step::Recreate(stored, made.binding));
    }

    #[test]
    fn one_made_again_binds_whom_it_bound() {
        let made = dedicated();
        let mut stored = made.binding.clone();
        stored.role_ref.name = "admin".to_owned();
        let earlier = Subject { name: "earlier".to_owned(), ..made.binding.subjects.as_ref().unwrap()[0].clone() };
        stored.subjects = Some(vec![earlier.clone()]);
        let mut both = made.binding.clone();
        both.subjects.as_mut().unwrap().insert(0, earlier);
        assert_eq!(plan(Some(stored.clone()), made.binding), Step::Recreate(stored, both));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let made = dedicated();
        let mut unlabelled = made.lease.clone();
        unlabelled.metadata.labels = None;
        let mut of_another_id = made.lease.clone();
        of_another_id.labels_mut().insert(names::ID.to_owned(), "other".to_owned());
        for stored in [unlabelled.clone(), of_another_id] {
            assert_eq!(plan(Some(stored), made.lease.clone()), Step::Foreign);
        }
        let mut adopted = unlabelled;
        adopted.annotations_mut().insert(names::ADOPT.to_owned(), "true".to_owned());
        assert_eq!(plan(Some(adopted.clone()), made.lease.clone()), Step::Keep);
        adopted.annotations_mut().insert(names::ADOPT.to_owned(), "yes".to_owned());
        assert_eq!(plan(Some(adopted), made.lease), Step::Foreign);
        // Only a Lease can be adopted: an account or a Role may carry other rights.
        let mut role = made.role.clone();
        role.metadata.labels = None;
        role.annotations_mut().insert(names::ADOPT.to_owned(), "true".to_owned());
        assert_eq!(plan(Some(role), made.role), Step::Foreign);
    }

    #[test]
    fn a_lease_in_use_is_never_touched() {
        let made = dedicated();
        let mut stored = made.lease.clone();
        let spec = LeaseSpec { holder_identity: Some("pod_uid_app".to_owned()), ..LeaseSpec::default() };
        stored.spec = Some(spec);
        assert_eq!(plan(Some(stored), made.lease), Step::Keep);
    }
}
