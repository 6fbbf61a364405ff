//! What an id's pods may do: their Lease is there, and they may use it.

use leader_agent::names;
use serde_json::Value;

use super::{check, counted};
use crate::cli::check::{
    report::{Check, Finding},
    snapshot::{Election, Snapshot, name, namespace},
};

/// What the agent does with its Lease.
const VERBS: [&str; 5] = ["get", "list", "watch", "create", "update"];

/// Each id has its objects, and each of its accounts is bound.
pub(super) fn access(snapshot: &Snapshot) -> Check {
    let read = snapshot.elections().and_then(|elections| {
        let (accounts, roles) = (snapshot.accounts.as_ref(), snapshot.roles.as_ref());
        let bindings = snapshot.bindings.as_ref();
        let objects = accounts.and_then(|accounts| Ok((accounts, roles?, bindings?)));
        Ok((elections, objects.map_err(Clone::clone)?))
    });
    check("access", &read, |(elections, (accounts, roles, bindings))| {
        let mut findings = Vec::new();
        for ((namespace, id), election) in elections {
            let objects = Objects { namespace, id, accounts, roles, bindings, system: &snapshot.namespace };
            objects.judge(election, &mut findings);
        }
        (format!("{} may elect", counted(elections.len(), "id")), findings)
    })
}

struct Objects<'a> {
    namespace: &'a str,
    id: &'a str,
    accounts: &'a [Value],
    roles: &'a [Value],
    bindings: &'a [Value],
    /// The webhook's namespace.
    system: &'a str,
}

impl Objects<'_> {
    fn judge(&self, election: &Election<'_>, findings: &mut Vec<Finding>) {
        let used = election.accounts();
        // Nothing of it is injected, which is said elsewhere.
        if used.is_empty() {
            return;
        }
        let made = format!("leader-{}", self.id);
        if election.lease.is_none() {
            findings.push(self.missing("Lease", self.id, "nobody can lead"));
        }
        if used.contains(made.as_str()) && self.find(self.accounts, &made).is_none() {
            findings.push(self.missing("ServiceAccount", &made, "no pod of it can be created"));
        }
        match self.find(self.roles, &made) {
            None => findings.push(self.missing("Role", &made, "its agents may not use their Lease")),
            Some(role) if !self.gives_the_lease(role) => {
                findings.push(self.wrong("Role", &made, "it does not give its agents what they do with their Lease"));
            }
            Some(_) => (),
        }
        match self.find(self.bindings, &made) {
            None => findings.push(self.missing("RoleBinding", &made, "its agents may not use their Lease")),
            Some(binding) => {
                let is_of_role = binding["roleRef"]["kind"] == "Role" && binding["roleRef"]["name"] == made.as_str();
                if !is_of_role {
                    findings.push(self.wrong("RoleBinding", &made, "it binds another role"));
                }
                for account in used.iter().filter(|account| !self.is_bound(binding, account)) {
                    let message = format!("it does not bind service account {account}, under which pods of the id run");
                    findings.push(self.wrong("RoleBinding", &made, &message));
                }
            }
        }
    }

    fn find<'b>(&self, list: &'b [Value], wanted: &str) -> Option<&'b Value> {
        list.iter().find(|object| (namespace(object), name(object)) == (self.namespace, wanted))
    }

    fn gives_the_lease(&self, role: &Value) -> bool {
        let has = |rule: &Value, key: &str, wanted: &str| {
            rule[key].as_array().is_some_and(|list| list.iter().any(|item| item == wanted || item == "*"))
        };
        let is_for_lease = |rule: &&Value| {
            has(rule, "apiGroups", "coordination.k8s.io")
                && has(rule, "resources", "leases")
                && (rule["resourceNames"].as_array().is_none_or(Vec::is_empty) || has(rule, "resourceNames", self.id))
        };
        let rules = role["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        VERBS.iter().all(|verb| rules.iter().filter(is_for_lease).any(|rule| has(rule, "verbs", verb)))
    }

    fn is_bound(&self, binding: &Value, account: &str) -> bool {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let mut of_account =
            subjects.filter(|subject| subject["kind"] == "ServiceAccount" && subject["name"] == account);
        of_account.any(|subject| subject["namespace"] == self.namespace)
    }

    fn missing(&self, kind: &str, name: &str, effect: &str) -> Finding {
        self.wrong(kind, name, &format!("it does not exist: {effect}"))
    }

    fn wrong(&self, kind: &str, name: &str, message: &str) -> Finding {
        let mend = format!(
            "the webhook's controller puts it right within a minute; if it does not: kubectl -n {} logs deployment/leader-webhook, and \
             restart the workload, which makes it anew",
            self.system
        );
        let message = format!("{message} (id {})", self.id);
        Finding::problem(format!("{kind} {}/{name}", self.namespace), message, mend)
    }
}

/// The account that is made for an id.
pub(super) fn is_made_here(account: &Value) -> bool {
    account["metadata"]["labels"][names::ID].as_str().is_some_and(|id| name(account) == format!("leader-{id}"))
}
