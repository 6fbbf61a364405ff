//! What a person types behind `logs`, `exec` and `port-forward`, told apart as kubectl does: the id, what says where the leader is looked
//! for, and what is left for kubectl. Pure.
//!
//! kubectl does what it is told in the place that it is told. Whatever chooses that place has to choose it here as well, or is refused:
//! else the leader of one place would be looked up, and a pod of another one entered.

use std::path::PathBuf;

use leader_agent::id::LeaderId;

use super::{ReachError, Verb};
use crate::cli::connection::Connection;

/// Options of kubectl that take a value, and choose neither a cluster nor a pod.
const VALUED: [&str; 9] = [
    "cache-dir",
    "log-flush-frequency",
    "pod-running-timeout",
    "profile",
    "profile-output",
    "request-timeout",
    "v",
    "vmodule",
    "container",
];
/// Those of `kubectl logs`.
const OF_LOGS: [&str; 6] = ["limit-bytes", "max-log-requests", "selector", "since", "since-time", "tail"];
/// Those of `kubectl port-forward`.
const OF_PORT_FORWARD: [&str; 1] = ["address"];
/// Options that choose another server, or another user there, than the kubeconfig and the options that are shared with kubectl.
const NOT_SHARED: [&str; 14] = [
    "as-uid",
    "as-user-extra",
    "certificate-authority",
    "client-certificate",
    "client-key",
    "cluster",
    "insecure-skip-tls-verify",
    "password",
    "proxy-url",
    "server",
    "tls-server-name",
    "token",
    "user",
    "username",
];

/// What was typed.
#[derive(Debug, PartialEq)]
pub(super) struct Words {
    /// The election.
    pub(super) id: LeaderId,
    /// Where it is.
    pub(super) connection: Connection,
    /// The kubectl to run, where it is said here.
    pub(super) kubectl: Option<PathBuf>,
    /// Whether kubectl is told a container, or to take all.
    pub(super) names_container: bool,
    /// For kubectl.
    pub(super) rest: Vec<String>,
}

/// What an option is about.
enum Kind {
    /// One of this program, which takes a value.
    Own(&'static str),
    /// One of kubectl that takes a value.
    Valued,
    /// One of kubectl that stands alone, as far as is known here.
    Flag,
    /// One that must not reach kubectl.
    NotShared,
}

fn kind(verb: Verb, name: &str) -> Kind {
    let of_verb: &[&str] = match verb {
        Verb::Logs => &OF_LOGS,
        Verb::Exec => &[],
        Verb::PortForward => &OF_PORT_FORWARD,
    };
    let own = ["namespace", "context", "kubeconfig", "as", "as-group", "kubectl"];
    if let Some(own) = own.into_iter().find(|own| *own == name) {
        Kind::Own(own)
    } else if NOT_SHARED.contains(&name) || (verb == Verb::Exec && name == "filename") {
        Kind::NotShared
    } else if VALUED.contains(&name) || of_verb.contains(&name) {
        Kind::Valued
    } else {
        Kind::Flag
    }
}

/// The long name of a letter, where kubectl has it.
fn long(verb: Verb, letter: char) -> Option<&'static str> {
    Some(match (letter, verb) {
        ('n', _) => "namespace",
        ('s', _) => "server",
        ('v', _) => "v",
        ('h', _) => "help",
        ('c', Verb::Logs | Verb::Exec) => "container",
        ('f', Verb::Logs) => "follow",
        ('p', Verb::Logs) => "previous",
        ('l', Verb::Logs) => "selector",
        ('f', Verb::Exec) => "filename",
        ('i', Verb::Exec) => "stdin",
        ('t', Verb::Exec) => "tty",
        ('q', Verb::Exec) => "quiet",
        _ => return None,
    })
}

/// Tells the words apart.
pub(super) fn parse(verb: Verb, words: &[String]) -> Result<Words, ReachError> {
    let mut reader = Reader {
        verb,
        words: words.iter(),
        connection: Connection::default(),
        kubectl: None,
        names_container: false,
        rest: Vec::new(),
    };
    let mut id = None;
    while let Some(word) = reader.words.next() {
        if word == "--" {
            // A command for the container.
            reader.rest.push(word.clone());
            reader.rest.extend(reader.words.by_ref().cloned());
        } else if let Some(option) = word.strip_prefix("--") {
            reader.long(word, option)?;
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            reader.short(letters)?;
        } else if id.is_none() {
            id = Some(word.parse()?);
        } else {
            // `kubectl logs` takes a second one for the container.
            reader.names_container |= verb == Verb::Logs;
            reader.rest.push(word.clone());
        }
    }
    let Reader { connection, kubectl, names_container, rest, .. } = reader;
    Ok(Words { id: id.ok_or(ReachError::NoId)?, connection, kubectl, names_container, rest })
}

struct Reader<'a> {
    verb: Verb,
    words: std::slice::Iter<'a, String>,
    connection: Connection,
    kubectl: Option<PathBuf>,
    names_container: bool,
    rest: Vec<String>,
}

impl Reader<'_> {
    /// `--name`, `--name=value` or `--name value`.
    fn long(&mut self, word: &str, option: &str) -> Result<(), ReachError> {
        let (name, attached) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match self.kind(name) {
            Kind::NotShared => Err(ReachError::NotShared(format!("--{name}"))),
            Kind::Own(own) => self.own(own, attached, &format!("--{name}")),
            Kind::Valued if attached.is_none() => {
                self.rest.push(word.to_owned());
                self.hand_value_on();
                Ok(())
            }
            Kind::Valued | Kind::Flag => {
                self.rest.push(word.to_owned());
                Ok(())
            }
        }
    }

    /// `-abc`, where the last letter may have a value: `-itn shop`, `-itnshop` or `-itn=shop`.
    fn short(&mut self, letters: &str) -> Result<(), ReachError> {
        let mut flags = String::from("-");
        for (at, letter) in letters.char_indices() {
            let behind = &letters[at + letter.len_utf8()..];
            let name = long(self.verb, letter);
            // Whether the next letters are its value is not known.
            if name.is_none() && letters.chars().count() > 1 && !behind.starts_with('=') {
                return Err(ReachError::Unknown { letter, word: format!("-{letters}") });
            }
            let attached = behind.strip_prefix('=').or(Some(behind)).filter(|_| !behind.is_empty());
            match self.kind(name.unwrap_or_default()) {
                Kind::NotShared => return Err(ReachError::NotShared(format!("-{letter}"))),
                Kind::Own(own) => {
                    if flags.len() > 1 {
                        self.rest.push(flags);
                    }
                    return self.own(own, attached, &format!("-{letter}"));
                }
                Kind::Valued => {
                    self.rest.push(format!("{flags}{letter}{behind}"));
                    if behind.is_empty() {
                        self.hand_value_on();
                    }
                    return Ok(());
                }
                Kind::Flag if behind.starts_with('=') => {
                    self.rest.push(format!("{flags}{letter}{behind}"));
                    return Ok(());
                }
                Kind::Flag => flags.push(letter),
            }
        }
        self.rest.push(flags);
        Ok(())
    }

    fn kind(&mut self, name: &str) -> Kind {
        self.names_container |= ["container", "all-containers"].contains(&name);
        kind(self.verb, name)
    }

    /// Without one kubectl complains itself.
    fn hand_value_on(&mut self) {
        self.rest.extend(self.words.next().cloned());
    }

    fn own(&mut self, name: &str, attached: Option<&str>, typed: &str) -> Result<(), ReachError> {
        let value = attached.or_else(|| self.words.next().map(String::as_str)).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| ReachError::NoValue(typed.to_owned()))?.to_owned();
        let own = &mut self.connection;
        match name {
            "namespace" => own.namespace = Some(value),
            "context" => own.context = Some(value),
            "kubeconfig" => own.kubeconfig = Some(value.into()),
            "as" => own.user = Some(value),
            "as-group" => own.groups.push(value),
            _ => self.kubectl = Some(value.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(verb: Verb, text: &str) -> Result<Words, ReachError> {
        parse(verb, &text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// Namespace, and what kubectl is told.
    fn told(verb: Verb, text: &str) -> (Option<String>, String) {
        let words = parsed(verb, text).unwrap();
        assert_eq!(words.id.as_str(), "billing", "{text}");
        (words.connection.namespace, words.rest.join(" "))
    }

    #[test]
    fn the_namespace_is_taken_out_however_it_is_typed() {
        let in_shop = |rest: &str| (Some("shop".to_owned()), rest.to_owned());
        for text in [
            "billing -f -n shop --tail=3",
            "billing -f --namespace shop --tail=3",
            "billing --namespace=shop -f --tail=3",
            "billing -n=shop -f --tail=3",
            "billing -nshop -f --tail=3",
            "billing -fn shop --tail=3",
            "billing -fnshop --tail=3",
            "billing -fn=shop --tail=3",
            "-fn shop billing --tail=3",
        ] {
            assert_eq!(told(Verb::Logs, text), in_shop("-f --tail=3"), "{text}");
        }
        for text in ["billing -itn shop -- ls -n other", "-itnshop billing -- ls -n other"] {
            // What stands behind `--` is a command's.
            assert_eq!(told(Verb::Exec, text), in_shop("-it -- ls -n other"), "{text}");
        }
        // A value that looks like a group of letters.
        assert_eq!(told(Verb::Exec, "billing -itcn -- ls"), (None, "-itcn -- ls".to_owned()));
        assert_eq!(told(Verb::Logs, "billing --since -nshop"), (None, "--since -nshop".to_owned()));
        assert!(matches!(parsed(Verb::Logs, "billing -fn"), Err(ReachError::NoValue(option)) if option == "-n"));
        assert!(matches!(parsed(Verb::Logs, "billing --namespace="), Err(ReachError::NoValue(_))));
    }

    #[test]
    fn options_may_stand_before_the_id() {
        for (verb, text, rest) in [
            (Verb::Logs, "-f billing", "-f"),
            (Verb::Logs, "--tail 3 -c side billing", "--tail 3 -c side"),
            (Verb::Logs, "-f=true --since=5m billing -p", "-f=true --since=5m -p"),
            (Verb::Logs, "-v 8 billing", "-v 8"),
            (Verb::Exec, "-it billing -- sh", "-it -- sh"),
            (Verb::Exec, "-i -t -cside billing -- sh -c id", "-i -t -cside -- sh -c id"),
            (Verb::PortForward, "--address 0.0.0.0 billing 8080:80", "--address 0.0.0.0 8080:80"),
        ] {
            assert_eq!(told(verb, text), (None, rest.to_owned()), "{text}");
        }
        for text in ["", "-f", "--tail billing", "-it -- billing"] {
            assert!(matches!(parsed(Verb::Logs, text), Err(ReachError::NoId | ReachError::Unknown { .. })), "{text}");
        }
        assert!(matches!(parsed(Verb::Logs, "- billing"), Err(ReachError::Id(_))));
    }

    #[test]
    fn what_leads_kubectl_elsewhere_is_refused_by_name() {
        for (verb, text, option) in [
            (Verb::Exec, "billing --cluster=east -- sh", "--cluster"),
            (Verb::Exec, "--user admin billing -- sh", "--user"),
            (Verb::Logs, "billing -s https://east", "-s"),
            (Verb::Logs, "billing -fshttps://east", "-s"),
            (Verb::Logs, "billing --server https://east", "--server"),
            (Verb::Logs, "billing --token=x", "--token"),
            (Verb::PortForward, "billing 80 --as-uid 7", "--as-uid"),
            (Verb::Exec, "billing -f other.yaml -- sh", "-f"),
        ] {
            let error = parsed(verb, text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{option} is not taken here")), "{text}: {error}");
        }
        let error = parsed(Verb::Exec, "billing -xn shop").unwrap_err().to_string();
        assert!(error.contains("-x") && error.contains("-xn"), "{error}");
    }

    #[test]
    fn the_others_decide_where_and_by_what() {
        let words = parsed(Verb::Exec, "--as alice billing --as-group=ops --context east --kubectl /bin/k").unwrap();
        let connection = Connection {
            context: Some("east".to_owned()),
            user: Some("alice".to_owned()),
            groups: vec!["ops".to_owned()],
            ..Connection::default()
        };
        assert_eq!((words.connection, words.kubectl, words.rest.len()), (connection, Some("/bin/k".into()), 0));
    }

    #[test]
    fn a_container_that_somebody_names() {
        for (verb, text, names) in [
            (Verb::Logs, "billing -f", false),
            (Verb::Logs, "billing --all-containers", true),
            (Verb::Logs, "-fcside billing", true),
            (Verb::Logs, "billing side", true),
            (Verb::Exec, "billing --container=side -- sh", true),
            (Verb::Exec, "billing -- sh -c id", false),
        ] {
            assert_eq!(parsed(verb, text).unwrap().names_container, names, "{text}");
        }
    }
}
