//! The length of the kill chain, from the deadline to the app's last instruction, under limits of the processor, against the margin.

use std::{env, time::Duration};

use leader_agent::timing::{CLOCK_RATES, Timing};
use libtest_mimic::{Failed, Trial};

use crate::{
    cgroup::Cgroup,
    stage::{Place, Stage, me},
};

/// The kernel's own period, in microseconds.
const PERIOD: u32 = 100_000;
/// Limits, in thousandths of a processor, with the numbers of busy processes that are always tried.
const TRIED: [(u32, &[usize]); 4] = [(2000, &[2, 164]), (1000, &[2, 51]), (100, &[2, 51]), (10, &[2, 9])];
/// With `LEADER_TESTS_LONG=1` all limits are tried with all of these, as often as [`ROUNDS`]; below [`LONG_ONLY`] only then, because
/// there a turn of each process is seconds away, and a few of those turns are the whole margin.
const ALL: [usize; 4] = [2, 9, 51, 164];
const ROUNDS: usize = 5;
const LONG_ONLY: u32 = 100;

/// A trial for each limit, where control groups are to be had.
pub(crate) fn trials(root: bool) -> Vec<Trial> {
    let possible = root && Cgroup::new("cpu").is_some();
    let long = env::var_os("LEADER_TESTS_LONG").is_some_and(|value| value == "1");
    let trial = |(limit, processes): (u32, &'static [usize])| {
        let name = format!("quota::the_kill_chain_is_within_the_margin_at_{limit}m");
        let run = move || {
            let (processes, rounds) = if long { (&ALL[..], ROUNDS) } else { (processes, 1) };
            for &count in processes {
                (0..rounds).for_each(|_| measure(limit, count));
            }
            Ok::<(), Failed>(())
        };
        Trial::test(name, run).with_ignored_flag(!possible || (limit < LONG_ONLY && !long))
    };
    TRIED.map(trial).into()
}

/// One container whose agent watches its own timer, as it does at work, until the deadline ends it.
fn measure(limit: u32, count: usize) {
    let group = Cgroup::new("cpu").expect("a control group");
    let script = format!("arm=60000 start beats={count} arm=4000 lateness=250");
    let play =
        Stage::new(Place::Namespace).through(&group.entrance()).play(&script, &[me(), "busy", &count.to_string()]);
    // Only now: under the limit the start alone would take minutes.
    play.word("watching");
    group.write("cpu.cfs_period_us", &PERIOD.to_string());
    group.write("cpu.cfs_quota_us", &(limit * PERIOD / 1000).to_string());
    let deadline = play.moment("deadline");
    let last = play.all_dead();
    let late = last.iter().max().expect("one").saturating_sub(deadline);
    let timer = if play.text().contains("late ") { play.moment("late") } else { Duration::ZERO };
    let timing = Timing::default().with_starved(limit < 1000);
    // There is one clock here.
    let room = timing.margin_with(timer).saturating_sub(timing.lease().mul_f64(CLOCK_RATES));
    eprintln!(
        "{limit}m, {count} busy processes: {late:?} from the deadline to the last instruction; the timer was late by {timer:?}, the margin has room for {room:?}"
    );
    assert_eq!(last.len(), count);
    assert!(late < room, "{limit}m, {count} busy processes: {late:?} is more than {room:?}");
}
