//! Cutting pods off: what they and the API server send each other vanishes, or is refused, in one direction or in both.

use super::Namespace;
use crate::cluster::Cluster;
use crate::command::Tool;
use crate::network::{API_PORT, API_SERVICE_ADDRESS};
use crate::progress::say;
use anyhow::{Context, Result};

/// A pod without a way to the API server; healed by [`Cut::heal`] or when this is dropped.
#[derive(Debug)]
#[must_use = "the cut is healed when this is dropped"]
pub struct Cut<'a> {
    cluster: &'a Cluster,
    rules: Vec<Rule>,
}

/// A rule put before all others of its chain.
#[derive(Debug)]
struct Rule {
    table: &'static str,
    words: Vec<String>,
    verdict: &'static [&'static str],
}

/// The table that comes before address translation and connection tracking: its rules hold for open connections, too.
const RAW: &str = "raw";
/// The table that sees the API server's translated address, and in which packets can be answered by a refusal.
const FILTER: &str = "filter";
const DROP: &[&str] = &["DROP"];
const ACCEPT: &[&str] = &["ACCEPT"];
const RESET: &[&str] = &["REJECT", "--reject-with", "tcp-reset"];

impl Rule {
    fn change(&self, cluster: &Cluster, action: &str) -> Result<()> {
        let tool = Tool::in_network(cluster.name(), "iptables").args(["--wait", "30", "--table", self.table, action]);
        tool.args(&self.words).arg("--jump").args(self.verdict).run().map(drop)
    }
}

impl Cut<'_> {
    /// Lets the pod's packets through again.
    ///
    /// # Errors
    /// When a rule cannot be removed.
    pub fn heal(mut self) -> Result<()> {
        self.remove()
    }

    fn add(&mut self, rule: Rule) -> Result<()> {
        rule.change(self.cluster, "--insert")?;
        self.rules.push(rule);
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        while let Some(rule) = self.rules.pop() {
            rule.change(self.cluster, "--delete")?;
        }
        Ok(())
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            say(format!("cannot heal a cut: {error:#}"));
        }
    }
}

/// The rules that drop what a pod and the API server send each other, by the Service's address or the node's.
fn api_rules(pod: &str, node: &str) -> Vec<Vec<String>> {
    let (service, port) = (API_SERVICE_ADDRESS.to_string(), API_PORT.to_string());
    let rules: [&[&str]; 3] = [
        &["PREROUTING", "--source", pod, "--destination", &service],
        &["PREROUTING", "--source", pod, "--destination", node, "--protocol", "tcp", "--destination-port", &port],
        &["OUTPUT", "--source", node, "--destination", pod, "--protocol", "tcp", "--source-port", &port],
    ];
    rules.iter().map(|rule| rule.iter().map(|word| (*word).to_owned()).collect()).collect()
}

/// The rules about what pods send to the API server, by the Service's address or the node's.
fn request_rules(source: &str, node: &str) -> Vec<Vec<String>> {
    api_rules(source, node).into_iter().filter(|rule| rule[0] == "PREROUTING").collect()
}

/// The rules about what the API server sends to a pod.
fn reply_rules(pod: &str, node: &str) -> Vec<Vec<String>> {
    api_rules(pod, node).into_iter().filter(|rule| rule[0] == "OUTPUT").collect()
}

/// The rules that see what a pod sends to the API server after the Service's address was translated.
fn refusal_rules(pod: &str, node: &str) -> Vec<Vec<String>> {
    let port = API_PORT.to_string();
    let rule = ["INPUT", "--source", pod, "--destination", node, "--protocol", "tcp", "--destination-port", &port];
    vec![rule.map(str::to_owned).to_vec()]
}

/// The rules that drop everything from and to a pod.
fn all_rules(pod: &str) -> Vec<Vec<String>> {
    let rules =
        [["PREROUTING", "--source", pod], ["PREROUTING", "--destination", pod], ["OUTPUT", "--destination", pod]];
    rules.iter().map(|rule| rule.iter().map(|word| (*word).to_owned()).collect()).collect()
}

impl Cluster {
    /// Cuts every pod that does not have an address yet off from the API server: its packets to it vanish, whoever's pod it
    /// is.
    ///
    /// # Errors
    /// When the pods cannot be listed, or a rule cannot be set.
    pub fn cut_new_pods_from_api_server(&self) -> Result<Cut<'_>> {
        let pods = self.get(&["pods", "--all-namespaces"])?;
        let pods = pods["items"].as_array().context("a list without items")?;
        let known = pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str());
        let mut cut = Cut { cluster: self, rules: Vec::new() };
        // Each is put before the ones that are there: first all pods, then the exceptions.
        for (source, verdict) in
            std::iter::once((self.range().pod_range(), DROP)).chain(known.map(|known| (known.to_owned(), ACCEPT)))
        {
            for words in request_rules(&source, &self.range().node_address().to_string()) {
                cut.add(Rule { table: RAW, words, verdict })?;
            }
        }
        Ok(cut)
    }
}

impl<'a> Namespace<'a> {
    /// Cuts a pod off from the API server, and from nothing else: its packets to and from it vanish, on open connections
    /// too. Kubelet and Services are as before.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn cut_from_api_server(&self, pod: &str) -> Result<Cut<'a>> {
        let node = self.cluster().range().node_address().to_string();
        self.cut(pod, RAW, DROP, |address| api_rules(address, &node))
    }

    /// As [`Namespace::cut_from_api_server`] in one direction: what the pod sends to the API server vanishes.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn cut_requests_to_api_server(&self, pod: &str) -> Result<Cut<'a>> {
        let node = self.cluster().range().node_address().to_string();
        self.cut(pod, RAW, DROP, |address| request_rules(address, &node))
    }

    /// As [`Namespace::cut_from_api_server`] in one direction: what the API server sends to the pod vanishes. It receives what is
    /// on open connections, and acts on it.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn cut_replies_of_api_server(&self, pod: &str) -> Result<Cut<'a>> {
        let node = self.cluster().range().node_address().to_string();
        self.cut(pod, RAW, DROP, |address| reply_rules(address, &node))
    }

    /// Has every packet from a pod to the API server answered by a reset: connections end at once, and no new one comes about.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn refuse_api_server(&self, pod: &str) -> Result<Cut<'a>> {
        let node = self.cluster().range().node_address().to_string();
        self.cut(pod, FILTER, RESET, |address| refusal_rules(address, &node))
    }

    /// Cuts a pod off from everything.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn cut_from_everything(&self, pod: &str) -> Result<Cut<'a>> {
        self.cut(pod, RAW, DROP, all_rules)
    }

    fn cut(
        &self,
        pod: &str,
        table: &'static str,
        verdict: &'static [&'static str],
        rules: impl Fn(&str) -> Vec<Vec<String>>,
    ) -> Result<Cut<'a>> {
        let object = self.get(&["pod", pod])?;
        let address = object["status"]["podIP"].as_str().with_context(|| format!("pod {pod} has no address"))?;
        let mut cut = Cut { cluster: self.cluster(), rules: Vec::new() };
        for words in rules(address) {
            cut.add(Rule { table, words, verdict })?;
        }
        Ok(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use anyhow::ensure;
    use rustix::process::Signal;
    use std::time::Duration;

    #[test]
    fn a_cut_names_the_api_server_by_both_addresses() {
        let rules = api_rules("10.244.0.9", "10.10.0.1");
        assert!(rules.iter().any(|rule| rule.contains(&"10.96.0.1".to_owned())));
        assert!(rules.iter().all(|rule| rule.contains(&"10.244.0.9".to_owned())));
        assert_eq!(all_rules("10.244.0.9").len(), 3);
    }

    #[test]
    fn requests_and_replies_together_are_all_that_is_cut() {
        let (pod, node) = ("10.244.0.9", "10.10.0.1");
        assert_eq!([request_rules(pod, node), reply_rules(pod, node)].concat(), api_rules(pod, node));
        assert_eq!((request_rules(pod, node).len(), reply_rules(pod, node).len()), (2, 1));
    }

    /// A pod of this machine's own programs that says again and again whether it can connect to API server and registry.
    fn connecting_pod(namespace: &Namespace<'_>) -> Result<()> {
        let registry = namespace.cluster().registry();
        let (address, port) = registry.split_once(':').context("the registry has no port")?;
        let script = format!(
            "look() {{ timeout 1 bash -c \"exec 3<>/dev/tcp/$1/$2\" 2>/dev/null && echo yes || echo no; }}
             while true; do echo api=$(look {API_SERVICE_ADDRESS} 443) registry=$(look {address} {port}); sleep 0.2; done"
        );
        let folders = [("/usr", "usr"), ("/usr/bin", "bin"), ("/usr/lib", "lib"), ("/usr/lib64", "lib64")];
        let volumes = folders.map(|(host, name)| serde_json::json!({"name": name, "hostPath": {"path": host}}));
        let mounts = folders.map(|(_, name)| serde_json::json!({"name": name, "mountPath": format!("/{name}")}));
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "connecting"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "volumes": volumes,
                "containers": [{
                    "name": "main",
                    "image": format!("{registry}/{}", crate::node::PAUSE),
                    "command": ["/bin/bash", "-c", script],
                    "volumeMounts": mounts,
                }],
            },
        });
        namespace.apply(&pod.to_string()).map(drop)
    }

    fn wait_for_line(namespace: &Namespace<'_>, line: &str) -> Result<()> {
        wait::until(&format!("the pod to say `{line}`"), Duration::from_secs(30), || {
            let last = namespace.run(&["logs", "connecting", "--tail=1"])?;
            ensure!(last.trim() == line, "it says `{}`", last.trim());
            Ok(())
        })
    }

    #[test]
    fn a_pod_is_cut_off_healed_and_killed() -> Result<()> {
        Namespace::test("kit-faults", |namespace| {
            connecting_pod(namespace)?;
            wait_for_line(namespace, "api=yes registry=yes")?;
            let cut = namespace.cut_from_api_server("connecting")?;
            wait_for_line(namespace, "api=no registry=yes")?;
            cut.heal()?;
            wait_for_line(namespace, "api=yes registry=yes")?;
            let ways: [fn(&Namespace<'static>, &str) -> Result<Cut<'static>>; 3] = [
                Namespace::cut_requests_to_api_server,
                Namespace::cut_replies_of_api_server,
                Namespace::refuse_api_server,
            ];
            for way in ways {
                let cut = way(namespace, "connecting")?;
                wait_for_line(namespace, "api=no registry=yes")?;
                cut.heal()?;
                wait_for_line(namespace, "api=yes registry=yes")?;
            }
            let cut = namespace.cut_from_everything("connecting")?;
            wait_for_line(namespace, "api=no registry=no")?;
            drop(cut);
            wait_for_line(namespace, "api=yes registry=yes")?;

            let processes = namespace.processes("connecting", "main")?;
            let first = processes.stub()?;
            ensure!(first.command[0] == "/bin/bash", "{first:?}");
            ensure!(first.is_alive());
            first.signal(Signal::KILL)?;
            wait::until("the restarted container", Duration::from_secs(30), || {
                let again = namespace.processes("connecting", "main")?;
                ensure!(again.stub()?.pid != first.pid, "it is the old one");
                Ok(())
            })?;
            ensure!(!first.is_alive());
            Ok(())
        })
    }
}
