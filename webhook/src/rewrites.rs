//! Who keeps writing a workload that is as it should be: a tool that takes what injection adds for a deviation, and puts its own back.
//!
//! Each such write is harmless, because the stored template stays, but they never end. Counted by each replica for itself: the API
//! server keeps its connections open, so that the writes of one client come to one replica mostly, and a second one only delays
//! the word.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use serde_json::Value;

/// More than this many within [`WINDOW`] are told about.
pub const LIMIT: usize = 10;
/// The time in which they are counted.
pub const WINDOW: Duration = Duration::from_mins(1);
/// How many workloads are counted at once; one takes about 400 bytes.
const WORKLOADS: usize = 4096;

/// The latest identical writes of each workload, by uid.
#[derive(Debug, Default)]
pub struct Rewrites(HashMap<String, VecDeque<Instant>>);

impl Rewrites {
    /// One more identical write of the workload `uid` at `now`: how many there were within [`WINDOW`], when they are too many.
    pub fn count(&mut self, uid: &str, now: Instant) -> Option<usize> {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        if !self.0.contains_key(uid) && self.0.len() >= WORKLOADS {
            self.0.retain(|_, writes| writes.back().is_some_and(is_recent));
            if self.0.len() >= WORKLOADS {
                return None;
            }
        }
        let writes = self.0.entry(uid.to_owned()).or_default();
        writes.push_back(now);
        while writes.len() > LIMIT + 1 || writes.front().is_some_and(|at| !is_recent(at)) {
            writes.pop_front();
        }
        (writes.len() > LIMIT).then_some(writes.len())
    }
}

/// Annotations that Kubernetes writes on workloads itself: the Deployment's controller its revision, the API server a `DaemonSet`'s
/// generation. Who replaces the whole object leaves them out, and they are back a moment later.
fn is_kubernetes_own(key: &str) -> bool {
    key.starts_with("deployment.kubernetes.io/") || key == "deprecated.daemonset.template.generation"
}

/// Whether storing `object` over `old` changes nothing that a person wrote: the same labels, annotations and specification.
pub fn is_identical(object: &Value, old: &Value) -> bool {
    let same = |key: &str| {
        // The API server drops what is empty.
        let written = |object: &Value| -> BTreeMap<String, Value> {
            let all = object["metadata"][key].as_object().into_iter().flatten();
            all.filter(|(key, _)| !is_kubernetes_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        written(object) == written(old)
    };
    object["spec"] == old["spec"] && same("labels") && same("annotations")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn more_than_ten_within_a_minute() {
        let (mut rewrites, start) = (Rewrites::default(), Instant::now());
        for write in 0..10 {
            assert_eq!(rewrites.count("a", start + seconds(write)), None, "{write}");
            assert_eq!(rewrites.count("b", start + seconds(write * 7)), None, "{write}");
        }
        assert_eq!(rewrites.count("a", start + seconds(59)), Some(11));
        // One every 7 s is less than 10 a minute, for ever.
        for write in 10..100 {
            assert_eq!(rewrites.count("b", start + seconds(write * 7)), None, "{write}");
        }
        // It is told as long as it goes on, and no longer.
        assert_eq!(rewrites.count("a", start + seconds(60)), Some(11));
        assert_eq!(rewrites.count("a", start + seconds(200)), None);
    }

    #[test]
    fn it_is_bounded_and_forgets_who_is_silent() {
        let (mut rewrites, start) = (Rewrites::default(), Instant::now());
        for workload in 0..WORKLOADS {
            assert_eq!(rewrites.count(&workload.to_string(), start), None);
        }
        assert_eq!(rewrites.count("more", start), None);
        assert_eq!(rewrites.0.len(), WORKLOADS);
        assert_eq!(rewrites.count("more", start + WINDOW), None);
        assert_eq!(rewrites.0.len(), 1);
    }

    #[test]
    fn what_is_identical() {
        let old = json!({
            "metadata": { "name": "billing", "resourceVersion": "7", "generation": 3, "annotations": { "leader.io/id": "billing" } },
            "spec": { "replicas": 3 },
        });
        let changed = |pointer: &str, value: Value| {
            let mut object = old.clone();
            *object.pointer_mut(pointer).unwrap() = value;
            object
        };
        assert!(is_identical(&old, &old));
        assert!(is_identical(&changed("/metadata/resourceVersion", json!("8")), &old));
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({});
        assert!(is_identical(&labelled, &old));
        labelled["metadata"]["labels"] = json!({ "a": "b" });
        assert!(!is_identical(&labelled, &old));
        assert!(!is_identical(&changed("/spec/replicas", json!(2)), &old));
        assert!(!is_identical(&changed("/metadata/annotations", json!({})), &old));
        // A replace leaves out what Kubernetes wrote there.
        let mut stored = old.clone();
        stored["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("1");
        stored["metadata"]["annotations"]["deprecated.daemonset.template.generation"] = json!("4");
        assert!(is_identical(&old, &stored));
        stored["metadata"]["annotations"]["team"] = json!("shop");
        assert!(!is_identical(&old, &stored));
    }
}
