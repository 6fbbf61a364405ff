//! `kubectl leader`: the webhook's own injection on files, without a cluster.
//!
//! Files and output are here; what is injected is decided by [`crate::inject`].

mod documents;
mod edit;
mod images;
mod output;
mod source;

use std::io::{self, Read, Write};

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Every Deployment that carries the annotation leader.io/id is injected; other documents stay as they are. Comments inside a
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
    let files = match &cli.command {
        Command::Inject { files, .. } | Command::Eject { files } => files,
    };
    let mut file = documents::File::read(&files.source, stdin)?;
    let warnings = match &cli.command {
        Command::Inject { id, container, command, agent_image, images, .. } => {
            let asked = edit::Asked { id: id.as_deref(), container: container.as_deref(), command: command.as_deref() };
            let source = images::ImageSource::new(images)?;
            edit::inject(&mut file, &asked, &Defaults { agent_image: agent_image.clone() }, &source)?
        }
        Command::Eject { .. } => edit::eject(&mut file),
    };
    for warning in warnings {
        writeln!(stderr, "Warning: {warning}").map_err(Error::Write)?;
    }
    let text = match files.output {
        Format::Yaml => output::yaml(&file)?,
        Format::Json => output::json(&file)?,
        Format::Patch => output::patches(&file)?,
        Format::Diff => output::diff(&file, colour)?,
    };
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Write)?;
    Ok(u8::from(files.output == Format::Diff && !text.is_empty()))
}
