//! Plays one schedule from its faults to the calm after them, and what must follow then.

use std::time::Duration;

use crate::{
    fault::{Fault, Who},
    machine::Comeback,
    plan::{self, Plan},
    world::World,
};

/// Reconnecting watches, restarts and the last requests of the faulty time.
const SETTLING: Duration = Duration::from_secs(10);

/// What a schedule is played for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Keep its story.
    pub told: bool,
    /// Only two apps at a time count as broken.
    pub only_promise: bool,
}

/// The story of one seed, and the rule that it breaks.
pub(crate) fn tell(seed: u64) -> (String, Option<String>) {
    let plan = plan::plan(seed);
    let mut story = format!("{plan:#?}\n");
    let world = play(&plan, seed, Options { told: true, ..Options::default() });
    story.push_str(world.story());
    (story, world.broken)
}

/// Plays `plan` to its end.
pub(crate) fn play(plan: &Plan, seed: u64, options: Options) -> World {
    let mut world = World::new(plan, seed, options.told);
    world.only_promise = options.only_promise;
    world.run(plan.calm, |_| false);
    if world.broken.is_some() || plan.hopeless_clock {
        return world;
    }
    // Somebody who steps down lets others go first, and a machine that was late recovers within a minute.
    let bound = plan.longest_wait * 3 + SETTLING;
    let led = |world: &World| world.is_led() || world.rival.as_ref().is_some_and(|rival| rival.app);
    world.run(plan.calm + bound + world.recovery, |world| world.calm.is_some() && led(world));
    if !led(&world) {
        let waited = world.now.saturating_sub(plan.calm);
        world.fail(0, format!("nobody leads {waited:?} after the last fault"));
    }
    if world.broken.is_some() || world.rival.is_some() || !world.recovery.is_zero() {
        return world;
    }
    match seed % 8 {
        0 => stay_quiet(&mut world, plan),
        1 => hand_over(&mut world, plan, bound),
        _ => {}
    }
    world
}

/// Where nothing happens, the leader renews and nobody else does anything.
fn stay_quiet(world: &mut World, plan: &Plan) {
    // The kubelet waits for up to four L for an app that ignores its signal.
    let settled = world.now + plan.longest_wait * 7 + SETTLING;
    world.run(settled, |_| false);
    world.quiet = true;
    world.run(settled + plan.longest_wait, |_| false);
    if world.alive().len() != 1 {
        world.fail(0, "nobody leads in a quiet world");
    }
}

/// A leader that is asked to end has a successor, and keeps the Lease for as long as its app takes to end.
fn hand_over(world: &mut World, plan: &Plan, bound: Duration) {
    world.run(world.now + plan.longest_wait * 2, |_| false);
    world.run(world.now + bound, World::is_led);
    let patience = plan.longest_wait * 4;
    let starts = world.starts;
    world.apply(Fault::Shutdown { who: Who::Leader, patience, comeback: Comeback::NewPod });
    world.run(world.now + patience + bound, |world| world.starts > starts);
    if world.starts == starts {
        world.fail(0, "nobody leads after a planned hand-over");
    }
}
