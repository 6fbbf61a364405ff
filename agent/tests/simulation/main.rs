//! The elector under a deterministic simulation: three candidates and one Lease on one virtual time, driven by a seed through
//! crashes, pauses, cuts, lost messages, edits and deletions, with every promise checked at every step.
//!
//! `SIMULATION_SCHEDULES=100000` runs more schedules, `SIMULATION_FIRST=5000` other ones, `SIMULATION_SEED=42` tells the story of one.

mod driver;
mod fault;
mod machine;
mod network;
mod store;
mod stories;
mod trouble;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::{fault::Plan, world::World};

const SCHEDULES: u64 = 3000;
/// Reconnecting watches, restarts and the last requests of the faulty time.
const SETTLING: Duration = Duration::from_secs(10);

#[test]
fn schedules() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let (story, broken) = tell(seed);
        println!("{story}");
        assert_eq!(broken, None, "seed {seed}");
        return;
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let last = first + number("SIMULATION_SCHEDULES").unwrap_or(SCHEDULES);
    let (next, found) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let (starts, takeovers) = (AtomicU64::new(0), AtomicU64::new(0));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last.min(found.load(Ordering::Relaxed)) {
                        break;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| run(&fault::plan(seed), seed, false)));
                    if result.as_ref().map_or(true, |world| world.broken.is_some()) {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                    if let Ok(world) = result {
                        starts.fetch_add(u64::from(world.starts), Ordering::Relaxed);
                        takeovers.fetch_add(u64::from(world.starts.saturating_sub(1)), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seed = found.into_inner();
    if seed != u64::MAX {
        let (story, broken) = tell(seed);
        println!("{story}");
        panic!("seed {seed}: {}; again with SIMULATION_SEED={seed}", broken.unwrap_or_else(|| "a panic".into()));
    }
    println!("{} schedules, {} apps started", last - first, starts.into_inner());
    // Schedules in which nothing happens would prove nothing.
    assert!(takeovers.into_inner() > (last - first) / 2, "leadership hardly ever moved");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number: give one such as 42")))
}

/// The story of one seed, and the rule that it breaks.
fn tell(seed: u64) -> (String, Option<String>) {
    let plan = fault::plan(seed);
    let mut story = format!("{plan:#?}\n");
    let world = run(&plan, seed, true);
    story.push_str(world.story());
    (story, world.broken)
}

/// Plays one schedule to its end: faults, calm, and some time of it.
fn run(plan: &Plan, seed: u64, told: bool) -> World {
    let mut world = World::new(plan, seed, told);
    world.run(plan.calm, |_| false);
    if world.broken.is_some() || plan.hopeless_clock {
        return world;
    }
    // Somebody who steps down lets others go first, and a machine that was late recovers within a minute.
    let bound = plan.calm + plan.longest_wait * 3 + SETTLING + world.recovery;
    world.run(bound, |world| world.calm.is_some() && !world.alive().is_empty());
    if world.alive().is_empty() {
        let waited = world.now.saturating_sub(plan.calm);
        world.fail(0, format!("nobody leads {waited:?} after the last fault"));
        return world;
    }
    if seed.is_multiple_of(4) && world.recovery.is_zero() {
        // The kubelet waits for up to four L for an app that ignores its signal.
        let settled = world.now + plan.longest_wait * 7 + SETTLING;
        world.run(settled, |_| false);
        world.quiet = true;
        world.run(settled + plan.longest_wait, |_| false);
        if world.alive().len() != 1 {
            world.fail(0, "nobody leads in a quiet world".into());
        }
    }
    world
}
