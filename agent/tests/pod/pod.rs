//! One pod: the agent in a folder of its own, seen by its log, its answers and its end.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use leader_agent::names::env;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Api, NAMESPACE};

const AGENT: &str = env!("CARGO_BIN_EXE_leader-agent");
/// Nothing here takes longer on a machine that works, however busy it is.
const LIMIT: Duration = Duration::from_secs(40);

/// A pod that runs.
pub(crate) struct Pod {
    child: Child,
    /// The container's first process is the child's child.
    wrapped: bool,
    folder: Arc<TempDir>,
    text: Arc<Mutex<String>>,
    /// The agent's port.
    pub(crate) port: u16,
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    began.elapsed()
}

impl Pod {
    /// Starts a pod whose record has `fields`; the app is a text for a shell that runs in the pod's folder.
    pub(crate) fn start(api: &Api, name: &str, fields: &Value, app: &str) -> Self {
        Self::start_through(&[], api, name, fields, app)
    }

    /// Starts it through the command `wrapper`.
    pub(crate) fn start_through(wrapper: &[&str], api: &Api, name: &str, fields: &Value, app: &str) -> Self {
        Self::start_prepared(wrapper, api, name, fields, app, |_, _| {})
    }

    /// Starts it after `prepare` has done something in its folder, or to the command.
    pub(crate) fn start_prepared(
        wrapper: &[&str],
        api: &Api,
        name: &str,
        fields: &Value,
        app: &str,
        prepare: impl FnOnce(&Path, &mut Command),
    ) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().expect("a folder")), wrapper, api, (name, fields, app), prepare)
    }

    /// Starts its container again: what has ended left the folder behind.
    pub(crate) fn again(&self, wrapper: &[&str], api: &Api, name: &str, fields: &Value, app: &str) -> Self {
        Self::start_in(Arc::clone(&self.folder), wrapper, api, (name, fields, app), |_, _| {})
    }

    fn start_in(
        folder: Arc<TempDir>,
        wrapper: &[&str],
        api: &Api,
        (name, fields, app): (&str, &Value, &str),
        prepare: impl FnOnce(&Path, &mut Command),
    ) -> Self {
        let kubeconfig = folder.path().join("kubeconfig");
        api.kubeconfig(&kubeconfig);
        let mut record =
            json!({ "version": 1, "id": "billing", "container": "app", "original": {}, "port": free_port() });
        record.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        let port = record["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or_default();
        // A shell lets what it starts in the background ignore INT and QUIT, and a child of the tests would inherit that.
        let mut command = Command::new("env");
        command
            .arg("--default-signal")
            .args(wrapper)
            .args([AGENT, "run", "--", "sh", "-c", app])
            .env("KUBECONFIG", &kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env(env::RECORD, record.to_string())
            .env(env::NAMESPACE, NAMESPACE)
            .env(env::POD_NAME, name)
            .env(env::POD_UID, "pod-uid")
            .env(env::POD_IP, "127.0.0.1")
            .env(env::STATE_DIR, folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        prepare(folder.path(), &mut command);
        let mut child = command.spawn().expect("started");
        let text = Arc::new(Mutex::new(String::new()));
        let (stdout, stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        copy(stdout, Arc::clone(&text));
        copy(stderr, Arc::clone(&text));
        Self { child, wrapped: !wrapper.is_empty(), folder, text, port }
    }

    /// All that agent and app have written.
    pub(crate) fn text(&self) -> String {
        self.text.lock().expect("a lock").clone()
    }

    /// Waits until they have written this.
    #[track_caller]
    pub(crate) fn says(&self, what: &str) -> Duration {
        let shown = || self.text().contains(what);
        if !shown() && self.child_ended() {
            // What it wrote last may still be on its way.
            thread::sleep(Duration::from_millis(100));
            assert!(shown(), "ended without `{what}`:\n{}", self.text());
        }
        let began = Instant::now();
        while !shown() {
            assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: `{what}`:\n{}", self.text());
            thread::sleep(Duration::from_millis(2));
        }
        began.elapsed()
    }

    fn child_ended(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.child.id())).is_ok_and(|stat| stat.contains(") Z "))
    }

    /// A file of the app's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file for the app.
    pub(crate) fn touch(&self, name: &str) {
        fs::write(self.file(name), []).expect("a file");
    }

    /// Asks on the port, as the kubelet does: the status and the text.
    pub(crate) fn ask(&self, probe: &str) -> (u16, String) {
        self.request(&format!("GET /leader.io/probe/{probe}"))
    }

    /// Sends a request with this method and path to the port.
    pub(crate) fn request(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the agent listens");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        write!(stream, "{request} HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n").expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {head}")), body.trim().to_owned())
    }

    /// Asks until the probe passes.
    #[track_caller]
    pub(crate) fn passes(&self, probe: &str) {
        wait(&format!("{probe} passes: {}", self.text()), || self.ask(probe).0 == 200);
    }

    /// Runs a subcommand in the container.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        Command::new(AGENT).args(words).env(env::STATE_DIR, self.folder.path()).output().expect("run")
    }

    /// Sends a signal to the container's first process.
    pub(crate) fn signal(&self, number: i32) {
        send(number, self.stub());
    }

    /// Kills the agent, and nothing else.
    pub(crate) fn kill_agent(&self) {
        send(9, child_of(self.stub()));
    }

    /// The container's first process.
    fn stub(&self) -> u32 {
        let id = self.child.id();
        if self.wrapped { child_of(id) } else { id }
    }

    /// Waits for the end of the container; its exit code, or 128 and the signal's number.
    #[track_caller]
    pub(crate) fn code(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            }
            assert!(began.elapsed() < LIMIT, "it does not end:\n{}", self.text());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(self.child.id().cast_signed()).expect("an id");
            let _ = kill_process(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The only child of a process.
fn child_of(id: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its children");
    children.trim().parse().unwrap_or_else(|_| panic!("not one child of {id}: {children:?}"))
}

fn send(number: i32, to: u32) {
    let sent = Command::new("kill").arg(format!("-{number}")).arg(to.to_string()).status();
    assert!(sent.expect("kill").success());
}

fn copy(mut from: impl Read + Send + 'static, to: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            to.lock().expect("a lock").push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    });
}
