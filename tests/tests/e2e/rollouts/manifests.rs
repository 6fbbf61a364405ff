//! Writes of whole manifests: client-side apply, server-side apply by one and by two managers, replace.

use anyhow::{Result, ensure};
use leader_tests::command::Output;
use serde_json::Value;

use super::manifest::{Edits, Expected, MAIN, Place, base};
use super::pair::{Pair, Side, container, eject};
use super::table::{Group, Outcome};
use super::{Run, image, pair_of, pair_with, send_all};
use crate::stage::Stage;

pub(super) const GROUPS: &[(&str, Run)] = &[
    ("client-side apply", |name| ordinary(name, "Deployment", CLIENT_SIDE)),
    ("server-side apply", |name| ordinary(name, "Deployment", SERVER_SIDE)),
    ("replace", |name| ordinary(name, "Deployment", REPLACE)),
    ("client-side apply, handlers", |name| handlers(name, CLIENT_SIDE)),
    ("server-side apply, handlers", |name| handlers(name, SERVER_SIDE)),
    ("replace, handlers", |name| handlers(name, REPLACE)),
    ("client-side apply, StatefulSet", |name| ordinary(name, "StatefulSet", CLIENT_SIDE)),
    ("server-side apply, StatefulSet", |name| ordinary(name, "StatefulSet", SERVER_SIDE)),
    ("client-side apply, DaemonSet", |name| ordinary(name, "DaemonSet", CLIENT_SIDE)),
    ("client-side apply, id on the template", |name| on_template(name, CLIENT_SIDE)),
    ("server-side apply, id on the template", |name| on_template(name, SERVER_SIDE)),
    ("replace, id on the template", |name| on_template(name, REPLACE)),
    ("several managers", several_managers),
    ("several managers, handlers", several_managers_with_handlers),
];

const CLIENT_SIDE: &[&str] = &["apply"];
const SERVER_SIDE: &[&str] = &["apply", "--server-side"];
const SECOND: &[&str] = &["apply", "--server-side", "--field-manager=second"];
const SECOND_FORCED: &[&str] = &["apply", "--server-side", "--field-manager=second", "--force-conflicts"];
const FORCED: &[&str] = &["apply", "--server-side", "--force-conflicts"];
const REPLACE: &[&str] = &["replace"];

fn sent_as(verb: &'static [&'static str]) -> impl Fn(&Side<'_>, &Value) -> Result<Output> {
    move |side, manifest| side.send(verb, manifest)
}

fn start(pair: &Pair<'_>, verb: &'static [&'static str], manifest: &Value) -> Result<()> {
    // What is not there cannot be replaced.
    let first = if verb == REPLACE { &["create"] } else { verb };
    pair.start(&|side| side.send(first, manifest))
}

fn ordinary(name: &str, kind: &str, verb: &'static [&'static str]) -> Group {
    pair_of(name, kind, |stage, pair, group| {
        let manifest = base(kind, image(stage)?, false);
        start(pair, verb, &manifest)?;
        let mut edits = Edits::of(&manifest);
        edits.ordinary(image(stage)?);
        send_all(pair, group, &edits.finish(), &sent_as(verb));
        Ok(())
    })
}

fn handlers(name: &str, verb: &'static [&'static str]) -> Group {
    pair_of(name, "Deployment", |stage, pair, group| {
        let manifest = base("Deployment", image(stage)?, true);
        start(pair, verb, &manifest)?;
        let mut edits = Edits::of(&manifest);
        // Everything else with them in place, and then they themselves.
        edits.ordinary(image(stage)?);
        edits.handlers();
        send_all(pair, group, &edits.finish(), &sent_as(verb));
        Ok(())
    })
}

fn on_template(name: &str, verb: &'static [&'static str]) -> Group {
    pair_with(name, "Deployment", Place::Template, |stage, pair, group| {
        let manifest = base("Deployment", image(stage)?, true);
        start(pair, verb, &manifest)?;
        let mut edits = Edits::of(&manifest);
        edits.ordinary(image(stage)?);
        send_all(pair, group, &edits.finish(), &sent_as(verb));
        Ok(())
    })
}

fn several_managers(name: &str) -> Group {
    pair_of(name, "Deployment", |stage, pair, group| managers(stage, pair, group, false))
}

fn several_managers_with_handlers(name: &str) -> Group {
    pair_of(name, "Deployment", |stage, pair, group| managers(stage, pair, group, true))
}

fn managers(stage: &Stage, pair: &Pair<'_>, group: &mut Group, handlers: bool) -> Result<()> {
    let manifest = base("Deployment", image(stage)?, handlers);
    let mut other = manifest.clone();
    other["spec"]["template"]["spec"]["containers"][0]["image"] = format!("{}-next", image(stage)?).into();
    let mut dropped = other.clone();
    let main = &mut dropped["spec"]["template"]["spec"]["containers"][0];
    main.as_object_mut().map(|main| main.shift_remove("args"));
    start(pair, CLIENT_SIDE, &manifest)?;
    let mut row = |what: &str, expected, verb: &'static [&'static str], manifest: &Value| {
        pair.row(group, what, expected, &|side| side.send(verb, manifest));
    };
    row("server-side after client-side apply", Expected::Nothing, FORCED, &manifest);
    row("server-side again", Expected::Nothing, SERVER_SIDE, &manifest);
    row("the same by a second manager", Expected::Nothing, SECOND_FORCED, &manifest);
    row("another image by the second manager", Expected::Rollout, SECOND_FORCED, &other);
    row("the first manager's image is a conflict", Expected::Refused, SERVER_SIDE, &manifest);
    row("the first manager forces it", Expected::Rollout, FORCED, &manifest);
    row("the second manager asks for what it gave up", Expected::AsPlain, SECOND, &manifest);
    row("the second manager changes it again", Expected::Rollout, SECOND_FORCED, &other);
    row("the second manager drops what the first still wants", Expected::AsPlain, SECOND_FORCED, &dropped);
    row("the first manager drops it as well", Expected::AsPlain, FORCED, &dropped);
    row("client-side apply after server-side", Expected::AsPlain, CLIENT_SIDE, &manifest);
    row("client-side apply again", Expected::Nothing, CLIENT_SIDE, &manifest);
    row("replace after all of it", Expected::AsPlain, REPLACE, &manifest);
    row("replace again", Expected::Nothing, REPLACE, &manifest);
    if handlers {
        taken_by_force(pair, group, &manifest);
    }
    Ok(())
}

/// What is stored in a handler's place is the agent's, so a second manager that asks for the user's is in conflict with what the
/// first one asked for as well, and by force it becomes the only owner. Without leader both own it then, and what one of
/// them drops stays; here it goes.
fn taken_by_force(pair: &Pair<'_>, group: &mut Group, manifest: &Value) {
    let mut dropped = manifest.clone();
    let main = &mut dropped["spec"]["template"]["spec"]["containers"][0];
    main.as_object_mut().map(|main| main.shift_remove("livenessProbe"));
    pair.row(group, "a second manager takes the handlers by force", Expected::Nothing, &|side| {
        side.send(SECOND_FORCED, manifest)
    });
    group.row("it drops one, which goes although the first wants it", || {
        let side = pair.elected();
        let before = side.settled()?;
        let said = side.send(SECOND_FORCED, &dropped)?;
        ensure!(said.success(), "{}", said.stderr);
        let after = side.settled()?;
        ensure!(after.rolled_since(&before), "did not roll out");
        let ejected = eject(&after.object)?;
        let probe = &container(&ejected["spec"]["template"]["spec"], MAIN)?["livenessProbe"];
        ensure!(probe.is_null(), "the probe is {probe}");
        Ok(Outcome::RolledOut)
    });
}
