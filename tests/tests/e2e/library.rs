//! Programs outside the cluster, with its kubeconfig: the examples of the library, and the agent's `observe` and `run`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use leader_tests::command::{Tool, exit_code};
use leader_tests::kit::Namespace;
use leader_tests::{Cluster, wait};
use tempfile::TempDir;

use crate::stage::Stage;

/// How long a program may take for a step on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Where cargo leaves the agent and the examples of its library; they are built if need be. `cargo xtask test` has done so before: a
/// compiler would take the processors from other tests.
fn built() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || -> Result<PathBuf> {
        // This test is target/PROFILE/deps/NAME.
        let test = std::env::current_exe()?;
        let target = test.ancestors().nth(3).context("this test is in no target folder")?;
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let words =
            ["build", "--quiet", "--locked", "--package", "leader-agent", "--bins", "--examples", "--target-dir"];
        Tool::new(cargo).args(words).arg(target).current_dir(env!("CARGO_MANIFEST_DIR")).run()?;
        Ok(target.join("debug"))
    };
    match FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(folder) => Ok(folder),
        Err(error) => bail!("{error}"),
    }
}

/// A program in the cluster's network, ended with the test.
struct Program {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Program {
    fn start(cluster: &Cluster, folder: &TempDir, name: &str, program: &str, words: &[&str]) -> Result<Self> {
        let output = folder.path().join(name);
        let file = File::create(&output)?;
        let tool = cluster.tool(built()?.join(program)).args(words).current_dir(folder.path());
        let mut command = tool.into_command();
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, name: name.to_owned(), output })
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    /// Waits until it has written this.
    fn says(&self, what: &str) -> Result<()> {
        wait::until(&format!("`{what}` from {}", self.name), PATIENCE, || {
            let text = self.text()?;
            ensure!(text.contains(what), "{text}");
            Ok(())
        })
    }

    /// The fencing tokens under which it has worked.
    fn tokens(&self) -> Result<Vec<u64>> {
        let token = |line: &str| line.rsplit_once("fencing token ")?.1.parse().ok();
        Ok(self.text()?.lines().filter_map(token).collect())
    }

    fn signal(&self, signal: &str) -> Result<()> {
        Tool::new("kill").args([signal, &self.child.id().to_string()]).run().map(drop)
    }

    /// Waits for its end; its exit code as a shell has it.
    fn end(&mut self) -> Result<i32> {
        let (child, output) = (&mut self.child, &self.output);
        wait::until(&format!("the end of {}", self.name), PATIENCE, || match child.try_wait()? {
            Some(status) => Ok(exit_code(status)),
            None => bail!("{}", fs::read_to_string(output)?),
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of an answer over HTTP in the cluster's network.
fn ask(cluster: &'static Cluster, port: u16, path: &'static str) -> Result<u16> {
    let asked = thread::spawn(move || -> Result<u16> {
        cluster.enter_network()?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: me\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        text.split(' ').nth(1).and_then(|status| status.parse().ok()).with_context(|| text.clone())
    });
    asked.join().unwrap_or_else(|_| bail!("the question panicked"))
}

/// The holder of a Lease, and how often it changed hands.
fn lease(namespace: &Namespace<'_>, name: &str) -> Result<(String, i64)> {
    let spec = namespace.get(&["lease", name])?["spec"].take();
    Ok((spec["holderIdentity"].as_str().unwrap_or_default().to_owned(), spec["leaseTransitions"].as_i64().unwrap_or(0)))
}

#[test]
fn the_example_controllers_take_turns() -> Result<()> {
    Stage::bare("controllers", &[], |stage| {
        let namespace = &stage.namespace;
        let (cluster, folder) = (namespace.cluster(), tempfile::tempdir()?);
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let place = ["--kubeconfig", &kubeconfig, "--namespace", namespace.name(), "--lease-seconds", "8"];
        let start = |name: &str, id: &str, port: &str| {
            let words = [&place[..], &["--id", id, "--port", port]].concat();
            Program::start(cluster, &folder, name, "examples/controller", &words)
        };
        let mut one = start("first", "one", "18081")?;
        one.says("started leading as one")?;
        one.says("step 2 with fencing token")?;
        let two = start("second", "two", "18082")?;
        two.says("the leader is one")?;
        for (port, path) in [(18081, "/livez"), (18081, "/readyz"), (18082, "/livez"), (18082, "/readyz")] {
            ensure!(ask(cluster, port, path)? == 200, "{path} on port {port}");
        }

        one.signal("-INT")?;
        ensure!(one.end()? == 0, "{}", one.text()?);
        let text = one.text()?;
        ensure!(text.contains("put in order") && text.contains("stopped leading"), "{text}");
        two.says("started leading as two")?;
        two.says("step 1 with fencing token")?;
        let (holder, transitions) = lease(namespace, "example-controller")?;
        ensure!(holder == "two" && transitions == 2, "{holder} holds after {transitions} transitions");
        let metadata = namespace.get(&["lease", "example-controller"])?["metadata"].take();
        ensure!(metadata["labels"].is_null(), "it looks like a workload's: {metadata}");
        ensure!(one.tokens()?.last() < two.tokens()?.first(), "{:?}, then {:?}", one.tokens()?, two.tokens()?);

        // Killed, it releases nothing: the next one waits until the Lease has run out.
        two.signal("-KILL")?;
        let three = start("third", "three", "18083")?;
        three.says("the leader is two")?;
        three.says("started leading as three")?;
        Ok(())
    })
}

#[test]
fn the_example_that_logs_new_leaders_names_each() -> Result<()> {
    Stage::bare("new-leaders", &[], |stage| {
        let namespace = &stage.namespace;
        let (cluster, folder) = (namespace.cluster(), tempfile::tempdir()?);
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let place = ["--kubeconfig", &kubeconfig, "--namespace", namespace.name()];
        let words = [&place[..], &["--id", "one", "--port", "18091"]].concat();
        let mut one = Program::start(cluster, &folder, "one", "examples/controller", &words)?;
        one.says("started leading as one")?;
        let mut logger = Program::start(
            cluster,
            &folder,
            "logger",
            "examples/new_leader",
            &["example-controller", namespace.name()],
        )?;
        logger.says("the new leader is one")?;
        one.signal("-INT")?;
        ensure!(one.end()? == 0, "{}", one.text()?);
        logger.says("the new leader is new-leader-example-")?;
        logger.signal("-INT")?;
        ensure!(logger.end()? == 0, "{}", logger.text()?);
        let (holder, _) = lease(namespace, "example-controller")?;
        ensure!(holder.is_empty(), "{holder} still holds the Lease");
        Ok(())
    })
}

#[test]
fn observe_and_run_work_outside_the_cluster() -> Result<()> {
    Stage::bare("outside", &[], |stage| {
        let namespace = &stage.namespace;
        let (cluster, folder) = (namespace.cluster(), tempfile::tempdir()?);
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let election = ["--namespace", namespace.name(), "--kubeconfig", &kubeconfig, "--lease-duration", "8s"];
        let words = [&["observe", "--lease-name", "billing", "--status-file", "leader"], &election[..]].concat();
        let mut observer = Program::start(cluster, &folder, "observer", "leader-agent", &words)?;
        let file = folder.path().join("leader");
        let first_line = wait::until("the status file", PATIENCE, || {
            Ok(fs::read_to_string(&file)?.lines().next().context("it is empty")?.to_owned())
        })?;
        let (holder, _) = lease(namespace, "billing")?;
        ensure!(first_line == holder, "the status file says {first_line}, the Lease {holder}");

        let app = ["--", "sh", "-c", "echo the app has $LEADER_FENCING_TOKEN; exit 7"];
        let words = [&["run", "--id", "billing"], &election[..], &app].concat();
        let mut run = Program::start(cluster, &folder, "run", "leader-agent", &words)?;
        run.says("another candidate leads")?;
        observer.signal("-TERM")?;
        ensure!(observer.end()? == 0 && !file.exists(), "{}", observer.text()?);
        ensure!(run.end()? == 7, "{}", run.text()?);
        run.says("the app has ")?;
        let (holder, _) = lease(namespace, "billing")?;
        ensure!(holder.is_empty(), "{holder} still holds the Lease");
        Ok(())
    })
}
