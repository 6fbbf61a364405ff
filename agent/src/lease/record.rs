//! What an election reads from a Lease and writes to one, as client-go's resource lock does it. Pure: values in, values out.
//!
//! A write starts from the whole object last seen, so that fields and annotations which this program does not know survive.

use std::{fmt, sync::Arc, time::Duration};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde_json::{Map, Value, json};

use crate::{
    mutant::{self, Mutant},
    names,
};

/// A Lease as it was seen: the fields that decide, and the whole object beside them.
#[derive(Clone)]
pub struct Record {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`, a number since Kubernetes 1.35 declared it comparable (KEP-5504), and before that in fact.
    pub resource_version: u64,
    /// `spec.holderIdentity`; null and empty are the same.
    pub holder: Option<String>,
    /// `spec.acquireTime`.
    pub acquire_time: Option<Timestamp>,
    /// `spec.renewTime`.
    pub renew_time: Option<Timestamp>,
    /// `spec.leaseTransitions`; absent is 0.
    pub transitions: i32,
    /// `spec.leaseDurationSeconds`, where it is given and positive.
    pub duration: Option<Duration>,
    /// Shared: a record is handed around far more often than it is written.
    pub(super) object: Arc<Value>,
}

/// One term of leadership: from an acquisition to its release. Stored in the term file for a reclaim.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// The Lease's uid.
    pub uid: String,
    /// Its transitions in this term.
    pub transitions: i32,
    /// Its acquire time in this term.
    pub acquire_time: Timestamp,
}

impl Term {
    /// This term, held by `holder`, as annotations of the Lease name it: `uid/holder/transitions/acquireTime`.
    pub fn name(&self, holder: &str) -> String {
        format!("{}/{holder}/{}/{}", self.uid, self.transitions, micro_time(self.acquire_time))
    }
}

/// Why an object cannot be read as a Lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A field that every stored object has is missing or of another kind.
    #[error("the Lease has no usable `{field}`: {found}")]
    Field {
        /// Its path.
        field: &'static str,
        /// What stands there.
        found: String,
    },
}

impl fmt::Debug for Record {
    /// What decides; the object beside it only repeats that.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, resource_version, holder, acquire_time, renew_time, transitions, duration, object } = self;
        formatter
            .debug_struct("Record")
            .field("uid", uid)
            .field("resource_version", resource_version)
            .field("holder", holder)
            .field("acquire_time", acquire_time)
            .field("renew_time", renew_time)
            .field("transitions", transitions)
            .field("duration", duration)
            .field("annotations", &object["metadata"]["annotations"])
            .finish_non_exhaustive()
    }
}

impl Record {
    /// Reads an object as the API server gives it.
    pub fn parse(object: Value) -> Result<Self, RecordError> {
        let metadata = |field: &'static str, name: &str| match object["metadata"][name].as_str() {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(RecordError::Field { field, found: object["metadata"][name].to_string() }),
        };
        let uid = metadata("metadata.uid", "uid")?;
        let version = metadata("metadata.resourceVersion", "resourceVersion")?;
        let resource_version =
            version.parse().map_err(|_| RecordError::Field { field: "metadata.resourceVersion", found: version })?;
        let spec = &object["spec"];
        let time = |name: &str| spec[name].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let number = |name: &str| spec[name].as_i64().and_then(|number| i32::try_from(number).ok());
        Ok(Self {
            uid,
            resource_version,
            holder: spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned),
            acquire_time: time("acquireTime"),
            renew_time: time("renewTime"),
            transitions: number("leaseTransitions").unwrap_or(0),
            duration: number("leaseDurationSeconds")
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|&seconds| seconds > 0)
                .map(Duration::from_secs),
            object: Arc::new(object),
        })
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.object["metadata"]["annotations"][key].as_str()
    }

    /// Whether the holder released this very term and said so: nobody holds it, and the release proof names this uid and these
    /// transitions. Any other empty Lease may have been emptied by someone who knows nothing of the app that runs under it.
    pub fn is_free(&self) -> bool {
        let Some(proof) = self.annotation(names::RELEASED) else { return false };
        // A holder's name may contain slashes; uid, transitions and time do not.
        let mut head = proof.splitn(2, '/');
        let (uid, rest) = (head.next(), head.next().unwrap_or_default());
        let mut tail = rest.rsplitn(3, '/');
        let (acquired, transitions, holder) = (tail.next(), tail.next(), tail.next());
        let of_this_term = uid == Some(self.uid.as_str())
            && transitions.and_then(|text| text.parse::<i32>().ok()) == Some(self.transitions);
        self.holder.is_none()
            && (of_this_term || mutant::is(Mutant::ProofNotCompared))
            && holder.is_some_and(|holder| !holder.is_empty())
            && acquired.is_some_and(|text| text.parse::<Timestamp>().is_ok())
    }

    /// Whether this record is of `term` under `identity`.
    pub fn is_of(&self, term: &Term, identity: &str) -> bool {
        self.holder.as_deref() == Some(identity)
            && self.uid == term.uid
            && self.transitions == term.transitions
            && self.acquire_time == Some(term.acquire_time)
    }

    /// The body of a PUT that holds this Lease in `term`: only uid and resourceVersion of this very record let it succeed.
    pub fn held(&self, identity: &str, term: &Term, renew_time: Timestamp, seconds: i32) -> Value {
        let mut object = Value::clone(&self.object);
        set_term(&mut object, identity, term.transitions, term.acquire_time, renew_time, seconds);
        remove_annotation(&mut object, names::RELEASED);
        object
    }

    /// The body of a PUT that releases `term` with its proof, as client-go releases: holder empty, duration 1, transitions kept. What the
    /// term was asked for goes with it; whom the release is meant for stays.
    pub fn released(&self, identity: &str, term: &Term, now: Timestamp) -> Value {
        let mut object = Value::clone(&self.object);
        set_term(&mut object, "", term.transitions, term.acquire_time, now, 1);
        for key in [names::STEP_DOWN, names::SUCCESSOR_WANTED, names::SUCCESSOR] {
            remove_annotation(&mut object, key);
        }
        let term = Term { uid: self.uid.clone(), ..term.clone() };
        annotate(&mut object, names::RELEASED, term.name(identity));
        object
    }

    /// The next term of this Lease, acquired at `now`.
    pub fn next_term(&self, now: Timestamp) -> Term {
        Term { uid: self.uid.clone(), transitions: self.transitions.saturating_add(1), acquire_time: now }
    }
}

/// What a new Lease carries over from one that was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The value of [`names::TURNING_ON`] when last seen: a Lease that comes back must not forget who is waited for.
    pub turning_on: Option<String>,
    /// The value of [`names::HOLD`] when last seen: who keeps everybody from leading did not mean "until the Lease is lost".
    pub hold: Option<String>,
}

/// The body of a PUT without resourceVersion that makes an unheld Lease: it creates, and never overwrites.
/// `seconds` is what a candidate waits that saw nothing else.
pub fn unheld(name: &str, namespace: &str, seconds: i32, inherited: &Inherited) -> Value {
    let mut object = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/managed-by": "leader.io", (names::ID): name },
        },
        "spec": { "leaseDurationSeconds": seconds, "leaseTransitions": 0 },
    });
    for (key, value) in [(names::TURNING_ON, &inherited.turning_on), (names::HOLD, &inherited.hold)] {
        if let Some(value) = value {
            annotate(&mut object, key, value.clone());
        }
    }
    object
}

/// The body of a PUT without resourceVersion by which the running leader brings its lost Lease back, in its own term.
pub fn recreated(
    name: &str,
    namespace: &str,
    identity: &str,
    term: &Term,
    renew_time: Timestamp,
    seconds: i32,
    inherited: &Inherited,
) -> Value {
    let mut object = unheld(name, namespace, seconds, inherited);
    set_term(&mut object, identity, term.transitions, term.acquire_time, renew_time, seconds);
    object
}

/// A time as Kubernetes' `MicroTime` writes it: six digits and Z.
pub fn micro_time(time: Timestamp) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    PRINTER.timestamp_to_string(&time)
}

/// `time` without what a `MicroTime` cannot hold.
pub fn whole_microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

fn set_term(
    object: &mut Value,
    holder: &str,
    transitions: i32,
    acquire_time: Timestamp,
    renew_time: Timestamp,
    seconds: i32,
) {
    let spec = entry(object, "spec");
    spec["holderIdentity"] = json!(holder);
    spec["leaseDurationSeconds"] = json!(seconds);
    spec["acquireTime"] = json!(micro_time(acquire_time));
    spec["renewTime"] = json!(micro_time(renew_time));
    spec["leaseTransitions"] = json!(transitions);
}

/// The object under `name`, made if it is absent or no object: `Value`'s own index would panic on a list or a text.
fn entry<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let value = &mut object[name];
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value
}

/// Sets an annotation of `object`.
pub(crate) fn annotate(object: &mut Value, key: &str, value: String) {
    entry(entry(object, "metadata"), "annotations")[key] = Value::String(value);
}

/// Takes an annotation of `object` off.
pub(super) fn remove_annotation(object: &mut Value, key: &str) {
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(holder: &str, transitions: i32) -> Record {
        let mut object = unheld("billing", "shop", 15, &Inherited::default());
        object["metadata"]["uid"] = json!("u1");
        object["metadata"]["resourceVersion"] = json!("7");
        object["spec"]["holderIdentity"] = json!(holder);
        object["spec"]["leaseTransitions"] = json!(transitions);
        object["spec"]["strategy"] = json!("OldestEmulationVersion");
        Record::parse(object).unwrap()
    }

    fn time(microseconds: i64) -> Timestamp {
        Timestamp::from_microsecond(microseconds).unwrap()
    }

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        assert_eq!(micro_time(time(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(micro_time(time(1_795_000_000_120_000)), "2026-11-18T11:06:40.120000Z");
    }

    #[test]
    fn only_the_release_of_this_very_term_frees_a_lease() {
        let record = lease("me/a/b", 3);
        let term = Term { uid: "u1".into(), transitions: 3, acquire_time: time(5) };
        let released = record.released("me/a/b", &term, time(9));
        assert!(Record::parse(released.clone()).unwrap().is_free());
        for (pointer, value) in [
            ("/spec/leaseTransitions", json!(4)),
            ("/spec/holderIdentity", json!("you")),
            ("/metadata/uid", json!("u2")),
            ("/metadata/annotations/leader.io~1released", json!("u1/3/x")),
            ("/metadata/annotations", json!({})),
        ] {
            let mut object = released.clone();
            *object.pointer_mut(pointer).unwrap() = value;
            assert!(!Record::parse(object).unwrap().is_free(), "{pointer}");
        }
        assert!(!lease("", 0).is_free());
    }

    #[test]
    fn what_is_unknown_survives_a_term() {
        let record = lease("", 3);
        let term = record.next_term(time(5));
        let held = Record::parse(record.held("me", &term, time(6), 15)).unwrap();
        assert!(held.is_of(&term, "me"));
        assert_eq!((held.transitions, held.renew_time), (4, Some(time(6))));
        assert_eq!(held.object["spec"]["strategy"], "OldestEmulationVersion");
        assert_eq!(held.object["metadata"]["resourceVersion"], "7");
        let released = Record::parse(held.released("me", &term, time(8))).unwrap();
        assert!(released.is_free());
        let again = Record::parse(released.held("you", &released.next_term(time(9)), time(9), 15)).unwrap();
        assert_eq!(again.annotation(names::RELEASED), None);
    }

    #[test]
    fn an_object_that_no_server_stores_is_an_error() {
        for object in [
            json!(null),
            json!([]),
            json!({"metadata": {"uid": "u"}}),
            json!({"metadata": {"uid": "u", "resourceVersion": "x"}}),
        ] {
            assert!(Record::parse(object).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_edited_spec_can_be_read_and_written(holder in ".{0,20}", seconds in any::<i64>(), transitions in any::<i64>(), text in ".{0,30}") {
            let mut object = unheld("billing", "shop", 15, &Inherited::default());
            object["metadata"]["uid"] = json!("u1");
            object["metadata"]["resourceVersion"] = json!("7");
            object["spec"] = json!({"holderIdentity": holder, "leaseDurationSeconds": seconds, "leaseTransitions": transitions, "renewTime": text});
            let record = Record::parse(object).unwrap();
            let term = record.next_term(time(1));
            prop_assert!(Record::parse(record.held("me", &term, time(2), 15)).unwrap().is_of(&term, "me"));
            prop_assert!(Record::parse(record.released("me", &term, time(2))).unwrap().is_free());
        }
    }
}
