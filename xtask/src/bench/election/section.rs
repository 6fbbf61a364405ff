//! What was measured, as a section of docs/benchmarks.md.

use std::time::Duration;

use anyhow::{Context, Result};
use leader_tests::binaries::client_go_version;

use super::candidate::Kind;
use super::group::{CANDIDATES, Outcome};
use super::load::{Load, PARTS};
use super::steady::{Cost, Costs};
use super::{GROUPS, Measured};
use crate::bench::document::{micros, table};
use crate::bench::memory::megabytes;

/// The goals of the project, beside client-go's.
const SHARE: f64 = 0.25;
const HAND_OVER: Duration = Duration::from_millis(20);
const FASTER: f64 = 50.0;
/// The lease of both programs, and how much later a successor may start.
const LEASE: Duration = Duration::from_secs(15);
const LATE: Duration = Duration::from_millis(100);

/// The times of some trials, in order.
struct Times(Vec<Duration>);

impl Times {
    fn of(outcomes: &[Outcome], time: impl Fn(&Outcome) -> Duration) -> Result<Self> {
        let mut times: Vec<_> = outcomes.iter().map(time).collect();
        times.sort();
        times.first().context("no trial")?;
        Ok(Self(times))
    }

    /// The value below which a share of them is; all of them are there.
    fn at(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent / 100).min(self.0.len() - 1);
        self.0[index]
    }

    fn row(&self, what: &str) -> Vec<String> {
        let cells = [self.at(0), self.at(50), self.at(90), self.at(100)].map(milliseconds);
        [vec![what.to_owned(), self.0.len().to_string()], cells.to_vec()].concat()
    }
}

fn milliseconds(time: Duration) -> String {
    let value = time.as_secs_f64() * 1e3;
    if value < 1000.0 { format!("{value:.1} ms") } else { format!("{:.2} s", value / 1e3) }
}

#[allow(clippy::cast_precision_loss)] // Sizes stay far below 2^52.
fn share(ours: u64, theirs: u64) -> f64 {
    ours as f64 / theirs as f64
}

fn of<T>(pairs: &[(Kind, T)], wanted: Kind) -> Result<&T> {
    let found = pairs.iter().find(|(kind, _)| *kind == wanted);
    found.map(|(_, value)| value).with_context(|| format!("nothing was measured of {wanted:?}"))
}

fn program(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours => "leader-agent",
        Kind::ClientGo => "client-go",
    }
}

/// The section's text.
pub(super) fn text(machine: &str, measured: &Measured) -> Result<String> {
    let loaded = measured.load.as_ref().map_or_else(|| Ok("Not measured in this run.".to_owned()), many_ids)?;
    Ok(format!(
        "Repeat it with `cargo xtask bench election`, as root on a machine that does nothing else. The numbers here are of\n{machine}\n\n\
         {}\n\
         The rival is `tests/go/candidate`: client-go {}'s leader election with its usual 15 s, 10 s and 2 s and release on cancel, on the small client for leases alone \
         and built without debug information; it does nothing but run a command while leading. Ours is the agent as released (`Dockerfile.agent`), with its lease of 15 s. \
         Both run the same app, on the same API server, each candidate as PID 1 of a PID namespace with a service account of its own; both programs' candidates are there at the \
         same time. Nobody's app ever ran beside another one's.\n\n\
         ### At rest\n\n\
         {CANDIDATES} candidates of each for {} s; of the two standbys the costlier. Memory is `VmRSS` of proc_pid_status(5), of our agent and (after the +) of its stub, and \
         `Pss` of smaps_rollup, of all the candidate's processes together: in it a page that several processes have in memory is divided among them. Agent and stub share most of theirs, and so do the candidates \
         of one program on one machine. Requests are counted in the API server's audit log.\n\n{}\n\
         ### Moves\n\n\
         Hand-over: the leader is asked to end, as by the kubelet; from the API server's receipt of its release to the first instruction of the successor's app. Fail-over: the leader and \
         its app are killed; from the receipt of its last renewal to that instruction, {GROUPS} Leases of each program at a time. The candidates are processes and no pods, so that no kubelet reports their end and L is waited for, as it is with client-go everywhere; pods whose end is reported are followed in about a second (docs/services.md). \
         Each trial begins at a random moment of the renewal period. \
         `without the app` is from the old app's last sign of life to the new one's first.\n\n{}\n\
         ### Many ids\n\n\
         {loaded}",
        goals(measured)?,
        client_go_version(),
        measured.extent.steady.as_secs(),
        at_rest(&measured.costs),
        moves(measured)?,
    ))
}

/// What one process with many candidates showed.
fn many_ids(load: &Load) -> Result<String> {
    let number = |pointer: &str| -> Result<f64> {
        let value = load.report.pointer(pointer).and_then(serde_json::Value::as_f64);
        value.with_context(|| format!("no {pointer} in {}", load.report))
    };
    let processors = PARTS
        .iter()
        .map(|part| Ok(format!("{part} {:.2}", number(&format!("/processors/{part}"))?)))
        .collect::<Result<Vec<_>>>()?;
    let renewals = number("/renewals/count")? / number("/seconds")?;
    let loaded = table(&[
        [
            "ids",
            "candidates",
            "requests per second",
            "renewals per second",
            "processors used",
            "renewal p50",
            "p99",
            "longest",
            "failed",
        ]
        .map(str::to_owned)
        .to_vec(),
        vec![
            load.report["ids"].to_string(),
            load.report["candidates"].to_string(),
            format!("{:.1}", load.requests),
            format!("{renewals:.1}"),
            processors.join(", "),
            micros(number("/renewals/p50Micros")?),
            micros(number("/renewals/p99Micros")?),
            micros(number("/renewals/longestMicros")?),
            load.report["renewals"]["failed"].to_string(),
        ],
    ]);
    Ok(format!(
        "One process with the elector and the lease client of the agent for each candidate, each with connections of its own as in a pod ({:.2} of a processor used by that process), on the \
         processors that API server and etcd have too; for {:.0} s after all ids have a leader. {} terms began in all, of {} ids.\n\n{loaded}",
        number("/ownProcessors")?,
        number("/seconds")?,
        load.report["termsBegun"],
        load.report["ids"],
    ))
}

fn goals(measured: &Measured) -> Result<String> {
    let (ours, theirs) = (of(&measured.costs, Kind::Ours)?, of(&measured.costs, Kind::ClientGo)?);
    let hand_over = |kind| Times::of(of(&measured.hand_overs, kind)?, |outcome| outcome.since_last_write);
    let (ours_hand_over, their_hand_over) = (hand_over(Kind::Ours)?, hand_over(Kind::ClientGo)?);
    let fail_over = Times::of(of(&measured.fail_overs, Kind::Ours)?, |outcome| outcome.since_last_write)?;
    let faster = their_hand_over.at(50).as_secs_f64() / ours_hand_over.at(50).as_secs_f64();
    let row = |what: &str, goal: String, measured: String, met: bool| {
        vec![what.to_owned(), goal, measured, if met { "yes" } else { "**no**" }.to_owned()]
    };
    let quarter = |what: &str, ours: u64, theirs: u64| {
        let share = share(ours, theirs);
        row(what, format!("at most {SHARE} of client-go's"), format!("{share:.2}"), share <= SHARE)
    };
    Ok(table(&[
        ["goal", "", "measured", "met"].map(str::to_owned).to_vec(),
        quarter("binary", ours.binary, theirs.binary),
        quarter("resident memory of the leader's agent", ours.leader.resident, theirs.leader.resident),
        quarter("resident memory of a standby's agent", ours.standby.resident, theirs.standby.resident),
        quarter(
            "proportional memory of the leader, stub included",
            ours.leader.proportional,
            theirs.leader.proportional,
        ),
        quarter(
            "proportional memory of a standby, stub included",
            ours.standby.proportional,
            theirs.standby.proportional,
        ),
        row(
            "requests of a standby at rest",
            "none".to_owned(),
            format!("{:.2} per second", ours.standby.requests),
            ours.standby.requests == 0.0,
        ),
        row(
            "hand-over, median",
            format!("less than {}", milliseconds(HAND_OVER)),
            milliseconds(ours_hand_over.at(50)),
            ours_hand_over.at(50) < HAND_OVER,
        ),
        row(
            "hand-over, median against client-go's",
            format!("at least {FASTER} times faster"),
            format!("{faster:.0} times"),
            faster >= FASTER,
        ),
        row(
            "fail-over after the last renewal, longest",
            format!("at most {}", milliseconds(LEASE + LATE)),
            milliseconds(fail_over.at(100)),
            fail_over.at(100) <= LEASE + LATE,
        ),
    ]))
}

fn at_rest(costs: &[(Kind, Costs)]) -> String {
    let head = ["program", "binary", "role", "resident", "proportional", "requests per second"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (kind, Costs { binary, leader, standby }) in costs {
        for (role, Cost { resident, beside, proportional, requests }) in [("leader", leader), ("standby", standby)] {
            rows.push(vec![
                program(*kind).to_owned(),
                megabytes(*binary),
                role.to_owned(),
                if *beside == 0 {
                    megabytes(*resident)
                } else {
                    format!("{} + {}", megabytes(*resident), megabytes(*beside))
                },
                megabytes(*proportional),
                format!("{requests:.2}"),
            ]);
        }
    }
    table(&rows)
}

fn moves(measured: &Measured) -> Result<String> {
    let mut rows = vec![["", "trials", "shortest", "median", "90%", "longest"].map(str::to_owned).to_vec()];
    for (what, all) in [("hand-over", &measured.hand_overs), ("fail-over", &measured.fail_overs)] {
        for (kind, outcomes) in all {
            let name = program(*kind);
            rows.push(Times::of(outcomes, |outcome| outcome.since_last_write)?.row(&format!("{what}, {name}")));
            rows.push(
                Times::of(outcomes, |outcome| outcome.without_app)?.row(&format!("{what}, {name}: without the app")),
            );
        }
    }
    Ok(table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_order() {
        let outcomes: Vec<_> = [40_u64, 10, 1500, 20]
            .into_iter()
            .map(|millis| Outcome {
                since_last_write: Duration::from_millis(millis),
                without_app: Duration::from_millis(millis + 1),
            })
            .collect();
        let times = Times::of(&outcomes, |outcome| outcome.since_last_write).unwrap();
        assert_eq!(times.row("a"), ["a", "4", "10.0 ms", "40.0 ms", "1.50 s", "1.50 s"]);
        assert!(Times::of(&[], |outcome| outcome.without_app).is_err());
    }
}
