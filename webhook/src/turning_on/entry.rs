//! The annotation `leader.io/turning-on`: whose pods are waited for, and which.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use leader_agent::names;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Workload;
use crate::inject::Wanted;

/// The key that stands for workloads that are not known.
const ANY: &str = "*";
/// How many pods an entry names. Agents carry the annotation with each renewal; 200 are about 18 kB.
const NAMED: usize = 200;
/// How many bytes their names take at most: all annotations of an object together may have 256 KiB (`TotalAnnotationSizeLimitB` in
/// k8s.io/apimachinery, pkg/api/validation/objectmeta.go), and under one id there may be some workloads.
const NAMES: usize = 20_000;

/// What the annotation says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurningOn {
    /// Whoever made the Lease did not see what stood there before, or the annotation cannot be read: workloads have to be looked for.
    pub unknown: bool,
    /// Those that are known.
    pub workloads: BTreeMap<Workload, Entry>,
    /// Entries of kinds that a newer version knows, by their keys and as they stand: they are waited for, and who wrote them ends that.
    pub others: BTreeMap<String, Value>,
}

/// A workload whose pods are waited for.
///
/// Every pod of it that runs without the election, was made before `version`, and is not known to have ended, is in `pods`. What came
/// later is found by a watch from there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// By which labels its pods are found.
    #[serde(default)]
    pub selector: String,
    /// The resourceVersion of the pods that [`Entry::pods`] is about.
    pub version: String,
    /// The uid of the review that asked last. What it decided may not be stored yet.
    #[serde(default)]
    pub review: String,
    /// The containers that the reviews wrapped: what runs one of these bare is waited for, also where it takes part with another one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub containers: BTreeSet<String>,
    /// Whether all reviews were of a workload that was being made, which nobody has seen since: it may never have been stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
    /// Names of pods by uid.
    #[serde(default)]
    pub pods: BTreeMap<String, String>,
    /// How many more there are than are named.
    #[serde(default, skip_serializing_if = "none")]
    pub more: usize,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn none(more: &usize) -> bool {
    *more == 0
}

impl Entry {
    /// An entry for these pods.
    pub fn new(selector: String, version: String, review: String, mut pods: BTreeMap<String, String>) -> Self {
        let all = pods.len();
        // With quotes, colon and comma.
        let size = |(uid, name): (&String, &String)| uid.len() + name.len() + 6;
        let mut bytes: usize = pods.iter().map(size).sum();
        while (pods.len() > NAMED || bytes > NAMES)
            && let Some((uid, name)) = pods.pop_last()
        {
            bytes -= size((&uid, &name));
        }
        let more = all - pods.len();
        Self { selector, version, review, pods, more, ..Self::default() }
    }

    /// What pods have to be that are not waited for.
    pub fn wanted(&self, id: &str) -> Wanted {
        Wanted { containers: self.containers.clone(), ..Wanted::id(id) }
    }

    /// This entry of a new review, where `earlier` stands already: what that one waits for is waited for still, from where it was.
    #[must_use]
    fn after(self, earlier: &Self) -> Self {
        let mut pods = earlier.pods.clone();
        pods.extend(self.pods);
        let more = earlier.more.max(self.more);
        let entry = Self::new(self.selector, earlier.version.clone(), self.review, pods);
        let containers = &earlier.containers | &self.containers;
        let rest = earlier.rest.clone().into_iter().chain(self.rest).collect();
        let created = earlier.created && self.created;
        Self { more: entry.more.max(more), containers, created, rest, ..entry }
    }
}

impl TurningOn {
    /// What a Lease says; `None` where nothing is waited for.
    pub fn of(lease: &Lease) -> Option<Self> {
        lease.annotations().get(names::TURNING_ON).map(|text| Self::parse(text))
    }

    /// Reads the annotation. What cannot be read waits for whoever there is.
    pub fn parse(text: &str) -> Self {
        let Ok(entries) = serde_json::from_str::<BTreeMap<String, Value>>(text) else {
            return Self { unknown: true, ..Self::default() };
        };
        let mut read = Self::default();
        for (key, value) in entries {
            match key.parse::<Workload>() {
                Ok(workload) => match serde_json::from_value(value) {
                    Ok(entry) => drop(read.workloads.insert(workload, entry)),
                    Err(_) => read.unknown = true,
                },
                Err(_) if key.contains('/') && value.is_object() => drop(read.others.insert(key, value)),
                Err(_) => read.unknown = true,
            }
        }
        read
    }

    /// The annotation's value; `None` when nothing is waited for any more.
    pub fn to_annotation(&self) -> Option<String> {
        let unknown = self.unknown.then(|| (ANY.to_owned(), Value::Object(serde_json::Map::new())));
        // Texts and numbers, which cannot fail to serialise.
        let workloads = self
            .workloads
            .iter()
            .map(|(workload, entry)| (workload.to_string(), serde_json::to_value(entry).unwrap_or_default()));
        let others = self.others.clone();
        let entries: BTreeMap<String, Value> = unknown.into_iter().chain(workloads).chain(others).collect();
        (!entries.is_empty()).then(|| serde_json::json!(entries).to_string())
    }

    /// The annotation of a Lease that comes back without anybody knowing what it said.
    pub fn of_a_lost_lease() -> Self {
        Self { unknown: true, ..Self::default() }
    }

    /// Waits for what a Lease that was lost waited for, beside what is waited for by now.
    pub fn inherit(&mut self, workload: Workload, entry: Entry) {
        let entry = match self.workloads.remove(&workload) {
            Some(newer) => newer.after(&entry),
            None => entry,
        };
        self.workloads.insert(workload, entry);
    }

    /// Waits for one more workload, or once more for it.
    pub fn add(&mut self, workload: Workload, entry: Entry) {
        let entry = match self.workloads.get(&workload) {
            Some(earlier) => entry.after(earlier),
            None => entry,
        };
        self.workloads.insert(workload, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn workload() -> Workload {
        "Deployment/billing".parse().unwrap()
    }

    fn entry(version: &str, review: &str, pods: &[&str]) -> Entry {
        let pods = pods.iter().map(|&uid| (uid.to_owned(), format!("pod-{uid}"))).collect();
        let entry = Entry::new("app=billing".to_owned(), version.to_owned(), review.to_owned(), pods);
        Entry { containers: ["app".to_owned()].into(), ..entry }
    }

    #[test]
    fn what_stands_on_the_lease() {
        let mut said = TurningOn::default();
        assert_eq!(said.to_annotation(), None);
        said.add(workload(), entry("7", "r1", &["u1"]));
        let text = said.to_annotation().unwrap();
        let expected = r#"{"Deployment/billing":{"selector":"app=billing","version":"7","review":"r1","containers":["app"],"pods":{"u1":"pod-u1"}}}"#;
        assert_eq!(text, expected);
        assert_eq!(TurningOn::parse(&text), said);
        let lost = TurningOn::of_a_lost_lease().to_annotation().unwrap();
        assert_eq!(lost, names::TURNING_ON_UNKNOWN);
        assert_eq!(TurningOn::parse(&lost), TurningOn::of_a_lost_lease());
    }

    /// Nobody may lead because of a text that somebody edited.
    #[test]
    fn what_cannot_be_read_waits_for_whoever_there_is() {
        for text in ["", "x", "[]", "null", r#"{"Deployment/billing":7}"#, r#"{"Rollout/billing":7}"#, r#"{"?":{}}"#] {
            assert!(TurningOn::parse(text).unknown, "{text}");
        }
        assert!(TurningOn::parse("{}").to_annotation().is_none());
    }

    /// One version back: what it does not know it neither forgets nor ends.
    #[test]
    fn what_a_newer_version_wrote_stays_as_it_stands() {
        let text = r#"{"Deployment/billing":{"selector":"","version":"1","review":"","pods":{},"since":9},"Rollout/billing":{"version":"1"}}"#;
        let mut said = TurningOn::parse(text);
        assert!(!said.unknown && said.to_annotation().as_deref() == Some(text), "{said:?}");
        said.workloads.clear();
        assert_eq!(said.to_annotation().as_deref(), Some(r#"{"Rollout/billing":{"version":"1"}}"#));
    }

    #[test]
    fn containers_of_all_reviews_are_waited_for() {
        let mut said = TurningOn::default();
        let of = |container: &str, created: bool| Entry {
            containers: [container.to_owned()].into(),
            created,
            ..entry("7", "r1", &[])
        };
        said.add(workload(), of("app", true));
        said.add(workload(), of("proxy", true));
        let both: BTreeSet<String> = ["app", "proxy"].map(str::to_owned).into();
        assert_eq!((&said.workloads[&workload()].containers, said.workloads[&workload()].created), (&both, true));
        said.add(workload(), of("proxy", false));
        said.add(workload(), of("proxy", true));
        assert!(!said.workloads[&workload()].created, "it has been there");
    }

    #[test]
    fn a_second_review_takes_nothing_back() {
        let mut said = TurningOn::default();
        said.add(workload(), entry("7", "r1", &["u1", "u2"]));
        said.add(workload(), entry("9", "r2", &["u2", "u3"]));
        let expected = entry("7", "r2", &["u1", "u2", "u3"]);
        assert_eq!(said.workloads[&workload()], expected);
    }

    /// Pods of many workloads with the longest names that there are have room in an object's annotations.
    #[test]
    fn names_take_a_limited_room() {
        let mut said = TurningOn::default();
        for workload in 0..10 {
            let pods = (0..NAMED).map(|pod| (format!("{pod:036}"), "x".repeat(253))).collect();
            let entry = Entry::new("app=billing".to_owned(), "1".to_owned(), String::new(), pods);
            assert_eq!(entry.pods.len() + entry.more, NAMED);
            assert!(entry.pods.len() > 50, "{}", entry.pods.len());
            said.add(format!("Deployment/billing-{workload}").parse().unwrap(), entry);
        }
        assert!(said.to_annotation().unwrap().len() < 256 * 1024);
        // Those of usual length are all named.
        let pods = (0..NAMED).map(|pod| (format!("{pod:036}"), "billing-7f9c6d5b8-x2v4q-of-some".to_owned())).collect();
        assert_eq!(Entry::new(String::new(), String::new(), String::new(), pods).more, 0);
    }

    proptest! {
        #[test]
        fn many_pods_are_counted_and_those_that_are_named_stay(pods in btree_map("[a-f0-9]{4}", "[a-z]{3}", 0..450)) {
            let entry = Entry::new(String::new(), "1".to_owned(), String::new(), pods.clone());
            prop_assert_eq!(entry.pods.len() + entry.more, pods.len());
            prop_assert!(entry.pods.len() <= NAMED);
            let mut said = TurningOn::default();
            said.add(workload(), entry);
            prop_assert_eq!(TurningOn::parse(&said.to_annotation().unwrap()), said);
        }
    }
}
