//! What became of a request: judged from the Lease before it and the Lease now. Pure.

use super::lease::Seen;
use crate::cli::status::pod_of;

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// As it was before.
    Unchanged,
    /// The leader of before leads no more, and nobody does yet.
    Nobody,
    /// Somebody leads, in another term than before.
    Led {
        /// The identity.
        by: String,
        /// The number of the term.
        term: i64,
    },
    /// The same leader goes on under a Lease that was made again, on which the request does not stand.
    Lost,
}

/// How far it has come since `before`.
pub(super) fn stage(before: &Seen, now: Option<&Seen>) -> Stage {
    // Nobody leads without a Lease, but who led may bring it back.
    let Some(now) = now else { return Stage::Unchanged };
    match now.holder() {
        None if before.holder().is_none() => Stage::Unchanged,
        None => Stage::Nobody,
        Some(_) if before.term() == now.term() => Stage::Unchanged,
        Some(holder) if before.holder() == Some(holder) && before.transitions() == now.transitions() => {
            if before.uid() == now.uid() { Stage::Unchanged } else { Stage::Lost }
        }
        Some(holder) => Stage::Led { by: holder.to_owned(), term: now.transitions() },
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Another one leads.
    Another,
    /// This pod leads.
    Pod(String),
    /// Nobody leads.
    Nobody,
    /// Somebody leads.
    Somebody,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Outcome {
    /// For the person who asked.
    pub(in crate::cli) text: String,
    /// It came out as it was asked for.
    pub(in crate::cli) as_asked: bool,
}

impl Outcome {
    pub(super) fn good(text: String) -> Self {
        Self { text, as_asked: true }
    }

    pub(super) fn bad(text: String) -> Self {
        Self { text, as_asked: false }
    }
}

impl Goal {
    /// The outcome at this stage, where it is one; `after` says how long it took.
    pub(super) fn outcome(&self, id: &str, before: &Seen, stage: &Stage, after: &str) -> Option<Outcome> {
        let old = before.holder();
        match (self, stage) {
            (_, Stage::Lost) => {
                let text = "the Lease was deleted and made again meanwhile, and the request is lost with it: ask again";
                Some(Outcome::bad(text.to_owned()))
            }
            (Self::Nobody, Stage::Nobody) => {
                let who = old.map_or("the leader", pod_of);
                Some(Outcome::good(format!("{who} has stopped, {after}: nobody leads `{id}`")))
            }
            (Self::Nobody, Stage::Led { by, .. }) => {
                Some(Outcome::bad(format!("{} leads `{id}`: somebody has ended the hold", pod_of(by))))
            }
            (Self::Nobody, Stage::Unchanged) if old.is_none() => Some(Outcome::good(format!("nobody leads `{id}`"))),
            (Self::Somebody, Stage::Unchanged) if old.is_some() => {
                Some(Outcome::good(format!("{} leads `{id}`, as it did before", old.map_or("somebody", pod_of))))
            }
            (_, Stage::Unchanged | Stage::Nobody) => None,
            (Self::Another, Stage::Led { by, term }) if old == Some(by) => {
                Some(Outcome::bad(format!("{} leads `{id}` again (term {term}): no other pod took over", pod_of(by))))
            }
            (Self::Pod(pod), Stage::Led { by, term }) if pod != pod_of(by) => Some(Outcome::bad(format!(
                "{} leads `{id}` now (term {term}): {pod} did not take over while it could",
                pod_of(by)
            ))),
            (_, Stage::Led { by, term }) => {
                let after_whom = old.filter(|old| old != by).map(|old| format!(", after {}", pod_of(old)));
                let after_whom = after_whom.unwrap_or_default();
                Some(Outcome::good(format!("{} leads `{id}` now (term {term}){after_whom}, {after}", pod_of(by))))
            }
        }
    }
}

/// What is said when the time is over.
pub(super) fn late(id: &str, before: &Seen, stage: &Stage, waited: &str) -> Outcome {
    Outcome::bad(match (stage, before.holder()) {
        (Stage::Unchanged, Some(old)) => format!(
            "{} still leads `{id}` after {waited}: the request stays on its Lease; the agent's log says why (kubectl leader logs)",
            pod_of(old)
        ),
        _ => format!("nobody leads `{id}` after {waited}: kubectl leader status {id} says why"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(uid: &str, holder: &str, transitions: i64) -> Seen {
        Seen(json!({
            "metadata": { "name": "billing", "uid": uid, "resourceVersion": "7" },
            "spec": { "holderIdentity": holder, "leaseTransitions": transitions,
                "acquireTime": format!("2026-11-21T12:00:0{transitions}.000000Z") },
        }))
    }

    const A: &str = "billing-a_u1_app";
    const B: &str = "billing-b_u2_app";

    #[test]
    fn how_far_it_has_come() {
        let before = lease("l1", A, 3);
        let led = |by: &str, term: i64| Stage::Led { by: by.to_owned(), term };
        for (now, expected) in [
            (lease("l1", A, 3), Stage::Unchanged),
            (lease("l1", "", 3), Stage::Nobody),
            (lease("l1", B, 4), led(B, 4)),
            (lease("l1", A, 4), led(A, 4)),
            (lease("l2", A, 3), Stage::Lost),
            (lease("l2", B, 1), led(B, 1)),
        ] {
            assert_eq!(stage(&before, Some(&now)), expected, "{now:?}");
        }
        assert_eq!(stage(&before, None), Stage::Unchanged);
        assert_eq!(stage(&lease("l1", "", 3), Some(&lease("l1", "", 3))), Stage::Unchanged);
        assert_eq!(stage(&lease("l1", "", 3), Some(&lease("l1", B, 4))), led(B, 4));
    }

    fn said(goal: &Goal, before: &Seen, now: &Seen) -> Option<(bool, String)> {
        let outcome = goal.outcome("billing", before, &stage(before, Some(now)), "0.4 s after it was asked")?;
        Some((outcome.as_asked, outcome.text))
    }

    #[test]
    fn what_a_person_is_told() {
        let (led, released) = (lease("l1", A, 3), lease("l1", "", 3));
        let to_b = Goal::Pod("billing-b".to_owned());
        let told = |as_asked: bool, text: &str| Some((as_asked, text.to_owned()));
        for (goal, before, now, expected) in [
            (&Goal::Another, &led, lease("l1", A, 3), None),
            (&Goal::Another, &led, released.clone(), None),
            (
                &Goal::Another,
                &led,
                lease("l1", B, 4),
                told(true, "billing-b leads `billing` now (term 4), after billing-a, 0.4 s after it was asked"),
            ),
            (
                &Goal::Another,
                &led,
                lease("l1", A, 4),
                told(false, "billing-a leads `billing` again (term 4): no other pod took over"),
            ),
            (
                &to_b,
                &led,
                lease("l1", B, 4),
                told(true, "billing-b leads `billing` now (term 4), after billing-a, 0.4 s after it was asked"),
            ),
            (
                &to_b,
                &led,
                lease("l1", "billing-c_u3_app", 4),
                told(false, "billing-c leads `billing` now (term 4): billing-b did not take over while it could"),
            ),
            (
                &Goal::Nobody,
                &led,
                released.clone(),
                told(true, "billing-a has stopped, 0.4 s after it was asked: nobody leads `billing`"),
            ),
            (&Goal::Nobody, &released, released.clone(), told(true, "nobody leads `billing`")),
            (&Goal::Nobody, &led, lease("l1", A, 3), None),
            (
                &Goal::Nobody,
                &led,
                lease("l1", B, 4),
                told(false, "billing-b leads `billing`: somebody has ended the hold"),
            ),
            (
                &Goal::Somebody,
                &released,
                lease("l1", B, 4),
                told(true, "billing-b leads `billing` now (term 4), 0.4 s after it was asked"),
            ),
            (&Goal::Somebody, &released, released.clone(), None),
            (&Goal::Somebody, &led, lease("l1", A, 3), told(true, "billing-a leads `billing`, as it did before")),
            (&Goal::Somebody, &led, released.clone(), None),
        ] {
            assert_eq!(said(goal, before, &now), expected);
        }
        let lost = said(&Goal::Another, &led, &lease("l2", A, 3)).unwrap();
        assert!(!lost.0 && lost.1.contains("ask again"), "{}", lost.1);
    }

    #[test]
    fn what_is_said_when_the_time_is_over() {
        let before = lease("l1", A, 3);
        let said = late("billing", &before, &Stage::Unchanged, "60s");
        assert!(!said.as_asked && said.text.starts_with("billing-a still leads `billing` after 60s"), "{}", said.text);
        let said = late("billing", &before, &Stage::Nobody, "60s");
        assert!(said.text.starts_with("nobody leads `billing` after 60s"), "{}", said.text);
    }
}
