//! What is asked of a Lease's holder by annotations: by people to give leadership away, by a holder whose app is not ready for a
//! successor. Says what stands in a Lease and what is written; what follows is decided by the elector.
//!
//! Each request names the term that it is about, so that one which came late, or was left behind, says nothing to the next holder.

use jiff::Timestamp;
use serde_json::Value;

use super::record::{Record, Term, annotate, remove_annotation};
use crate::{
    mutant::{self, Mutant},
    names,
};

impl Record {
    /// The present term as annotations name it; `None` while nobody holds the Lease.
    pub fn term_name(&self) -> Option<String> {
        let (uid, transitions, acquire_time) = (self.uid.clone(), self.transitions, self.acquire_time?);
        Some(Term { uid, transitions, acquire_time }.name(self.holder.as_deref()?))
    }

    /// Whether the annotation `key` is about the present term, and not about an earlier one.
    fn is_about_this_term(&self, key: &str) -> bool {
        self.annotation(key)
            .is_some_and(|text| self.term_name().is_some_and(|term| term == text) || mutant::is(Mutant::AnyTermIsMeant))
    }

    /// Whether somebody asks the present holder to give leadership away.
    pub fn is_asked_to_step_down(&self) -> bool {
        self.holder.is_some() && self.is_about_this_term(names::STEP_DOWN)
    }

    /// Whether the present holder asks for a standby that would take over.
    pub fn wants_successor(&self) -> bool {
        self.holder.is_some() && self.is_about_this_term(names::SUCCESSOR_WANTED)
    }

    /// The standby that would take over, where the present holder asks for one.
    pub fn successor(&self) -> Option<&str> {
        self.annotation(names::SUCCESSOR).filter(|identity| !identity.is_empty() && self.wants_successor())
    }

    /// Whether a release is meant for the candidate `identity`; `None` when it is for everybody. Named is a whole identity or what stands
    /// before its first `_`, the pod's name: the name of a Kubernetes object contains none.
    pub fn is_meant_for(&self, identity: &str) -> Option<bool> {
        let named = self.annotation(names::TRANSFER_TO).filter(|named| !named.is_empty())?;
        Some(named == identity || identity.split('_').next() == Some(named))
    }

    /// The body of a PUT by which a standby begins `term`, as [`Self::held`] but for this: what was asked of the terms before is over.
    pub fn acquired(&self, identity: &str, term: &Term, now: Timestamp, seconds: i32) -> Value {
        let mut object = self.held(identity, term, now, seconds);
        for key in [names::STEP_DOWN, names::TRANSFER_TO, names::SUCCESSOR_WANTED, names::SUCCESSOR] {
            remove_annotation(&mut object, key);
        }
        object
    }

    /// The body of a PUT that releases `term` because the app was not ready: as [`Self::released`], and it says so. The standby that
    /// answered shall take over, unless a person has named another.
    pub fn given_up(&self, identity: &str, term: &Term, now: Timestamp) -> Value {
        let mut object = self.released(identity, term, now);
        if let (None, Some(successor)) = (self.annotation(names::TRANSFER_TO), self.annotation(names::SUCCESSOR)) {
            annotate(&mut object, names::TRANSFER_TO, successor.to_owned());
        }
        let term = Term { uid: self.uid.clone(), ..term.clone() };
        annotate(&mut object, names::GIVEN_UP, term.name(identity));
        object
    }

    /// The body of a PUT by which the standby `identity` answers a holder that asks for a successor. It changes nothing that anybody
    /// counts from.
    pub fn answered(&self, identity: &str) -> Value {
        let mut object = Value::clone(&self.object);
        annotate(&mut object, names::SUCCESSOR, identity.to_owned());
        object
    }
}

/// Makes `body`, which holds the Lease in `term`, ask for a successor, or ask no longer and forget who answered.
pub fn ask_for_successor(body: &mut Value, term: Option<String>) {
    match term {
        Some(term) => annotate(body, names::SUCCESSOR_WANTED, term),
        None => [names::SUCCESSOR_WANTED, names::SUCCESSOR].into_iter().for_each(|key| remove_annotation(body, key)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lease::record::{Inherited, unheld};

    fn lease() -> Record {
        let mut object = unheld("billing", "shop", 15, &Inherited::default());
        object["metadata"]["uid"] = json!("u1");
        object["metadata"]["resourceVersion"] = json!("7");
        object["spec"]["leaseTransitions"] = json!(3);
        Record::parse(object).unwrap()
    }

    fn record(body: Value) -> Record {
        Record::parse(body).unwrap()
    }

    fn time(microseconds: i64) -> Timestamp {
        Timestamp::from_microsecond(microseconds).unwrap()
    }

    #[test]
    fn a_request_is_about_one_term_and_ends_with_it() {
        let mut term = lease().next_term(time(5));
        let held = |change: &dyn Fn(&mut Value)| {
            let mut body = lease().held("me_1_app", &lease().next_term(time(5)), time(6), 15);
            change(&mut body);
            Record::parse(body).unwrap()
        };
        let name = held(&|_| {}).term_name().unwrap();
        assert_eq!(name, term.name("me_1_app"));
        assert_eq!(name, "u1/me_1_app/4/1970-01-01T00:00:00.000005Z");
        let asked = held(&|body| annotate(body, names::STEP_DOWN, name.clone()));
        assert!(asked.is_asked_to_step_down() && !asked.wants_successor());
        // A renewal leaves it, for it may not have been seen; the release takes it off, and so does the next acquisition.
        assert!(record(asked.held("me_1_app", &term, time(7), 15)).is_asked_to_step_down());
        let released = record(asked.released("me_1_app", &term, time(7)));
        assert!(released.is_free() && released.annotation(names::STEP_DOWN).is_none());
        term = asked.next_term(time(8));
        let next = record(asked.held("you", &term, time(8), 15));
        assert!(!next.is_asked_to_step_down(), "it is of the term before");
        assert_eq!(record(asked.acquired("you", &term, time(8), 15)).annotation(names::STEP_DOWN), None);
        assert!(!held(&|body| annotate(body, names::STEP_DOWN, "true".into())).is_asked_to_step_down());
        assert_eq!(lease().term_name(), None);
    }

    #[test]
    fn a_release_is_meant_for_a_pod_or_for_one_identity() {
        let mut body = lease().released("me", &lease().next_term(time(5)), time(6));
        assert_eq!(Record::parse(body.clone()).unwrap().is_meant_for("you_2_app"), None);
        for (named, you, other) in
            [("you", true, false), ("you_2_app", true, false), ("you_3_app", false, false), ("yo", false, false)]
        {
            annotate(&mut body, names::TRANSFER_TO, named.to_owned());
            let record = Record::parse(body.clone()).unwrap();
            assert!(record.is_free(), "whom it is meant for is no part of the proof");
            let meant = (record.is_meant_for("you_2_app"), record.is_meant_for("other_2_app"));
            assert_eq!(meant, (Some(you), Some(other)), "{named}");
        }
    }

    #[test]
    fn who_gives_up_names_the_successor_that_answered() {
        let term = lease().next_term(time(5));
        let mut body = lease().held("me", &term, time(6), 15);
        ask_for_successor(&mut body, Some(term.name("me")));
        let wants = Record::parse(body).unwrap();
        assert!(wants.wants_successor() && wants.successor().is_none());
        let answered = Record::parse(wants.answered("you_2_app")).unwrap();
        assert_eq!(answered.successor(), Some("you_2_app"));
        assert!(answered.is_of(&term, "me"), "the term goes on");
        let given_up = Record::parse(answered.given_up("me", &term, time(9))).unwrap();
        assert!(given_up.is_free());
        assert_eq!(given_up.is_meant_for("you_2_app"), Some(true));
        assert_eq!(given_up.annotation(names::GIVEN_UP), Some(term.name("me").as_str()));
        let next = given_up.next_term(time(10));
        let acquired = Record::parse(given_up.acquired("you_2_app", &next, time(10), 15)).unwrap();
        assert_eq!((acquired.is_meant_for("you_2_app"), acquired.successor()), (None, None));
        assert!(acquired.annotation(names::GIVEN_UP).is_some(), "the next one must know when that was");
        let mut body = answered.held("me", &term, time(7), 15);
        ask_for_successor(&mut body, None);
        assert_eq!(Record::parse(body).unwrap().annotation(names::SUCCESSOR), None);
    }
}
