//! Shows that the simulation bites: every mistake of [`Mutant`] that it can see is made, and must be found.
//!
//! `SIMULATION_MUTANT=NoMargin` makes one of them alone.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use leader_agent::mutant::{self, Mutant};

use crate::{
    is_long, plan,
    play::{Options, play},
    stories, workers,
};

/// A mistake that so many schedules do not find needs a story of its own.
const MOST_SCHEDULES: u64 = 5000;
/// So many are tried where there is a story.
const MOST_BESIDE_A_STORY: u64 = 200;
/// In so many schedules two apps at a time are looked for, where nothing else counts; in a long run only.
const MOST_FOR_PROMISE: u64 = 2000;

/// What became of one mistake.
struct Fate {
    mutant: Mutant,
    /// After how many schedules a rule was broken, and which.
    rule: Option<(u64, String)>,
    /// After how many schedules two apps ran, where nothing else counted; looked for in a long run.
    promise: String,
    /// The story that fails with it, where the schedules do not show it.
    story: Option<&'static str>,
}

#[test]
fn every_mistake_is_found() {
    let only = std::env::var("SIMULATION_MUTANT").ok();
    let wanted = |mutant: &Mutant| only.as_ref().is_none_or(|name| format!("{mutant:?}") == *name);
    let of_this_test = |mutant: &Mutant| !mutant.rule().starts_with("kernel") && wanted(mutant);
    let mutants: Vec<Mutant> = Mutant::ALL.iter().copied().filter(of_this_test).collect();
    let (next, fates) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    workers(|| {
        while let Some(&mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
            mutant::choose(Some(mutant));
            let fate = hunt(mutant);
            mutant::choose(None);
            fates.lock().expect("no other one panicked").push(fate);
        }
    });
    let mut fates = fates.into_inner().expect("no other one panicked");
    fates.sort_by_key(|fate| Mutant::ALL.iter().position(|mutant| *mutant == fate.mutant));
    println!("{}", table(&fates));
    let survivors: Vec<Mutant> =
        fates.iter().filter(|fate| fate.rule.is_none() && fate.story.is_none()).map(|fate| fate.mutant).collect();
    assert!(survivors.is_empty(), "not found: {survivors:?}");
}

fn hunt(mutant: Mutant) -> Fate {
    let story = stories::for_mutant(mutant);
    let most = if story.is_some() { MOST_BESIDE_A_STORY } else { MOST_SCHEDULES };
    let rule = first(most, Options::default());
    let only_promise = Options { only_promise: true, ..Options::default() };
    let promise = match is_long().then(|| first(MOST_FOR_PROMISE, only_promise)) {
        Some(Some((count, _))) => count.to_string(),
        Some(None) => format!("not in {MOST_FOR_PROMISE}"),
        None => "-".to_owned(),
    };
    let story = story.and_then(|&(name, tell)| catch_unwind(tell).is_err().then_some(name));
    Fate { mutant, rule, promise, story }
}

/// The first of `most` schedules in which something breaks, counted from 1.
fn first(most: u64, options: Options) -> Option<(u64, String)> {
    (0..most).find_map(|seed| {
        let world = catch_unwind(AssertUnwindSafe(|| play(&plan::plan(seed), seed, options)));
        let broken = world.map_or_else(|_| Some("a panic".to_owned()), |world| world.broken)?;
        Some((seed + 1, broken))
    })
}

/// The table, in Markdown.
fn table(fates: &[Fate]) -> String {
    let mut table =
        "| rule | mistake | schedules until found | what broke | schedules until two apps |\n|---|---|---|---|---|\n"
            .to_owned();
    for Fate { mutant, rule, promise, story } in fates {
        let (count, broken) = match (rule, story) {
            (Some((count, broken)), _) => (count.to_string(), without_details(broken)),
            (None, Some(story)) => ("by a story".to_owned(), format!("`{story}`")),
            (None, None) => ("NOT FOUND".to_owned(), String::new()),
        };
        let (rule, mistake) = (mutant.rule(), mutant.mistake().trim());
        let _ = writeln!(table, "| {rule} | {mutant:?}: {mistake} | {count} | {broken} | {promise} |");
    }
    table
}

/// What broke, without names and times that differ from one schedule to the next.
fn without_details(broken: &str) -> String {
    broken.split([',', ':']).next().unwrap_or(broken).to_owned()
}
