//! What is stored for a Service that carries, or carried, an annotation of ours.
//!
//! Every write of a manifest brings the user's selector back, which is then moved again, so that a re-apply changes nothing. What stands
//! in the selector counts as the user's newest word; where none arrives, what is kept is kept.

use leader_agent::{
    id::{IdError, LeaderId},
    names,
};
use serde_json::{Map, Value, json};

use super::annotation;

/// Keys of ours that mean something on a Service.
const KNOWN: [&str; 2] = [names::LEADER_ONLY, names::SELECTOR];
/// Keys of workloads. Tools put the annotations of a whole release on each of its objects (`commonAnnotations` of kustomize), and a
/// Service that carries these is stored as it is.
const OF_WORKLOADS: [&str; 13] = [
    names::ID,
    names::INJECTED,
    names::MODE,
    names::STATUS_FILE,
    names::FOLLOW,
    names::PREFER,
    names::UNHEALTHY_STEP_DOWN,
    "leader.io/container",
    "leader.io/command",
    "leader.io/lease-duration",
    "leader.io/stop-grace",
    "leader.io/service-account",
    "leader.io/port",
];

/// Why a Service is not stored. The text is what a person reads in kubectl.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceRefusal {
    /// The annotation does not name an id.
    #[error("annotation {key}: {0}", key = names::LEADER_ONLY)]
    Id(#[from] IdError),
    /// A key with our prefix that means nothing on a Service.
    #[error("unknown annotation {key} on a Service: {}", match .nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("known is {}", names::LEADER_ONLY),
    })]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// There is nothing to steer.
    #[error(
        "a Service of type ExternalName is a name in DNS and has no endpoints, so that {} cannot send its traffic anywhere: remove the \
         annotation, or make it a Service of type ClusterIP",
        names::LEADER_ONLY
    )]
    ExternalName,
    /// The kept selector was edited and is none any more.
    #[error(
        "annotation {} keeps the selector of this Service and is not one: {found}. It is written by the webhook; to change the selector, set \
         spec.selector, as without leader",
        names::SELECTOR
    )]
    Selector {
        /// What stands there.
        found: String,
    },
    /// What would have to be kept could not be given back.
    #[error("spec.selector is not a map of labels to texts: {found}")]
    NotASelector {
        /// What stands there.
        found: String,
    },
}

/// What is decided about a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceOutcome {
    /// What shall be stored.
    pub object: Value,
    /// To whose leader alone it sends its traffic; `None` for an ordinary Service.
    pub id: Option<LeaderId>,
    /// Whether that is new.
    pub is_change: bool,
    /// For the person who wrote the object.
    pub warnings: Vec<String>,
}

/// Decides what is stored for `object`, where `old` is what was stored before.
pub fn review(object: &Value, old: Option<&Value>) -> Result<ServiceOutcome, ServiceRefusal> {
    let before = old.and_then(|old| annotation(old, names::LEADER_ONLY));
    for key in object["metadata"]["annotations"].as_object().into_iter().flat_map(Map::keys) {
        known(key)?;
    }
    match &object["metadata"]["annotations"][names::LEADER_ONLY] {
        Value::Null => Ok(given_back(object, old, before)),
        Value::String(id) => taken_over(object, old, id.parse()?, before),
        other => Err(IdError::NotALabel { value: other.to_string() }.into()),
    }
}

fn known(key: &str) -> Result<(), ServiceRefusal> {
    if !key.starts_with(names::PREFIX) || KNOWN.contains(&key) || OF_WORKLOADS.contains(&key) {
        return Ok(());
    }
    let lower = key.to_lowercase();
    let nearest = [names::LEADER_ONLY]
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, known), known))
        // More than a third of the word changed is another word.
        .find(|&(distance, known)| distance * 3 <= known.len() - names::PREFIX.len())
        .map(|(_, known)| known);
    Err(ServiceRefusal::UnknownKey { key: key.chars().take(80).collect(), nearest })
}

fn taken_over(
    object: &Value,
    old: Option<&Value>,
    id: LeaderId,
    before: Option<&str>,
) -> Result<ServiceOutcome, ServiceRefusal> {
    if object["spec"]["type"] == "ExternalName" {
        return Err(ServiceRefusal::ExternalName);
    }
    let is_new = before.is_none();
    let mut warnings = Vec::new();
    let mut stored = object.clone();
    let spec = stored.get_mut("spec").and_then(Value::as_object_mut);
    let selector = spec.and_then(|spec| spec.shift_remove("selector"));
    let kept = match selector.filter(|selector| !is_empty(selector)) {
        Some(selector) if is_selector(&selector) => Some(selector),
        Some(other) => return Err(ServiceRefusal::NotASelector { found: shortened(&other.to_string()) }),
        None => kept(object)?.or(old.map(kept).transpose()?.flatten()),
    };
    if !is_new && let Some(warning) = changed_selector(old, kept.as_ref()) {
        warnings.push(warning);
    }
    match &kept {
        Some(selector) => stored["metadata"]["annotations"][names::SELECTOR] = selector.to_string().into(),
        None if old.is_some() && is_new => warnings.push(
            "this Service had no selector: endpoints that were made for it by hand are removed, and only the leader is put in their place".to_owned(),
        ),
        None => {}
    }
    // Without a selector a headless Service would get both families by default, also where the cluster has only one.
    if old.is_none() && object["spec"]["clusterIP"] == "None" && object["spec"]["ipFamilyPolicy"].is_null() {
        stored["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    }
    if is_new {
        warnings.insert(
            0,
            format!(
                "this Service sends its traffic to the leader of `{id}` only: its selector is kept in the annotation {} (`kubectl port-forward` \
                 and `kubectl logs` need a selector: use `kubectl leader port-forward {id}` and `kubectl leader logs {id}`)",
                names::SELECTOR
            ),
        );
    }
    let is_change = before != Some(id.as_str());
    Ok(ServiceOutcome { object: stored, id: Some(id), is_change, warnings })
}

/// What is said where another selector is kept than before: it has no effect until the Service is given back, so that nobody would see
/// one that somebody changed by mistake, or had not meant to bring along.
fn changed_selector(old: Option<&Value>, now: Option<&Value>) -> Option<String> {
    // What cannot be read kept nothing.
    let before = old.and_then(|old| kept(old).ok().flatten());
    let said = |selector: Option<&Value>| selector.map_or_else(|| "none".to_owned(), Value::to_string);
    (before.as_ref() != now).then(|| {
        format!(
            "the kept selector of this leader-only Service is now {}, it was {}: it counts when the Service is given back",
            said(now),
            said(before.as_ref())
        )
    })
}

/// An ordinary Service, which may have been another one before.
fn given_back(object: &Value, old: Option<&Value>, before: Option<&str>) -> ServiceOutcome {
    let mut stored = object.clone();
    let mut warnings = Vec::new();
    let is_ours = before.is_some() || annotation(object, names::SELECTOR).is_some();
    if is_ours {
        // What cannot be read is what somebody wrote there by hand, and nothing to restore.
        let kept = kept(object).ok().flatten().or_else(|| kept(old?).ok().flatten());
        if is_empty(&object["spec"]["selector"])
            && let Some(selector) = kept
            && stored["spec"].is_object()
        {
            stored["spec"]["selector"] = selector;
        }
        if let Some(metadata) = stored["metadata"].as_object_mut()
            && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
        {
            annotations.shift_remove(names::SELECTOR);
            if annotations.is_empty() {
                metadata.shift_remove("annotations");
            }
        }
        if let Some(id) = before {
            let pods = if is_empty(&stored["spec"]["selector"]) {
                "it has no selector, and therefore no endpoints".to_owned()
            } else {
                format!("its traffic goes to all ready pods of its selector again, standbys of `{id}` among them")
            };
            warnings.push(format!("this Service is not leader-only any more: {pods}"));
        }
    }
    ServiceOutcome { object: stored, id: None, is_change: before.is_some(), warnings }
}

/// The selector that an object keeps in its annotation.
fn kept(object: &Value) -> Result<Option<Value>, ServiceRefusal> {
    let Some(text) = annotation(object, names::SELECTOR) else { return Ok(None) };
    let wrong = |found: String| ServiceRefusal::Selector { found: shortened(&found) };
    match serde_json::from_str::<Value>(text) {
        Ok(selector) if is_selector(&selector) => Ok(Some(selector).filter(|selector| !is_empty(selector))),
        Ok(other) => Err(wrong(other.to_string())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn is_selector(value: &Value) -> bool {
    value.as_object().is_some_and(|labels| labels.values().all(Value::is_string))
}

/// As much of a value as an error quotes.
fn shortened(value: &str) -> String {
    value.chars().take(200).collect()
}

fn is_empty(selector: &Value) -> bool {
    selector.as_object().is_none_or(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn service(annotations: Value, selector: Value) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "billing", "namespace": "shop" },
            "spec": { "ports": [{ "port": 80, "targetPort": "http" }], "type": "ClusterIP", "sessionAffinity": "ClientIP" },
        });
        if annotations.is_object() {
            service["metadata"]["annotations"] = annotations;
        }
        if selector.is_object() {
            service["spec"]["selector"] = selector;
        }
        service
    }

    fn only(id: &str) -> Value {
        json!({ "leader.io/leader-only": id })
    }

    fn selector() -> Value {
        json!({ "app": "billing" })
    }

    #[test]
    fn the_selector_moves_to_an_annotation_and_comes_back() {
        let plain = service(Value::Null, selector());
        let asked = service(only("billing"), selector());
        let taken = review(&asked, Some(&plain)).unwrap();
        assert_eq!(taken.object["spec"]["selector"], Value::Null);
        assert!(!taken.object["spec"].as_object().unwrap().contains_key("selector"));
        assert_eq!(taken.object["metadata"]["annotations"]["leader.io/selector"], r#"{"app":"billing"}"#);
        assert_eq!((taken.id.as_ref().map(LeaderId::as_str), taken.is_change), (Some("billing"), true));
        assert!(taken.warnings[0].contains("leader of `billing` only"), "{:?}", taken.warnings);
        // Everything else is as it was.
        assert_eq!(taken.object["spec"]["sessionAffinity"], "ClientIP");
        assert_eq!(taken.object["spec"]["ports"], asked["spec"]["ports"]);

        let mut without = taken.object.clone();
        without["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/leader-only");
        let back = review(&without, Some(&taken.object)).unwrap();
        assert_eq!(back.object, plain);
        assert!(back.id.is_none() && back.warnings[0].contains("standbys of `billing`"), "{:?}", back.warnings);
        // All annotations gone: what was kept is still known from what is stored.
        let back = review(&service(Value::Null, Value::Null), Some(&taken.object)).unwrap();
        assert_eq!(back.object, plain);
    }

    #[test]
    fn a_manifest_that_is_applied_again_changes_nothing_and_a_new_selector_counts() {
        let asked = service(only("billing"), selector());
        let taken = review(&asked, None).unwrap();
        // As client-side apply merges: the selector is back, what was added stays.
        let mut merged = taken.object.clone();
        merged["spec"]["selector"] = selector();
        for arriving in [&merged, &asked, &taken.object] {
            let again = review(arriving, Some(&taken.object)).unwrap();
            assert_eq!(again.object["spec"].get("selector"), None);
            assert_eq!(again.object["metadata"]["annotations"], taken.object["metadata"]["annotations"]);
            assert!(!again.is_change && again.warnings.is_empty(), "{:?}", again.warnings);
        }
        merged["spec"]["selector"] = json!({ "app": "billing", "tier": "web" });
        let changed = review(&merged, Some(&taken.object)).unwrap();
        assert_eq!(
            changed.object["metadata"]["annotations"]["leader.io/selector"],
            r#"{"app":"billing","tier":"web"}"#
        );
        // Another id.
        merged["metadata"]["annotations"]["leader.io/leader-only"] = json!("orders");
        assert!(review(&merged, Some(&taken.object)).unwrap().is_change);
    }

    #[test]
    fn another_kept_selector_is_said_with_the_one_before() {
        let taken = review(&service(only("billing"), selector()), None).unwrap().object;
        let tier = json!({ "app": "billing", "tier": "web" });
        let by_hand = json!({ "leader.io/leader-only": "billing", "leader.io/selector": r#"{"app":"other"}"# });
        for (arriving, said) in [
            (service(only("billing"), tier), r#"is now {"app":"billing","tier":"web"}, it was {"app":"billing"}"#),
            (service(by_hand, Value::Null), r#"is now {"app":"other"}, it was {"app":"billing"}"#),
        ] {
            let warnings = review(&arriving, Some(&taken)).unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(said), "{warnings:?}");
        }
        let bare = service(only("billing"), Value::Null);
        let warnings = review(&service(only("billing"), selector()), Some(&bare)).unwrap().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].contains(r#"is now {"app":"billing"}, it was none"#),
            "{warnings:?}"
        );
        // The same one in another order, and one that had not been kept before.
        let two = service(only("billing"), json!({ "a": "1", "b": "2" }));
        let kept = review(&two, None).unwrap().object;
        assert_eq!(
            review(&service(only("billing"), json!({ "b": "2", "a": "1" })), Some(&kept)).unwrap().warnings,
            [""; 0]
        );
        let warnings = review(&two, Some(&service(Value::Null, selector()))).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("leader of `billing` only"), "{warnings:?}");
    }

    #[test]
    fn a_service_that_never_had_a_selector() {
        let bare = service(only("billing"), Value::Null);
        let made = review(&bare, None).unwrap();
        assert_eq!((made.warnings.len(), &made.object), (1, &bare));
        let existing = review(&bare, Some(&service(Value::Null, Value::Null))).unwrap();
        assert!(existing.warnings[1].contains("by hand are removed"), "{:?}", existing.warnings);
        let back = review(&service(Value::Null, Value::Null), Some(&bare)).unwrap();
        assert_eq!(back.object, service(Value::Null, Value::Null));
        assert!(back.warnings[0].contains("no endpoints"), "{:?}", back.warnings);
    }

    #[test]
    fn a_headless_one_keeps_to_one_family_unless_it_says_otherwise() {
        let mut headless = service(only("billing"), selector());
        headless["spec"]["clusterIP"] = json!("None");
        assert_eq!(review(&headless, None).unwrap().object["spec"]["ipFamilyPolicy"], "SingleStack");
        assert_eq!(review(&headless, Some(&headless)).unwrap().object["spec"].get("ipFamilyPolicy"), None);
        headless["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
        assert_eq!(review(&headless, None).unwrap().object["spec"]["ipFamilyPolicy"], "PreferDualStack");
        assert_eq!(review(&service(only("b"), selector()), None).unwrap().object["spec"].get("ipFamilyPolicy"), None);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_way_out() {
        let refused = |service: &Value| review(service, None).unwrap_err().to_string();
        let mut external = service(only("billing"), Value::Null);
        external["spec"]["type"] = json!("ExternalName");
        assert!(refused(&external).contains("ExternalName"));
        assert!(
            refused(&service(only("Billing"), selector()))
                .starts_with("annotation leader.io/leader-only: the id \"Billing\"")
        );
        assert!(refused(&service(json!({ "leader.io/leader-only": 7 }), selector())).contains('7'));
        let mistyped = service(json!({ "leader.io/leader-onyl": "billing" }), selector());
        assert!(refused(&mistyped).contains("did you mean leader.io/leader-only?"));
        let strange = service(json!({ "leader.io/colour": "green" }), selector());
        assert!(refused(&strange).contains("known is leader.io/leader-only"));
        let untyped = service(only("billing"), json!({ "app": null }));
        assert!(refused(&untyped).contains(r#"not a map of labels to texts: {"app":null}"#));
        let broken = service(json!({ "leader.io/leader-only": "b", "leader.io/selector": "app=billing" }), Value::Null);
        assert!(refused(&broken).contains("set spec.selector"));
    }

    #[test]
    fn annotations_of_a_whole_release_do_nothing_to_its_services() {
        let common = json!({ "leader.io/id": "billing", "leader.io/lease-duration": "5s", "team": "shop" });
        let service = service(common, selector());
        let outcome = review(&service, None).unwrap();
        assert_eq!((&outcome.object, outcome.is_change, outcome.warnings.len()), (&service, false, 0));
    }

    proptest! {
        /// Taken over and given back, a Service is what it was; taken over twice, what it was after the first time.
        #[test]
        fn there_and_back(labels in btree_map("[a-z./-]{1,8}", "[a-zA-Z0-9\"\\\\ü]{0,8}", 0..4), team in any::<bool>()) {
            let annotations = if team { json!({ "team": "shop" }) } else { Value::Null };
            let plain = service(annotations, if labels.is_empty() { Value::Null } else { json!(labels) });
            let mut asked = plain.clone();
            asked["metadata"]["annotations"]["leader.io/leader-only"] = json!("billing");
            let taken = review(&asked, Some(&plain)).unwrap().object;
            prop_assert_eq!(&review(&taken, Some(&taken)).unwrap().object, &taken);
            prop_assert_eq!(&review(&asked, Some(&taken)).unwrap().object, &taken);
            let mut without = taken.clone();
            without["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/leader-only");
            prop_assert_eq!(&review(&without, Some(&taken)).unwrap().object, &plain);
            prop_assert_eq!(&review(&plain, Some(&taken)).unwrap().object, &plain);
        }
    }
}
