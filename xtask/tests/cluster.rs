//! `cargo xtask cluster` itself: up, down, side by side, and after crashes. Left out where no cluster is up, because only there
//! everything that a cluster needs is known to be there.

use anyhow::{Context, Result, ensure};
use leader_tests::cgroup::ControlGroup;
use leader_tests::command::{Output, Tool};
use leader_tests::state::State;
use leader_tests::{Cluster, ClusterName, mounts, network, process};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

fn xtask(action: &str, name: &str) -> Tool {
    Tool::new(XTASK).args(["cluster", action, "--name", name])
}

fn succeeds(tool: Tool) -> Result<Output> {
    let line = tool.command_line();
    let output = tool.output()?;
    ensure!(output.success(), "`{line}` ended with code {}: {}", output.code, output.stderr);
    Ok(output)
}

/// Takes a cluster down when a test ends early.
struct Down(&'static str);

impl Drop for Down {
    fn drop(&mut self) {
        if let Err(error) = succeeds(xtask("down", self.0)) {
            eprintln!("{error:#}");
        }
    }
}

/// Everything by which a cluster could be noticed is gone.
fn nothing_is_left(name: &str) -> Result<()> {
    let name = ClusterName::new(name)?;
    let state = State::of(&name);
    ensure!(!state.exists(), "its state folder is left");
    ensure!(!network::exists(name.as_str()), "its network namespace is left");
    let processes = process::all(&state)?;
    ensure!(processes.is_empty(), "processes are left: {processes:?}");
    let folders = ControlGroup::of(&name).folders()?;
    ensure!(folders.is_empty(), "control groups are left: {folders:?}");
    let mounts = mounts::all()?.into_iter().filter(|mount| mount.point.starts_with(state.folder()));
    let mounts: Vec<_> = mounts.collect();
    ensure!(mounts.is_empty(), "mounts are left: {mounts:?}");
    Ok(())
}

fn interfaces() -> Result<Vec<String>> {
    let links = Tool::new("ip").args(["-brief", "link"]).run()?;
    Ok(links.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

#[test]
fn two_clusters_side_by_side_with_pods_leave_nothing() -> Result<()> {
    if Cluster::for_tests().is_none() {
        return Ok(());
    }
    let before = interfaces()?;
    let names = ["side-by-side-1", "side-by-side-2"];
    let _down = names.map(Down);
    let mut registries = Vec::new();
    for name in names {
        succeeds(xtask("up", name))?;
        let again = succeeds(xtask("up", name))?;
        ensure!(again.stderr.contains("is up already"), "{}", again.stderr);
        ensure!(succeeds(xtask("status", name))?.stdout.contains("kubelet"));

        let environment = succeeds(xtask("env", name))?.stdout;
        let value = |variable: &str| environment.lines().find_map(|line| line.strip_prefix(variable));
        ensure!(environment.lines().count() == 3, "{environment}");
        ensure!(value("NETNS=") == Some(name), "{environment}");
        ensure!(value("KUBECONFIG=").is_some_and(|file| std::path::Path::new(file).exists()), "{environment}");
        registries.push(value("REGISTRY=").context("no REGISTRY")?.to_owned());

        let script = "kubectl create deployment p --image=$REGISTRY/pause:1 --replicas=3 \
            && kubectl rollout status deployment/p --timeout=60s";
        succeeds(xtask("exec", name).args(["--", "sh", "-c", script]))?;
    }
    ensure!(registries[0] != registries[1], "{registries:?}");
    for name in names {
        succeeds(xtask("down", name))?;
        nothing_is_left(name).with_context(|| format!("of {name}"))?;
    }
    ensure!(interfaces()? == before, "an interface is left: {:?}", interfaces()?);
    let status = xtask("status", names[0]).output()?;
    ensure!(status.code == 1 && status.stderr.contains("is down"), "{status:?}");
    Ok(())
}

#[test]
fn down_leaves_nothing_after_up_was_killed_at_any_step() -> Result<()> {
    if Cluster::for_tests().is_none() {
        return Ok(());
    }
    let name = "crashed";
    let _down = Down(name);
    for step in ["bringing up", "registry is up", "API server is up"] {
        let mut up = Command::new(XTASK)
            .args(["cluster", "up", "--name", name])
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start xtask")?;
        let said = BufReader::new(up.stderr.take().context("no standard error")?).lines();
        let reached = said.map_while(Result::ok).any(|line| line.contains(step));
        up.kill()?;
        up.wait()?;
        ensure!(reached, "`up` never said `{step}`");
        let status = xtask("status", name).output()?;
        ensure!(status.stderr.contains("did not come up wholly"), "{status:?}");
        succeeds(xtask("down", name))?;
        nothing_is_left(name).with_context(|| format!("killed at `{step}`"))?;
    }
    Ok(())
}

#[test]
fn exit_codes_and_signals_of_commands_are_handed_through() -> Result<()> {
    let Some(cluster) = Cluster::for_tests() else { return Ok(()) };
    let exec = |script: &str| xtask("exec", cluster.name()).args(["--", "sh", "-c", script]).output();
    ensure!(exec("exit 7")?.code == 7);
    ensure!(exec("kill -TERM $$")?.code == 143);
    ensure!(exec("echo $NETNS")?.stdout.trim() == cluster.name());
    let kubectl = xtask("kubectl", cluster.name()).args(["--", "get", "node", "-o", "name"]).output()?;
    ensure!(kubectl.stdout == "node/node0\n", "{kubectl:?}");
    Ok(())
}
