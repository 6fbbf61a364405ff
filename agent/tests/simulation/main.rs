//! The elector under a deterministic simulation: three to seven candidates and one Lease on one virtual time, driven by a seed
//! through crashes, pauses, cuts, lost, late and doubled messages, edits, deletions and a rival of another program, with every
//! promise checked at every step; and the proof that it bites: mistakes made on purpose, each found.
//!
//! `SIMULATION_SCHEDULES=100000` runs more schedules, `SIMULATION_FIRST=5000` other ones, `SIMULATION_SEED=42` tells the story
//! of one, `LEADER_TESTS_LONG=1` runs a million.

mod driver;
mod fault;
mod freeing;
mod machine;
mod mutants;
mod network;
mod plan;
mod play;
mod queue;
mod rival;
mod rules;
mod steering;
mod store;
mod stories;
mod trouble;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use crate::play::{Options, play, tell};

const SCHEDULES: u64 = 20_000;
const LONG_SCHEDULES: u64 = 1_000_000;

/// What all schedules together did.
#[derive(Debug, Default)]
struct Sum {
    starts: AtomicU64,
    takeovers: AtomicU64,
    steps: AtomicU64,
    rival_overlaps: AtomicU64,
    freed: AtomicU64,
}

#[test]
fn schedules() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let (story, broken) = tell(seed);
        println!("{story}");
        assert_eq!(broken, None, "seed {seed}");
        return;
    }
    let count = number("SIMULATION_SCHEDULES").unwrap_or(if is_long() { LONG_SCHEDULES } else { SCHEDULES });
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let last = first + count;
    let (next, found) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let (sum, began) = (Sum::default(), Instant::now());
    workers(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last.min(found.load(Ordering::Relaxed)) {
                break;
            }
            let result = catch_unwind(AssertUnwindSafe(|| play(&plan::plan(seed), seed, Options::default())));
            if result.as_ref().map_or(true, |world| world.broken.is_some()) {
                found.fetch_min(seed, Ordering::Relaxed);
            }
            if let Ok(world) = result {
                sum.starts.fetch_add(u64::from(world.starts), Ordering::Relaxed);
                sum.takeovers.fetch_add(u64::from(world.starts.saturating_sub(1)), Ordering::Relaxed);
                sum.steps.fetch_add(world.steps, Ordering::Relaxed);
                sum.rival_overlaps.fetch_add(u64::from(world.rival_overlaps), Ordering::Relaxed);
                sum.freed.fetch_add(u64::from(world.freed), Ordering::Relaxed);
            }
        }
    });
    let seed = found.into_inner();
    if seed != u64::MAX {
        let (story, broken) = tell(seed);
        println!("{story}");
        panic!("seed {seed}: {}; again with SIMULATION_SEED={seed}", broken.unwrap_or_else(|| "a panic".into()));
    }
    println!("{count} schedules in {:?}: {sum:?}", began.elapsed());
    // Schedules in which nothing happens would prove nothing.
    assert!(sum.takeovers.into_inner() > count / 2, "leadership hardly ever moved");
    assert!(sum.freed.into_inner() > count / 200, "hardly ever was a Lease freed");
}

/// The controller's rules are needed: without one of them it frees a Lease whose app runs.
#[test]
fn mistakes_of_the_controller_are_found() {
    for rules in [freeing::Rules::Blind, freeing::Rules::AnyStart] {
        let found = AtomicU64::new(u64::MAX);
        let next = AtomicU64::new(0);
        workers(|| {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SCHEDULES.min(found.load(Ordering::Relaxed)) {
                    break;
                }
                let mut plan = plan::plan(seed);
                if plan.frees.is_some() {
                    plan.frees = Some(rules);
                    if play(&plan, seed, Options::default()).broken.is_some() {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            }
        });
        let seed = found.into_inner();
        println!("{rules:?}: found by schedule {seed}");
        assert!(seed < SCHEDULES, "{rules:?} is not found");
    }
}

/// Runs `work` on as many threads as there are processors.
fn workers(work: impl Fn() + Sync) {
    let count = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(&work);
        }
    });
}

fn is_long() -> bool {
    std::env::var("LEADER_TESTS_LONG").is_ok_and(|value| value == "1")
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number: give one such as 42")))
}
