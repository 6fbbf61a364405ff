//! What people type: `kubectl set`, `scale`, `rollout`, `label`, `annotate`.

use anyhow::Result;
use leader_tests::command::Output;
use serde_json::json;

use super::manifest::{Expected, MAIN, base};
use super::pair::{Pair, Side};
use super::table::Group;
use super::{Run, image, pair_of, write_all};
use crate::stage::Stage;

pub(super) const GROUPS: &[(&str, Run)] = &[
    ("commands", |name| pair_of(name, "Deployment", |stage, pair, group| rows(stage, pair, group, false))),
    ("commands, handlers", |name| pair_of(name, "Deployment", |stage, pair, group| rows(stage, pair, group, true))),
    ("commands, StatefulSet", |name| pair_of(name, "StatefulSet", statefulset)),
];

fn rows(stage: &Stage, pair: &Pair<'_>, group: &mut Group, handlers: bool) -> Result<()> {
    use Expected::{AsPlain, Nothing, Rollout};
    let image = image(stage)?;
    let manifest = base("Deployment", image, handlers);
    pair.start(&|side| side.send(&["apply"], &manifest))?;
    let next = format!("{MAIN}={image}-next");
    let every = format!("*={image}-every");
    let set = |what: &str, value: &str| {
        let (what, value) = (what.to_owned(), value.to_owned());
        move |side: &Side<'_>| side.kubectl(&["set", &what, &side.object, &value])
    };
    let on = |verb: &'static [&'static str], rest: &'static [&'static str]| {
        move |side: &Side<'_>| side.kubectl(&[verb, &[side.object.as_str()], rest].concat())
    };
    write_all(
        pair,
        group,
        &[
            ("set image", Rollout, &set("image", &next)),
            ("set image, the same", Nothing, &set("image", &next)),
            ("set image of every container", Rollout, &set("image", &every)),
            ("set image of every container, the same", Nothing, &set("image", &every)),
            ("set env", Rollout, &set("env", "ADDED=1")),
            ("set env, the same", Nothing, &set("env", "ADDED=1")),
            ("set env of one container", Rollout, &on(&["set", "env"], &["--containers=main", "ONLY=here"])),
            ("set env away", Rollout, &set("env", "ADDED-")),
            ("set resources", Rollout, &on(&["set", "resources"], &["--containers=main", "--limits=cpu=1"])),
            ("set resources of every container", Rollout, &on(&["set", "resources"], &["--limits=memory=99Mi"])),
            ("set serviceaccount", Rollout, &set("serviceaccount", "builder")),
            ("annotate", Nothing, &on(&["annotate"], &["team=payments"])),
            ("annotate away", Nothing, &on(&["annotate"], &["team-"])),
            ("label", Nothing, &on(&["label"], &["tier=back"])),
            ("rollout restart", Rollout, &on(&["rollout", "restart"], &[])),
            ("rollout undo", Rollout, &on(&["rollout", "undo"], &[])),
            ("rollout undo of the undo", Rollout, &on(&["rollout", "undo"], &[])),
            ("rollout undo to the first revision", Rollout, &on(&["rollout", "undo"], &["--to-revision=1"])),
            ("client-side apply after it", AsPlain, &|side| side.send(&["apply"], &manifest)),
            ("client-side apply again", Nothing, &|side| side.send(&["apply"], &manifest)),
            ("rollout pause", Nothing, &on(&["rollout", "pause"], &[])),
        ],
    );
    paused(pair, group);
    write_all(
        pair,
        group,
        &[
            ("scale the subresource", Nothing, &scale_subresource),
            ("scale back", Nothing, &on(&["scale"], &["--replicas=0"])),
            ("autoscale", Nothing, &on(&["autoscale"], &["--min=1", "--max=3"])),
            ("client-side apply with the autoscaler there", AsPlain, &|side| side.send(&["apply"], &manifest)),
            ("exported, and replaced by the export", Nothing, &again),
        ],
    );
    Ok(())
}

/// While paused the template changes and nothing rolls out; it does at once when resumed.
fn paused(pair: &Pair<'_>, group: &mut Group) {
    use super::table::Outcome;
    let both = |verb: &[&str], rest: &[&str]| -> Result<()> {
        for side in [pair.plain(), pair.elected()] {
            side.settled()?;
            let output = side.kubectl(&[verb, &[side.object.as_str()], rest].concat())?;
            anyhow::ensure!(output.success(), "{}", output.stderr);
        }
        Ok(())
    };
    group.row("set env while paused", || {
        let before = pair.elected().settled()?;
        both(&["set", "env"], &["PAUSED=1"])?;
        let after = pair.elected().settled()?;
        anyhow::ensure!(!after.rolled_since(&before), "rolled out while paused");
        pair.same_content()?;
        Ok(Outcome::Unchanged)
    });
    pair.row(group, "rollout resume", Expected::AsPlain, &|side| side.kubectl(&["rollout", "resume", &side.object]));
}

/// As an autoscaler does it.
fn scale_subresource(side: &Side<'_>) -> Result<Output> {
    let patch = json!({"spec": {"replicas": 0}}).to_string();
    side.kubectl(&["patch", &side.object, "--subresource=scale", "--type=merge", "--patch", &patch])
}

/// `kubectl get -o json` into a file, without what the server adds, and that file applied by `kubectl replace`: it is injected
/// already when it arrives.
fn again(side: &Side<'_>) -> Result<Output> {
    side.replace(|object| {
        object["metadata"].as_object_mut()?.retain(|key, _| ["name", "labels", "annotations"].contains(&key.as_str()));
        object.as_object_mut()?.shift_remove("status").map(drop)
    })
}

fn statefulset(stage: &Stage, pair: &Pair<'_>, group: &mut Group) -> Result<()> {
    use Expected::{Nothing, Rollout};
    let image = image(stage)?;
    let manifest = base("StatefulSet", image, true);
    pair.start(&|side| side.send(&["apply"], &manifest))?;
    let next = format!("{MAIN}={image}-next");
    write_all(
        pair,
        group,
        &[
            ("set image", Rollout, &|side| side.kubectl(&["set", "image", &side.object, &next])),
            ("set env", Rollout, &|side| side.kubectl(&["set", "env", &side.object, "A=1"])),
            ("set env, the same", Nothing, &|side| side.kubectl(&["set", "env", &side.object, "A=1"])),
            ("rollout restart", Rollout, &|side| side.kubectl(&["rollout", "restart", &side.object])),
            ("rollout undo", Rollout, &|side| side.kubectl(&["rollout", "undo", &side.object])),
            ("scale", Nothing, &|side| side.kubectl(&["scale", &side.object, "--replicas=0"])),
            ("client-side apply", Rollout, &|side| side.send(&["apply"], &manifest)),
        ],
    );
    Ok(())
}
