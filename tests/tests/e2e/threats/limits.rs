//! What a right over a whole object could be used for, which was given for a part of it.

use leader_agent::names;

use super::*;
use crate::stage::until;

const SLICE: &str = "web-leader-ipv4";
/// The pod whose token is used.
const POD: &str = "2f1c7a52-0d3e-4d0c-9a37-6d1c1f7f3b11";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A leader-only Service of an id, and its slice.
fn steer(stage: &Stage) -> Result<()> {
    stage.namespace.apply(&deployment("web", "web").to_string())?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {names::LEADER_ONLY: "web"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    stage.namespace.apply(&service.to_string())?;
    until("the slice to be named on the Lease", || {
        let lease = stage.namespace.get(&["lease/web"])?;
        ensure!(lease["metadata"]["annotations"][names::SLICES].is_string(), "{lease:#}");
        Ok(())
    })
}

fn endpoint(pod: &str) -> Value {
    json!({"addresses": ["192.0.2.7"], "targetRef": {"kind": "Pod", "name": "web-1", "uid": pod}})
}

/// What a token is used to write.
type Edit<'a> = &'a dyn Fn(&mut Value);

#[test]
fn an_agents_token_used_to_capture_the_traffic_of_another_service() -> Result<()> {
    Stage::bare("threat-slice", &[], |stage| {
        steer(stage)?;
        let namespace = &stage.namespace;
        let account = format!("--as=system:serviceaccount:{}:leader-web", namespace.name());
        let pod = format!("--as-user-extra=authentication.kubernetes.io/pod-uid={POD}");
        let write = |edit: &dyn Fn(&mut Value)| {
            let mut slice = namespace.get(&["endpointslice", SLICE])?;
            edit(&mut slice);
            // Whatever the controller has written meanwhile.
            slice["metadata"].as_object_mut().context("no metadata")?.remove("resourceVersion");
            namespace.kubectl(&["replace", "-f", "-", &account, &pod]).input(slice.to_string()).output()
        };
        // What the leader does, as soon as it has the right.
        until("the pod to put itself in", || {
            let output = write(&|slice| slice["endpoints"] = json!([endpoint(POD)]))?;
            ensure!(output.success(), "{}", output.stderr);
            Ok(())
        })?;
        let label = |key: &'static str, value: &'static str| {
            move |slice: &mut Value| slice["metadata"]["labels"][key] = json!(value)
        };
        let service = label("kubernetes.io/service-name", "payments");
        let manager = label("endpointslice.kubernetes.io/managed-by", "x");
        let attempts: [(&str, Edit<'_>); 9] = [
            ("another Service's name", &service),
            ("another manager", &manager),
            ("no labels", &|slice| slice["metadata"]["labels"] = json!({})),
            ("no owner", &|slice| slice["metadata"]["ownerReferences"] = json!([])),
            ("a finalizer", &|slice| slice["metadata"]["finalizers"] = json!(["example.com/mine"])),
            ("another port", &|slice| slice["ports"][0]["port"] = json!(9)),
            ("another pod", &|slice| slice["endpoints"] = json!([endpoint("another")])),
            ("no pod", &|slice| slice["endpoints"] = json!([{"addresses": ["192.0.2.8"]}])),
            ("two addresses", &|slice| {
                let mut other = endpoint(POD);
                other["addresses"] = json!(["192.0.2.8"]);
                slice["endpoints"] = json!([endpoint(POD), other]);
            }),
        ];
        for (what, edit) in attempts {
            let output = write(edit)?;
            let is_refused = !output.success() && output.stderr.contains("leader-own-slices");
            ensure!(is_refused, "{what}: {output:?}");
        }
        // A pod that is not there is taken out, and so is what somebody else puts in who is no pod.
        let emptied = || {
            until("the slice to be empty", || {
                let slice = namespace.get(&["endpointslice", SLICE])?;
                ensure!(slice["endpoints"].as_array().is_none_or(Vec::is_empty), "{slice:#}");
                ensure!(slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web", "{slice:#}");
                Ok(())
            })
        };
        emptied()?;
        let stranger = json!({"endpoints": [{"addresses": ["192.0.2.8"]}]}).to_string();
        namespace.run(&["patch", "endpointslice", SLICE, "--type=merge", "--patch", &stranger])?;
        emptied()?;
        done(
            "an agent's token used to capture the traffic of another Service",
            "refused: a pod puts itself in, and no more",
        );
        Ok(())
    })
}

#[test]
fn the_webhooks_token_used_on_pods() -> Result<()> {
    Stage::bare("threat-pods", &[], |stage| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "victim", "labels": {"app": "victim"}, "annotations": {"team": "shop"}},
            "spec": {"containers": [{"name": "app", "image": "registry.invalid/app:1", "command": ["/app"]}]},
        });
        stage.namespace.apply(&pod.to_string())?;
        let patch = |patch: &Value| {
            let webhook = "--as=system:serviceaccount:leader-system:leader-webhook";
            let patch = format!("--patch={patch}");
            stage.namespace.kubectl(&["patch", "pod/victim", "--type=strategic", &patch, webhook]).output()
        };
        for attempt in [
            json!({"metadata": {"labels": {"app": "mine"}}}),
            json!({"metadata": {"annotations": {"team": null}}}),
            json!({"metadata": {"annotations": {"team": "mine", COST: "1"}}}),
            json!({"metadata": {"finalizers": ["example.com/mine"]}}),
            json!({"spec": {"activeDeadlineSeconds": 1}}),
            json!({"spec": {"containers": [{"name": "app", "image": "registry.invalid/mine:1", "command": ["/app"]}]}}),
        ] {
            let output = patch(&attempt)?;
            let is_refused = !output.success() && output.stderr.contains("leader-deletion-cost");
            ensure!(is_refused, "{attempt}: {output:?}");
        }
        for cost in [json!("1000000000"), Value::Null] {
            let output = patch(&json!({"metadata": {"annotations": {COST: cost}}}))?;
            ensure!(output.success(), "{}", output.stderr);
        }
        done("the webhook's token used on pods", "refused, but for what their deletion costs");
        Ok(())
    })
}
