//! Breaking things from outside: signals to the processes of a pod, and a pod cut off from the API server.

use super::Namespace;
use crate::cluster::Cluster;
use crate::command::Tool;
use crate::network::{API_PORT, API_SERVICE_ADDRESS};
use crate::progress::say;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;

/// A process of a pod, seen from the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodProcess {
    /// Its process id on the machine.
    pub pid: Pid,
    /// Its parent's process id on the machine.
    pub parent: Option<Pid>,
    /// Its process id in the container's own process namespace.
    pub pid_in_container: i32,
    /// Its executable, as the container names it.
    pub executable: PathBuf,
    /// Its arguments, the program's name first.
    pub command: Vec<String>,
}

impl PodProcess {
    /// Reads a process; `None` when it has ended, be it as a zombie.
    fn read(pid: Pid) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let number = |text: &str| text.split_whitespace().next_back()?.parse::<i32>().ok();
        let command = fs::read(folder.join("cmdline")).ok()?;
        let command = command.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        Some(Self {
            pid,
            parent: Pid::from_raw(number(field("PPid:")?)?),
            // One number per nested process namespace, the innermost last.
            pid_in_container: number(field("NSpid:")?)?,
            executable: fs::read_link(folder.join("exe")).ok()?,
            command: command.map(|word| String::from_utf8_lossy(word).into_owned()).collect(),
        })
    }

    /// Sends a signal. [`Signal::KILL`] and [`Signal::STOP`] from here reach PID 1 of the container, too.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal)
            .with_context(|| format!("cannot signal process {} ({:?})", self.pid, self.command))
    }

    /// Whether this process, and not another one under its number, is alive (a zombie is not).
    pub fn is_alive(&self) -> bool {
        Self::read(self.pid)
            .is_some_and(|now| now.pid_in_container == self.pid_in_container && now.command == self.command)
    }
}

/// The processes of one container.
#[derive(Debug, Clone)]
pub struct ContainerProcesses(pub Vec<PodProcess>);

impl ContainerProcesses {
    /// PID 1 of the container.
    ///
    /// # Errors
    /// When the container has none.
    pub fn stub(&self) -> Result<&PodProcess> {
        self.find("the stub (PID 1)", |process| process.pid_in_container == 1)
    }

    /// The stub's child that runs the stub's own executable.
    ///
    /// # Errors
    /// When there is none.
    pub fn agent(&self) -> Result<&PodProcess> {
        let stub = self.stub()?;
        self.find("the agent (the stub's child with the same executable)", |process| {
            process.parent == Some(stub.pid) && process.executable == stub.executable
        })
    }

    /// All that is neither stub nor agent: the app, empty on a standby.
    pub fn app(&self) -> Vec<&PodProcess> {
        let others = [self.stub().ok(), self.agent().ok()];
        self.0.iter().filter(|process| !others.contains(&Some(process))).collect()
    }

    fn find(&self, what: &str, matches: impl Fn(&PodProcess) -> bool) -> Result<&PodProcess> {
        self.0
            .iter()
            .find(|process| matches(process))
            .with_context(|| format!("no process is {what} among {:#?}", self.0))
    }
}

/// A pod without a way to the API server; healed by [`Cut::heal`] or when this is dropped.
#[derive(Debug)]
#[must_use = "the cut is healed when this is dropped"]
pub struct Cut<'a> {
    cluster: &'a Cluster,
    rules: Vec<Rule>,
}

/// A rule of the table `raw`, which comes before address translation and connection tracking, so that it also holds for
/// connections that are open.
#[derive(Debug)]
struct Rule {
    words: Vec<String>,
    verdict: &'static str,
}

impl Rule {
    fn change(&self, cluster: &Cluster, action: &str) -> Result<()> {
        let tool = Tool::in_network(cluster.name(), "iptables").args(["--wait", "10", "--table", "raw", action]);
        tool.args(&self.words).args(["--jump", self.verdict]).run().map(drop)
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
fn new_pod_rules(source: &str, node: &str) -> Vec<Vec<String>> {
    api_rules(source, node).into_iter().filter(|rule| rule[0] == "PREROUTING").collect()
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
            std::iter::once((self.range().pod_range(), "DROP")).chain(known.map(|known| (known.to_owned(), "ACCEPT")))
        {
            for rule in new_pod_rules(&source, &self.range().node_address().to_string()) {
                let rule = Rule { words: rule, verdict };
                rule.change(self, "--insert")?;
                cut.rules.push(rule);
            }
        }
        Ok(cut)
    }
}

impl<'a> Namespace<'a> {
    /// The processes that run in a pod's container now, seen from the machine; without those that have ended.
    ///
    /// # Errors
    /// When the pod or the container does not exist or was not started.
    pub fn processes(&self, pod: &str, container: &str) -> Result<ContainerProcesses> {
        let pod_object = self.get(&["pod", pod])?;
        let uid = pod_object["metadata"]["uid"].as_str().context("a pod without a uid")?;
        let statuses = ["containerStatuses", "initContainerStatuses"].into_iter();
        let id = statuses
            .filter_map(|list| pod_object["status"][list].as_array())
            .flatten()
            .find(|status| status["name"] == container)
            .and_then(|status| status["containerID"].as_str()?.strip_prefix("containerd://"));
        let Some(id) = id else { bail!("container {container} of pod {pod} was not started") };
        let pids = self.cluster().control_group().container_processes(uid, id)?;
        Ok(ContainerProcesses(pids.into_iter().filter_map(PodProcess::read).collect()))
    }

    /// Cuts a pod off from the API server, and from nothing else: its packets to and from it vanish, on open connections
    /// too. Kubelet and Services are as before.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn cut_from_api_server(&self, pod: &str) -> Result<Cut<'a>> {
        let node = self.cluster().range().node_address().to_string();
        self.cut(pod, |address| api_rules(address, &node))
    }

    /// Cuts a pod off from everything.
    ///
    /// # Errors
    /// When the pod has no address, or a rule cannot be set.
    pub fn cut_from_everything(&self, pod: &str) -> Result<Cut<'a>> {
        self.cut(pod, all_rules)
    }

    fn cut(&self, pod: &str, rules: impl Fn(&str) -> Vec<Vec<String>>) -> Result<Cut<'a>> {
        let object = self.get(&["pod", pod])?;
        let address = object["status"]["podIP"].as_str().with_context(|| format!("pod {pod} has no address"))?;
        let mut cut = Cut { cluster: self.cluster(), rules: Vec::new() };
        for words in rules(address) {
            let rule = Rule { words, verdict: "DROP" };
            rule.change(cut.cluster, "--insert")?;
            cut.rules.push(rule);
        }
        Ok(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use anyhow::ensure;
    use std::time::Duration;

    #[test]
    fn a_process_is_read_and_its_end_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        // Until it has become `sleep`, it is this test's own program.
        let process = loop {
            match PodProcess::read(pid) {
                Some(process) if process.command.first().is_some_and(|word| word == "sleep") => break process,
                _ => std::thread::yield_now(),
            }
        };
        assert_eq!(process.parent, Some(rustix::process::getpid()));
        assert_eq!(process.command, ["sleep", "60"]);
        assert!(process.is_alive());
        process.signal(Signal::KILL).unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.signal(Signal::KILL).is_err());
    }

    #[test]
    fn stub_agent_and_app_are_told_apart() {
        let process = |pid, parent, inside, executable: &str| PodProcess {
            pid: Pid::from_raw(pid).unwrap(),
            parent: Pid::from_raw(parent),
            pid_in_container: inside,
            executable: executable.into(),
            command: vec![],
        };
        let all = ContainerProcesses(vec![
            process(103, 102, 8, "/app"),
            process(102, 101, 7, "/leader/agent"),
            process(101, 50, 1, "/leader/agent"),
            process(104, 101, 9, "/orphan"),
        ]);
        assert_eq!(all.stub().unwrap().pid_in_container, 1);
        assert_eq!(all.agent().unwrap().pid_in_container, 7);
        assert_eq!(all.app().iter().map(|process| process.pid_in_container).collect::<Vec<_>>(), [8, 9]);
        assert!(ContainerProcesses(vec![]).agent().unwrap_err().to_string().contains("PID 1"));
    }

    #[test]
    fn a_cut_names_the_api_server_by_both_addresses() {
        let rules = api_rules("10.244.0.9", "10.10.0.1");
        assert!(rules.iter().any(|rule| rule.contains(&"10.96.0.1".to_owned())));
        assert!(rules.iter().all(|rule| rule.contains(&"10.244.0.9".to_owned())));
        assert_eq!(all_rules("10.244.0.9").len(), 3);
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
