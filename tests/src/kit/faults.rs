//! Breaking a pod from outside: its processes, as the machine sees them, to be signalled.

use super::Namespace;
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

impl Namespace<'_> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
