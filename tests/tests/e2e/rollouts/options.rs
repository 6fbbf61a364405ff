//! Our own annotations: turned on, changed, turned off.

use anyhow::{Result, ensure};
use leader_agent::names;
use leader_tests::command::Output;
use serde_json::{Value, json};

use super::manifest::{NAME, base};
use super::pair::{Pair, Seen, Side, differences, record};
use super::table::{Group, Outcome};
use super::{Run, image, pair_of};
use crate::stage::Stage;

pub(super) const GROUPS: &[(&str, Run)] = &[
    ("annotations of leader", |name| pair_of(name, "Deployment", |stage, pair, group| rows(stage, pair, group, false))),
    ("annotations of leader, handlers", |name| {
        pair_of(name, "Deployment", |stage, pair, group| rows(stage, pair, group, true))
    }),
];

/// A row about the elected workload alone: the twin is not written to, and says what is left after ejecting.
fn row(
    pair: &Pair<'_>,
    group: &mut Group,
    what: &str,
    expected: Outcome,
    write: &dyn Fn(&Side<'_>) -> Result<Output>,
    check: &dyn Fn(&Seen) -> Result<()>,
) {
    group.row(what, || {
        let elected = pair.elected();
        let before = elected.settled()?;
        let said = write(&elected)?;
        ensure!(said.success() == (expected != Outcome::Refused), "{said:?}");
        let after = elected.settled()?;
        let rolled = after.rolled_since(&before);
        let differs = differences(before.template(), after.template());
        ensure!(rolled == (expected == Outcome::RolledOut), "rolled out: {rolled}; in the template {differs}");
        ensure!(rolled || before.template() == after.template(), "in the template {differs}");
        check(&after)?;
        Ok(expected)
    });
}

fn rows(stage: &Stage, pair: &Pair<'_>, group: &mut Group, handlers: bool) -> Result<()> {
    use Outcome::{Refused, RolledOut, Unchanged};
    let manifest = base("Deployment", image(stage)?, handlers);
    pair.start(&|side| side.send(&["apply"], &manifest))?;
    let annotate = |pairs: &'static [&'static str]| {
        move |side: &Side<'_>| side.kubectl(&[&["annotate", "--overwrite", side.object.as_str()], pairs].concat())
    };
    let intact = |_: &Seen| pair.same_content();
    let recorded = |key: &'static str, value: Value| {
        move |seen: &Seen| -> Result<()> {
            pair.same_content()?;
            let record = record(seen.template())?;
            ensure!(record[key] == value, "the record has {key}: {}", record[key]);
            Ok(())
        }
    };
    let account = |name: Value| {
        move |seen: &Seen| -> Result<()> {
            pair.same_content()?;
            let found = &seen.template()["spec"]["serviceAccountName"];
            ensure!(*found == name, "the account is {found}");
            Ok(())
        }
    };
    let as_twin = |seen: &Seen| -> Result<()> {
        let twin = pair.plain().get()?;
        let template = &twin["spec"]["template"];
        ensure!(seen.template() == template, "against the twin: {}", differences(template, seen.template()));
        Ok(())
    };
    let dedicated = format!("leader-{NAME}");

    let mut row =
        |what: &str, expected, write: &dyn Fn(&Side<'_>) -> Result<Output>, check: &dyn Fn(&Seen) -> Result<()>| {
            row(pair, group, what, expected, write, check);
        };
    row(
        "a lease's duration",
        RolledOut,
        &annotate(&["leader.io/lease-duration=20s"]),
        &recorded("leaseDuration", json!("20s")),
    );
    row("the same duration", Unchanged, &annotate(&["leader.io/lease-duration=20s"]), &intact);
    row("a stop grace", RolledOut, &annotate(&["leader.io/stop-grace=2s"]), &recorded("stopGrace", json!("2s")));
    row("client-side apply that knows of neither", Unchanged, &|side| side.send(&["apply"], &manifest), &intact);
    row("another port", RolledOut, &annotate(&["leader.io/port=19809"]), &recorded("port", json!(19809)));
    row("a preferred place", RolledOut, &annotate(&["leader.io/prefer=zone=a"]), &recorded("prefer", json!("zone=a")));
    row(
        "a bound on being unready",
        RolledOut,
        &annotate(&["leader.io/unhealthy-step-down=30s"]),
        &recorded("unhealthyStepDown", json!("30s")),
    );
    row("a status file in mode run", Refused, &annotate(&["leader.io/status-file=/tmp/leader"]), &intact);
    row("a kept account", RolledOut, &annotate(&["leader.io/service-account=keep"]), &account(Value::Null));
    row(
        "a dedicated account",
        RolledOut,
        &annotate(&["leader.io/service-account=dedicated"]),
        &account(json!(dedicated)),
    );
    row("a mistyped key", Refused, &annotate(&["leader.io/Id=a"]), &intact);
    row("a value that is none", Refused, &annotate(&["leader.io/lease-duration=soon"]), &intact);
    row(
        "no options",
        RolledOut,
        &annotate(&[
            "leader.io/lease-duration-",
            "leader.io/stop-grace-",
            "leader.io/port-",
            "leader.io/prefer-",
            "leader.io/unhealthy-step-down-",
        ]),
        &intact,
    );
    row("another id", RolledOut, &annotate(&["leader.io/id=other"]), &|seen| {
        let label = &seen.template()["metadata"]["labels"][names::ID];
        ensure!(label == "other", "the label is {label}");
        Ok(())
    });
    row("the first id again", RolledOut, &annotate(&["leader.io/id=billing"]), &intact);
    row("un-annotated", RolledOut, &annotate(&["leader.io/id-", "leader.io/service-account-"]), &as_twin);
    row("annotated again", RolledOut, &annotate(&["leader.io/id=billing"]), &intact);
    row("another container", RolledOut, &annotate(&["leader.io/container=side"]), &|seen| {
        let containers = &seen.template()["spec"]["containers"];
        ensure!(containers[1]["command"][0] == names::AGENT_PATH, "side runs {}", containers[1]["command"]);
        ensure!(containers[0]["command"] == json!(["/ledger-writer"]), "main runs {}", containers[0]["command"]);
        Ok(())
    });
    row("the first container again", RolledOut, &annotate(&["leader.io/container-"]), &intact);
    row("applied without the id", RolledOut, &|side| side.send_plain(&["apply"], &manifest), &as_twin);
    row("applied with the id", RolledOut, &|side| side.send(&["apply"], &manifest), &intact);
    row("replaced without the id", RolledOut, &|side| side.send_plain(&["replace"], &manifest), &as_twin);
    row("replaced with the id", RolledOut, &|side| side.send(&["replace"], &manifest), &intact);
    row(
        "rollout undo to without the id",
        RolledOut,
        &|side| side.kubectl(&["rollout", "undo", &side.object]),
        &as_twin,
    );
    row("rollout undo to with the id", RolledOut, &|side| side.kubectl(&["rollout", "undo", &side.object]), &intact);
    Ok(())
}
