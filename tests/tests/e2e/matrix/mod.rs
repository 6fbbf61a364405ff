//! The fault matrix: what becomes of leadership under each fault, judged by the writers' own stamps.
//!
//! A test is a row: a fault, tried on several workloads at once, again and again. What all rows showed is one table, printed and
//! written as Markdown. It takes more than an hour: `cargo xtask test faults`; left out without `LEADER_TESTS_FAULTS=1`.

mod broken;
mod lease;
mod network;
mod outcome;
mod process;
mod proxied;
mod restored;
mod row;
mod servers;
mod table;
mod tokens;
mod trial;
mod workloads;

pub(crate) use broken::Broken;
pub(crate) use row::{Follow, Row};
