//! No surprise rollouts: every kind of write that there is, to an elected workload and to a plain twin of it.
//!
//! The rows are run as one test, so that it can print the table of them.

mod commands;
mod live;
mod manifest;
mod manifests;
mod options;
mod pair;
mod patches;
mod table;
mod upgrade;

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use leader_tests::Cluster;
use leader_tests::command::Output;
use leader_tests::kit::Namespace;
use serde_json::Value;

use self::manifest::{Expected, Place};
use self::pair::{Pair, Side};
use self::table::Group;
use crate::stage::Stage;

/// How many groups run at once: kubectl itself is what takes the time.
const AT_ONCE: usize = 4;

/// A write to one of the two.
type Write<'a> = &'a dyn Fn(&Side<'_>) -> Result<Output>;

/// A group that runs beside others.
type Run = fn(&str) -> Group;

#[test]
fn rollouts_table() -> Result<()> {
    if Cluster::for_tests().is_none() {
        return Ok(());
    }
    let groups: Vec<(&str, Run)> =
        [manifests::GROUPS, patches::GROUPS, commands::GROUPS, options::GROUPS, live::GROUPS]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    let waiting = Mutex::new(groups.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, (name, run))) = next else { break };
                    let group = run(name);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, group));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    let mut groups: Vec<Group> = done.into_iter().map(|(_, group)| group).collect();
    // It changes the webhook for everybody.
    groups.push(upgrade::group());
    table::judge(&groups)
}

/// A group of rows about one pair, whose elected side has the id on the workload.
fn pair_of(name: &str, kind: &str, rows: impl FnOnce(&Stage, &Pair<'_>, &mut Group) -> Result<()>) -> Group {
    pair_with(name, kind, Place::Workload, rows)
}

/// A group of rows about one pair.
fn pair_with(
    name: &str,
    kind: &str,
    place: Place,
    rows: impl FnOnce(&Stage, &Pair<'_>, &mut Group) -> Result<()>,
) -> Group {
    Group::new(name).filled(|group| {
        Stage::bare("rollouts", &[], |stage| {
            let twin = Namespace::new(stage.namespace.cluster(), "rollouts-twin")?;
            rows(stage, &Pair::new(stage, &twin, kind, place)?, group)
        })
    })
}

/// The image that everything in the table runs.
fn image(stage: &Stage) -> Result<&str> {
    stage.image("leader-ledger").context("the ledger's image")
}

/// Rows that send manifests in one way.
fn send_all(
    pair: &Pair<'_>,
    group: &mut Group,
    edits: &[manifest::Edit],
    send: &dyn Fn(&Side<'_>, &Value) -> Result<Output>,
) {
    for edit in edits {
        pair.row(group, edit.what, edit.expected, &|side| send(side, &edit.manifest));
    }
}

/// Rows of writes that need no manifest.
fn write_all(pair: &Pair<'_>, group: &mut Group, rows: &[(&str, Expected, Write<'_>)]) {
    for (what, expected, write) in rows {
        pair.row(group, what, *expected, write);
    }
}
