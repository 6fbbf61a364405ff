//! Two small real programs of which one does harm when it runs twice, for the demo and the tests.
//!
//! `ledger-writer` goes on with the numbering that it found, so that two writers at once give the same numbers twice;
//! `ledger-keeper` receives the entries, and reports every writer and any two that overlapped. Neither knows anything
//! of leader election but for one thing: the writer hands on `LEADER_FENCING_TOKEN` when that is set, and the keeper
//! refuses entries with an older token than it has seen.
//!
//! [`overlap`] is the judgement, shared by the keeper's report and by tests that read the writers' own records
//! ([`stamps`]), which count also where the network drops everything.

pub mod clock;
pub mod keeper;
pub mod ledger;
pub mod overlap;
pub mod report;
pub mod stamps;
pub mod wire;
pub mod writer;
