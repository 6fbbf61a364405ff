//! What others than the candidates write into the Lease: people, and the controller that frees it.

use leader_agent::{
    lease::record::{Record, Term},
    names,
};
use serde_json::{Value, json};

use crate::state::State;

impl State {
    /// Somebody writes `holder` into the Lease, knowing nothing.
    pub(crate) fn edit_holder(&mut self, holder: &str) {
        let Some(record) = &self.lease else { return };
        let mut body = unchanged(record);
        body["spec"]["holderIdentity"] = json!(holder);
        self.keep(body);
    }

    /// A person asks the present holder to give leadership away, to the other candidate where that is said.
    pub(crate) fn ask_to_step_down(&mut self, to_the_other: bool) {
        let Some(record) = self.lease.clone() else { return };
        let (Some(holder), Some(term)) = (record.holder.as_deref(), record.term_name()) else { return };
        let mut body = unchanged(&record);
        body["metadata"]["annotations"][names::STEP_DOWN] = json!(term);
        if to_the_other {
            body["metadata"]["annotations"][names::TRANSFER_TO] = json!(if holder == "ann" { "ben" } else { "ann" });
        }
        self.keep(body);
    }

    /// Whether everything of the holder's container has ended: only then a controller frees the Lease.
    pub(crate) fn may_be_freed(&self) -> bool {
        let holder = self.lease.as_ref().and_then(|record| record.holder.as_deref());
        let node = holder.and_then(|holder| ["ann", "ben"].iter().position(|name| *name == holder));
        node.is_some_and(|node| self.nodes[node].dead)
    }

    /// A controller frees the Lease of a holder that has ended.
    pub(crate) fn free(&mut self) {
        let Some(record) = self.lease.clone() else { return };
        let Some(acquire_time) = record.acquire_time else { return };
        let term = Term { uid: record.uid.clone(), transitions: record.transitions, acquire_time };
        let body = record.released(record.holder.as_deref().unwrap_or_default(), &term, self.clock().wall);
        self.freed = true;
        self.keep(body);
    }
}

/// The Lease as it stands, to be changed.
fn unchanged(record: &Record) -> Value {
    let holder = record.holder.as_deref().unwrap_or_default();
    let term = Term {
        uid: record.uid.clone(),
        transitions: record.transitions,
        acquire_time: record.acquire_time.unwrap_or_default(),
    };
    let seconds = record.duration.map_or(1, |duration| i32::try_from(duration.as_secs()).unwrap_or(1));
    record.held(holder, &term, record.renew_time.unwrap_or_default(), seconds)
}
