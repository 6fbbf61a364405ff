//! `cargo xtask cluster`.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use leader_tests::command::{Tool, quoted};
use leader_tests::progress::say;
use leader_tests::{Cluster, ClusterName, Status};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// Which cluster.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The cluster's name; several can run side by side.
    #[arg(long, default_value = ClusterName::DEFAULT, value_parser = ClusterName::new)]
    pub(crate) name: ClusterName,
}

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Bring the cluster up; the first time packages are installed and Kubernetes is built.
    Up(Name),
    /// Take the cluster down, whatever there is of it, and leave nothing behind.
    Down(Name),
    /// Tell whether the cluster is up; ends with code 1 when it is not.
    Status(Name),
    /// Run the cluster's own kubectl as its admin.
    Kubectl {
        #[command(flatten)]
        name: Name,
        /// Arguments of kubectl.
        #[arg(last = true, value_name = "ARGS")]
        arguments: Vec<String>,
    },
    /// Run a command inside the cluster's network, with KUBECONFIG, NETNS and REGISTRY set.
    Exec {
        #[command(flatten)]
        name: Name,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Print KUBECONFIG, NETNS and REGISTRY as shell assignments.
    Env(Name),
    /// Put an image into the cluster's registry and print its whole name.
    Push {
        #[command(flatten)]
        name: Name,
        /// An OCI layout (a folder), an archive of one, or what `docker save` writes.
        image: PathBuf,
        /// The image's name in the registry, as NAME:TAG.
        target: String,
    },
}

/// Does it.
pub(crate) fn run(task: Task) -> Result<()> {
    match task {
        Task::Up(name) => Cluster::up(&name.name).map(drop),
        Task::Down(name) => {
            let was_there = Cluster::down(&name.name)?;
            let what = if was_there { "is down" } else { "was not up" };
            say(format!("cluster `{}` {what}", name.name.as_str()));
            Ok(())
        }
        Task::Status(name) => status(&name.name),
        Task::Kubectl { name, arguments } => {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            become_tool(Cluster::find(&name.name)?.kubectl(&arguments))
        }
        Task::Exec { name, command } => {
            let (program, arguments) = command.split_first().context("give a command after `--`")?;
            become_tool(Cluster::find(&name.name)?.tool(program).args(arguments))
        }
        Task::Env(name) => {
            for (variable, value) in Cluster::find(&name.name)?.environment() {
                println!("{variable}={}", quoted(&value));
            }
            Ok(())
        }
        Task::Push { name, image, target } => {
            println!("{}", Cluster::find(&name.name)?.push(&image, &target)?);
            Ok(())
        }
    }
}

fn status(name: &ClusterName) -> Result<()> {
    match Cluster::status(name) {
        Status::Up(cluster) => {
            print!("{}", cluster.describe());
            Ok(())
        }
        Status::Down => bail!("cluster `{}` is down", name.as_str()),
        Status::Broken(why) => bail!("cluster `{}` is broken: {why}", name.as_str()),
    }
}

/// Replaces this process by the tool, so that exit code, signals and terminal are the tool's own.
fn become_tool(tool: Tool) -> Result<()> {
    let line = tool.command_line();
    let error = tool.into_command().exec();
    Err(error).with_context(|| format!("cannot start `{line}`"))
}
