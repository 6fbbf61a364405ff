//! One Lease, both programs: what our agent and a client-go candidate write, record by record, and what each makes of the other's.
//!
//! Promise 1 is among our agents. Where a candidate of client-go takes part, these tests hold it to what follows from both programs'
//! rules: it takes no Lease that our agent renews, and none that ran out before our app was dead.

use std::fs;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use leader_agent::lease::record::Record;
use leader_ledger::overlap::overlaps;
use leader_tests::kit::{Namespace, Rival, RivalOptions};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::stage::{PATIENCE, Stage, until};
use crate::workload::Workload;
use crate::writer::Writer;

/// client-go's usual lease, in seconds.
const RIVALS_LEASE: i64 = 15;
/// Our agents' here, in seconds.
const OUR_LEASE: i64 = 5;
const RIVAL: &str = "rival";
/// The fields in which client-go keeps an election.
const FIELDS: [&str; 5] = ["acquireTime", "holderIdentity", "leaseDurationSeconds", "leaseTransitions", "renewTime"];

/// Every state of one Lease since the first look, in order.
struct Records {
    file: NamedTempFile,
    kubectl: Child,
}

/// One state of a Lease.
#[derive(Clone, Debug)]
struct Written {
    holder: String,
    transitions: i64,
    seconds: i64,
    acquired: Option<Timestamp>,
    renewed: Option<Timestamp>,
    object: Value,
}

impl Records {
    fn watch(namespace: &Namespace<'_>, lease: &str) -> Result<Self> {
        let file = NamedTempFile::new()?;
        let name = format!("--field-selector=metadata.name={lease}");
        let tool = namespace.kubectl(&["get", "leases", &name, "--watch", "-o", "json"]);
        let kubectl = tool.into_command().stdin(Stdio::null()).stdout(file.reopen()?).spawn()?;
        let records = Self { file, kubectl };
        until("the first state of the Lease", || {
            ensure!(!records.all()?.is_empty(), "none yet");
            Ok(())
        })?;
        Ok(records)
    }

    fn all(&self) -> Result<Vec<Written>> {
        let text = fs::read_to_string(self.file.path())?;
        // The last one may be half written.
        let objects = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok);
        objects.map(|object| Written::read(object).with_context(|| format!("among {text}"))).collect()
    }

    /// Waits until the Lease was in a state that matches, and gives the last such state.
    fn wait_for(&self, what: &str, matches: impl Fn(&Written) -> bool) -> Result<Written> {
        until(what, || {
            let all = self.all()?;
            all.iter().rev().find(|written| matches(written)).cloned().with_context(|| format!("{all:#?}"))
        })
    }

    /// Waits for a state that matches `to` after one that matches `from`, and gives these and all between them, the first of each.
    fn span(&self, from: impl Fn(&Written) -> bool, to: impl Fn(&Written) -> bool) -> Result<Vec<Written>> {
        until("the records of a move", || {
            let all = self.all()?;
            let start = all.iter().position(&from).with_context(|| format!("no first state among {all:#?}"))?;
            let length = all[start..].iter().position(&to).with_context(|| format!("no last state among {all:#?}"))?;
            Ok(all[start..=start + length].to_vec())
        })
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

impl Written {
    fn read(object: Value) -> Result<Self> {
        let spec = &object["spec"];
        let time = |name: &str| -> Result<Option<Timestamp>> {
            let Some(text) = spec[name].as_str() else { return Ok(None) };
            let digits = text.rsplit_once('.').and_then(|(_, fraction)| fraction.strip_suffix('Z'));
            ensure!(digits.is_some_and(|digits| digits.len() == 6), "{name} is no MicroTime: {text:?}");
            Ok(Some(text.parse()?))
        };
        Ok(Self {
            holder: spec["holderIdentity"].as_str().unwrap_or_default().to_owned(),
            transitions: spec["leaseTransitions"].as_i64().unwrap_or_default(),
            seconds: spec["leaseDurationSeconds"].as_i64().unwrap_or_default(),
            acquired: time("acquireTime")?,
            renewed: time("renewTime")?,
            object,
        })
    }

    fn is_held_by(&self, holder: &str) -> bool {
        self.holder == holder
    }

    fn is_empty(&self) -> bool {
        self.holder.is_empty()
    }

    fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<_> =
            self.object["spec"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        fields.sort_unstable();
        fields
    }

    /// Whether our agents take it for released.
    fn is_released_to_us(&self) -> Result<bool> {
        Ok(Record::parse(self.object.clone())?.is_free())
    }

    fn renewed_at(&self) -> Result<Timestamp> {
        self.renewed.with_context(|| format!("no renewTime in {self:?}"))
    }
}

/// A term that begins with its first record: acquired now, one transition more, all fields there.
fn ensure_taken(taken: &Written, holder: &str, transitions: i64, seconds: i64) -> Result<()> {
    ensure!(taken.is_held_by(holder) && taken.transitions == transitions && taken.seconds == seconds, "{taken:#?}");
    ensure!(taken.acquired.is_some() && taken.acquired == taken.renewed, "{taken:#?}");
    let fields = taken.fields();
    ensure!(FIELDS.iter().all(|field| fields.contains(field)), "{fields:?}");
    Ok(())
}

/// A release keeps the transitions, and lasts one second in which nobody is the holder.
fn ensure_released(released: &Written, transitions: i64) -> Result<()> {
    ensure!(released.is_empty() && released.transitions == transitions && released.seconds == 1, "{released:#?}");
    Ok(())
}

/// `later` came at least this long after `earlier`, by the wall clock that wrote both: 1% less, for what adjusts that clock.
fn ensure_apart(earlier: Timestamp, later: Timestamp, seconds: i64) -> Result<()> {
    let apart = later.as_millisecond() - earlier.as_millisecond();
    ensure!(apart >= seconds * 990, "only {apart} ms from {earlier} to {later}: less than {seconds} s");
    Ok(())
}

/// Nobody ran beside anybody: neither ours nor the rival's.
fn ensure_alone(workload: &Workload<'_>, at_least: usize) -> Result<()> {
    workload.never_two(1)?;
    let runs = workload.runs()?;
    ensure!(runs.len() >= at_least, "only {} of {at_least} runs left stamps: {runs:#?}", runs.len());
    let both = overlaps(&runs).unelected;
    ensure!(both.is_empty(), "the rival ran beside our app: {both:#?}");
    Ok(())
}

fn holder(workload: &Workload<'_>) -> Result<String> {
    let lease = workload.lease()?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned).with_context(|| format!("no holder: {lease:#}"))
}

fn scale(workload: &Workload<'_>, replicas: u32) -> Result<()> {
    workload.kubectl(&["scale"], &[&format!("--replicas={replicas}")]).map(drop)
}

/// A client-go candidate with the usual durations that leaves its stamps beside those of our writers.
fn rival(stage: &Stage, workload: &Workload<'_>) -> Result<Rival> {
    stage.namespace.rival(&RivalOptions::new(&workload.name, RIVAL).stamps(&workload.stamps))
}

/// Shows what was written when a test fails.
fn told<T>(records: &Records, result: Result<T>) -> Result<T> {
    if result.is_err()
        && let Ok(all) = records.all()
    {
        for Written { holder, transitions, seconds, acquired, renewed, .. } in all {
            eprintln!("{holder:?} {transitions} {seconds} s, acquired {acquired:?}, renewed {renewed:?}");
        }
    }
    result
}

#[test]
fn client_go_waits_for_our_release_and_our_agent_does_not_believe_client_gos() -> Result<()> {
    Stage::test("interop-release", |stage| {
        let workload = stage.start(&Writer::new("handed").replicas(1).elected())?;
        workload.leading()?;
        let ours = holder(&workload)?;
        let records = Records::watch(&stage.namespace, "handed")?;
        told(&records, hand_over_and_back(stage, &workload, &ours, &records))
    })
}

fn hand_over_and_back(stage: &Stage, workload: &Workload<'_>, ours: &str, records: &Records) -> Result<()> {
    let mut rival = rival(stage, workload)?;
    rival.wait_for("new leader", ours, PATIENCE)?;
    let seen = records.all()?.len();
    // It has looked at ours by now, and its next looks fall among these renewals.
    until("ten more renewals", || {
        ensure!(records.all()?.len() >= seen + 10, "not yet");
        Ok(())
    })?;
    let renewals = records.all()?;
    let term = (renewals[0].transitions, renewals[0].acquired);
    for (before, after) in renewals.iter().zip(&renewals[1..]) {
        ensure!(after.is_held_by(ours) && (after.transitions, after.acquired) == term, "{after:#?}");
        ensure!(after.seconds == OUR_LEASE && after.renewed >= before.renewed, "{before:#?}, then {after:#?}");
    }

    // Our release, and the rival on it.
    scale(workload, 0)?;
    rival.wait_for("leading", RIVAL, PATIENCE)?;
    let handed = records.span(Written::is_empty, |written| written.is_held_by(RIVAL))?;
    let [released, taken] = &handed[..] else { anyhow::bail!("not two records: {handed:#?}") };
    ensure_released(released, term.0)?;
    ensure!(released.is_released_to_us()?, "our own release has no proof: {released:#?}");
    ensure_taken(taken, RIVAL, term.0 + 1, RIVALS_LEASE)?;

    // The rival leads, our agent stands by.
    scale(workload, 1)?;
    workload.wait_until_rolled_out()?;
    let after = taken.renewed;
    let renewed = records.wait_for("renewals by the rival", |written| {
        let later =
            written.renewed.zip(after).is_some_and(|(renewed, taken)| renewed.as_second() > taken.as_second() + 5);
        written.is_held_by(RIVAL) && later
    })?;
    ensure!(renewed.transitions == taken.transitions && renewed.acquired == taken.acquired, "{renewed:#?}");

    // The rival's release, which proves nothing to our agent: the wait is the longest that it saw in this term.
    rival.signal(Signal::TERM)?;
    ensure!(rival.ended(PATIENCE)?.success(), "{:?}", rival.events()?);
    let again = |written: &Written| !written.is_empty() && !written.is_held_by(RIVAL) && !written.is_held_by(ours);
    let taken = records.wait_for("our agent's new term", again)?;
    let back = records.all()?;
    let start = back.iter().rposition(Written::is_empty).context("no release by the rival")?;
    let (released, taken) = (&back[start], back.get(start + 1).unwrap_or(&taken));
    ensure_released(released, renewed.transitions)?;
    ensure!(!released.is_released_to_us()?, "an old proof of ours frees another's term: {released:#?}");
    ensure_taken(taken, &taken.holder, renewed.transitions + 1, OUR_LEASE)?;
    ensure_apart(released.renewed_at()?, taken.renewed_at()?, RIVALS_LEASE)?;
    until("the third run", || {
        ensure!(workload.runs()?.len() >= 3, "not yet");
        Ok(())
    })?;
    ensure_alone(workload, 3)
}

#[test]
fn our_agent_waits_until_a_crashed_client_go_leader_has_run_out() -> Result<()> {
    Stage::test("interop-crash", |stage| {
        // Nobody leads yet: the webhook has made the Lease.
        let workload = stage.start(&Writer::new("crashed").replicas(0).elected())?;
        let records = Records::watch(&stage.namespace, "crashed")?;
        told(&records, take_over_from_the_rival(stage, &workload, &records))
    })
}

fn take_over_from_the_rival(stage: &Stage, workload: &Workload<'_>, records: &Records) -> Result<()> {
    let made = records.all()?.first().cloned().context("no Lease")?;
    let mut rival = rival(stage, workload)?;
    // It waits for nobody: an empty Lease is free to client-go.
    rival.wait_for("leading", RIVAL, PATIENCE)?;
    let rivals = |written: &Written| written.is_held_by(RIVAL);
    let taken = records.span(rivals, rivals)?.remove(0);
    ensure_taken(&taken, RIVAL, made.transitions + 1, RIVALS_LEASE)?;
    scale(workload, 1)?;
    workload.wait_until_rolled_out()?;
    let standing_by = records.all()?.len();
    records.wait_for("a renewal beside our standby", |written| {
        written.is_held_by(RIVAL) && records.all().is_ok_and(|all| all.len() > standing_by)
    })?;
    rival.signal(Signal::KILL)?;
    rival.ended(PATIENCE)?;
    workload.leading()?;
    let passed = records.span(rivals, |written| !rivals(written))?;
    let [.., last, taken] = &passed[..] else { anyhow::bail!("too few records: {passed:#?}") };
    ensure!(taken.holder.ends_with("_writer"), "{taken:#?}");
    ensure_taken(taken, &taken.holder, last.transitions + 1, OUR_LEASE)?;
    ensure_apart(last.renewed_at()?, taken.renewed_at()?, RIVALS_LEASE)?;
    ensure_alone(workload, 2)
}

#[test]
fn client_go_takes_over_from_a_cut_off_agent_when_its_app_is_dead_and_our_agent_stands_by_again() -> Result<()> {
    Stage::test("interop-cut", |stage| {
        // client-go compares times in whole seconds, so of two renewals within one it may count from the first. Here are none.
        let workload = stage.start(&Writer::new("severed").replicas(1).lease_seconds(15))?;
        let leader = workload.leading()?.writer.pod;
        let ours = holder(&workload)?;
        let records = Records::watch(&stage.namespace, "severed")?;
        told(&records, take_over_from_ours(stage, &workload, &leader, &ours, &records))
    })
}

fn take_over_from_ours(
    stage: &Stage,
    workload: &Workload<'_>,
    leader: &str,
    ours: &str,
    records: &Records,
) -> Result<()> {
    let mut rival = rival(stage, workload)?;
    rival.wait_for("new leader", ours, PATIENCE)?;
    let cut = stage.namespace.cut_from_api_server(leader)?;
    rival.wait_for("leading", RIVAL, PATIENCE)?;
    let passed = records.span(|written| written.is_held_by(ours), |written| !written.is_held_by(ours))?;
    let [.., last, taken] = &passed[..] else { anyhow::bail!("too few records: {passed:#?}") };
    ensure_taken(taken, RIVAL, last.transitions + 1, RIVALS_LEASE)?;
    ensure_alone(workload, 2)?;

    // Healed, our agent finds a stranger's record and leaves it alone.
    cut.heal()?;
    until("our pod to be ready again", || {
        let ready = workload.ready_pods()?;
        ensure!(ready.len() == 1, "{ready:?} are ready");
        Ok(())
    })?;
    let healed = records.all()?.len();
    until("renewals by the rival beside our standby", || {
        let all = records.all()?;
        ensure!(all.len() >= healed + 3, "{} records", all.len());
        Ok(())
    })?;
    let since = records.all()?.split_off(healed);
    ensure!(
        since.iter().all(|written| written.is_held_by(RIVAL) && written.transitions == taken.transitions),
        "{since:#?}"
    );
    ensure_alone(workload, 2)
}
