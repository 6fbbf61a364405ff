//! What becomes of an entry of `leader.io/turning-on`: values in, values out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::turning_on::{Entry, Owner, Sight, Stored, Verdict};

/// How long what a review decided may take to be stored. The API server ends a request after a minute
/// (`--request-timeout`, <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-apiserver/>).
pub(super) const PENDING: Duration = Duration::from_mins(3);
/// The pause before the next look when nobody seems to be left and yet it is not over.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// The pause before the next look while pods run, and the longest one.
pub(super) const LATER: Duration = Duration::from_secs(30);

/// What a watch has told since the entry was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// Pods that were met without the election, by uid.
    pub(super) met: BTreeMap<String, Met>,
    /// Uids of pods whose end was reported.
    pub(super) ended: BTreeSet<String>,
    /// The resourceVersion up to which that is all; empty while nothing is known.
    pub(super) version: String,
}

/// A pod without the election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) name: String,
    pub(super) owner: Option<Owner>,
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody is waited for any more.
    Drop,
    /// This one takes its place.
    Wait { entry: Box<Entry>, why: Why },
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Pods that run, or may: by name.
    Pods(Vec<String>),
    /// Of those that are waited for, these are gone, and their end was not reported.
    Vanished(Vec<String>),
    /// Nobody will report the end of those that are left: they are called terminal, and their containers were lost.
    Lost(Vec<String>),
    /// There is no such pod, but there may be one in a moment, for this reason.
    More(String),
    /// What the review decided is not stored yet.
    Pending,
}

/// Decides. `watched` says that the watch has told all there was to tell, `pending` for how long the last review's decision has been seen
/// not to be stored.
pub(super) fn step(entry: &Entry, sight: &Sight, evidence: &Evidence, watched: bool, pending: Duration) -> Step {
    let is_over = pending >= PENDING;
    if is_over && !sight.has_candidates() {
        match &sight.stored {
            // The workload takes no part, and none of its pods does: it runs the app as its user wrote it.
            Stored::Otherwise => return Step::Drop,
            // It was never stored: the pods that its labels would have selected are somebody else's.
            Stored::Absent if entry.created => return Step::Drop,
            _ => {}
        }
    }
    let waited = waited(entry, sight, evidence);
    if waited.is_empty() && entry.more == 0 {
        match &sight.stored {
            Stored::Elected { makes_plain_pods: None } if watched => return Step::Drop,
            Stored::Otherwise | Stored::Absent if is_over => return Step::Drop,
            _ => {}
        }
    }
    let why = why(&waited, sight, watched);
    // Of more pods than are named those that are left are named, and how many more there are is known by looking.
    let version = if evidence.version.is_empty() { &entry.version } else { &evidence.version };
    let mut next = Entry::new(entry.selector.clone(), version.clone(), entry.review.clone(), waited);
    next.rest.clone_from(&entry.rest);
    next.created = entry.created && sight.stored == Stored::Absent;
    next.containers = match &sight.stored {
        // Whatever else was decided came to nothing.
        Stored::Undecided { container } if is_over => [container.clone()].into(),
        _ => entry.containers.clone(),
    };
    Step::Wait { entry: Box::new(next), why }
}

/// How long to wait before the next look. What comes at all mostly comes at once, and is looked for less and less often after that:
/// `pending` as for [`step`], `more` for how long pods may be made by now.
pub(super) fn pause(why: &Why, pending: Duration, more: Duration) -> Duration {
    let slower = |since: Duration| (since / 4).clamp(SOON, LATER);
    let pause = match why {
        // Their end is told by the watch.
        Why::Pods(_) | Why::Vanished(_) | Why::Lost(_) => LATER,
        Why::More(_) => slower(more),
        Why::Pending => slower(pending),
    };
    match PENDING.saturating_sub(pending) {
        Duration::ZERO => pause,
        left => pause.min(left.max(SOON)),
    }
}

/// The pods of which it is not proved that they have ended.
fn waited(entry: &Entry, sight: &Sight, evidence: &Evidence) -> BTreeMap<String, String> {
    let met = evidence.met.iter().map(|(uid, met)| (uid.clone(), met.name.clone()));
    let seen = sight.pods.values().filter(|pod| pod.verdict == Verdict::Waited);
    let seen = seen.map(|pod| (pod.uid.clone(), pod.name.clone()));
    let mut waited: BTreeMap<String, String> = entry.pods.clone().into_iter().chain(met).chain(seen).collect();
    waited.retain(|uid, _| {
        let has_ended = sight.pods.get(uid).is_some_and(|pod| pod.verdict != Verdict::Waited);
        !has_ended && !evidence.ended.contains(uid)
    });
    waited
}

fn why(waited: &BTreeMap<String, String>, sight: &Sight, watched: bool) -> Why {
    let names = |of: &dyn Fn(&String) -> bool| -> Vec<String> {
        waited.iter().filter(|(uid, _)| of(uid)).map(|(_, name)| name.clone()).collect()
    };
    let vanished = names(&|uid| !sight.pods.contains_key(uid));
    if !vanished.is_empty() && watched {
        return Why::Vanished(vanished);
    }
    let is_lost = |uid: &String| sight.pods.get(uid).is_some_and(|pod| pod.is_lost);
    if !waited.is_empty() && waited.keys().all(is_lost) {
        return Why::Lost(names(&|_| true));
    }
    if !waited.is_empty() {
        return Why::Pods(names(&|_| true));
    }
    match &sight.stored {
        Stored::Elected { makes_plain_pods: Some(reason) } => Why::More(reason.clone()),
        Stored::Elected { .. } => Why::More("the watch of its pods is not up to date".to_owned()),
        Stored::Undecided { .. } | Stored::Otherwise | Stored::Absent => Why::Pending,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*, sample::select};

    use super::*;
    use crate::turning_on::Seen;

    const LONG: Duration = Duration::from_hours(1);

    fn names(uids: &[&str]) -> BTreeMap<String, String> {
        uids.iter().map(|&uid| (uid.to_owned(), format!("pod-{uid}"))).collect()
    }

    fn entry(uids: &[&str]) -> Entry {
        Entry::new("app=billing".to_owned(), "7".to_owned(), "r1".to_owned(), names(uids))
    }

    fn elected() -> Stored {
        Stored::Elected { makes_plain_pods: None }
    }

    fn sight(stored: Stored, pods: &[(&str, Verdict)]) -> Sight {
        let pods = pods.iter().map(|&(uid, verdict)| (uid.to_owned(), seen(uid, verdict))).collect();
        Sight { stored, pods, makes_elected_pods: false }
    }

    fn seen(uid: &str, verdict: Verdict) -> Seen {
        let (uid, name) = (uid.to_owned(), format!("pod-{uid}"));
        Seen { uid, name, verdict, takes_part: verdict == Verdict::Elected, ..Seen::default() }
    }

    fn evidence(met: &[&str], ended: &[&str]) -> Evidence {
        let met = met.iter().map(|&uid| (uid.to_owned(), Met { name: format!("pod-{uid}"), owner: None })).collect();
        Evidence { met, ended: ended.iter().map(|&uid| uid.to_owned()).collect(), version: "9".to_owned() }
    }

    fn waits(step: Step) -> (Vec<String>, Why) {
        match step {
            Step::Drop => panic!("dropped"),
            Step::Wait { entry, why } => (entry.pods.into_keys().collect(), why),
        }
    }

    #[test]
    fn the_last_reported_end_drops_it() {
        let now = sight(elected(), &[("new", Verdict::Elected)]);
        assert_eq!(step(&entry(&["u1"]), &now, &evidence(&[], &["u1"]), true, Duration::ZERO), Step::Drop);
        // An end that is seen in the pod itself counts too.
        let seen = sight(elected(), &[("u1", Verdict::Ended)]);
        assert_eq!(step(&entry(&["u1"]), &seen, &evidence(&["u1"], &[]), true, Duration::ZERO), Step::Drop);
    }

    #[test]
    fn a_pod_that_vanished_keeps_it_for_ever() {
        let now = sight(elected(), &[("new", Verdict::Elected)]);
        let (pods, why) = waits(step(&entry(&["u1", "u2"]), &now, &evidence(&[], &["u2"]), true, LONG));
        assert_eq!((pods, why), (vec!["u1".to_owned()], Why::Vanished(vec!["pod-u1".to_owned()])));
        let gone = sight(Stored::Absent, &[]);
        waits(step(&entry(&["u1"]), &gone, &evidence(&[], &[]), true, LONG));
        // So does one that was never named, and only the watch has met.
        waits(step(&entry(&[]), &now, &evidence(&["u3"], &[]), true, LONG));
    }

    #[test]
    fn a_new_pod_of_the_old_template_is_waited_for() {
        let now = sight(elected(), &[("u9", Verdict::Waited)]);
        let (pods, why) = waits(step(&entry(&["u1"]), &now, &evidence(&[], &["u1"]), true, LONG));
        assert_eq!((pods, why), (vec!["u9".to_owned()], Why::Pods(vec!["pod-u9".to_owned()])));
        let more = Stored::Elected { makes_plain_pods: Some("billing-5d is to have 1 pods".to_owned()) };
        let (_, why) = waits(step(&entry(&[]), &sight(more, &[]), &evidence(&[], &[]), true, LONG));
        assert_eq!(why, Why::More("billing-5d is to have 1 pods".to_owned()));
    }

    #[test]
    fn nothing_is_dropped_before_the_watch_has_told_what_it_knows() {
        waits(step(&entry(&[]), &sight(elected(), &[]), &evidence(&[], &[]), false, LONG));
    }

    #[test]
    fn what_is_not_stored_yet_is_waited_for() {
        for stored in [Stored::Otherwise, Stored::Absent] {
            let now = sight(stored, &[]);
            let (_, why) = waits(step(&entry(&[]), &now, &evidence(&[], &[]), true, PENDING / 2));
            assert_eq!(why, Why::Pending);
            assert_eq!(step(&entry(&[]), &now, &evidence(&[], &[]), true, PENDING), Step::Drop);
        }
    }

    #[test]
    fn a_review_that_came_to_nothing_is_forgotten_although_the_pods_run() {
        let plain = sight(Stored::Otherwise, &[("u1", Verdict::Waited)]);
        assert_eq!(step(&entry(&["u1"]), &plain, &evidence(&[], &[]), true, PENDING), Step::Drop);
        // Not where pods of its own would run the app beside it: it was taken back half-way.
        let half = sight(Stored::Otherwise, &[("u1", Verdict::Waited), ("u2", Verdict::Elected)]);
        waits(step(&entry(&["u1"]), &half, &evidence(&[], &[]), true, LONG));
        // Nor where such pods may be made: one of its sets is to have some.
        let more = Sight { makes_elected_pods: true, ..plain.clone() };
        waits(step(&entry(&["u1"]), &more, &evidence(&[], &[]), true, LONG));
        // Nor where the workload is gone, and its pods are still shutting down.
        let gone = sight(Stored::Absent, &[("u1", Verdict::Waited)]);
        waits(step(&entry(&["u1"]), &gone, &evidence(&[], &[]), true, LONG));
    }

    /// A workload that was refused after its review never was: those pods are another's, and run for ever.
    #[test]
    fn what_was_never_stored_is_forgotten_although_pods_of_its_labels_run() {
        let made = Entry { created: true, ..entry(&["u1"]) };
        let absent = sight(Stored::Absent, &[("u1", Verdict::Waited)]);
        waits(step(&made, &absent, &evidence(&[], &[]), true, PENDING / 2));
        assert_eq!(step(&made, &absent, &evidence(&[], &[]), true, PENDING), Step::Drop);
        let candidate = sight(Stored::Absent, &[("u1", Verdict::Waited), ("u2", Verdict::Elected)]);
        waits(step(&made, &candidate, &evidence(&[], &[]), true, LONG));
        // Once it was there, they may be its own.
        let there = sight(elected(), &[("u1", Verdict::Waited)]);
        let Step::Wait { entry, .. } = step(&made, &there, &evidence(&[], &[]), true, Duration::ZERO) else {
            panic!("dropped")
        };
        assert!(!entry.created);
        waits(step(&entry, &absent, &evidence(&[], &[]), true, LONG));
    }

    /// One of the reviews that wrapped another container may be stored yet: until none can be, no pod may run either of them bare.
    #[test]
    fn of_two_containers_the_one_counts_that_is_stored_in_the_end() {
        let both = Entry { containers: ["app", "proxy"].map(str::to_owned).into(), ..entry(&[]) };
        let now = sight(Stored::Undecided { container: "app".to_owned() }, &[("u1", Verdict::Elected)]);
        let after = |pending: Duration| match step(&both, &now, &evidence(&[], &[]), true, pending) {
            Step::Wait { entry, why } => (entry.containers, why),
            Step::Drop => panic!("dropped"),
        };
        assert_eq!(after(PENDING / 2), (both.containers.clone(), Why::Pending));
        assert_eq!(after(PENDING).0, ["app".to_owned()].into());
    }

    #[test]
    fn of_lost_pods_nobody_reports_the_end() {
        let mut now = sight(elected(), &[("u1", Verdict::Waited), ("u2", Verdict::Waited)]);
        let why = |now: &Sight| waits(step(&entry(&["u1"]), now, &evidence(&[], &[]), true, LONG)).1;
        now.pods.get_mut("u1").unwrap().is_lost = true;
        let names = vec!["pod-u1".to_owned(), "pod-u2".to_owned()];
        assert_eq!(why(&now), Why::Pods(names.clone()));
        now.pods.get_mut("u2").unwrap().is_lost = true;
        assert_eq!(why(&now), Why::Lost(names));
    }

    #[test]
    fn looks_become_rarer() {
        let second = Duration::from_secs;
        let (pods, vanished) = (Why::Pods(Vec::new()), Why::Vanished(Vec::new()));
        let more = Why::More(String::new());
        for why in [&pods, &vanished] {
            assert_eq!(pause(why, Duration::ZERO, Duration::ZERO), LATER);
            // What is decided once that time has passed is decided then, and not looked at over and over afterwards.
            assert_eq!(pause(why, second(170), Duration::ZERO), second(10));
            assert_eq!(pause(why, PENDING, Duration::ZERO), LATER);
            assert_eq!(pause(why, LONG, Duration::ZERO), LATER);
        }
        for (since, expected) in [(0, 1), (4, 1), (40, 10), (120, 30), (3600, 30)] {
            assert_eq!(pause(&more, Duration::ZERO, second(since)), second(expected), "{since}");
        }
        for (since, expected) in [(0, 1), (4, 1), (40, 10), (175, 5), (180, 30), (3600, 30)] {
            assert_eq!(pause(&Why::Pending, second(since), Duration::ZERO), second(expected), "{since}");
        }
    }

    #[test]
    fn pods_that_were_not_named_are_once_there_is_room() {
        let many: BTreeMap<String, String> = (0..450).map(|number| (format!("{number:03}"), "x".to_owned())).collect();
        let named = Entry::new(String::new(), "7".to_owned(), String::new(), many.clone());
        assert!(named.more > 0);
        let some = many.keys().skip(400).map(|uid| (uid.as_str(), Verdict::Waited)).collect::<Vec<_>>();
        let ended: Vec<&str> = many.keys().take(400).map(String::as_str).collect();
        let (pods, _) = waits(step(&named, &sight(elected(), &some), &evidence(&[], &ended), true, LONG));
        assert_eq!(pods.len(), 50);
    }

    fn verdicts() -> impl Strategy<Value = Verdict> {
        select(vec![Verdict::Elected, Verdict::Waited, Verdict::Ended])
    }

    fn uids() -> impl Strategy<Value = BTreeMap<String, String>> {
        btree_map("u[0-9]", Just("pod".to_owned()), 0..6)
    }

    proptest! {
        /// The promise: an entry of a workload that takes part goes only when each pod that was ever met has provably ended.
        #[test]
        fn no_pod_without_a_proof_is_forgotten(
            named in uids(), met in uids(), ended in uids(), pods in btree_map("u[0-9]", verdicts(), 0..6), watched in any::<bool>(), gone in any::<bool>(),
        ) {
            let entry = Entry::new(String::new(), "7".to_owned(), String::new(), named.clone());
            let stored = if gone { Stored::Absent } else { elected() };
            let pods_seen = pods.iter().map(|(uid, verdict)| (uid.clone(), seen(uid, *verdict))).collect();
            let sight = Sight { stored, pods: pods_seen, makes_elected_pods: false };
            let evidence = Evidence {
                met: met.iter().map(|(uid, name)| (uid.clone(), Met { name: name.clone(), owner: None })).collect(),
                ended: ended.keys().cloned().collect(),
                version: "9".to_owned(),
            };
            let proved = |uid: &String| ended.contains_key(uid) || pods.get(uid).is_some_and(|verdict| *verdict != Verdict::Waited);
            let waiting = pods.iter().filter(|(_, verdict)| **verdict == Verdict::Waited).map(|(uid, _)| uid);
            let all: BTreeSet<&String> = named.keys().chain(met.keys()).chain(waiting).collect();
            match step(&entry, &sight, &evidence, watched, LONG) {
                Step::Drop => prop_assert!(all.into_iter().all(proved)),
                Step::Wait { entry, .. } => {
                    let left: BTreeSet<&String> = all.into_iter().filter(|uid| !proved(uid)).collect();
                    prop_assert_eq!(entry.pods.keys().collect::<BTreeSet<_>>(), left);
                }
            }
        }
    }
}
