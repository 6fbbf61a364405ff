//! `kubectl leader`: the webhook's own injection on files, without a cluster, and looking at elections and steering them in one.
//!
//! Files and output are here; what is injected is decided by [`crate::inject`].

mod api;
mod check;
mod connection;
mod dns;
mod documents;
mod edit;
mod history;
mod images;
mod json;
mod objects;
mod output;
mod reach;
mod session;
mod source;
mod status;
mod steer;
mod table;
mod ui;

use std::{
    io::{self, Read, Write},
    process,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use leader_agent::id::LeaderId;

use crate::{
    inject::{Defaults, Refusal},
    registry::OptionsError,
};

/// The image that is injected when no other one is asked for: this version's.
const AGENT_IMAGE: &str = concat!("ghcr.io/leader-io/leader-agent:", env!("CARGO_PKG_VERSION"));

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-leader",
    bin_name = "kubectl leader",
    version,
    about = "Leader election for unchanged applications"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints workloads as the webhook would store them.
    ///
    /// Every workload that carries the annotation leader.io/id is injected; other documents stay as they are. Comments inside a
    /// document that is injected are lost; a document in JSON stays in JSON. Entry points and stop signals that the file does not set
    /// are asked of the images' registries, with the credentials in docker's configuration. No cluster is asked: with `default` as the
    /// pods' service account it takes for granted that no binding and no annotation depends on that one.
    Inject {
        #[command(flatten)]
        files: Files,
        /// Elect the file's only workload under this id, as if it were annotated with leader.io/id.
        #[arg(long)]
        id: Option<String>,
        /// The container to wrap, as if annotated with leader.io/container.
        #[arg(long)]
        container: Option<String>,
        /// The entry point as a JSON list, as if annotated with leader.io/command.
        #[arg(long, value_name = "JSON")]
        command: Option<String>,
        /// The image of the agent, as the cluster's webhook is configured.
        #[arg(long, env = "LEADER_AGENT_IMAGE", default_value = AGENT_IMAGE, value_name = "IMAGE")]
        agent_image: String,
        #[command(flatten)]
        images: images::Images,
    },
    /// Prints injected workloads as their users wrote them, without the annotations of leader.
    Eject {
        #[command(flatten)]
        files: Files,
    },
    /// Reads the cluster, and says what is wrong and how to mend it.
    ///
    /// The exit code is 0 when nothing is wrong, 1 when something is, and above 1 when the cluster cannot be read. Nothing is written; a
    /// workload is sent to the webhook by dry run.
    Check {
        #[command(flatten)]
        options: check::Options,
    },
    /// Says who leads, who would take over, and what is not as it should be.
    ///
    /// It reads Leases and pods, and nothing else.
    Status {
        #[command(flatten)]
        options: status::Options,
    },
    /// Asks the leader to stop, and to let another pod lead.
    ///
    /// The request is about the present term alone, and stands on the Lease: whoever may patch that may ask.
    StepDown {
        #[command(flatten)]
        options: steer::command::StepDown,
    },
    /// Asks the leader to stop, and to let a certain pod lead.
    ///
    /// That pod has two seconds in which nobody else takes over. One that does not stand by is refused.
    Transfer {
        #[command(flatten)]
        options: steer::command::Transfer,
    },
    /// Stops the leader, and keeps everyone from leading until `resume`: for maintenance.
    Hold {
        #[command(flatten)]
        options: steer::command::Hold,
    },
    /// Ends a hold; or lets an election that is being turned on go on, although pods that ran the application without it are gone
    /// without a trace.
    ///
    /// A hold is ended first, and alone. While an election is turned on, nobody leads before all pods without the agent have ended, as
    /// their nodes report. When a node is lost, nobody reports it: make sure that nothing of those pods runs any more, then say so by
    /// this. It is refused while pods without the agent are there or may be made.
    Resume {
        #[command(flatten)]
        options: steer::command::Resume,
    },
    /// Says what became of an election, from its Events.
    History {
        #[command(flatten)]
        options: history::Options,
    },
    /// Runs `kubectl logs` on the leader.
    #[command(override_usage = "kubectl leader logs [OPTIONS] <ID> [OPTIONS OF KUBECTL LOGS]...")]
    Logs {
        #[command(flatten)]
        options: reach::Options,
    },
    /// Runs `kubectl exec` on the leader.
    #[command(override_usage = "kubectl leader exec [OPTIONS] <ID> [OPTIONS OF KUBECTL EXEC]... -- <COMMAND>...")]
    Exec {
        #[command(flatten)]
        options: reach::Options,
    },
    /// Runs `kubectl port-forward` to the leader of this moment.
    #[command(
        override_usage = "kubectl leader port-forward [OPTIONS] <ID> [OPTIONS OF KUBECTL PORT-FORWARD]... [LOCAL:]<REMOTE>..."
    )]
    PortForward {
        #[command(flatten)]
        options: reach::Options,
    },
    /// Serves a page on this machine alone: who leads, who led when, and buttons to change it.
    ///
    /// It prints the page's address. Whoever opens that acts with the rights of the kubeconfig.
    Ui {
        #[command(flatten)]
        options: ui::Options,
    },
}

#[derive(Debug, Args)]
struct Files {
    #[command(flatten)]
    source: source::Source,
    /// What to print: all documents as they were written, all as JSON, the JSON Patch of each changed workload, or a diff.
    ///
    /// With `diff` the exit code is 0 when nothing changes, 1 when something does, and above 1 on errors.
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
    Patch,
    Diff,
}

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file, `<stdin>` for standard input.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The web address cannot be read.
    #[error("{url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The kustomization cannot be built.
    #[error("`{command}` failed: {reason}")]
    Build {
        /// What was run.
        command: String,
        /// How it ended, and what it said.
        reason: String,
    },
    /// Nothing is there that builds a kustomization.
    #[error(
        "{folder}: neither kubectl nor kustomize is in PATH: install one of them, or build elsewhere and give the result with -f"
    )]
    NoBuilder {
        /// The kustomization.
        folder: String,
    },
    /// The output cannot be written.
    #[error("writing the output: {0}")]
    Write(#[source] io::Error),
    /// The file is not valid.
    #[error("{file}:{line}:{column}: {message}")]
    Invalid {
        /// The file.
        file: String,
        /// Line in the file, from 1.
        line: u64,
        /// Column in the line, from 1, in characters.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// A document cannot be written in the format that was asked for.
    #[error("{file}: {message}")]
    Render {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// No registry can be asked, as the options say how.
    #[error(transparent)]
    Registries(#[from] OptionsError),
    /// The cluster cannot be read.
    #[error("the cluster cannot be read: {reason}")]
    Cluster {
        /// Why not.
        reason: String,
    },
    /// There is no way to the cluster.
    #[error(transparent)]
    Connection(#[from] connection::ConnectionError),
    /// Nobody takes part under this id.
    #[error(
        "there is no election `{id}` in namespace {namespace}: is that the id, and the namespace (-n)? `kubectl leader status -A` \
         lists them"
    )]
    NoElection {
        /// The namespace.
        namespace: String,
        /// The id.
        id: LeaderId,
    },
    /// Nothing was asked of an election.
    #[error(transparent)]
    Steer(#[from] steer::SteerError),
    /// The leader is not reached.
    #[error(transparent)]
    Reach(#[from] reach::ReachError),
    /// The page is not served.
    #[error(transparent)]
    Ui(#[from] ui::UiError),
    /// The webhook would refuse these.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Refused>),
    /// The options say something about one workload, and the file does not have exactly one.
    #[error("{file}: {options} is about one workload, but the file has {}: {fix}", if .found.is_empty() { "none".to_owned() } else { .found.join(", ") })]
    NotOne {
        /// The file.
        file: String,
        /// The options.
        options: &'static str,
        /// The workloads in it.
        found: Vec<String>,
        /// What to do.
        fix: &'static str,
    },
    /// An option contradicts an annotation in the file.
    #[error("{workload} is annotated with {key}: {annotated}, but --{option} says {asked}: change one of them")]
    Contradiction {
        /// The workload, with its file and line.
        workload: String,
        /// The annotation's key.
        key: &'static str,
        /// The option's name.
        option: &'static str,
        /// The annotation's value.
        annotated: String,
        /// The option's value.
        asked: String,
    },
}

/// A workload that the webhook would refuse.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {refusal}")]
pub struct Refused {
    /// File, line and name of the workload.
    pub place: String,
    /// The refusal.
    pub refusal: Refusal,
}

/// The program to which a command is handed, as `logs` to kubectl: whoever can become it has its terminal and its signals. [`run`] starts
/// it beside itself.
pub fn handed_to(cli: &Cli) -> Option<Result<process::Command, Error>> {
    let (verb, options) = match &cli.command {
        Command::Logs { options } => (reach::Verb::Logs, options),
        Command::Exec { options } => (reach::Verb::Exec, options),
        Command::PortForward { options } => (reach::Verb::PortForward, options),
        _ => return None,
    };
    Some(kubectl(verb, options).map(|kubectl| kubectl.command()))
}

/// Finds the leader, and what reaches it.
fn kubectl(verb: reach::Verb, options: &reach::Options) -> Result<reach::Kubectl, Error> {
    session::run(&mut io::sink(), &mut io::sink(), async |_| reach::prepare(verb, options).await)
}

/// Runs the command and returns the exit code.
///
/// `colour` says whether a diff may be coloured.
pub fn run(
    cli: &Cli,
    stdin: impl Read,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
    colour: bool,
) -> Result<u8, Error> {
    match &cli.command {
        Command::Inject { files, id, container, command, agent_image, images } => {
            let mut file = documents::File::read(&files.source, stdin)?;
            let asked = edit::Asked { id: id.as_deref(), container: container.as_deref(), command: command.as_deref() };
            let source = images::ImageSource::new(images)?;
            let defaults = Defaults { agent_image: agent_image.clone(), agent_pull_secret: None };
            let warnings = edit::inject(&mut file, &asked, &defaults, &source)?;
            output::print(&file, &warnings, files.output, colour, stdout, stderr)
        }
        Command::Eject { files } => {
            let mut file = documents::File::read(&files.source, stdin)?;
            let warnings = edit::eject(&mut file);
            output::print(&file, &warnings, files.output, colour, stdout, stderr)
        }
        Command::Check { options } => {
            let (text, has_problems) = check::run(options)?;
            write(stdout, &text)?;
            Ok(u8::from(has_problems))
        }
        Command::Status { options } => session::run(stdout, stderr, async |voice| status::run(options, &voice).await),
        Command::StepDown { options } => {
            session::run(stdout, stderr, async |voice| steer::command::step_down(options, &voice).await)
        }
        Command::Transfer { options } => {
            session::run(stdout, stderr, async |voice| steer::command::transfer(options, &voice).await)
        }
        Command::Hold { options } => {
            session::run(stdout, stderr, async |voice| steer::command::hold(options, &voice).await)
        }
        Command::Resume { options } => {
            session::run(stdout, stderr, async |voice| steer::command::resume(options, &voice).await)
        }
        Command::History { options } => session::run(stdout, stderr, async |voice| history::run(options, &voice).await),
        Command::Logs { options } => kubectl(reach::Verb::Logs, options)?.run(stdout),
        Command::Exec { options } => kubectl(reach::Verb::Exec, options)?.run(stdout),
        Command::PortForward { options } => kubectl(reach::Verb::PortForward, options)?.run(stdout),
        Command::Ui { options } => ui::run(options, stdout, stderr).map(|()| 0),
    }
}

fn write(stdout: &mut impl Write, text: &str) -> Result<(), Error> {
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Write)
}
