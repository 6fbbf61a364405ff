//! `leader-agent observe` in pods that somebody wrote by hand, told of nothing but a Lease and its namespace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use leader_agent::names;
use serde_json::{Value, json};

use crate::specimen::{CONTAINER, Specimen, name};
use crate::stage::{Stage, until};

/// Where the file is when nobody has said anything else.
const FILE: &str = "/leader-status/leader";
/// The sidecar, its account and the rights of that.
const ELECTOR: &str = "elector";
/// How often it is looked whether two pods have the file.
const GLANCE: Duration = Duration::from_millis(10);

/// Where the sidecar stands in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sidecar {
    /// Among the containers: it is asked to end together with the app.
    Ordinary,
    /// Among the init containers: it ends after the app.
    Native,
}

/// The account, its rights to one Lease, and the Deployment, as its author writes them.
fn manifest(specimen: &Specimen<'_>, sidecar: Sidecar) -> Result<Value> {
    let stage = specimen.stage;
    let mount = json!({"name": "leader-status", "mountPath": "/leader-status"});
    let mut pod = specimen.pod(&json!({}))?;
    pod["serviceAccountName"] = ELECTOR.into();
    // On a busy machine the end of a pod takes its time, and who is killed cannot take its file away.
    pod["terminationGracePeriodSeconds"] = 60.into();
    let add = |list: &mut Value, item: Value| list.as_array_mut().context("no list").map(|list| list.push(item));
    add(&mut pod["volumes"], json!({"name": "leader-status", "emptyDir": {}}))?;
    add(&mut pod["containers"][0]["volumeMounts"], mount.clone())?;
    let mut elector = json!({
        "name": ELECTOR,
        "image": stage.image("leader-agent")?,
        "args": ["observe"],
        "env": [
            {"name": "LEASE_NAME", "value": specimen.name},
            {"name": "NAMESPACE", "value": stage.namespace.name()},
        ],
        "resources": {"requests": {"cpu": "10m"}},
        "volumeMounts": [mount],
    });
    match sidecar {
        Sidecar::Ordinary => add(&mut pod["containers"], elector)?,
        Sidecar::Native => {
            elector["restartPolicy"] = "Always".into();
            pod["initContainers"] = json!([elector]);
        }
    }
    let metadata = json!({"name": ELECTOR});
    let rule = json!({
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [specimen.name],
        "verbs": ["get", "list", "watch", "create", "update"],
    });
    let rbac = "rbac.authorization.k8s.io";
    let account = json!({"kind": "ServiceAccount", "name": ELECTOR, "namespace": stage.namespace.name()});
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": ELECTOR},
            "subjects": [account],
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": specimen.name},
            "spec": specimen.workload(2, &pod),
        },
    ]}))
}

/// The process of a pod's app, by its number on the machine.
fn app(specimen: &Specimen<'_>, pod: &str) -> Result<String> {
    let processes = specimen.stage.namespace.processes(pod, CONTAINER)?;
    Ok(processes.stub()?.pid.to_string())
}

/// What the sidecar answers to the app of this pod, which asks it on localhost.
fn ask(specimen: &Specimen<'_>, pod: &str) -> Result<Value> {
    let network = format!("/proc/{}/ns/net", app(specimen, pod)?);
    let network = File::open(&network).with_context(|| format!("cannot open {network}"))?;
    let text = thread::scope(|scope| {
        let inside = scope.spawn(|| -> Result<String> {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(network.as_fd(), kind).context("entering the pod's network")?;
            let address = (Ipv4Addr::LOCALHOST, names::DEFAULT_PORT);
            let mut connection = TcpStream::connect(address).with_context(|| format!("{address:?} in {pod}"))?;
            connection.set_read_timeout(Some(Duration::from_secs(30)))?;
            connection.write_all(b"GET /leader HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut said = String::new();
            connection.read_to_string(&mut said)?;
            Ok(said)
        });
        inside.join().map_err(|_| anyhow!("the thread panicked"))?
    })?;
    let body = text.find('{').zip(text.rfind('}')).map(|(begin, end)| &text[begin..=end]);
    Ok(serde_json::from_str(body.with_context(|| format!("{pod} answers {text:?}"))?)?)
}

/// Status files of pods, looked at all the time.
struct Watch {
    files: Arc<Mutex<Vec<PathBuf>>>,
    ends: Arc<AtomicBool>,
    glances: Option<JoinHandle<Result<()>>>,
}

impl Watch {
    fn start() -> Self {
        let (files, ends) = (Arc::<Mutex<Vec<PathBuf>>>::default(), Arc::<AtomicBool>::default());
        let (known, end) = (Arc::clone(&files), Arc::clone(&ends));
        let glances = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let known = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                never_two(&known)?;
                thread::sleep(GLANCE);
            }
            Ok(())
        });
        Self { files, ends, glances: Some(glances) }
    }

    fn add(&self, file: &Path) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.iter().all(|known| known != file) {
            files.push(file.to_owned());
        }
    }

    /// Fails when two of them were there at once.
    fn end(mut self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        let glances = self.glances.take().context("it has ended")?;
        glances.join().map_err(|_| anyhow!("the thread panicked"))?
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Fails when two of these files are there at once.
fn never_two(files: &[PathBuf]) -> Result<()> {
    for file in files {
        let Some(before) = term(file) else { continue };
        let others: Vec<_> = files.iter().filter(|other| *other != file && term(other).is_some()).collect();
        // One that is still of the same term was there all the time, and the others beside it.
        let two = !others.is_empty() && term(file) == Some(before);
        ensure!(!two, "{} and {others:?} are there at once", file.display());
    }
    Ok(())
}

/// The line of a status file that tells one term from another; nothing where there is no file.
fn term(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.lines().nth(1)?.to_owned())
}

/// Waits until one of two pods has the file, and another pod than `before`, and all that is said agrees with that.
fn leader_but(specimen: &Specimen<'_>, watch: &Watch, before: &str) -> Result<String> {
    until(&format!("one pod of {} that is told that it leads, and is not {before:?}", specimen.name), || {
        let pods = specimen.pods()?;
        ensure!(pods.len() == 2, "there are {} pods", pods.len());
        let mut told = Vec::new();
        for pod in pods.iter().map(name) {
            let file = PathBuf::from(format!("/proc/{}/root{FILE}", app(specimen, pod)?));
            watch.add(&file);
            if let Ok(text) = fs::read_to_string(file) {
                told.push((pod, text));
            }
        }
        let [(leader, text)] = &told[..] else { bail!("{FILE} is in {told:?}") };
        ensure!(text.lines().next() == Some(leader) && text.contains("\ntoken="), "{leader} is told {text:?}");
        ensure!(*leader != before, "{leader} still leads");
        for pod in pods.iter().map(name) {
            let answer = ask(specimen, pod)?;
            ensure!(answer["leading"] == (pod == *leader), "{pod} is told {answer}");
            let holder = answer["holder"].as_str().unwrap_or_default();
            ensure!(holder.starts_with(&format!("{leader}_")), "{pod} is told {answer}");
        }
        Ok((*leader).to_owned())
    })
}

fn behaves_as_the_injected_one(label: &str, sidecar: Sidecar) -> Result<()> {
    Stage::bare(label, &[], |stage| {
        let specimen = Specimen::new(stage, "watched")?;
        specimen.apply(&manifest(&specimen, sidecar)?)?;
        specimen.wait_until_rolled_out("deployment")?;
        let watch = Watch::start();
        let first = leader_but(&specimen, &watch, "")?;
        stage.namespace.run(&["delete", "pod", &first, "--wait=false"])?;
        let second = leader_but(&specimen, &watch, &first)?;
        // And not the first time only.
        stage.namespace.run(&["delete", "pod", &second, "--wait=false"])?;
        leader_but(&specimen, &watch, &second)?;
        watch.end()
    })
}

#[test]
fn an_ordinary_sidecar_that_knows_a_lease_and_a_namespace_tells_who_leads_as_the_injected_one_does() -> Result<()> {
    behaves_as_the_injected_one("by-hand", Sidecar::Ordinary)
}

#[test]
fn a_native_sidecar_that_knows_a_lease_and_a_namespace_tells_who_leads_as_the_injected_one_does() -> Result<()> {
    behaves_as_the_injected_one("by-hand-native", Sidecar::Native)
}

#[test]
fn two_files_at_once_are_seen_and_one_after_the_other_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = ["a", "b"].map(|pod| folder.path().join(pod));
    assert!(never_two(&files).is_ok());
    fs::write(&files[0], "a\ntoken=1\n").expect("a file");
    assert!(never_two(&files).is_ok());
    fs::write(&files[1], "b\ntoken=2\n").expect("a file");
    assert!(never_two(&files).is_err());
    fs::remove_file(&files[0]).expect("removed");
    assert!(never_two(&files).is_ok());
}
