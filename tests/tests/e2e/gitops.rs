//! What docs/gitops.md says of each tool, by doing to the API server what the tool does. Where the facts come from stands there.
//!
//! Server-side apply is `kubectl apply --server-side` with the tool's field manager: the same request. What a tool compares on its own
//! side is done here as it does it.

use std::fs;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use serde_json::{Map, Value, json};

use crate::pages::{Page, checkout};
use crate::stage::{Stage, until};

/// The workload of the page, which carries the id on its pod template, or on its own metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Workload,
    Template,
}

const BOTH: [On; 2] = [On::Workload, On::Template];

/// The manifest in Git, with an image that is there. It runs nothing: what is stored is what is looked at.
fn in_git(stage: &Stage, on: On) -> Result<Value> {
    let file = Page::read("gitops")?.file("billing.yaml")?;
    let read = stage.namespace.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", "-"]).input(file).run()?;
    let mut manifest: Value = serde_json::from_str(&read)?;
    let metadata = manifest["metadata"].as_object_mut().context("no metadata")?;
    // What the file does not say.
    metadata.retain(|key, _| key == "name");
    manifest.as_object_mut().context("no object")?.remove("status");
    manifest["spec"]["replicas"] = json!(0);
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = json!(stage.image("leader-ledger")?);
    if on == On::Workload {
        let template = &mut manifest["spec"]["template"]["metadata"];
        let annotations = template.as_object_mut().context("no metadata")?.remove("annotations");
        manifest["metadata"]["annotations"] = annotations.context("the page's template has no annotations")?;
    }
    Ok(manifest)
}

/// As somebody changes it in Git.
fn changed(mut manifest: Value) -> Value {
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "CHANGED", "value": "yes"}]);
    manifest
}

fn live(stage: &Stage) -> Result<Value> {
    stage.namespace.get(&["deployment/billing", "--show-managed-fields"])
}

/// The generation, once the controller of Deployments has looked at it and written down what it had to.
fn generation(stage: &Stage) -> Result<u64> {
    until("the controller to have seen it", || {
        let live = live(stage)?;
        let generation = live["metadata"]["generation"].as_u64().context("no generation")?;
        ensure!(live["status"]["observedGeneration"] == generation, "{:#}", live["status"]);
        Ok(generation)
    })
}

fn kubectl(stage: &Stage, words: &[&str], manifest: &Value) -> Result<Value> {
    let output = stage.namespace.kubectl(words).args(["-o", "json", "-f", "-"]).input(manifest.to_string()).run()?;
    Ok(serde_json::from_str(&output)?)
}

fn apply_server_side(stage: &Stage, manager: &str, more: &[&str], manifest: &Value) -> Result<Value> {
    let manager = format!("--field-manager={manager}");
    kubectl(stage, &[&["apply", "--server-side", manager.as_str()], more].concat(), manifest)
}

/// Everything that a tool compares, when it compares what is stored: not what controllers report.
fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|key, _| key != "managedFields" && key != "resourceVersion");
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object
}

/// Every field of `config` is in `live` with the same value: what a comparison finds that knows of no webhook.
fn says_the_same(live: &Value, config: &Value) -> bool {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) => {
            config.iter().all(|(key, value)| live.get(key).is_some_and(|there| says_the_same(there, value)))
        }
        (Value::Array(live), Value::Array(config)) => {
            live.len() == config.len() && live.iter().zip(config).all(|(live, config)| says_the_same(live, config))
        }
        _ => live == config,
    }
}

/// Applies, looks, applies again, and applies a change; `sync` writes and `is_in_sync` compares, as the tool does it. What is the same
/// is stored once, and a change is stored once.
fn reconciles(
    stage: &Stage,
    on: On,
    sync: impl Fn(&Value) -> Result<()>,
    is_in_sync: impl Fn(&Value) -> Result<bool>,
) -> Result<()> {
    let first = in_git(stage, on)?;
    let second = changed(first.clone());
    let mut generations = Vec::new();
    for manifest in [&first, &second, &first] {
        sync(manifest)?;
        let stored = generation(stage)?;
        for turn in 0..3 {
            ensure!(is_in_sync(manifest)?, "{on:?}: out of sync at turn {turn}: {:#}", live(stage)?);
            sync(manifest)?;
        }
        ensure!(generation(stage)? == stored, "{on:?}: the same was stored again: {:#}", live(stage)?);
        generations.push(stored);
        let injected = live(stage)?["spec"]["template"]["spec"]["initContainers"][0]["name"] == names::INIT_CONTAINER;
        ensure!(injected == (on == On::Workload), "{on:?}: {:#}", live(stage)?);
    }
    ensure!(generations.is_sorted() && generations[0] != generations[1] && generations[1] != generations[2]);
    stage.namespace.run(&["delete", "deployment/billing"]).map(drop)
}

#[test]
fn argo_cd_with_server_side_diff_is_in_sync() -> Result<()> {
    const MANAGER: &str = "argocd-controller";
    Stage::bare("argo-cd", &[], |stage| {
        // `IncludeMutationWebhook=true`: all of the predicted object is compared. Without it less is.
        let in_sync = |manifest: &Value| {
            let predicted = apply_server_side(stage, MANAGER, &["--force-conflicts", "--dry-run=server"], manifest)?;
            Ok(comparable(&predicted) == comparable(&live(stage)?))
        };
        for on in BOTH {
            let client_side = |manifest: &Value| {
                kubectl(stage, &["apply", &format!("--field-manager={MANAGER}")], manifest).map(drop)
            };
            let server_side =
                |manifest: &Value| apply_server_side(stage, MANAGER, &["--force-conflicts"], manifest).map(drop);
            reconciles(stage, on, server_side, in_sync).context("ServerSideApply=true")?;
            // Applied on the client's side, the object is compared by what it says: its managers are others.
            let spec_in_sync = |manifest: &Value| {
                let predicted =
                    apply_server_side(stage, MANAGER, &["--force-conflicts", "--dry-run=server"], manifest)?;
                Ok(predicted["spec"] == live(stage)?["spec"])
            };
            reconciles(stage, on, client_side, spec_in_sync).context("ServerSideApply=false")?;
        }
        Ok(())
    })
}

#[test]
fn argo_cds_default_diff_sees_the_workload_and_not_the_template() -> Result<()> {
    Stage::bare("argo-cd-default", &[], |stage| {
        for on in BOTH {
            let manifest = in_git(stage, on)?;
            kubectl(stage, &["apply", "--field-manager=argocd-controller"], &manifest)?;
            let same = says_the_same(&live(stage)?, &manifest);
            ensure!(same == (on == On::Template), "{on:?}: in sync: {same}");
            stage.namespace.run(&["delete", "deployment/billing"])?;
        }
        Ok(())
    })
}

#[test]
fn flux_finds_no_drift() -> Result<()> {
    const MANAGER: &str = "kustomize-controller";
    Stage::bare("flux", &[], |stage| {
        let sync = |manifest: &Value| apply_server_side(stage, MANAGER, &["--force-conflicts"], manifest).map(drop);
        let in_sync = |manifest: &Value| {
            let predicted = apply_server_side(stage, MANAGER, &["--force-conflicts", "--dry-run=server"], manifest)?;
            let live = live(stage)?;
            let compared = |object: &Value| {
                let mut rest = object.clone();
                if let Some(fields) = rest.as_object_mut() {
                    fields.retain(|key, _| key != "metadata" && key != "status");
                }
                (object["metadata"]["labels"].clone(), object["metadata"]["annotations"].clone(), rest)
            };
            Ok(compared(&predicted) == compared(&live))
        };
        BOTH.into_iter().try_for_each(|on| reconciles(stage, on, sync, in_sync))
    })
}

#[test]
fn helm_3_patches_three_sides() -> Result<()> {
    Stage::bare("helm-3", &[], |stage| {
        for on in BOTH {
            // What is stored with the release.
            let released = std::cell::RefCell::new(None::<Value>);
            let sync = |manifest: &Value| {
                let Some(original) = released.borrow_mut().replace(manifest.clone()) else {
                    return kubectl(stage, &["create", "--field-manager=helm"], manifest).map(drop);
                };
                let patch = three_way(&original, manifest, &live(stage)?);
                if patch.is_empty() {
                    return Ok(());
                }
                let patch = Value::Object(patch).to_string();
                let words = ["patch", "deployment/billing", "--type=strategic", "--field-manager=helm", "--patch"];
                stage.namespace.kubectl(&words).arg(patch).run().map(drop)
            };
            reconciles(stage, on, sync, |_| Ok(true))?;
        }
        Ok(())
    })
}

#[test]
fn helm_4_applies_without_conflicts() -> Result<()> {
    Stage::bare("helm-4", &[], |stage| {
        // Not forced: a conflict is an error.
        let sync = |manifest: &Value| apply_server_side(stage, "helm", &[], manifest).map(drop);
        BOTH.into_iter().try_for_each(|on| reconciles(stage, on, sync, |_| Ok(true)))
    })
}

#[test]
fn terraform_gets_back_what_it_sent_but_for_the_fields_that_the_page_names() -> Result<()> {
    const MANAGER: &str = "Terraform";
    Stage::bare("terraform", &[], |stage| {
        let page = fs::read_to_string(checkout().join("docs/gitops.md"))?;
        let (_, list) = page.split_once("computed_fields = [\n").context("the page names no computed_fields")?;
        let (list, _) = list.split_once(']').context("the list has no end")?;
        let computed: Vec<&str> =
            list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
        ensure!(computed.len() > 2, "{list}");
        for on in BOTH {
            let sync = |manifest: &Value| apply_server_side(stage, MANAGER, &[], manifest).map(drop);
            let in_sync = |manifest: &Value| {
                let planned = apply_server_side(stage, MANAGER, &["--dry-run=server"], manifest)?;
                let (mut planned, mut live) = (comparable(&planned), comparable(&live(stage)?));
                let (mut sent, mut came) = (manifest.clone(), live.clone());
                if on == On::Workload {
                    for path in &computed {
                        for object in [&mut planned, &mut live, &mut sent, &mut came] {
                            remove(object, path);
                        }
                    }
                }
                Ok(planned == live && says_the_same(&came, &sent))
            };
            reconciles(stage, on, sync, in_sync)?;
        }
        Ok(())
    })
}

/// An operator that puts its whole specification into what is there and writes it at every turn (`CreateOrUpdate` of controller-runtime),
/// and is woken by what is stored.
#[test]
fn an_operator_that_always_writes_does_not_wake_itself() -> Result<()> {
    Stage::bare("operator", &[], |stage| {
        for on in BOTH {
            let sync = |manifest: &Value| {
                if !stage.namespace.kubectl(&["get", "deployment/billing"]).output()?.success() {
                    return kubectl(stage, &["create"], manifest).map(drop);
                }
                // Whoever writes over a change of somebody else is refused, reads again, and writes again.
                until("the operator to write", || {
                    let mut object = live(stage)?;
                    object["spec"] = manifest["spec"].clone();
                    for (key, value) in manifest["metadata"]["annotations"].as_object().into_iter().flatten() {
                        object["metadata"]["annotations"][key] = value.clone();
                    }
                    kubectl(stage, &["replace"], &object).map(drop)
                })
            };
            reconciles(stage, on, sync, |_| Ok(true))?;
        }
        Ok(())
    })
}

/// The one write that moves the generation: it takes away the revision that the Deployment's controller keeps in the object's annotations.
/// Without an annotation of ours it does the same, and in neither case is anything rolled out.
#[test]
fn a_bare_replace_moves_the_generation_with_and_without_an_election_and_rolls_nothing_out() -> Result<()> {
    Stage::bare("bare-replace", &[], |stage| {
        let elected = in_git(stage, On::Workload)?;
        let mut plain = elected.clone();
        plain["metadata"].as_object_mut().context("no metadata")?.remove("annotations");
        for manifest in [&plain, &elected] {
            kubectl(stage, &["create"], manifest)?;
            let stored = generation(stage)?;
            let template = live(stage)?["spec"]["template"].clone();
            for _ in 0..3 {
                // Its revision has to be there for a replace to take it away.
                until("the revision to be written down", || {
                    let live = live(stage)?;
                    ensure!(live["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1", "{live:#}");
                    // It reads before it writes, and the controller may write between the two: nothing is changed then.
                    kubectl(stage, &["replace"], manifest)
                })?;
            }
            ensure!(generation(stage)? == stored + 3, "{:#}", live(stage)?);
            ensure!(live(stage)?["spec"]["template"] == template, "{:#}", live(stage)?);
            let sets = stage.namespace.get(&["replicasets"])?;
            ensure!(sets["items"].as_array().is_some_and(|sets| sets.len() == 1), "{sets:#}");
            stage.namespace.run(&["delete", "deployment/billing", "--cascade=foreground"])?;
        }
        Ok(())
    })
}

#[test]
fn a_tool_that_applies_the_webhooks_configuration_sees_no_difference() -> Result<()> {
    Stage::bare("configuration", &[], |stage| {
        let cluster = stage.namespace.cluster();
        let file = fs::read_to_string(checkout().join("deploy/base/webhook-configuration.yaml"))?;
        for manager in ["argocd-controller", "kustomize-controller", "helm"] {
            let manager = format!("--field-manager={manager}");
            let words = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json", "-f", "-"];
            let predicted: Value = serde_json::from_str(&cluster.kubectl(&words).arg(manager).input(&*file).run()?)?;
            let live = cluster.get(&["mutatingwebhookconfiguration/leader-webhook"])?;
            ensure!(predicted["webhooks"][0]["clientConfig"]["caBundle"].is_string(), "the bundle is lost");
            ensure!(
                predicted["webhooks"] == live["webhooks"],
                "{:#} is not {:#}",
                predicted["webhooks"],
                live["webhooks"]
            );
        }
        Ok(())
    })
}

/// Takes the field at a path such as `spec.template` out.
fn remove(object: &mut Value, path: &str) {
    let (parent, field) = path.rsplit_once('.').unwrap_or(("", path));
    let pointer = parent.split('.').filter(|part| !part.is_empty()).fold(String::new(), |all, part| all + "/" + part);
    if let Some(Value::Object(fields)) = object.pointer_mut(&pointer) {
        fields.remove(field);
    }
}

/// Helm's strategic merge patch: what the new manifest says and the live object does not, and, of what the last release said and the
/// new one does not say any more, the removal
/// (`CreateThreeWayMergePatch` in k8s.io/apimachinery, pkg/util/strategicpatch/patch.go).
fn three_way(original: &Value, modified: &Value, current: &Value) -> Map<String, Value> {
    let (Some(original), Some(modified)) = (original.as_object(), modified.as_object()) else { return Map::new() };
    let mut patch = Map::new();
    for (key, wanted) in modified {
        let (before, there) = (&original.get(key).cloned().unwrap_or_default(), &current[key]);
        match (wanted, merge_key(key)) {
            (Value::Object(_), _) if there.is_object() => {
                let below = three_way(&if before.is_object() { before.clone() } else { json!({}) }, wanted, there);
                if !below.is_empty() {
                    patch.insert(key.clone(), Value::Object(below));
                }
            }
            (Value::Array(items), Some(merge_key)) => {
                let merged = merged_list(before, items, there, merge_key);
                if !merged.is_empty() {
                    let order: Vec<Value> = items.iter().map(|item| json!({merge_key: item[merge_key]})).collect();
                    patch.insert(format!("$setElementOrder/{key}"), Value::Array(order));
                    patch.insert(key.clone(), Value::Array(merged));
                }
            }
            _ if wanted != there => {
                patch.insert(key.clone(), wanted.clone());
            }
            _ => {}
        }
    }
    for key in original.keys().filter(|key| !modified.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}

fn merged_list(before: &Value, wanted: &[Value], there: &Value, merge_key: &str) -> Vec<Value> {
    let find = |list: &Value, item: &Value| -> Option<Value> {
        list.as_array()?.iter().find(|other| other[merge_key] == item[merge_key]).cloned()
    };
    let mut merged = Vec::new();
    for item in wanted {
        let Some(now) = find(there, item) else {
            merged.push(item.clone());
            continue;
        };
        let mut patch = three_way(&find(before, item).unwrap_or(json!({})), item, &now);
        if !patch.is_empty() {
            patch.insert(merge_key.to_owned(), item[merge_key].clone());
            merged.push(Value::Object(patch));
        }
    }
    for gone in before.as_array().into_iter().flatten() {
        if !wanted.iter().any(|item| item[merge_key] == gone[merge_key]) {
            merged.push(json!({merge_key: gone[merge_key], "$patch": "delete"}));
        }
    }
    merged
}

/// By which field a list's items are told apart (`patchMergeKey` of the API's types).
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "env" | "volumes" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_of_three_sides_says_what_is_missing_and_what_is_no_longer_said() {
        let manifest = |command: &str, env: Value| json!({"spec": {"containers": [{"name": "a", "command": [command], "env": env}]}});
        let plain = manifest("app", json!([]));
        assert!(three_way(&plain, &plain, &plain).is_empty());
        let mut live = manifest("agent", json!([{"name": "OURS", "value": "1"}]));
        let patch = Value::Object(three_way(&plain, &plain, &live));
        let containers = json!([{"command": ["app"], "name": "a"}]);
        let order = json!([{"name": "a"}]);
        assert_eq!(patch, json!({"spec": {"$setElementOrder/containers": order, "containers": containers}}));

        let with = manifest("agent", json!([{"name": "OLD", "value": "1"}]));
        live["spec"]["containers"][0]["env"] = json!([{"name": "OURS", "value": "1"}, {"name": "OLD", "value": "1"}]);
        let without = manifest("agent", json!([]));
        let patch = Value::Object(three_way(&with, &without, &live));
        assert_eq!(patch["spec"]["containers"][0]["env"], json!([{"name": "OLD", "$patch": "delete"}]));
    }
}
