//! What an attacker would try, one test for each: who may write Deployments, pods or annotations gets nothing by leader that he did not
//! have. A review that something else than the API server sends is tried in `webhook/tests/server/clients.rs`.

mod limits;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_tests::command::Output;
use leader_tests::progress::say;
use leader_tests::wait;
use serde_json::{Value, json};

use crate::admission::maker;
use crate::stage::Stage;

/// The attacker's own image of an agent.
const MINE: &str = "registry.invalid/mine:1";

/// What is imitated, in a pod's specification.
type Imitation = (&'static str, fn(&mut Value));

/// A Deployment without pods, under an id.
fn deployment(name: &str, id: &str) -> Value {
    let mut deployment = maker("Deployment", &json!({names::ID: id}), &json!({}));
    deployment["metadata"]["name"] = json!(name);
    deployment["spec"]["replicas"] = json!(0);
    deployment
}

fn apply(stage: &Stage, object: &Value, more: &[&str]) -> Result<Output> {
    stage.namespace.kubectl(&["apply", "-f", "-"]).args(more).input(object.to_string()).output()
}

/// Sees that `object` is refused by the webhook, and that it says all of `parts` on lines of its own.
fn refused(stage: &Stage, object: &Value, parts: &[&str]) -> Result<()> {
    let output = apply(stage, object, &[])?;
    ensure!(!output.success(), "it was let through: {}", output.stdout);
    for part in [&["denied the request"], parts].concat() {
        ensure!(output.stderr.contains(part), "no `{part}` in {}", output.stderr);
    }
    Ok(())
}

fn done(threat: &str, outcome: &str) {
    say(format!("threat: {threat}: {outcome}"));
}

/// A Lease of another program, with a holder.
fn foreign_lease(stage: &Stage, name: &str) -> Result<Value> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": "another-program", "leaseDurationSeconds": 15, "leaseTransitions": 3},
    });
    stage.namespace.apply(&lease.to_string())?;
    stage.namespace.get(&["lease", name])
}

#[test]
fn an_id_that_names_another_programs_lease() -> Result<()> {
    Stage::bare("threat-lease", &[], |stage| {
        let before = foreign_lease(stage, "other")?;
        refused(
            stage,
            &deployment("mine", "other"),
            &["Lease", "other", "was not made for the id other", "leader.io/adopt=true"],
        )?;
        ensure!(stage.namespace.get(&["lease/other"])? == before, "the Lease was changed");
        let role = stage.namespace.kubectl(&["get", "role/leader-other"]).output()?;
        ensure!(!role.success(), "a right over it was given");
        // The same for an account, a Role and a RoleBinding of that name: they may carry other rights.
        for kind in ["serviceaccount", "role"] {
            let id = format!("taken-{kind}");
            let name = format!("leader-{id}");
            let create: &[&str] = if kind == "role" { &["--verb=get", "--resource=secrets"] } else { &[] };
            stage.namespace.run(&[&["create", kind, &name], create].concat())?;
            refused(stage, &deployment("mine", &id), &[&name, "was not made for the id"])?;
        }

        // Who may edit that Lease may allow it.
        stage.namespace.run(&["annotate", "lease/other", &format!("{}=true", names::ADOPT)])?;
        let adopted = apply(stage, &deployment("mine", "other"), &[])?;
        ensure!(adopted.success(), "{}", adopted.stderr);
        let after = stage.namespace.get(&["lease/other"])?;
        ensure!(after["spec"] == before["spec"], "the holder was put aside at once: {after:#}");
        ensure!(after["metadata"]["labels"].is_null(), "it is ours now: {after:#}");
        done("an id that names another program's Lease", "refused, unless that Lease says leader.io/adopt");
        Ok(())
    })
}

#[test]
fn ids_that_collide_after_a_normalisation() -> Result<()> {
    Stage::bare("threat-ids", &[], |stage| {
        stage.namespace.apply(&deployment("victim", "billing").to_string())?;
        let long = "a".repeat(64);
        let lookalike = "b\u{456}lling";
        for id in [
            "Billing",
            "billing.",
            " billing",
            "billing ",
            "bil_ling",
            "billing/x",
            "../billing",
            "",
            "-billing",
            lookalike,
            &long,
        ] {
            refused(stage, &deployment("attacker", id), &["annotation leader.io/id"])?;
        }
        // Names that contain each other have objects of their own.
        for id in ["leader-billing", "billing-leader", "leader"] {
            let output = apply(stage, &deployment(id, id), &[])?;
            ensure!(output.success(), "{}", output.stderr);
            let rules = stage.namespace.get(&[&format!("role/leader-{id}")])?["rules"].clone();
            ensure!(rules[0]["resourceNames"] == json!([id]), "{rules:#}");
        }
        let rules = stage.namespace.get(&["role/leader-billing"])?["rules"].clone();
        ensure!(rules[0]["resourceNames"] == json!(["billing"]), "{rules:#}");
        done("ids that collide after any normalisation", "there is none: an id is used as it stands, or refused");
        Ok(())
    })
}

#[test]
fn a_user_who_may_edit_deployments_but_not_leases() -> Result<()> {
    Stage::bare("threat-user", &[], |stage| {
        let namespace = &stage.namespace;
        namespace.run(&[
            "create",
            "role",
            "editor",
            "--verb=get,list,create,update,patch,delete",
            "--resource=deployments.apps",
        ])?;
        namespace.run(&["create", "rolebinding", "editor", "--role=editor", "--user=eve"])?;
        foreign_lease(stage, "other")?;
        let eve = "--as=eve";
        wait::until("eve to have her rights", Duration::from_secs(30), || {
            namespace.run(&["auth", "can-i", "create", "deployments.apps", eve])
        })?;
        let own = apply(stage, &deployment("mine", "mine"), &[eve])?;
        ensure!(own.success(), "{}", own.stderr);
        let other = apply(stage, &deployment("theirs", "other"), &[eve])?;
        ensure!(!other.success() && other.stderr.contains("was not made for the id"), "{other:?}");
        let adopt = namespace.kubectl(&["annotate", "lease/other", "leader.io/adopt=true", eve]).output()?;
        ensure!(adopt.stderr.contains("forbidden"), "{adopt:?}");
        let lease = namespace.kubectl(&["delete", "lease/mine", eve]).output()?;
        ensure!(lease.stderr.contains("forbidden"), "{lease:?}");
        // An account that another program runs under gets a right over the id's own Lease, and no other.
        namespace.run(&["create", "serviceaccount", "robot"])?;
        let mut keeping = deployment("keeping", "keeping");
        keeping["metadata"]["annotations"]["leader.io/service-account"] = json!("keep");
        keeping["spec"]["template"]["spec"]["serviceAccountName"] = json!("robot");
        let kept = apply(stage, &keeping, &[eve])?;
        ensure!(kept.success(), "{}", kept.stderr);
        let robot = format!("--as=system:serviceaccount:{}:robot", namespace.name());
        let may = namespace.kubectl(&["auth", "can-i", "update", "leases/other", &robot]).output()?;
        ensure!(!may.success(), "{may:?}");
        done("a user who may edit Deployments but not Leases", "gets Leases of ids alone, by pods of his own");
        Ok(())
    })
}

#[test]
fn a_forged_record() -> Result<()> {
    Stage::bare("threat-record", &[], |stage| {
        // It claims to be injected and is not; what it claims to have found there is a folder of the node.
        let root = json!([{"name": "root", "hostPath": {"path": "/"}}]);
        let record = json!({
            "version": 1, "id": "billing", "container": "app", "leaseDuration": "15s", "serviceAccount": "dedicated",
            "command": ["/mine"], "agentImage": MINE,
            "original": {"setsCommand": true, "empty": {"volumes": root, "initContainers": root}, "handlers": {}},
        });
        let mut forged = deployment("billing", "billing");
        forged["spec"]["template"]["metadata"]["annotations"] = json!({names::INJECTED: record.to_string()});
        let shown = apply(stage, &forged, &["--dry-run=server", "-o", "json"])?;
        let stored: Value = serde_json::from_str(&shown.stdout).with_context(|| shown.stderr.clone())?;
        let template = &stored["spec"]["template"];
        let init = &template["spec"]["initContainers"][0];
        ensure!(init["name"] == names::INIT_CONTAINER && init["image"] != MINE, "{init:#}");
        let command = &template["spec"]["containers"][0]["command"];
        ensure!(*command == json!([names::AGENT_PATH, "run", "--", "/app"]), "{command:#}");
        ensure!(!template["spec"].to_string().contains("hostPath"), "{template:#}");

        stage.namespace.apply(&forged.to_string())?;
        stage.namespace.run(&["annotate", "deployment/billing", "leader.io/id-"])?;
        let ejected = stage.namespace.get(&["deployment/billing"])?["spec"]["template"].clone();
        ensure!(!ejected["spec"].to_string().contains("hostPath"), "{ejected:#}");
        ensure!(ejected["spec"]["containers"][0]["command"] == json!(["/app"]), "{ejected:#}");
        // On a pod, which nobody reviews again, a record is not believed either.
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "forged", "annotations": {names::ID: "billing", names::INJECTED: record.to_string()}},
            "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
        });
        let shown = stage.namespace.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"]);
        let stored: Value = serde_json::from_str(&shown.input(pod.to_string()).run()?)?;
        let written = stored["metadata"]["annotations"][names::INJECTED].as_str().context("no record")?;
        let written: Value = serde_json::from_str(written)?;
        ensure!(written["command"] == json!(["/app"]), "{written:#}");
        ensure!(!stored["spec"].to_string().contains("hostPath"), "{stored:#}");
        done("a forged record", "injected anew, and what it claims is not put back");
        Ok(())
    })
}

#[test]
fn annotation_values_with_newlines_and_bombs() -> Result<()> {
    Stage::bare("threat-values", &[], |stage| {
        let with = |key: &str, value: &str| {
            let mut object = deployment("billing", "billing");
            object["metadata"]["annotations"][key] = json!(value);
            object
        };
        // Not `apply`, which puts each value into one more annotation.
        let create = |object: &Value| {
            stage.namespace.kubectl(&["create", "--dry-run=server", "-f", "-"]).input(object.to_string()).output()
        };
        for value in ["billing\nother", "billing\r", "\n", "billing\0", "\u{202e}gnillib"] {
            refused(stage, &with(names::ID, value), &["annotation leader.io/id"])?;
        }
        let deep = format!("{}\"a\"{}", "[".repeat(50_000), "]".repeat(50_000));
        let wide = format!("[{}\"a\"]", "\"a\",".repeat(40_000));
        let number = "9".repeat(100_000);
        for (key, value) in [
            ("leader.io/command", deep.as_str()),
            ("leader.io/command", "{\"a\":1e999999}"),
            ("leader.io/command", "[\"/app\"]]"),
            ("leader.io/lease-duration", number.as_str()),
            ("leader.io/lease-duration", "15s\n"),
            ("leader.io/port", number.as_str()),
            ("leader.io/container", "app\nerror: all is well"),
            ("leader.io/stop-grace", "1e999s"),
        ] {
            let output = create(&with(key, value))?;
            ensure!(!output.success() && output.stderr.contains("denied the request"), "{key}: {output:?}");
            ensure!(output.stderr.len() < 10_000, "{key}: the value comes back: {} bytes", output.stderr.len());
            ensure!(!output.stderr.lines().any(|line| line.starts_with("error: all is well")), "{}", output.stderr);
        }
        // Large, and what it says: it is injected, or refused because of its size.
        let mut listed = with("leader.io/command", &wide);
        let no_command = listed["spec"]["template"]["spec"]["containers"][0].as_object_mut().context("no container")?;
        no_command.remove("command");
        let output = create(&listed)?;
        ensure!(output.success() || output.stderr.contains("denied the request"), "{output:?}");
        // A template of many small things takes its time, and others are answered.
        let mut many = deployment("billing", "billing");
        let items: Vec<Value> = (0..20_000).map(|at| json!({"name": format!("V{at}"), "value": "x"})).collect();
        many["spec"]["template"]["spec"]["containers"][0]["env"] = Value::Array(items);
        let output = create(&many)?;
        ensure!(output.success() || output.stderr.contains("denied the request"), "{output:?}");
        let after = apply(stage, &deployment("billing", "billing"), &["--dry-run=server"])?;
        ensure!(after.success(), "{}", after.stderr);
        done(
            "annotation values with newlines, and JSON bombs",
            "refused in a sentence, and the next review is answered",
        );
        Ok(())
    })
}

#[test]
fn an_agents_token_used_against_anything_else() -> Result<()> {
    Stage::bare("threat-token", &[], |stage| {
        let namespace = &stage.namespace;
        for id in ["billing", "other"] {
            namespace.apply(&deployment(id, id).to_string())?;
        }
        let agent = format!("--as=system:serviceaccount:{}:leader-billing", namespace.name());
        let may = |arguments: &[&str]| -> Result<bool> {
            Ok(namespace.kubectl(&[&["auth", "can-i"], arguments, &[&agent]].concat()).output()?.success())
        };
        wait::until("the agent to have its right", Duration::from_secs(30), || {
            ensure!(may(&["update", "leases/billing"])?, "it has not");
            Ok(())
        })?;
        for verb in ["get", "list", "watch", "create", "update"] {
            ensure!(may(&[verb, "leases/billing"])?, "it may not {verb} its own");
        }
        let mut beyond =
            vec![vec!["delete", "leases/billing"], vec!["patch", "leases/billing"], vec!["create", "leases"]];
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
            beyond.push(vec![verb, "leases/other"]);
            for kind in [
                "leases",
                "secrets",
                "pods",
                "configmaps",
                "serviceaccounts",
                "events",
                "endpointslices.discovery.k8s.io",
                "deployments.apps",
                "roles.rbac.authorization.k8s.io",
                "rolebindings.rbac.authorization.k8s.io",
                "nodes",
            ] {
                beyond.push(vec![verb, kind]);
            }
        }
        beyond.push(vec!["create", "serviceaccounts/leader-other", "--subresource=token"]);
        beyond.push(vec!["create", "pods", "--subresource=exec"]);
        for question in &beyond {
            ensure!(!may(question)?, "it may {}", question.join(" "));
        }
        let elsewhere = namespace.cluster().kubectl(&[
            "--namespace=leader-system",
            "auth",
            "can-i",
            "get",
            "leases/billing",
            &agent,
        ]);
        ensure!(!elsewhere.output()?.success(), "it may read a Lease of another namespace");
        done(
            "an agent's token used against anything but its own Lease",
            &format!("{} questions, all answered no", beyond.len() + 1),
        );
        Ok(())
    })
}

#[test]
fn a_pod_that_imitates_the_agents_path() -> Result<()> {
    Stage::bare("threat-path", &[], |stage| {
        let pod = |edit: fn(&mut Value)| {
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "imitates", "annotations": {names::ID: "billing"}},
                "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
            });
            edit(&mut pod["spec"]);
            pod
        };
        let imitations: [Imitation; 5] = [
            ("the init container's name", |spec| {
                spec["initContainers"] = json!([{"name": "leader-agent", "image": MINE}]);
            }),
            ("the agent's path as the command", |spec| {
                spec["containers"][0]["command"] = json!([names::AGENT_PATH, "mine"]);
            }),
            ("a volume of its own at the agent's path", |spec| {
                spec["volumes"] = json!([{"name": "mine", "emptyDir": {}}]);
                spec["containers"][0]["volumeMounts"] = json!([{"name": "mine", "mountPath": names::MOUNT_PATH}]);
            }),
            ("the agent's volume", |spec| {
                spec["volumes"] = json!([{"name": names::VOLUME, "hostPath": {"path": "/"}}]);
            }),
            ("the agent's environment", |spec| {
                spec["containers"][0]["env"] = json!([{"name": "LEADER_NAMESPACE", "value": "kube-system"}]);
            }),
        ];
        for (what, edit) in imitations {
            let output = stage.namespace.kubectl(&["create", "-f", "-"]).input(pod(edit).to_string()).output()?;
            ensure!(!output.success() && output.stderr.contains("denied the request"), "{what}: {output:?}");
        }
        // Both at once pass the policy, and not the webhook before it. A dry run makes no account, without which Kubernetes takes no pod.
        stage.namespace.apply(&deployment("billing", "billing").to_string())?;
        let both = pod(|spec| {
            spec["initContainers"] = json!([{"name": "leader-agent", "image": MINE, "command": ["/leader-agent"]}]);
            spec["containers"][0]["command"] = json!([names::AGENT_PATH, "run", "--", "/app"]);
        });
        let shown =
            stage.namespace.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"]).input(both.to_string());
        let shown = shown.output()?;
        if shown.success() {
            let stored: Value = serde_json::from_str(&shown.stdout)?;
            let init = &stored["spec"]["initContainers"];
            ensure!(init.as_array().is_some_and(|all| all.len() == 1), "{init:#}");
            ensure!(init[0]["image"] != MINE, "it runs its own agent: {init:#}");
        } else {
            ensure!(shown.stderr.contains("denied the request"), "{shown:?}");
        }
        done("a pod that imitates the agent's path", "refused, or given the real agent");
        Ok(())
    })
}
