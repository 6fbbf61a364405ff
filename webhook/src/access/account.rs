//! The account that is made for an id: what it takes over from the namespace's account `default`, and what others may add to it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use kube::{ResourceExt, api::ObjectMeta};

use super::objects::Owned;

/// The annotation of a dedicated account that lists the pull secrets which were put there, so that those that others add are told apart.
const PULL_SECRETS: &str = "leader.io/pull-secrets";

/// What a dedicated account has beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// What the namespace's account `default` says about mounting tokens: pods that got none there get none here.
    automount: Option<bool>,
    /// Its pull secrets, and that of the agent's image.
    pull_secrets: Vec<String>,
}

impl Inherited {
    /// What there is to take over from the account `default`.
    pub fn of(default: Option<&ServiceAccount>, agent_pull_secret: Option<&str>) -> Self {
        let secrets = default.and_then(|account| account.image_pull_secrets.as_deref()).unwrap_or_default();
        let mut pull_secrets: Vec<String> = Vec::new();
        for name in secrets.iter().map(|secret| secret.name.as_str()).chain(agent_pull_secret) {
            if !name.is_empty() && !pull_secrets.iter().any(|known| known == name) {
                pull_secrets.push(name.to_owned());
            }
        }
        Self { automount: default.and_then(|account| account.automount_service_account_token), pull_secrets }
    }
}

/// The account as it should be.
pub(super) fn wanted(mut metadata: ObjectMeta, inherited: &Inherited) -> ServiceAccount {
    let secrets = &inherited.pull_secrets;
    let named = |name: &String| LocalObjectReference { name: name.clone() };
    if !secrets.is_empty() {
        metadata.annotations = Some(BTreeMap::from([(PULL_SECRETS.to_owned(), secrets.join(","))]));
    }
    ServiceAccount {
        metadata,
        automount_service_account_token: inherited.automount,
        image_pull_secrets: (!secrets.is_empty()).then(|| secrets.iter().map(named).collect()),
        ..ServiceAccount::default()
    }
}

impl Owned for ServiceAccount {
    /// Pull secrets that somebody else put there stay: platforms give each account one of its own.
    fn repaired(mut self, wanted: &Self) -> Self {
        self.automount_service_account_token = wanted.automount_service_account_token;
        let note = wanted.annotations().get(PULL_SECRETS).cloned();
        let noted = self.annotations().get(PULL_SECRETS).cloned().unwrap_or_default();
        let ours = wanted.image_pull_secrets.as_deref().unwrap_or_default();
        let mut secrets = self.image_pull_secrets.clone().unwrap_or_default();
        secrets.retain(|secret| ours.contains(secret) || !noted.split(',').any(|name| name == secret.name));
        for secret in ours {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        if secrets != self.image_pull_secrets.as_deref().unwrap_or_default() {
            self.image_pull_secrets = Some(secrets);
        }
        match note {
            Some(note) => drop(self.annotations_mut().insert(PULL_SECRETS.to_owned(), note)),
            None if !noted.is_empty() => drop(self.annotations_mut().remove(PULL_SECRETS)),
            None => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::objects::{Step, plan},
        *,
    };

    fn account_with(secrets: &[&str]) -> ServiceAccount {
        let pull_secrets = secrets.iter().map(|&name| name.to_owned()).collect();
        let inherited = Inherited { automount: None, pull_secrets };
        wanted(ObjectMeta { name: Some("leader-billing".to_owned()), ..ObjectMeta::default() }, &inherited)
    }

    fn secrets_of(account: &ServiceAccount) -> Vec<&str> {
        account.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect()
    }

    #[test]
    fn the_account_follows_the_pull_secrets_of_default_and_leaves_those_of_others() {
        let default: ServiceAccount = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "default" }, "automountServiceAccountToken": false,
            "imagePullSecrets": [{ "name": "registry" }, { "name": "mirror" }, { "name": "registry" }],
        }))
        .unwrap();
        let inherited = Inherited::of(Some(&default), Some("agent"));
        assert_eq!(inherited.automount, Some(false));
        assert_eq!(inherited.pull_secrets, ["registry", "mirror", "agent"]);
        assert_eq!(Inherited::of(None, None), Inherited::default());

        let made = account_with(&["registry", "mirror"]);
        assert_eq!(plan(Some(made.clone()), made.clone()), Step::Keep);
        let mut stored = made;
        stored.image_pull_secrets.as_mut().unwrap().push(LocalObjectReference { name: "platform".to_owned() });
        assert_eq!(plan(Some(stored.clone()), account_with(&["registry", "mirror"])), Step::Keep);
        let Step::Repair(repaired) = plan(Some(stored.clone()), account_with(&["mirror", "new"])) else { panic!() };
        assert_eq!(secrets_of(&repaired), ["mirror", "platform", "new"]);
        assert_eq!(plan(Some(repaired.clone()), account_with(&["mirror", "new"])), Step::Keep);
        let Step::Repair(repaired) = plan(Some(repaired), account_with(&[])) else { panic!() };
        assert_eq!(secrets_of(&repaired), ["platform"]);
        assert_eq!(plan(Some(repaired), account_with(&[])), Step::Keep);
        // A secret that somebody took out is put back.
        stored.image_pull_secrets = None;
        let Step::Repair(repaired) = plan(Some(stored), account_with(&["registry"])) else { panic!() };
        assert_eq!(secrets_of(&repaired), ["registry"]);
    }
}
