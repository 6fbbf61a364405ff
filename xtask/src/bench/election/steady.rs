//! What candidates cost while nothing happens: memory and requests.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use rustix::process::Pid;

use super::accounts::Accounts;
use super::candidate::{Candidate, Kind, Programs};
use super::group::Group;

/// What one candidate of a kind costs; of several standbys the one that costs most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Resident memory of all its processes, in bytes.
    pub(super) resident: u64,
    /// The same, pages that processes share divided among them.
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
        let (resident, proportional) = memory(&candidate.processes()?)?;
        let mut count = 0.0;
        for request in accounts.requests(&candidate.account)? {
            let time: Timestamp = request.time.parse()?;
            if time >= from && time < until {
                count += 1.0;
            }
        }
        Ok(Cost { resident, proportional, requests: count / time.as_secs_f64() })
    };
    let costs = groups.iter().map(|(kind, group)| {
        let (leader, standbys) = group.roles()?;
        let mut highest = Cost::default();
        for standby in standbys {
            let Cost { resident, proportional, requests } = cost(standby)?;
            highest.resident = highest.resident.max(resident);
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

/// Resident and proportional memory of some processes, in bytes.
fn memory(processes: &[Pid]) -> Result<(u64, u64)> {
    let (mut resident, mut proportional) = (0, 0);
    for pid in processes {
        resident += field(&format!("/proc/{pid}/status"), "VmRSS")?;
        proportional += field(&format!("/proc/{pid}/smaps_rollup"), "Pss")?;
    }
    ensure!(resident > 0, "{processes:?} have no memory");
    Ok((resident, proportional))
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let kilobytes =
        |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse::<u64>().ok();
    Ok(text.lines().find_map(kilobytes).with_context(|| format!("no {name} in {path}"))? * 1024)
}
