//! The elector in a small world, in every state that it can reach: two candidates, one Lease, and a few faults anywhere.
//!
//! Between faults every message arrives before time passes, in every order that makes a difference; a fault holds one back, to come
//! at any later moment or never, stops, kills or restarts a process, or changes the Lease. The clock jumps to what happens next. So
//! this walks through all placements of so many faults, where the simulation draws from many more kinds by chance.

mod people;
mod state;

use std::time::{Duration, Instant};

use leader_agent::{
    elector::Role,
    mutant::{self, Mutant},
    timing::Timing,
};
use stateright::{Checker, Model, Property};

use crate::state::{Load, START, State};

const SAFE: &str = "no rule is broken, and never are there two apps";

/// What may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A message arrives.
    Deliver(usize),
    /// A fault: a message is late, or lost.
    Hold(usize),
    /// Nothing is under way, and time passes until something happens by itself.
    Pass,
    Crash(usize),
    /// A crash, and a start of the same container.
    Restart(usize),
    Pause(usize),
    Resume(usize),
    Delete,
    Empty,
    HandTo(usize),
    /// The present holder is asked to give leadership away.
    AskToStepDown,
    /// The same, to the other candidate.
    AskToTransfer,
    /// A controller has seen that the holder's container has ended, and frees its Lease.
    Free,
}

struct World {
    timing: Timing,
    /// Faults beside the one that it may begin with.
    faults: u8,
    /// Nothing is looked at after this.
    until: Duration,
    /// The first leader is gone for good, and nobody is paused: somebody else leads in the end.
    begins_with_a_crash: bool,
    mutant: Option<Mutant>,
}

impl World {
    fn new(faults: u8, periods: f64) -> Self {
        let timing = Timing::new(Duration::from_secs(5), None, false).expect("fits");
        let until = START + timing.lease().mul_f64(periods);
        Self { timing, faults, until, begins_with_a_crash: false, mutant: None }
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        mutant::choose(self.mutant);
        let mut state = State::new(self.timing, self.faults);
        // Ann's first write arrives first.
        while !state.messages.is_empty() {
            state.deliver(0, self.timing);
        }
        if self.begins_with_a_crash {
            state.crash(0, false);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let arrives = |&index: &usize| {
            let message = &state.messages[index];
            let node = &state.nodes[message.node];
            // A watch keeps its order.
            let first = !matches!(message.load, Load::Watched { .. })
                || !state.messages[..index]
                    .iter()
                    .any(|other| other.node == message.node && matches!(other.load, Load::Watched { .. }));
            let to_server = matches!(message.load, Load::Write { .. } | Load::Read { .. });
            first && (to_server || !node.paused)
        };
        let ready: Vec<usize> = (0..state.messages.len()).filter(arrives).collect();
        let (held, fresh): (Vec<usize>, Vec<usize>) = ready.into_iter().partition(|&index| state.messages[index].held);
        if !fresh.is_empty() {
            // What goes to different candidates makes no difference in its order; what goes to the server does.
            let to_node = |&index: &usize| match state.messages[index].load {
                Load::Write { .. } | Load::Read { .. } => None,
                _ => Some(state.messages[index].node),
            };
            let first = fresh.iter().filter_map(to_node).min();
            actions.extend(fresh.iter().filter(|index| to_node(index) == first).map(|&index| Step::Deliver(index)));
            if state.faults_left > 0 {
                actions.extend(fresh.iter().map(|&index| Step::Hold(index)));
            }
            return;
        }
        actions.push(Step::Pass);
        actions.extend(held.into_iter().map(Step::Deliver));
        let nodes = || (0..state.nodes.len()).filter(|&n| !state.nodes[n].dead && state.nodes[n].dead_at.is_none());
        actions.extend(nodes().filter(|&n| state.nodes[n].paused).map(Step::Resume));
        if state.may_be_freed() {
            actions.push(Step::Free);
        }
        if state.faults_left == 0 {
            return;
        }
        actions.extend([Step::Delete, Step::Empty, Step::AskToStepDown, Step::AskToTransfer]);
        actions.extend((0..state.nodes.len()).map(Step::HandTo));
        if !self.begins_with_a_crash {
            actions.extend(nodes().flat_map(|n| [Step::Crash(n), Step::Restart(n)]));
            actions.extend(nodes().filter(|&n| !state.nodes[n].paused).map(Step::Pause));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        mutant::choose(self.mutant);
        let mut state = last.clone();
        if !matches!(step, Step::Deliver(_) | Step::Pass | Step::Resume(_) | Step::Free) {
            state.faults_left -= 1;
        }
        match step {
            Step::Deliver(index) => state.deliver(index, self.timing),
            Step::Hold(index) => state.messages[index].held = true,
            Step::Pass => state.pass(self.timing),
            Step::Crash(n) => state.crash(n, false),
            Step::Restart(n) => state.crash(n, true),
            Step::Pause(n) => state.nodes[n].paused = true,
            Step::Resume(n) => state.resume(n, self.timing),
            Step::Delete => state.delete(),
            Step::Empty => state.edit_holder(""),
            Step::HandTo(n) => state.edit_holder(["ann", "ben"][n]),
            Step::AskToStepDown => state.ask_to_step_down(false),
            Step::AskToTransfer => state.ask_to_step_down(true),
            Step::Free => state.free(),
        }
        // What nobody will receive makes no difference.
        let nodes = &state.nodes;
        state.messages.retain(|message| {
            let to_server = matches!(message.load, Load::Write { .. } | Load::Read { .. });
            let node = &nodes[message.node];
            to_server || node.dead_at.is_none()
        });
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SAFE, |_: &Self, state: &State| state.broken.is_none()),
            Property::sometimes("another one takes over", |_: &Self, state: &State| state.starts > 1),
        ];
        if self.begins_with_a_crash {
            // Bounded, so that it is exact: `eventually` would miss paths that meet.
            properties.push(Property::always("at the end somebody leads again", |model: &Self, state: &State| {
                state.now < model.until || state.starts > 1
            }));
        } else {
            properties.extend([
                Property::sometimes("the leader brings a lost Lease back", |_: &Self, state: &State| {
                    state.recreated && state.starts == 1 && state.nodes[0].elector.role() == Role::Leader
                }),
                Property::sometimes("a stopped leader is killed by its guard", |_: &Self, state: &State| {
                    state.killed_by_guard
                }),
                Property::sometimes("a restarted leader takes its term up again", |_: &Self, state: &State| {
                    state.starts == 2 && state.lease.as_ref().is_some_and(|record| record.transitions == 1)
                }),
                Property::sometimes("leadership is given away in good order", |_: &Self, state: &State| {
                    state.given_away && state.starts > 1
                }),
                Property::sometimes("a freed Lease is taken before its time", |model: &Self, state: &State| {
                    state.freed && state.starts > 1 && state.now < START + model.timing.lease()
                }),
                Property::sometimes("nobody leads", |_: &Self, state: &State| {
                    state.nodes.iter().all(|node| node.app.is_none())
                }),
            ]);
        }
        properties
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now <= self.until
    }
}

fn is_long() -> bool {
    std::env::var("LEADER_TESTS_LONG").is_ok_and(|value| value == "1")
}

fn check(model: World, name: &str) {
    let began = Instant::now();
    let (faults, lease) = (model.faults, model.timing.lease());
    let until = model.until;
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them different, {faults} faults, {until:?} with L = {lease:?}, in {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        began.elapsed(),
    );
    checker.assert_properties();
}

/// How many faults: `MODEL_FAULTS`, or `usual`, or one more in a long run.
fn faults(usual: u8) -> u8 {
    let given = std::env::var("MODEL_FAULTS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(usual + u8::from(is_long()))
}

#[test]
fn no_placement_of_a_fault_breaks_a_rule() {
    check(World::new(faults(1), 2.2), "safety");
}

#[test]
fn no_placement_of_two_faults_in_the_first_lease_breaks_a_rule() {
    check(World::new(faults(2), 1.2), "safety, short");
}

#[test]
fn after_a_crash_somebody_leads_whatever_is_lost() {
    let model = World { begins_with_a_crash: true, ..World::new(faults(1), 3.0) };
    check(model, "take-over");
}

/// The model bites: without the margin, or where an empty Lease is free, it finds two apps.
#[test]
fn mistakes_are_found() {
    for mutant in [
        Mutant::NoMargin,
        Mutant::EmptyIsFree,
        Mutant::StandbyCreatesHeld,
        Mutant::LeadsOnOwnName,
        Mutant::ReleasesAtStop,
    ] {
        let model = World { mutant: Some(mutant), ..World::new(1, 1.6) };
        let checker = model.checker().threads(2).spawn_bfs().join();
        println!("{mutant:?}: {} states", checker.unique_state_count());
        assert!(checker.discovery(SAFE).is_some(), "{mutant:?} is not found");
    }
}
