//! The agent outside a cluster, with a kubeconfig: `observe`, which keeps a status file, and `run`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use leader_agent::{election::Outcome, names};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::{
    api::{Api, NAMESPACE},
    link::Link,
    stage::{SHORT, address, candidate, trial, until},
};

const AGENT: &str = env!("CARGO_BIN_EXE_leader-agent");

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("observe_keeps_a_file_while_it_leads_and_removes_it_before_the_release", observes),
        trial("observe_that_is_killed_leaves_no_file", observer_killed),
        trial("observe_that_is_cut_off_removes_its_file_before_another_one_leads", observer_cut_off),
        trial("run_takes_the_kubeconfig_that_is_named_and_ends_with_the_code_of_its_command", runs),
        trial("a_kubeconfig_that_cannot_be_used_is_said", no_kubeconfig),
    ]
}

/// The agent, ended with the test.
struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    /// Starts it in a folder of its own, with a kubeconfig for the server at `address`.
    fn start(address: &str, words: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("kubeconfig"), kubeconfig(address)).expect("a file");
        fs::write(folder.path().join("leader"), "left by a former process").expect("a file");
        let mut command = Command::new(AGENT);
        command.args(words).current_dir(folder.path()).stdin(Stdio::null());
        for name in names::env::ALL.iter().chain(&["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "POD_NAME"]) {
            command.env_remove(name);
        }
        let child = command.envs(environment.iter().copied()).spawn().expect("started");
        Self { child, folder }
    }

    /// The status file's path.
    fn file(&self) -> PathBuf {
        self.folder.path().join("leader")
    }

    fn signal(process: u32, signal: &str) {
        let sent = Command::new("kill").args([signal, &process.to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    async fn end(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kubeconfig(address: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": address } }],
        "users": [{ "name": "test", "user": {} }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test", "namespace": NAMESPACE } }],
    })
    .to_string()
}

/// The first line, once the file is there.
fn first_line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.to_owned())
}

async fn observes() {
    let api = Api::released();
    let words = ["observe", "--status-file", "leader", "--kubeconfig", "kubeconfig", "--lease-duration", "60s"];
    let environment = [("LEASE_NAME", "billing"), ("NAMESPACE", NAMESPACE), ("POD_NAME", "ann")];
    let mut agent = Agent::start(&address(&api), &words, &environment);
    until("the file", || first_line(&agent.file()).as_deref() == Some("ann")).await;
    assert!(api.holder().starts_with("ann_"), "{}", api.holder());
    let text = fs::read_to_string(agent.file()).expect("leading");
    assert!(text.contains("\ntoken=2\n") && text.contains("\nbelieve_until="), "{text}");
    Agent::signal(agent.child.id(), "-TERM");
    until("the release", || api.holder().is_empty()).await;
    assert!(!agent.file().exists(), "the Lease was released first");
    assert!(api.lease()["metadata"]["annotations"][names::RELEASED].is_string());
    assert_eq!(agent.end().await.code(), Some(0));
}

async fn observer_killed() {
    let api = Api::released();
    let words = ["observe", "--lease-name", "billing", "--namespace", NAMESPACE, "--status-file", "leader"];
    let mut agent = Agent::start(&address(&api), &words, &[("KUBECONFIG", "kubeconfig"), ("LEADER_IDENTITY", "ann")]);
    until("the file", || first_line(&agent.file()).as_deref() == Some("ann")).await;
    let stub = agent.child.id();
    let children = fs::read_to_string(format!("/proc/{stub}/task/{stub}/children")).expect("its children");
    Agent::signal(children.trim().parse().expect("one child"), "-KILL");
    assert!(!agent.end().await.success());
    assert!(!agent.file().exists(), "it still says that the agent leads");
}

async fn observer_cut_off() {
    let api = Api::released();
    let link = Link::to(&address(&api));
    let duration = format!("{}s", SHORT.as_secs());
    let words = ["observe", "--lease-name", "billing", "--namespace", NAMESPACE, "--status-file", "leader"];
    let flags = ["--kubeconfig", "kubeconfig", "--identity", "ann", "--lease-duration", &duration];
    let agent = Agent::start(&link.address, &[&words[..], &flags].concat(), &[]);
    until("the file", || first_line(&agent.file()).as_deref() == Some("ann")).await;
    link.cut(true);
    let file = agent.file();
    let rival = candidate("ben", &address(&api)).lease_duration(SHORT);
    let outcome = rival.run(|_| std::future::ready(file.exists())).await.unwrap();
    assert_eq!(outcome, Outcome::Finished(false), "it still said that it leads when another one did");
}

async fn runs() {
    let api = Api::released();
    let words = ["run", "--id", "billing", "--kubeconfig", "kubeconfig", "--", "sh", "-c"];
    let app = "echo $LEADER_ID $LEADER_IDENTITY $LEADER_FENCING_TOKEN > app.new; mv app.new app; exit 7";
    // Named, it counts in a pod as well.
    let environment = [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "9"), ("POD_NAME", "ann")];
    let mut agent = Agent::start(&address(&api), &[&words[..], &[app]].concat(), &environment);
    assert_eq!(agent.end().await.code(), Some(7));
    let text = fs::read_to_string(agent.folder.path().join("app")).expect("the app ran");
    assert!(text.starts_with("billing ann_") && text.ends_with(" 2\n"), "{text}");
    assert!(api.holder().is_empty() && api.lease()["metadata"]["annotations"][names::RELEASED].is_string());
}

async fn no_kubeconfig() {
    for words in [
        &["run", "--id", "billing", "--kubeconfig", "missing", "--", "true"][..],
        &["observe", "--lease-name", "billing", "--status-file", "leader", "--kubeconfig", "missing"],
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let ended = Command::new(AGENT).args(words).current_dir(folder.path()).output().expect("run");
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) && text.contains("kubeconfig missing"), "{}: {text}", ended.status);
    }
}
