//! Rows about the Lease itself: deleted, edited in each field, emptied, handed over, replaced.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leader_agent::lease::record::micro_time;
use leader_agent::names;
use leader_ledger::overlap::Run;
use leader_tests::kit::Cut;
use serde_json::{Value, json};

use super::process::cut;
use super::{Broken, Follow, Row};
use crate::stage::until;
use crate::workload::Workload;
use crate::writer::CONTAINER;

const GROUP: &str = "Lease";
/// More than two of the shortest leases: whoever would take it has done so by then.
const UNDISTURBED: Follow = Follow::SameRun(Duration::from_secs(12));
/// Between two edits of a Lease that is edited again and again.
const EDIT_PAUSE: Duration = Duration::from_millis(100);

/// A number that is another one in each trial of a row.
#[derive(Default)]
struct Trial(AtomicUsize);

impl Trial {
    fn choose<T: Clone>(&self, all: &[T]) -> T {
        all[self.0.fetch_add(1, Ordering::Relaxed) % all.len()].clone()
    }
}

/// Changes the Lease as JSON Merge Patch has it (RFC 7396).
fn edit(workload: &Workload<'_>, change: &Value) -> Result<Broken> {
    let change = change.to_string();
    workload.stage.namespace.run(&["patch", "lease", &workload.name, "--type=merge", "--patch", &change])?;
    Ok(Broken::nothing())
}

fn delete(workload: &Workload<'_>) -> Result<()> {
    workload.stage.namespace.run(&["delete", "lease", &workload.name, "--wait=false"]).map(drop)
}

fn uid(lease: &Value) -> Result<String> {
    Ok(lease["metadata"]["uid"].as_str().context("a Lease without a uid")?.to_owned())
}

fn now() -> String {
    micro_time(jiff::Timestamp::now())
}

/// How an agent of another pod calls itself.
fn standby(workload: &Workload<'_>, leader: &Run) -> Result<String> {
    let pods = workload.ready_pods()?;
    let pod = pods.iter().find(|pod| **pod != leader.writer.pod).context("nobody stands by")?;
    let uid = workload.stage.namespace.get(&["pod", pod])?["metadata"]["uid"].as_str().context("no uid")?.to_owned();
    Ok(format!("{pod}_{uid}_{CONTAINER}"))
}

/// The release proof of the term that the Lease is in.
fn proof(lease: &Value, transitions: i64) -> Result<String> {
    let spec = &lease["spec"];
    let text = |name: &str| spec[name].as_str().with_context(|| format!("no {name}"));
    Ok(format!("{}/{}/{transitions}/{}", uid(lease)?, text("holderIdentity")?, text("acquireTime")?))
}

fn transitions(lease: &Value) -> i64 {
    lease["spec"]["leaseTransitions"].as_i64().unwrap_or_default()
}

#[test]
fn deleted() -> Result<()> {
    Row::new(GROUP, "deleted").follow(UNDISTURBED).on_leader(|workload, _| {
        delete(workload)?;
        Ok(Broken::nothing())
    })
}

#[test]
fn deleted_twice_in_a_row() -> Result<()> {
    Row::new(GROUP, "deleted twice in a row").follow(UNDISTURBED).on_leader(|workload, _| {
        let first = uid(&workload.lease()?)?;
        delete(workload)?;
        until("the Lease to be there again", || {
            ensure!(uid(&workload.lease()?)? != first, "it was not deleted");
            Ok(())
        })?;
        delete(workload)?;
        Ok(Broken::nothing())
    })
}

#[test]
fn deleted_while_the_leader_is_cut_off() -> Result<()> {
    Row::new(GROUP, "deleted while the leader is cut off").on_leader(|workload, leader| {
        let broken = cut(workload, leader)?;
        delete(workload)?;
        Ok(broken)
    })
}

#[test]
fn deleted_twice_while_the_leader_is_cut_off() -> Result<()> {
    Row::new(GROUP, "deleted twice in a row while the leader is cut off").default_lease().on_leader(
        |workload, leader| {
            let first = uid(&workload.lease()?)?;
            let broken = cut(workload, leader)?;
            delete(workload)?;
            until("the Lease to be there again", || {
                ensure!(uid(&workload.lease()?)? != first, "it was not deleted");
                Ok(())
            })?;
            delete(workload)?;
            Ok(broken)
        },
    )
}

#[test]
fn holder_changed_to_a_stranger() -> Result<()> {
    Row::new(GROUP, "holderIdentity edited: a stranger")
        .follow(Follow::AnotherRun)
        .on_leader(|workload, _| edit(workload, &json!({"spec": {"holderIdentity": "a-stranger"}})))
}

/// As client-go's acquisition looks, and as a person does it who changes the name alone.
#[test]
fn handed_to_a_standby() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "handed to a standby").follow(Follow::AnotherRun).on_leader(|workload, leader| {
        let holder = standby(workload, leader)?;
        let whole = trial.choose(&[true, false]);
        let mut change = json!({"spec": {"holderIdentity": holder}});
        if whole {
            let spec = &mut change["spec"];
            spec["leaseTransitions"] = json!(transitions(&workload.lease()?) + 1);
            spec["acquireTime"] = json!(now());
            spec["renewTime"] = spec["acquireTime"].clone();
        }
        edit(workload, &change)
    })
}

#[test]
fn emptied() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "emptied").follow(UNDISTURBED).on_leader(|workload, _| {
        let empty = trial.choose(&[json!(""), json!(null)]);
        edit(workload, &json!({"spec": {"holderIdentity": empty}}))
    })
}

#[test]
fn emptied_as_client_go_releases() -> Result<()> {
    Row::new(GROUP, "emptied as client-go releases").follow(UNDISTURBED).on_leader(|workload, _| {
        let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now(), "acquireTime": now()});
        edit(workload, &json!({"spec": spec}))
    })
}

#[test]
fn emptied_while_the_leader_is_cut_off() -> Result<()> {
    Row::new(GROUP, "emptied while the leader is cut off").on_leader(|workload, leader| {
        let broken = cut(workload, leader)?;
        Ok(broken.and(edit(workload, &json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}))?))
    })
}

#[test]
fn acquire_time_edited() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "acquireTime edited").follow(Follow::AnotherRun).on_leader(|workload, _| {
        let time =
            trial.choose(&[json!("2020-01-01T00:00:00.000000Z"), json!("2120-01-01T00:00:00.000000Z"), json!(null)]);
        edit(workload, &json!({"spec": {"acquireTime": time}}))
    })
}

#[test]
fn renew_time_edited() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "renewTime edited").follow(UNDISTURBED).on_leader(|workload, _| {
        let time =
            trial.choose(&[json!("2020-01-01T00:00:00.000000Z"), json!("2120-01-01T00:00:00.000000Z"), json!(null)]);
        edit(workload, &json!({"spec": {"renewTime": time}}))
    })
}

#[test]
fn transitions_edited() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "leaseTransitions edited").follow(Follow::AnotherRun).on_leader(|workload, _| {
        let change = trial.choose(&[1, -1, 1000]);
        let transitions = transitions(&workload.lease()?) + change;
        edit(workload, &json!({"spec": {"leaseTransitions": transitions}}))
    })
}

#[test]
fn duration_edited() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "leaseDurationSeconds edited: 1, 10 or none").follow(UNDISTURBED).on_leader(|workload, _| {
        let seconds = trial.choose(&[json!(1), json!(10), json!(null)]);
        edit(workload, &json!({"spec": {"leaseDurationSeconds": seconds}}))
    })
}

/// A shorter duration that the leader cannot put right.
#[test]
fn duration_shortened_while_the_leader_is_cut_off() -> Result<()> {
    Row::new(GROUP, "leaseDurationSeconds edited to 1 while the leader is cut off").on_leader(|workload, leader| {
        let broken = cut(workload, leader)?;
        Ok(broken.and(edit(workload, &json!({"spec": {"leaseDurationSeconds": 1}}))?))
    })
}

/// Edits labels and annotations again and again until the end.
fn edit_metadata(workload: &Workload<'_>) -> Result<Broken> {
    let namespace = &workload.stage.namespace;
    let (cluster, name) = (namespace.cluster(), workload.name.clone());
    let in_namespace = format!("--namespace={}", namespace.name());
    let edit = move |number: u32| {
        let values = json!({"edited": number.to_string()});
        let change = json!({"metadata": {"labels": values, "annotations": values}}).to_string();
        cluster.kubectl(&[&in_namespace, "patch", "lease", &name, "--type=merge", "--patch", &change]).run()
    };
    edit(0)?;
    let (mended, end) = channel::<()>();
    let editor = thread::spawn(move || {
        let mut edits = 0;
        while end.recv_timeout(EDIT_PAUSE) == Err(RecvTimeoutError::Timeout) {
            // It loses against a renewal now and then.
            edits += u32::from(edit(edits + 1).is_ok());
        }
        edits
    });
    Ok(Broken::mended_by(move || {
        drop(mended);
        let edits = editor.join().map_err(|_| anyhow!("whoever edits the Lease panicked"))?;
        // On a busy machine an edit takes a second; less often than every lease it would show nothing.
        ensure!(edits > 2, "the Lease was edited {edits} times only");
        Ok(())
    }))
}

#[test]
fn metadata_edited() -> Result<()> {
    Row::new(GROUP, "labels and annotations edited again and again")
        .follow(UNDISTURBED)
        .at_once(5)
        .on_leader(|workload, _| edit_metadata(workload))
}

/// Edits must not look like signs of life.
#[test]
fn metadata_edited_while_the_leader_is_cut_off() -> Result<()> {
    Row::new(GROUP, "labels and annotations edited again and again while the leader is cut off")
        .default_lease()
        .at_once(4)
        .on_leader(|workload, leader| Ok(cut(workload, leader)?.and(edit_metadata(workload)?)))
}

#[test]
fn a_proof_beside_a_holder() -> Result<()> {
    Row::new(GROUP, "proof annotation of the running term set").follow(UNDISTURBED).on_leader(|workload, _| {
        let lease = workload.lease()?;
        let proof = proof(&lease, transitions(&lease))?;
        edit(workload, &json!({"metadata": {"annotations": {names::RELEASED: proof}}}))
    })
}

#[test]
fn emptied_with_a_proof_of_something_else() -> Result<()> {
    let trial = Trial::default();
    Row::new(GROUP, "emptied with a proof of another term, Lease or form").follow(UNDISTURBED).on_leader(
        |workload, _| {
            let lease = workload.lease()?;
            let right = proof(&lease, transitions(&lease))?;
            let proof = trial.choose(&[
                proof(&lease, transitions(&lease) - 1)?,
                right.replacen(&uid(&lease)?, "00000000-0000-0000-0000-000000000000", 1),
                "true".to_owned(),
                String::new(),
            ]);
            let change = json!({"metadata": {"annotations": {names::RELEASED: proof}}, "spec": {"holderIdentity": ""}});
            edit(workload, &change)
        },
    )
}

/// Whoever has seen the later term knows that the earlier one's release says nothing of it.
#[test]
fn an_earlier_release_put_back() -> Result<()> {
    Row::new(GROUP, "an earlier term's release put back").follow(Follow::AnotherRun).on_leader(|workload, _| {
        let lease = workload.lease()?;
        let earlier = transitions(&lease) - 1;
        let change = json!({
            "metadata": {"annotations": {names::RELEASED: proof(&lease, earlier)?}},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": earlier},
        });
        edit(workload, &change)
    })
}

/// The proof is the holder's word that its app is gone, and here it is a lie.
#[test]
fn emptied_with_a_forged_proof() -> Result<()> {
    Row::new(GROUP, "emptied with a forged proof of the running term")
        .follow(Follow::AnotherRun)
        .moves()
        .limit("who may edit the Lease can forge the proof")
        .on_leader(|workload, _| {
            let lease = workload.lease()?;
            let proof = proof(&lease, transitions(&lease))?;
            let change = json!({"metadata": {"annotations": {names::RELEASED: proof}}, "spec": {"holderIdentity": ""}});
            edit(workload, &change)
        })
}

/// Puts another Lease of the same name in the place of this one. Meanwhile the pods do not reach the API server: else one of them
/// makes the Lease anew first.
fn replace(workload: &Workload<'_>, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Broken> {
    let old = workload.lease()?;
    let mut new = json!({
        "apiVersion": old["apiVersion"], "kind": old["kind"],
        "metadata": {"name": workload.name, "labels": old["metadata"]["labels"]},
        "spec": old["spec"],
    });
    change(&mut new["spec"])?;
    let namespace = &workload.stage.namespace;
    let pods = workload.ready_pods()?;
    let cuts = pods.iter().map(|pod| namespace.cut_from_api_server(pod)).collect::<Result<Vec<_>>>()?;
    namespace.kubectl(&["replace", "--force", "-f", "-"]).input(new.to_string()).run()?;
    let replaced = uid(&workload.lease()?)?;
    ensure!(replaced != uid(&old)?, "the Lease was not replaced");
    cuts.into_iter().try_for_each(Cut::heal)?;
    Ok(Broken::nothing())
}

#[test]
fn replaced_by_a_strangers() -> Result<()> {
    Row::new(GROUP, "replaced by another object, held by a stranger")
        .default_lease()
        .follow(Follow::AnotherRun)
        .on_leader(|workload, _| {
            replace(workload, |spec| {
                spec["holderIdentity"] = json!("a-stranger");
                Ok(())
            })
        })
}

#[test]
fn replaced_by_a_standbys() -> Result<()> {
    Row::new(GROUP, "replaced by another object, held by a standby")
        .default_lease()
        .follow(Follow::AnotherRun)
        .on_leader(|workload, leader| {
            replace(workload, |spec| {
                spec["holderIdentity"] = json!(standby(workload, leader)?);
                Ok(())
            })
        })
}

/// All but the uid is as it was.
#[test]
fn replaced_by_a_copy() -> Result<()> {
    Row::new(GROUP, "replaced by a copy of itself")
        .default_lease()
        .follow(Follow::AnotherRun)
        .on_leader(|workload, _| replace(workload, |_| Ok(())))
}

#[test]
fn replaced_by_an_empty_one() -> Result<()> {
    Row::new(GROUP, "replaced by another object that nobody holds")
        .default_lease()
        .follow(Follow::SameRun(Duration::from_secs(35)))
        .on_leader(|workload, _| {
            replace(workload, |spec| {
                *spec = json!({});
                Ok(())
            })
        })
}
