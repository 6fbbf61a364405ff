//! Everything that makes pods: elected whatever kind it is, injected once, and otherwise as it was.

use anyhow::{Context, Result, ensure};
use leader_agent::names;
use leader_specimen::event::{self, What};
use leader_tests::progress::say;
use serde_json::{Value, json};

use crate::specimen::{CONTAINER, Specimen, name, ready_since};
use crate::stage::{Stage, until};

/// Every pod is injected just once and runs under the id's account, and the id's objects are there.
fn injected_once(specimen: &Specimen<'_>) -> Result<()> {
    let id = &specimen.name;
    let pods = specimen.pods()?;
    ensure!(!pods.is_empty(), "{id} has no pods");
    for pod in &pods {
        let spec = &pod["spec"];
        let named = |list: &str, wanted: &str| {
            spec[list].as_array().into_iter().flatten().filter(|entry| entry["name"] == wanted).count()
        };
        ensure!(named("initContainers", names::INIT_CONTAINER) == 1, "{:#}", spec["initContainers"]);
        ensure!(named("volumes", names::VOLUME) == 1, "{:#}", spec["volumes"]);
        let containers = spec["containers"].as_array().context("no containers")?;
        let wrapped = containers.iter().find(|container| container["name"] == CONTAINER).context("no container")?;
        let agents = wrapped["command"].as_array().into_iter().flatten().filter(|word| *word == names::AGENT_PATH);
        ensure!(agents.count() == 1, "{:#}", wrapped["command"]);
        ensure!(spec["serviceAccountName"] == format!("leader-{id}"), "{}", spec["serviceAccountName"]);
        ensure!(pod["metadata"]["labels"][names::ID] == *id, "{:#}", pod["metadata"]["labels"]);
    }
    let account = format!("leader-{id}");
    let objects = ["serviceaccount", "role", "rolebinding"].map(|kind| format!("{kind}/{account}"));
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    specimen.stage.namespace.run(&[&["get"], objects.as_slice()].concat()).map(drop)
}

/// Waits until so many pods are ready, of which one runs the app.
fn elected(specimen: &Specimen<'_>, replicas: usize) -> Result<()> {
    until(&format!("{replicas} ready pods of {}", specimen.name), || {
        let pods = specimen.pods()?;
        for pod in &pods {
            ready_since(pod)?;
        }
        ensure!(pods.len() == replicas, "there are {}", pods.len());
        Ok(())
    })?;
    injected_once(specimen)?;
    let leader = specimen.leader()?;
    for pod in specimen.pods()?.iter().filter(|pod| name(pod) != leader) {
        let processes = specimen.stage.namespace.processes(name(pod), CONTAINER)?;
        ensure!(processes.app().is_empty(), "{} runs the app, and {leader} leads", name(pod));
    }
    Ok(())
}

/// An object of this kind with a pod template and the id on its own metadata.
fn workload(specimen: &Specimen<'_>, kind: &str, replicas: u32, pod: &Value) -> Value {
    let mut object = specimen.deployment(replicas, pod);
    object["kind"] = json!(kind);
    object
}

/// Moves the annotations to the pod template.
fn on_the_template(mut object: Value) -> Result<Value> {
    let annotations = object["metadata"].as_object_mut().and_then(|metadata| metadata.remove("annotations"));
    object["spec"]["template"]["metadata"]["annotations"] = annotations.context("no annotations")?;
    Ok(object)
}

/// Folders of the node as volumes for the claims of a StatefulSet; gone when this is dropped.
struct Volumes<'a> {
    stage: &'a Stage,
    names: Vec<String>,
}

impl<'a> Volumes<'a> {
    fn new(stage: &'a Stage, claims: &[String]) -> Result<Self> {
        let mut volumes = Self { stage, names: Vec::new() };
        for claim in claims {
            let name = format!("{}-{claim}", stage.namespace.name());
            let volume = json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": stage.stamps(claim)?, "type": "Directory"},
                    "claimRef": {"namespace": stage.namespace.name(), "name": claim},
                },
            });
            stage.namespace.cluster().apply(&volume.to_string())?;
            volumes.names.push(name);
        }
        Ok(volumes)
    }
}

impl Drop for Volumes<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            let delete = ["delete", "persistentvolume", name, "--wait=false"];
            if let Err(error) = self.stage.namespace.cluster().kubectl(&delete).run() {
                say(format!("cannot remove the volume {name}: {error:#}"));
            }
        }
    }
}

#[test]
fn a_stateful_set_with_claims_is_elected_and_keeps_them() -> Result<()> {
    Stage::bare("stateful", &[], |stage| {
        let claims = ["data-stateful-0", "data-stateful-1"].map(str::to_owned);
        let _volumes = Volumes::new(stage, &claims)?;
        let specimen = Specimen::new(stage, "stateful")?;
        // It writes its events into its claim.
        let environment = json!([
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "SPECIMEN_FOLDER", "value": "/data"},
        ]);
        let mut pod =
            specimen.pod(&json!({"env": environment, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}))?;
        pod.as_object_mut().context("no object")?.remove("volumes");
        let mut set = workload(&specimen, "StatefulSet", 2, &pod);
        set["spec"]["serviceName"] = json!("stateful");
        set["spec"]["volumeClaimTemplates"] = json!([{
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}},
            },
        }]);
        specimen.apply(&set)?;
        elected(&specimen, 2)?;
        let leader = specimen.leader()?;
        until("the leader to write into its claim", || {
            let events = event::read(&stage.stamps(&format!("data-{leader}"))?)?;
            ensure!(events.iter().any(|event| event.pod == leader), "there is {events:?}");
            Ok(())
        })?;
        let stored = stage.namespace.get(&["statefulset", "stateful"])?["spec"].clone();
        ensure!(stored["volumeClaimTemplates"].as_array().is_some_and(|all| all.len() == 1), "{stored:#}");

        // The last one goes first in a rolling update: leadership moves, and both come back.
        stage.namespace.run(&["rollout", "restart", "statefulset/stateful"])?;
        specimen.wait_until_rolled_out("statefulset")?;
        elected(&specimen, 2)
    })
}

#[test]
fn a_daemon_set_is_elected() -> Result<()> {
    Stage::bare("daemon", &[], |stage| {
        let specimen = Specimen::new(stage, "daemon")?;
        let pod = specimen.pod(&json!({}))?;
        let mut set = workload(&specimen, "DaemonSet", 1, &pod);
        set["spec"].as_object_mut().context("no specification")?.remove("replicas");
        specimen.apply(&set)?;
        elected(&specimen, 1)
    })
}

#[test]
fn with_the_id_on_the_template_the_workload_stays_as_it_is_and_its_pods_are_injected() -> Result<()> {
    Stage::bare("template", &[], |stage| {
        for kind in ["Deployment", "ReplicaSet"] {
            let specimen = Specimen::new(stage, &kind.to_lowercase())?;
            let object = on_the_template(workload(&specimen, kind, 2, &specimen.pod(&json!({}))?))?;
            specimen.apply(&object)?;
            elected(&specimen, 2)?;
            let stored = stage.namespace.get(&[kind, &specimen.name])?["spec"]["template"].clone();
            ensure!(stored["spec"]["initContainers"].is_null(), "{kind}: {stored:#}");
            ensure!(stored["spec"]["containers"][0]["command"] == json!(["/specimen"]), "{kind}: {stored:#}");
            ensure!(stored["metadata"]["annotations"][names::INJECTED].is_null(), "{kind}: {stored:#}");
        }
        Ok(())
    })
}

#[test]
fn an_id_in_both_places_injects_once() -> Result<()> {
    Stage::bare("both-places", &[], |stage| {
        let specimen = Specimen::new(stage, "both-places")?;
        let mut object = specimen.deployment(2, &specimen.pod(&json!({}))?);
        object["spec"]["template"]["metadata"]["annotations"] = object["metadata"]["annotations"].clone();
        specimen.apply(&object)?;
        elected(&specimen, 2)?;
        object["spec"]["template"]["metadata"]["annotations"][names::ID] = json!("another");
        let said = specimen.refused(&object)?;
        ensure!(said.contains("another") && said.contains("both-places"), "{said}");
        Ok(())
    })
}

#[test]
fn a_jobs_pods_run_one_after_the_other_and_the_job_completes() -> Result<()> {
    Stage::bare("job", &[], |stage| {
        let specimen = Specimen::new(stage, "job")?;
        let mut pod = specimen.pod(&json!({"command": ["/specimen", "note"], "args": ["done"]}))?;
        pod["restartPolicy"] = json!("Never");
        let job = |annotations: Value| {
            json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job", "annotations": annotations},
                "spec": {
                    "parallelism": 2, "completions": 2, "backoffLimit": 0,
                    "template": {"metadata": {"labels": {"app": "job"}}, "spec": pod},
                },
            })
        };
        // A Job is not injected itself.
        let said = specimen.refused(&job(specimen.annotations()))?;
        ensure!(said.contains("template"), "{said}");
        let mut right = job(json!({}));
        right["spec"]["template"]["metadata"]["annotations"] = specimen.annotations();
        specimen.apply(&right)?;
        stage.namespace.run(&["wait", "job/job", "--for=condition=complete", "--timeout=180s"])?;
        injected_once(&specimen)?;
        let done =
            specimen.events()?.into_iter().filter(|event| matches!(&event.what, What::Note(text, _) if text == "done"));
        ensure!(done.count() == 2, "{:?}", specimen.events()?);
        Ok(())
    })
}

#[test]
fn a_bare_pod_is_elected() -> Result<()> {
    Stage::bare("pod", &[], |stage| {
        let specimen = Specimen::new(stage, "pod")?;
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "alone", "labels": {"app": "pod"}, "annotations": specimen.annotations()},
            "spec": specimen.pod(&json!({}))?,
        });
        specimen.apply(&object)?;
        elected(&specimen, 1)
    })
}

/// A pod that restricted Pod Security lets in.
fn compliant(specimen: &Specimen<'_>) -> Result<Value> {
    let mut pod = specimen.pod(&json!({
        "env": null, "volumeMounts": null, "securityContext": crate::writer::container_security(),
        "readinessProbe": {"exec": {"command": ["/specimen", "check"]}, "periodSeconds": 1},
    }))?;
    pod["securityContext"] = crate::writer::pod_security();
    pod.as_object_mut().context("no object")?.remove("volumes");
    Ok(pod)
}

#[test]
fn restricted_pod_security_lets_pods_of_every_kind_in() -> Result<()> {
    let label = ("pod-security.kubernetes.io/enforce", "restricted");
    Stage::bare("restricted-kinds", &[label], |stage| {
        for kind in ["StatefulSet", "DaemonSet", "ReplicaSet"] {
            let specimen = Specimen::new(stage, &kind.to_lowercase())?;
            let mut object = workload(&specimen, kind, 1, &compliant(&specimen)?);
            if kind == "ReplicaSet" {
                object = on_the_template(object)?;
            } else if kind == "DaemonSet" {
                object["spec"].as_object_mut().context("no specification")?.remove("replicas");
            } else {
                object["spec"]["serviceName"] = json!("none");
            }
            specimen.apply(&object)?;
            elected(&specimen, 1)?;
        }
        Ok(())
    })
}

#[test]
fn quota_limit_range_and_class_of_service_are_as_before() -> Result<()> {
    Stage::bare("quota", &[], |stage| {
        // Just enough for two pods as they are without us.
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"},
            "spec": {"hard": {
                "requests.cpu": "200m", "limits.cpu": "400m", "requests.memory": "64Mi", "limits.memory": "128Mi",
                "pods": "2",
            }},
        });
        let limits = json!({
            "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"},
            "spec": {"limits": [{
                "type": "Container", "min": {"cpu": "100m", "memory": "32Mi"}, "max": {"cpu": "200m", "memory": "64Mi"},
                "maxLimitRequestRatio": {"cpu": "2"},
            }]},
        });
        stage.namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [quota, limits]}).to_string())?;
        let specimen = Specimen::new(stage, "quota")?;
        let resources = json!({
            "requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"},
        });
        let pod = specimen.pod(&json!({"resources": resources}))?;
        specimen.apply(&specimen.deployment(2, &pod))?;
        elected(&specimen, 2)
    })?;
    Stage::bare("service-class", &[], |stage| {
        for (class, resources) in [
            ("Guaranteed", json!({"limits": {"cpu": "50m", "memory": "32Mi"}})),
            ("Burstable", json!({"requests": {"cpu": "10m"}})),
            ("BestEffort", json!(null)),
        ] {
            let specimen = Specimen::new(stage, &class.to_lowercase())?;
            let mut pod = specimen.pod(&json!({"resources": null}))?;
            if !resources.is_null() {
                pod["containers"][0]["resources"] = resources;
            }
            specimen.apply(&on_the_template(specimen.deployment(1, &pod))?)?;
            elected(&specimen, 1)?;
            let pods = specimen.pods()?;
            ensure!(pods[0]["status"]["qosClass"] == class, "{} instead of {class}", pods[0]["status"]["qosClass"]);
        }
        Ok(())
    })
}

/// Another container, ordinary init containers and native sidecars stay where they were, and do what they did.
#[test]
fn other_containers_keep_their_order_and_meaning() -> Result<()> {
    Stage::bare("containers", &[], |stage| {
        let specimen = Specimen::new(stage, "containers")?;
        let mut pod = specimen.pod(&json!({}))?;
        let image = stage.image("leader-specimen")?;
        let folder = pod["containers"][0]["volumeMounts"].clone();
        let beside = |name: &str, words: &[&str]| {
            json!({
                "name": name, "image": image, "command": words, "volumeMounts": folder,
                "env": [{"name": "POD_NAME", "value": name}, {"name": "SPECIMEN_FOLDER", "value": "/specimen-folder"}],
            })
        };
        let mut sidecar = beside("sidecar", &["/specimen", "sidecar"]);
        sidecar["restartPolicy"] = json!("Always");
        let before = beside("before", &["/specimen", "note", "before"]);
        pod["initContainers"] = json!([before, sidecar]);
        let main = pod["containers"][0].clone();
        pod["containers"] = json!([beside("proxy", &["/specimen", "proxy"]), main]);
        let mut object = specimen.deployment(2, &pod);
        object["metadata"]["annotations"]["leader.io/container"] = json!(CONTAINER);
        specimen.apply(&object)?;
        elected(&specimen, 2)?;
        let stored = specimen.pods()?[0]["spec"].clone();
        let listed = |list: &str| -> Vec<String> {
            let all = stored[list].as_array().into_iter().flatten();
            all.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect()
        };
        ensure!(listed("initContainers") == [names::INIT_CONTAINER, "before", "sidecar"], "{stored:#}");
        ensure!(listed("containers") == ["proxy", CONTAINER], "{stored:#}");
        let starts = |who: &str| -> Result<usize> {
            Ok(specimen.starts()?.into_iter().filter(|(event, _)| event.pod == who).count())
        };
        until("everything to be started", || {
            let starts = specimen.starts()?.len();
            ensure!(starts >= 5, "{starts} starts");
            Ok(())
        })?;
        // Both replicas have them, and only one the app.
        ensure!(starts("proxy")? == 2 && starts("sidecar")? == 2, "{:?}", specimen.starts()?);
        let apps = specimen.starts()?.len() - 4;
        ensure!(apps == 1, "the app was started {apps} times");
        Ok(())
    })
}
