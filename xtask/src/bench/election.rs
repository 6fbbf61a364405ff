//! `cargo xtask bench election`: what an election costs and how fast it is, beside a candidate of client-go on the same API server.

mod accounts;
mod candidate;
mod group;
mod load;
mod section;
mod steady;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use leader_tests::binaries::client_go_candidate;
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName, Status};

use self::accounts::Accounts;
use self::candidate::{Kind, Programs};
use self::group::{CANDIDATES, Group, Outcome, account};
use self::load::Load;
use self::steady::Costs;
use super::document::write_section;
use super::{machine, programs};
use crate::images::checkout;

/// Both programs, in the order of the tables.
const KINDS: [Kind; 2] = [Kind::Ours, Kind::ClientGo];
/// A fail-over takes a lease: so many groups have one at the same time.
const GROUPS: usize = 4;

/// Options of `cargo xtask bench election`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The cluster whose API server is asked; brought up if needed, and taken down again unless it was up already.
    #[arg(long, default_value = "bench", value_parser = ClusterName::new)]
    name: ClusterName,
    /// Few trials and a fifth of the load, about three minutes: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// A folder with `leader-agent`, `ledger-writer` and `electors` as they were released or built before, in place of building them.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Print what would be written to docs/benchmarks.md.
    #[arg(long)]
    print: bool,
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
struct Extent {
    hand_overs: usize,
    /// In each group.
    fail_overs: usize,
    steady: Duration,
    ids: usize,
    load_seconds: u64,
}

const WHOLE: Extent =
    Extent { hand_overs: 50, fail_overs: 5, steady: Duration::from_mins(2), ids: 500, load_seconds: 60 };
const QUICK: Extent =
    Extent { hand_overs: 6, fail_overs: 1, steady: Duration::from_secs(20), ids: 100, load_seconds: 15 };

/// All that was measured, each of the pairs in the order of [`KINDS`].
struct Measured {
    extent: Extent,
    costs: Vec<(Kind, Costs)>,
    hand_overs: Vec<(Kind, Vec<Outcome>)>,
    fail_overs: Vec<(Kind, Vec<Outcome>)>,
    /// `None` where the machine could not bear it.
    load: Option<Load>,
}

/// Measures and writes the section.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (programs, generator) = find_or_build(options.programs.as_deref())?;
    let was_up = matches!(Cluster::status(&options.name), Status::Up(_));
    let cluster = Cluster::up(&options.name)?;
    let extent = if options.quick { QUICK } else { WHOLE };
    let measured = measure(&cluster, &programs, &generator, extent);
    if !was_up {
        Cluster::down(&options.name)?;
    }
    let section = section::text(&machine::description()?, &measured?)?;
    if options.print {
        println!("{section}");
        return Ok(());
    }
    let file = checkout().join("docs/benchmarks.md");
    write_section(&file, "Election", &section)?;
    say(format!("written to {}", file.display()));
    Ok(())
}

/// The candidates' programs, and the load generator.
fn find_or_build(folder: Option<&Path>) -> Result<(Programs, PathBuf)> {
    let [agent, app, generator] = match folder {
        Some(folder) => ["leader-agent", "ledger-writer", "electors"].map(|name| folder.join(name)),
        None => [
            programs::build_agent()?,
            programs::build("leader-ledger", "--bin", "ledger-writer")?,
            programs::build("leader-agent", "--bench", "electors")?,
        ],
    };
    // A process is known by its program's path without links.
    let real = |path: PathBuf| fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()));
    let programs = Programs { agent: real(agent)?, client_go: real(client_go_candidate()?)?, app: real(app)? };
    Ok((programs, real(generator)?))
}

fn measure(cluster: &Cluster, programs: &Programs, generator: &Path, extent: Extent) -> Result<Measured> {
    let mut names = vec![load::ACCOUNT.to_owned()];
    for kind in KINDS {
        for group in 0..GROUPS {
            names.extend((0..CANDIDATES).map(|candidate| account(kind, group, candidate)));
        }
    }
    let accounts = Accounts::create(cluster, &names)?;
    let mut first = KINDS
        .iter()
        .map(|kind| Ok((*kind, Group::start(*kind, 0, &accounts, programs)?)))
        .collect::<Result<Vec<_>>>()?;

    say(format!("at rest, for {} s", extent.steady.as_secs()));
    let at_rest: Vec<_> = first.iter().map(|(kind, group)| (*kind, group)).collect();
    let costs = steady::watch(&at_rest, &accounts, programs, extent.steady)?;

    let mut hand_overs = Vec::new();
    for (kind, group) in &mut first {
        say(format!("{} hand-overs of {}", extent.hand_overs, kind.label()));
        let outcomes = (0..extent.hand_overs).map(|_| group.hand_over()).collect::<Result<Vec<_>>>()?;
        hand_overs.push((*kind, outcomes));
    }

    say(format!("{} fail-overs of each, {} at a time", extent.fail_overs * GROUPS, GROUPS * KINDS.len()));
    let more = KINDS.iter().flat_map(|kind| (1..GROUPS).map(move |number| (*kind, number)));
    for (kind, number) in more {
        first.push((kind, Group::start(kind, number, &accounts, programs)?));
    }
    let outcomes = thread::scope(|scope| -> Result<Vec<(Kind, Vec<Outcome>)>> {
        let threads: Vec<_> = first
            .iter_mut()
            .map(|(kind, group)| {
                let trials =
                    scope.spawn(move || (0..extent.fail_overs).map(|_| group.fail_over()).collect::<Result<Vec<_>>>());
                (*kind, trials)
            })
            .collect();
        let join = |(kind, thread): (Kind, thread::ScopedJoinHandle<'_, Result<Vec<Outcome>>>)| {
            Ok((kind, thread.join().map_err(|_| anyhow!("a trial panicked"))??))
        };
        threads.into_iter().map(join).collect()
    })?;
    let of_kind = |wanted: Kind| -> Vec<Outcome> {
        outcomes.iter().filter(|(kind, _)| *kind == wanted).flat_map(|(_, all)| all.clone()).collect()
    };
    let fail_overs = KINDS.iter().map(|kind| (*kind, of_kind(*kind))).collect();
    drop(first);

    say(format!("{} ids with {CANDIDATES} candidates each", extent.ids));
    // What was measured before it is not lost with it.
    let load = load::run(generator, &accounts, extent.ids, extent.load_seconds)
        .inspect_err(|error| say(format!("many ids could not be measured: {error:#}")))
        .ok();
    Ok(Measured { extent, costs, hand_overs, fail_overs, load })
}
