//! Mistakes in what only the kernel can see, each made once, and the trial that finds it.

use std::{
    cell::{Cell, RefCell},
    panic,
};

use leader_agent::mutant::Mutant;
use libtest_mimic::{Failed, Trial};

use crate::{debugger, stage::Place, stage::set_mutant, tree, trials};

/// Rules that begin so are the kernel's to check.
const OURS: &str = "kernel";

/// The mistake, the trial that finds it, and where; the last word says that it needs root.
type Finder = (Mutant, fn(Place), Place, bool);

const FOUND_BY: [Finder; 14] = [
    (Mutant::TimersNotLookedAt, trials::unarmed, Place::Namespace, false),
    (Mutant::FirstIsAll, trials::orphans, Place::Namespace, false),
    (Mutant::AgentAdoptsNobody, trials::orphans, Place::Namespace, false),
    (Mutant::EmptyWalkIsGone, tree::hidden, Place::Namespace, true),
    (Mutant::FirstThreadIsProcess, tree::without_first_thread, Place::Beside, false),
    (Mutant::WaitTrusted, debugger::agents_death, Place::Namespace, true),
    (Mutant::AgentWaitedFor, debugger::agent_at_deadline, Place::Namespace, true),
    (Mutant::StubWithoutDeadline, trials::stub_alone, Place::Namespace, false),
    (Mutant::AgentWithoutTimer, trials::stopped_stub, Place::Namespace, true),
    (Mutant::StubKillsNobody, trials::agents_death, Place::Beside, false),
    (Mutant::StubAdoptsNobody, trials::agents_death, Place::Beside, false),
    (Mutant::DeniedPassedOver, trials::not_permitted, Place::Namespace, true),
    (Mutant::LastWordsFirst, trials::unread, Place::Namespace, false),
    (Mutant::LockOfAgentAlone, trials::waiting_stub, Place::Beside, true),
];

/// Found by trials that run one after the other.
const FOUND_ALONE: [Finder; 1] = [(Mutant::SignalsBeforeClock, tree::flooded, Place::Namespace, false)];

thread_local! {
    /// This thread's trial is meant to fail.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    /// How it failed.
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the reports of failures that are meant to be.
pub(crate) fn listen_for_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if EXPECTED.get() {
            let text = info.payload_as_str().unwrap_or_default();
            FAILURE.set(Some(text.lines().next().unwrap_or_default().to_owned()));
        } else {
            usual(info);
        }
    }));
}

/// A trial for each mistake, which fails when nobody finds it.
pub(crate) fn trials(namespaces: bool, root: bool) -> Vec<Trial> {
    let all = Trial::test("mutants::each_that_needs_a_kernel_is_looked_for", || {
        let is_ours = |mutant: &&Mutant| mutant.rule().starts_with(OURS);
        let found = FOUND_BY.iter().chain(&FOUND_ALONE).map(|(mutant, ..)| mutant);
        let forgotten = |mutant: &&Mutant| !found.clone().any(|found| found == *mutant);
        let forgotten: Vec<_> = Mutant::ALL.iter().filter(is_ours).filter(forgotten).collect();
        if forgotten.is_empty() { Ok(()) } else { Err(format!("no trial for {forgotten:?}").into()) }
    });
    FOUND_BY.map(|finder| trial(finder, namespaces, root)).into_iter().chain([all]).collect()
}

/// Those that are to run while no other trial does.
pub(crate) fn alone(namespaces: bool) -> Vec<Trial> {
    FOUND_ALONE.map(|finder| trial(finder, namespaces, false)).into()
}

fn trial((mutant, run, place, needs_root): Finder, namespaces: bool, root: bool) -> Trial {
    let possible = (root || !needs_root) && (namespaces || place == Place::Beside);
    let find = move || {
        let found = find(mutant, run, place).ok_or_else(|| Failed::from(format!("{mutant:?} is not found")))?;
        eprintln!("{mutant:?} breaks `{}`: found by: {found}", mutant.rule());
        Ok(())
    };
    Trial::test(format!("mutants::{mutant:?}"), find).with_ignored_flag(!possible)
}

/// Runs a trial with a mistake made, and returns how it failed.
fn find(mutant: Mutant, run: fn(Place), place: Place) -> Option<String> {
    set_mutant(Some(mutant));
    EXPECTED.set(true);
    let ended = panic::catch_unwind(|| run(place));
    EXPECTED.set(false);
    set_mutant(None);
    let failure = FAILURE.take();
    ended.err().map(|_| failure.unwrap_or_default())
}
