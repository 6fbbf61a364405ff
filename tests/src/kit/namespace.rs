//! A namespace per test.

use super::json;
use crate::cluster::Cluster;
use crate::command::Tool;
use crate::progress::say;
use crate::wait;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// How many lines of each container's log are shown when a test failed.
const LOG_LINES: &str = "--tail=80";

/// A namespace of the API server that is removed when this is dropped, also by a panic; then pods, events and logs
/// are printed before.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    /// Makes a namespace whose name begins with `label`, a DNS label of at most 57 characters, and waits until pods can
    /// be made in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(cluster: &'a Cluster, label: &str) -> Result<Self> {
        Self::with_labels(cluster, label, &[])
    }

    /// As [`Namespace::new`], with labels on the namespace, such as that of Pod Security.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn with_labels(cluster: &'a Cluster, label: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        let manifest = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"generateName": format!("{label}-"), "labels": labels},
        });
        let made = cluster.kubectl(&["create", "-f", "-", "-o", "json"]).input(manifest.to_string()).run()?;
        let name = json(&made)?["metadata"]["name"].as_str().context("the new namespace has no name")?.to_owned();
        let namespace = Self { cluster, name };
        wait::until("the namespace's service account and CA", Duration::from_mins(3), || {
            namespace.run(&["get", "serviceaccount/default", "configmap/kube-root-ca.crt"])
        })?;
        Ok(namespace)
    }

    /// Runs a test in a namespace of its own; left out, which is said, when there is no cluster. When the test fails, be it
    /// by an error or a panic, [`Namespace::print_diagnosis`] is printed.
    ///
    /// # Errors
    /// The test's own, or that the namespace cannot be made.
    pub fn test(label: &str, test: impl FnOnce(&Namespace<'static>) -> Result<()>) -> Result<()> {
        let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
        let namespace = Namespace::new(cluster, label)?;
        let result = test(&namespace);
        if result.is_err() {
            namespace.print_diagnosis();
        }
        result
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// `kubectl` in this namespace; [`Tool::output`] gives output and exit code, [`Tool::run`] takes a failure for an
    /// error.
    pub fn kubectl(&self, arguments: &[&str]) -> Tool {
        self.cluster.kubectl(&[]).arg("--namespace").arg(&self.name).args(arguments)
    }

    /// Runs `kubectl` in this namespace and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message has what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl(arguments).run()
    }

    /// Applies a manifest in this namespace.
    ///
    /// # Errors
    /// When kubectl fails; the message has what it said.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl(&["apply", "-f", "-"]).input(manifest).run()
    }

    /// Objects of this namespace as JSON: `kubectl get ARGUMENTS -o json`.
    ///
    /// # Errors
    /// When kubectl fails, for instance because there is no such object.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        json(&self.run(&[&["get", "-o", "json"], arguments].concat())?)
    }

    /// Prints what a person would look at after a failure: objects, events, logs of every container.
    pub fn print_diagnosis(&self) {
        // Not straight to standard error as elsewhere: the test harness then shows it with the test that it belongs to.
        eprintln!("--- namespace {}", self.name);
        self.print(&["get", "deployments,replicasets,statefulsets,daemonsets,pods,leases", "-o", "wide"]);
        self.print(&["get", "events", "--sort-by=.metadata.creationTimestamp"]);
        let pods = self.run(&["get", "pods", "-o", "name"]).unwrap_or_default();
        for pod in pods.lines() {
            self.print(&["logs", pod, "--all-containers", "--prefix", "--timestamps", LOG_LINES]);
            // Most containers were never restarted, and kubectl says so by failing.
            if let Ok(previous) = self.run(&["logs", pod, "--all-containers", "--prefix", "--previous", LOG_LINES])
                && !previous.is_empty()
            {
                eprintln!("$ kubectl logs {pod} --previous\n{previous}");
            }
        }
        eprintln!("--- end of namespace {}", self.name);
    }

    fn print(&self, arguments: &[&str]) {
        let shown = match self.kubectl(arguments).output() {
            Ok(output) => format!("{}{}", output.stdout, output.stderr),
            Err(error) => format!("{error:#}"),
        };
        eprintln!("$ kubectl {}\n{}", arguments.join(" "), shown.trim_end());
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_diagnosis();
        }
        // Not waited for: the next test has a namespace of its own, and pods may take their grace period.
        if let Err(error) = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]).run() {
            say(format!("cannot remove namespace {}: {error:#}", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{bail, ensure};

    /// The namespaces whose name begins with `label`, but for those that are being removed.
    fn living(cluster: &Cluster, label: &str) -> Result<Vec<String>> {
        let list = cluster.get(&["namespaces"])?;
        let items = list["items"].as_array().context("a list without items")?;
        let alive = items.iter().filter(|item| item["metadata"]["deletionTimestamp"].is_null());
        let names = alive.filter_map(|item| item["metadata"]["name"].as_str());
        Ok(names.filter(|name| name.starts_with(label)).map(str::to_owned).collect())
    }

    #[test]
    fn a_namespace_is_removed_however_its_test_ends() -> Result<()> {
        let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
        Namespace::test("kit-good", |namespace| {
            let expected = [namespace.name().to_owned()];
            ensure!(living(cluster, "kit-good-")? == expected, "{:?}", living(cluster, "kit-good-")?);
            Ok(())
        })?;
        assert!(Namespace::test("kit-bad", |_| bail!("on purpose")).is_err());
        let panicking = std::thread::spawn(|| Namespace::test("kit-panic", |_| panic!("on purpose")));
        assert!(panicking.join().is_err());
        for label in ["kit-good-", "kit-bad-", "kit-panic-"] {
            assert_eq!(living(cluster, label)?, Vec::<String>::new(), "{label}");
        }
        Ok(())
    }
}
