//! What candidates cost while nothing happens: memory and requests.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::process::Pid;

use super::accounts::Accounts;
use super::candidate::{Candidate, Kind, Programs};
use super::group::Group;
use crate::bench::memory::field;

/// What one candidate of a kind costs; of several standbys the one that costs most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Resident memory of the process that elects, in bytes.
    pub(super) resident: u64,
    /// Resident memory of the processes beside it: our agent's stub.
    pub(super) beside: u64,
    /// Memory of all of them, pages that processes share divided among those.
    pub(super) proportional: u64,
    /// Requests per second.
    pub(super) requests: f64,
}

/// What a program costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    /// The program's file, in bytes.
    pub(super) binary: u64,
    pub(super) leader: Cost,
    pub(super) standby: Cost,
}

/// Watches groups of all kinds over the same time.
pub(super) fn watch(
    groups: &[(Kind, &Group<'_>)],
    accounts: &Accounts<'_>,
    programs: &Programs,
    time: Duration,
) -> Result<Vec<(Kind, Costs)>> {
    let from = Timestamp::now();
    thread::sleep(time);
    let until = Timestamp::now();
    let cost = |candidate: &Candidate| -> Result<Cost> {
        let processes = candidate.processes()?;
        // The stub comes first.
        let (elects, others) = processes.split_last().context("a candidate without processes")?;
        let proportional = sum(&processes, "smaps_rollup", "Pss")?;
        let (resident, beside) = (field(*elects, "status", "VmRSS")?, sum(others, "status", "VmRSS")?);
        let mut count = 0.0;
        for request in accounts.requests(&candidate.account)? {
            let time: Timestamp = request.time.parse()?;
            if time >= from && time < until {
                count += 1.0;
            }
        }
        Ok(Cost { resident, beside, proportional, requests: count / time.as_secs_f64() })
    };
    let costs = groups.iter().map(|(kind, group)| {
        let (leader, standbys) = group.roles()?;
        let mut highest = Cost::default();
        for standby in standbys {
            let Cost { resident, beside, proportional, requests } = cost(standby)?;
            highest.resident = highest.resident.max(resident);
            highest.beside = highest.beside.max(beside);
            highest.proportional = highest.proportional.max(proportional);
            highest.requests = highest.requests.max(requests);
        }
        Ok((*kind, Costs { binary: size(kind.program(programs))?, leader: cost(leader)?, standby: highest }))
    });
    costs.collect()
}

fn size(program: &Path) -> Result<u64> {
    Ok(fs::metadata(program).with_context(|| format!("cannot read {}", program.display()))?.len())
}

fn sum(processes: &[Pid], file: &str, name: &str) -> Result<u64> {
    processes.iter().map(|pid| field(*pid, file, name)).sum()
}
