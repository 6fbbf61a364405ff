//! What a client notices of hand-overs and fail-overs: how long nobody answers, with which errors, and that nobody else ever does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leader_tests::progress::say;
use rustix::process::Signal;
use serde_json::json;

use super::client::{Client, Met, Seen};
use super::shop::{DECOY, Shop};
use super::steered;
use crate::specimen::CONTAINER;
use crate::stage::{Stage, long, until};

/// One move of leadership, as the client saw it.
#[derive(Debug)]
pub(super) struct Gap {
    /// The longest time between two answers of leaders that follow each other.
    length: Duration,
    errors: BTreeMap<&'static str, usize>,
    /// How often somebody answered who did not lead.
    pub(super) wrong: BTreeMap<String, usize>,
}

/// What breaks the leader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Its pod is deleted: it hands over.
    HandOver,
    /// Agent and app are killed at once.
    Crash,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::HandOver => "hand-over",
            Self::Crash => "crash",
        }
    }
}

fn word(met: &Met) -> &'static str {
    match met {
        Met::Pod(_) => "answer",
        Met::Refused => "refused",
        Met::Unreachable => "unreachable",
        Met::TimedOut => "timed out",
        Met::BrokenOff => "broken off",
    }
}

/// What a client met from the old leader's last answers to the new one's, which may be the same pod. An answer of anybody else is wrong, and
/// one of the old leader after the new one's first.
pub(super) fn gap(seen: &[Seen], old: &str, new: &str) -> Result<Gap> {
    let mut answers: Vec<Instant> = Vec::new();
    let (mut errors, mut wrong) = (BTreeMap::new(), BTreeMap::new());
    let mut has_moved = false;
    for seen in seen {
        match &seen.met {
            Met::Pod(pod) => {
                has_moved |= pod == new;
                if pod == if has_moved { new } else { old } {
                    answers.push(seen.at);
                } else {
                    *wrong.entry(pod.clone()).or_default() += 1;
                }
            }
            error => *errors.entry(word(error)).or_default() += 1,
        }
    }
    let pauses = answers.windows(2).map(|pair| pair[1] - pair[0]);
    Ok(Gap { length: pauses.max().context("the leaders did not answer twice")?, errors, wrong })
}

fn trial(shop: &Shop<'_>, cause: Cause) -> Result<Gap> {
    let stage = shop.specimen.stage;
    let old = shop.specimen.leader()?;
    steered(shop, "web", &old)?;
    let client = Client::start(stage.namespace.cluster(), shop.address("web")?)?;
    client.answered_by(&old)?;
    match cause {
        Cause::HandOver => {
            stage.namespace.run(&["delete", "pod", &old, "--wait=false"])?;
            let new = shop.specimen.leader_but(&[&old])?;
            client.answered_by(&new)?;
        }
        Cause::Crash => {
            let processes = stage.namespace.processes(&old, CONTAINER)?;
            let asked = client.seen().len();
            processes.agent()?.signal(Signal::KILL)?;
            processes.app().into_iter().for_each(|app| drop(app.signal(Signal::KILL)));
            // It may be the same pod, once its container was started anew.
            until("an answer after the crash", || {
                let seen = client.seen();
                let crashed = seen[asked..].iter().position(|seen| !matches!(seen.met, Met::Pod(_)));
                let after = &seen[asked + crashed.context("the leader still answers")?..];
                let is_back = after.iter().any(|seen| matches!(seen.met, Met::Pod(_)));
                is_back.then_some(()).with_context(|| format!("it met {:?}", seen.last()))
            })?;
        }
    }
    // Long enough for an answer of the old one to come late.
    let leader = shop.specimen.leader()?;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        client.answered_by(&leader)?;
    }
    let gap = gap(&client.stop()?, &old, &leader)?;
    shop.specimen.wait_until_rolled_out("deployment")?;
    Ok(gap)
}

/// The table's row of a cause.
fn row(cause: Cause, gaps: &[Gap]) -> String {
    let mut lengths: Vec<Duration> = gaps.iter().map(|gap| gap.length).collect();
    lengths.sort();
    let mut errors = BTreeMap::<&str, usize>::new();
    for (word, count) in gaps.iter().flat_map(|gap| &gap.errors) {
        *errors.entry(word).or_default() += count;
    }
    let wrong: usize = gaps.iter().flat_map(|gap| gap.wrong.values()).sum();
    let mut told = String::new();
    for word in ["refused", "unreachable", "timed out", "broken off"] {
        let _ = write!(told, " {} |", errors.get(word).copied().unwrap_or_default());
    }
    let (median, longest) = (lengths[lengths.len() / 2], lengths[lengths.len() - 1]);
    format!(
        "| {} | {} | {wrong} |{told} {:.2} s | {:.2} s |",
        cause.name(),
        gaps.len(),
        median.as_secs_f32(),
        longest.as_secs_f32()
    )
}

/// A client through the Service's address meets the leader or nobody: never a standby, nor other pods that the selector would match.
#[test]
fn a_client_meets_the_leader_or_nobody() -> Result<()> {
    Stage::bare_alone("traffic", |stage| {
        let trials = if long() { 20 } else { 3 };
        let shop = Shop::new(stage, "web")?;
        let mut deployment = shop.deployment(3)?;
        // As docs/services.md says of the figures.
        deployment["metadata"]["annotations"]["leader.io/lease-duration"] = json!("5s");
        shop.specimen.apply(&deployment)?;
        shop.specimen.wait_until_rolled_out("deployment")?;
        shop.start_decoys()?;
        shop.specimen.apply(&shop.service("web", &json!({leader_agent::names::LEADER_ONLY: "web"}), &json!({})))?;
        let mut table = String::from(
            "| cause | trials | answers of another pod | refused | unreachable | timed out | broken off | median gap | longest gap |\n|---|---|---|---|---|---|---|---|---|",
        );
        let mut wrong = Vec::new();
        for cause in [Cause::HandOver, Cause::Crash] {
            let gaps: Vec<Gap> = (0..trials).map(|_| trial(&shop, cause)).collect::<Result<_>>()?;
            let _ = write!(table, "\n{}", row(cause, &gaps));
            wrong.extend(gaps.into_iter().map(|gap| gap.wrong).filter(|wrong| !wrong.is_empty()));
        }
        say(format!("what a client noticed of a leader-only Service:\n{table}"));
        ensure!(wrong.is_empty(), "who answered and did not lead, and how often, by trials: {wrong:?}");
        // The same client through an ordinary Service meets the others: nothing would be shown otherwise.
        shop.specimen.apply(&shop.service("all", &json!({}), &json!({})))?;
        let client = Client::start(stage.namespace.cluster(), shop.address("all")?)?;
        until("an answer of a pod that does not take part", || {
            let is_there = client.seen().iter().any(|seen| seen.met == Met::Pod(DECOY.to_owned()));
            is_there.then_some(()).context("there is none yet")
        })?;
        client.stop().map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_measured_and_wrong_answers_are_counted() {
        let start = Instant::now();
        let seen = |all: &[(u64, Met)]| -> Vec<Seen> {
            all.iter().map(|(at, met)| Seen { at: start + Duration::from_millis(*at), met: met.clone() }).collect()
        };
        let pod = |name: &str| Met::Pod(name.to_owned());
        let good = seen(&[(0, pod("a")), (10, pod("a")), (20, Met::Refused), (30, Met::TimedOut), (510, pod("b"))]);
        let found = gap(&good, "a", "b").unwrap();
        assert_eq!(found.length, Duration::from_millis(500));
        assert_eq!(found.errors, BTreeMap::from([("refused", 1), ("timed out", 1)]));
        assert_eq!(found.wrong, BTreeMap::new());
        let wrong = |all: &[(u64, Met)], new: &str| gap(&seen(all), "a", new).unwrap().wrong;
        // The same pod again, after its container was started anew.
        assert_eq!(wrong(&[(0, pod("a")), (1, Met::Refused), (2, pod("a"))], "a"), BTreeMap::new());
        // The old leader after the new one; a pod that does not take part; a third one in between.
        let once = |pod: &str| BTreeMap::from([(pod.to_owned(), 1)]);
        assert_eq!(wrong(&[(0, pod("a")), (1, pod("b")), (2, pod("a")), (3, pod("b"))], "b"), once("a"));
        assert_eq!(wrong(&[(0, pod("a")), (1, pod(DECOY)), (2, pod("a"))], "a"), once(DECOY));
        assert_eq!(wrong(&[(0, pod("a")), (1, pod("c")), (2, pod("b"))], "b"), once("c"));
        let strange = gap(&seen(&[(0, pod("a")), (1, pod(DECOY)), (500, pod("a"))]), "a", "a").unwrap();
        let row = row(Cause::Crash, &[found, strange]);
        assert!(row.starts_with("| crash | 2 | 1 | 1 | 0 | 1 | 0 | 0.50 s |"), "{row}");
    }
}
