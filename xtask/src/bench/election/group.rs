//! Three candidates of one Lease, and what happens to them in a trial.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use leader_ledger::overlap::{Run, overlaps};
use leader_ledger::{clock, stamps};
use leader_tests::kit::Request;
use leader_tests::wait;

use super::accounts::Accounts;
use super::candidate::{Candidate, Kind, Programs};

/// How many candidates a Lease has.
pub(super) const CANDIDATES: usize = 3;
/// An app that left no stamp for this long does not run, in nanoseconds.
const SILENCE: u64 = 1_000_000_000;
/// How long a successor may take: several leases.
const PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks at the stamps.
const LOOK: Duration = Duration::from_millis(20);
/// A trial begins somewhere in the candidates' periods: both programs' leaders renew, and client-go's standbys look, every 2 s or a
/// little more.
const PERIOD: Duration = Duration::from_millis(2400);

/// Candidates of one program for one Lease.
pub(super) struct Group<'a> {
    kind: Kind,
    number: usize,
    accounts: &'a Accounts<'a>,
    programs: &'a Programs,
    stamps: PathBuf,
    candidates: Vec<Candidate>,
}

/// What a trial showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// From the API server's receipt of the old leader's last write to the new app's first instruction.
    pub(super) since_last_write: Duration,
    /// From the old app's last stamp to the new one's first.
    pub(super) without_app: Duration,
}

/// The name of a candidate's account.
pub(super) fn account(kind: Kind, group: usize, candidate: usize) -> String {
    format!("{}-{group}-{candidate}", kind.label())
}

impl<'a> Group<'a> {
    /// Starts the candidates, and waits until one leads and the others know it.
    pub(super) fn start(kind: Kind, number: usize, accounts: &'a Accounts<'a>, programs: &'a Programs) -> Result<Self> {
        let stamps = accounts.folder().join(format!("stamps-{}-{number}", kind.label()));
        fs::create_dir(&stamps).with_context(|| format!("cannot make {}", stamps.display()))?;
        let mut group = Self { kind, number, accounts, programs, stamps, candidates: Vec::new() };
        for candidate in 0..CANDIDATES {
            let candidate = group.candidate(&account(kind, number, candidate))?;
            group.candidates.push(candidate);
        }
        let (leader, _) = group.led_since(0)?;
        group.all_but(leader)?;
        Ok(group)
    }

    fn candidate(&self, account: &str) -> Result<Candidate> {
        let lease = format!("{}-{}", self.kind.label(), self.number);
        Candidate::start(self.kind, account, &lease, &self.stamps, self.accounts, self.programs)
    }

    /// Waits until all candidates but this one stand by.
    fn all_but(&mut self, leader: usize) -> Result<()> {
        let standbys = self.candidates.iter_mut().enumerate().filter(|(index, _)| *index != leader);
        standbys.map(|(_, candidate)| candidate).try_for_each(Candidate::stands_by)
    }

    /// The leader's place among the candidates, and the others.
    pub(super) fn roles(&self) -> Result<(&Candidate, Vec<&Candidate>)> {
        let (leader, _) = self.led_since(0)?;
        let standbys = self.candidates.iter().enumerate().filter(|(index, _)| *index != leader);
        Ok((&self.candidates[leader], standbys.map(|(_, candidate)| candidate).collect()))
    }

    /// The leader is asked to end: its app stops, it releases, another one leads.
    pub(super) fn hand_over(&mut self) -> Result<Outcome> {
        self.trial(Candidate::stop)
    }

    /// The leader and its app are killed: its lease runs out, another one leads.
    pub(super) fn fail_over(&mut self) -> Result<Outcome> {
        self.trial(Candidate::crash)
    }

    fn trial(&mut self, end: impl FnOnce(&Candidate) -> Result<()>) -> Result<Outcome> {
        thread::sleep(PERIOD.mul_f64(fastrand::f64()));
        let (leader, old) = self.led_since(0)?;
        let account = self.candidates[leader].account.clone();
        end(&self.candidates[leader])?;
        let (next, new) = self.led_since(old.first + 1)?;
        self.candidates[leader].ended()?;
        let outcome = self.judge(&account, &old, &new)?;
        self.candidates[leader] = self.candidate(&account)?;
        ensure!(next != leader, "{account} led again although it had ended");
        self.candidates[leader].stands_by()?;
        Ok(outcome)
    }

    fn judge(&self, account: &str, old: &Run, new: &Run) -> Result<Outcome> {
        let runs = self.runs()?;
        let both = overlaps(&runs);
        ensure!(both.elected.is_empty() && both.unelected.is_empty(), "two ran at once: {both:#?}");
        let old = runs.iter().find(|run| run.writer == old.writer).context("the old app's stamps are gone")?;
        let requests = self.accounts.requests(account)?;
        let stored = |request: &&Request| request.verb == "update" && request.code == Some(200);
        let last = requests.iter().rfind(stored).with_context(|| format!("{account} wrote nothing"))?;
        let last: Timestamp = last.time.parse()?;
        let wall_minus_boot = i128::from(clock::wall()) - i128::from(clock::boot()?);
        let since = i128::from(new.first) - (last.as_nanosecond() - wall_minus_boot);
        let since = u64::try_from(since).context("the new app started before the old leader's last write")?;
        Ok(Outcome {
            since_last_write: Duration::from_nanos(since),
            without_app: Duration::from_nanos(new.first.saturating_sub(old.last)),
        })
    }

    /// Waits until the newest app has started at `since` or later, in nanoseconds of the boot clock, and runs.
    fn led_since(&self, since: u64) -> Result<(usize, Run)> {
        let what = format!("a leader of {} {}", self.kind.label(), self.number);
        wait::until(&what, PATIENCE, || {
            // Faster than the pause between two probes: a trial is over when its successor leads.
            for _ in 0..5 {
                if let Some(newest) = self.runs()?.into_iter().next_back().filter(|run| run.first >= since) {
                    ensure!(clock::boot()?.saturating_sub(newest.last) < SILENCE, "{newest:?} is silent");
                    let leader = self.candidates.iter().position(|candidate| candidate.account == newest.writer.pod);
                    return Ok((leader.with_context(|| format!("{newest:?} is nobody's"))?, newest));
                }
                thread::sleep(LOOK);
            }
            anyhow::bail!("nobody leads")
        })
    }

    /// Every app so far, in the order of their first stamps.
    fn runs(&self) -> Result<Vec<Run>> {
        Ok(stamps::read(&self.stamps)?)
    }
}
