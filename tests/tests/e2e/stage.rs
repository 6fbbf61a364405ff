//! What a test plays on: a namespace, a keeper for the ledger, and a folder on the node where writers leave their stamps.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leader_ledger::report::Report;
use leader_tests::kit::Namespace;
use leader_tests::progress::say;
use leader_tests::{Cluster, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::workload::Workload;
use crate::writer::Writer;

/// Held for reading by tests that can run beside others, for writing by those that disturb or measure.
static OTHERS: RwLock<()> = RwLock::new(());

/// How long pods may take to be ready on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Whether trials and measurements are as many and as long as a release asks for.
pub(crate) fn long() -> bool {
    std::env::var("LEADER_TESTS_LONG").is_ok_and(|value| !value.is_empty() && value != "0")
}

/// A namespace with a keeper.
pub(crate) struct Stage {
    pub(crate) namespace: Namespace<'static>,
    images: Value,
    stamps: TempDir,
}

impl Stage {
    /// Runs a test beside others. Left out, which is said, without a cluster in which leader is installed.
    pub(crate) fn test(label: &str, test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let _others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
        Self::run(label, &[], true, test)
    }

    /// As [`Stage::test`], without a keeper: for programs that write no ledger.
    pub(crate) fn bare(label: &str, labels: &[(&str, &str)], test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let _others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
        Self::run(label, labels, false, test)
    }

    /// As [`Stage::bare`], while no other test runs.
    pub(crate) fn bare_alone(label: &str, test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let _alone = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
        Self::run(label, &[], false, test)
    }

    /// As [`Stage::test`], in a namespace with these labels.
    pub(crate) fn labelled(label: &str, labels: &[(&str, &str)], test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let _others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
        Self::run(label, labels, true, test)
    }

    /// As [`Stage::test`], while no other test runs.
    pub(crate) fn alone(label: &str, test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let _alone = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
        Self::run(label, &[], true, test)
    }

    /// Runs a test that brings a cluster of its own along, while no other test runs: two clusters are more than two processors can serve in
    /// time. It is given the cluster of the others, and the images that were pushed there.
    pub(crate) fn elsewhere(label: &str, test: impl FnOnce(&Cluster, &Value) -> Result<()>) -> Result<()> {
        let _alone = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
        let Some((cluster, images)) = prepared(label)? else { return Ok(()) };
        test(cluster, &images)
    }

    fn run(label: &str, labels: &[(&str, &str)], keeper: bool, test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let Some((cluster, images)) = prepared(label)? else { return Ok(()) };
        let stamps = tempfile::tempdir().context("cannot make a folder for stamps")?;
        // Writers run as a user that does not exist on the node.
        fs::set_permissions(stamps.path(), Permissions::from_mode(0o777))?;
        let stage = Self { namespace: Namespace::with_labels(cluster, label, labels)?, images, stamps };
        let result = if keeper { stage.start_keeper().and_then(|()| test(&stage)) } else { test(&stage) };
        if result.is_err() {
            stage.namespace.print_diagnosis();
            if keeper && let Ok(report) = stage.report() {
                eprintln!("{report}");
            }
        }
        result
    }

    /// The reference of an image of this project in the cluster's registry.
    pub(crate) fn image(&self, name: &str) -> Result<&str> {
        self.images[name].as_str().with_context(|| format!("no image {name} among {}", self.images))
    }

    /// Makes the folder of a workload's stamps.
    pub(crate) fn stamps(&self, workload: &str) -> Result<PathBuf> {
        let folder = self.stamps.path().join(workload);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        Ok(folder)
    }

    /// Applies a writer's Deployment and waits until all its pods are ready.
    pub(crate) fn start(&self, writer: &Writer) -> Result<Workload<'_>> {
        let workload = self.workload(writer)?;
        self.namespace.apply(&writer.manifest(self)?.to_string())?;
        workload.wait_until_rolled_out()?;
        Ok(workload)
    }

    /// A handle on a writer's Deployment, be it there or not.
    pub(crate) fn workload(&self, writer: &Writer) -> Result<Workload<'_>> {
        Ok(Workload { stage: self, name: writer.name.clone(), stamps: self.stamps(&writer.name)? })
    }

    /// What the keeper saw.
    pub(crate) fn report(&self) -> Result<Report> {
        let path = format!("/api/v1/namespaces/{}/services/keeper:report/proxy/report", self.namespace.name());
        let text = self.namespace.run(&["get", "--raw", &path])?;
        serde_json::from_str(&text).with_context(|| format!("the keeper did not report: {text}"))
    }

    fn start_keeper(&self) -> Result<()> {
        let labels = json!({"app": "keeper"});
        let ports = json!([{"name": "entries", "port": 7000}, {"name": "report", "port": 8080}]);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "keeper"},
            "spec": {"selector": labels, "ports": ports},
        });
        let keeper = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "keeper"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "terminationGracePeriodSeconds": 0,
                        "securityContext": crate::writer::pod_security(),
                        "containers": [{
                            "name": "keeper",
                            "image": self.image("leader-ledger")?,
                            "command": ["/ledger-keeper"],
                            "readinessProbe": {"tcpSocket": {"port": 7000}, "periodSeconds": 1},
                            "securityContext": crate::writer::container_security(),
                        }],
                    },
                },
            },
        });
        self.namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [service, keeper]}).to_string())?;
        self.namespace.run(&["rollout", "status", "deployment/keeper", "--timeout=180s"]).map(drop)
    }
}

/// The cluster of the tests and its images; without a cluster in which leader is installed it is said that this test is left out.
fn prepared(label: &str) -> Result<Option<(&'static Cluster, Value)>> {
    let Some(cluster) = Cluster::for_tests() else { return Ok(None) };
    let Some(images) = installed(cluster)? else {
        let name = cluster.name();
        say(format!(
            "left out: {label}: leader is not installed in cluster `{name}` \
             (`cargo xtask images --name {name}`, `cargo xtask install --name {name}`)"
        ));
        return Ok(None);
    };
    Ok(Some((cluster, images)))
}

/// The images that were pushed to the cluster, if leader is installed in it; a cluster that was given for tests must have it.
fn installed(cluster: &Cluster) -> Result<Option<Value>> {
    let there = cluster.kubectl(&["get", "mutatingwebhookconfiguration", "leader-webhook"]).output()?;
    if !there.success() {
        ensure!(std::env::var_os("NETNS").is_none(), "leader is not installed in the cluster that NETNS names");
        return Ok(None);
    }
    let file = cluster.state().path("images.json");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some(serde_json::from_str(&text)?))
}

/// Waits as long as pods may take on a busy machine.
pub(crate) fn until<T>(what: &str, probe: impl FnMut() -> Result<T>) -> Result<T> {
    wait::until(what, PATIENCE, probe)
}
