//! `kubectl leader logs`, `exec` and `port-forward`: kubectl itself, on the leader's pod and the container that has the app.
//!
//! A Service for the leader alone has no selector, so that kubectl does not find the pod behind it. [`words`] tells apart what is typed.

mod words;

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use clap::Args;
use leader_agent::id::LeaderId;

use self::words::Words;
use super::{
    Error,
    connection::{Connected, Connection},
    status::{self, Election},
};
use crate::api_error;

/// What kubectl is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// `kubectl logs`.
    Logs,
    /// `kubectl exec`.
    Exec,
    /// `kubectl port-forward`.
    PortForward,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::PortForward => "port-forward",
        }
    }

    /// Whether it is about a container of the pod.
    fn has_container(self) -> bool {
        self != Self::PortForward
    }
}

/// Which election, and what kubectl is told.
#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// The program that is run.
    #[arg(long, env = "KUBECTL", default_value = "kubectl", value_name = "PATH")]
    kubectl: PathBuf,
    /// The id of the election, and what kubectl is told beside the pod: its options, which may stand before the id, ports, or `--` and a command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "ID")]
    words: Vec<String>,
}

/// Why kubectl is not run.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The first word that is no option is no id.
    #[error(transparent)]
    Id(#[from] leader_agent::id::IdError),
    /// No election is named.
    #[error("the id of the election is missing: give it before `--`, e.g. `billing`")]
    NoId,
    /// An option of this program that stands among kubectl's lacks its value.
    #[error("{0} needs a value")]
    NoValue(String),
    /// An option that would lead kubectl elsewhere.
    #[error(
        "{0} is not taken here: kubectl would go by it, and the leader is looked up without it. Say which cluster, user and namespace with \
         --kubeconfig, --context, --as, --as-group and -n"
    )]
    NotShared(String),
    /// A letter that kubectl did not have when this was written, in the midst of others.
    #[error("-{letter} in {word} is not known here: write it apart from the others")]
    Unknown {
        /// The letter.
        letter: char,
        /// The word.
        word: String,
    },
    /// There is no pod to reach.
    #[error("no pod leads `{id}`: {why}")]
    NoLeader {
        /// The id.
        id: LeaderId,
        /// Why not.
        why: String,
    },
    /// It cannot be started.
    #[error("`{program}` cannot be run: {source}; --kubectl says where it is")]
    Run {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
}

/// The arguments of kubectl.
fn arguments(
    verb: Verb,
    connection: &Connection,
    election: &Election,
    words: &Words,
) -> Result<Vec<OsString>, ReachError> {
    let leader = election.leader.as_ref();
    let Some((leader, pod)) = leader.and_then(|leader| Some((leader, leader.pod.as_deref()?))) else {
        let id = election.id.parse()?;
        return Err(ReachError::NoLeader { id, why: election.trouble.join("; ") });
    };
    let mut arguments = connection.for_kubectl(&election.namespace);
    arguments.extend([OsString::from(verb.name()), format!("pod/{pod}").into()]);
    // kubectl takes no other one beside `--all-containers`.
    if let Some(container) = leader.container.as_ref().filter(|_| verb.has_container() && !words.names_container) {
        arguments.extend([OsString::from("--container"), container.into()]);
    }
    arguments.extend(words.rest.iter().map(OsString::from));
    Ok(arguments)
}

/// A program to run.
pub(super) struct Kubectl {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// Finds the leader, and what has to be run to reach it.
pub(super) async fn prepare(verb: Verb, options: &Options) -> Result<Kubectl, Error> {
    let words = words::parse(verb, &options.words)?;
    let connection = options.connection.clone().overridden_by(words.connection.clone());
    let Connected { client, namespace } = connection.connect().await?;
    let election = status::look_at(&client, &namespace, &words.id).await;
    let election = election.map_err(|error| Error::Cluster { reason: api_error::reason(&error) })?;
    let election = election.ok_or_else(|| Error::NoElection { namespace, id: words.id.clone() })?;
    let arguments = arguments(verb, &connection, &election, &words)?;
    Ok(Kubectl { program: words.kubectl.unwrap_or_else(|| options.kubectl.clone()), arguments })
}

impl Kubectl {
    /// For whoever becomes it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    /// Runs it, and copies what it prints to `stdout`, which is this process's own or a caller's; gives its exit code.
    pub(super) fn run(&self, stdout: &mut impl Write) -> Result<u8, Error> {
        let failed = |source| ReachError::Run { program: self.program.display().to_string(), source };
        let mut child = self.command().stdout(Stdio::piped()).spawn().map_err(failed)?;
        let copied = child.stdout.take().map_or(Ok(()), |output| copy(output, stdout));
        let status = child.wait().map_err(failed)?;
        copied.map_err(Error::Write)?;
        Ok(exit_code(status))
    }
}

/// Copies what comes as it comes: logs may go on for ever.
fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length]).and_then(|()| to.flush())?,
        }
    }
}

/// As a shell has it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_come_as_they_were_typed() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            options: Options,
        }
        let parse = |text: &str| {
            let words = ["exec"].into_iter().chain(text.split_whitespace());
            <Alone as clap::Parser>::try_parse_from(words).map(|alone| alone.options)
        };
        let options = parse("-n shop --kubectl /bin/k billing -it -- ls -la --context=x").unwrap();
        assert_eq!(options.words, words("billing -it -- ls -la --context=x"));
        assert_eq!(options.connection.namespace.as_deref(), Some("shop"));
        assert_eq!(options.kubectl, PathBuf::from("/bin/k"));
        for text in ["billing -- ls", "-it billing -- ls", "-itn shop billing -- ls", "--tail 3 billing", "-f billing"]
        {
            assert_eq!(parse(text).unwrap().words, words(text), "{text}");
        }
        assert!(parse("-n shop").is_err());
    }

    fn election(leader: &str) -> Election {
        let record = serde_json::json!({ "container": "app" });
        let lease = serde_json::json!({
            "metadata": { "name": "billing", "namespace": "shop", "uid": "l1" },
            "spec": { "holderIdentity": leader, "leaseDurationSeconds": 5 },
        });
        let pod = serde_json::json!({ "metadata": { "name": "billing-a", "namespace": "shop", "uid": "u1",
            "labels": { "leader.io/id": "billing" }, "annotations": { "leader.io/injected": record.to_string() } } });
        status::elections(&[lease], &[pod], jiff::Timestamp::UNIX_EPOCH).remove(0)
    }

    #[test]
    fn kubectl_is_told_pod_and_container() {
        let told = |verb, rest: &str| {
            // In mode `observe` the agent elects in a container of its own, which has neither a shell nor the app's log.
            let election = election("billing-a_u1_leader-agent");
            let words = words::parse(verb, &words(&format!("billing {rest}"))).unwrap();
            let arguments = arguments(verb, &Connection::default(), &election, &words).unwrap();
            arguments.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(Verb::Logs, "-f"), "--namespace shop logs pod/billing-a --container app -f");
        assert_eq!(told(Verb::Exec, "-it -- sh"), "--namespace shop exec pod/billing-a --container app -it -- sh");
        assert_eq!(told(Verb::Logs, "--all-containers"), "--namespace shop logs pod/billing-a --all-containers");
        assert_eq!(told(Verb::PortForward, "8080:80"), "--namespace shop port-forward pod/billing-a 8080:80");
    }

    #[test]
    fn nobody_to_reach_is_said_with_the_reason() {
        for (holder, why) in [("", "nobody leads"), ("billing-z_u9_app", "billing-z holds it and is not there")] {
            let words = words::parse(Verb::Logs, &words("billing")).unwrap();
            let error = arguments(Verb::Logs, &Connection::default(), &election(holder), &words).unwrap_err();
            assert!(error.to_string().starts_with(&format!("no pod leads `billing`: {why}")), "{error}");
        }
    }

    #[test]
    fn what_a_program_says_comes_through() {
        let kubectl = Kubectl { program: "sh".into(), arguments: ["-c", "echo one; exit 7"].map(Into::into).to_vec() };
        let mut said = Vec::new();
        assert_eq!((kubectl.run(&mut said).unwrap(), said.as_slice()), (7, b"one\n".as_slice()));
        let missing = Kubectl { program: "/nowhere/kubectl".into(), arguments: Vec::new() };
        let error = missing.run(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("`/nowhere/kubectl` cannot be run"), "{error}");
    }
}
