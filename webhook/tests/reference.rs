//! docs/reference.md says what the programs have: every key and default of an annotation, every flag, variable and exit code, and nothing
//! besides.
//!
//! With `LEADER_UPDATE_DOCS=1` the tables of flags are written anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, Command, CommandFactory, Parser};
use leader_agent::{app::StartError, guard, names, settings::Arguments};
use leader_webhook::{
    cli::{self, Cli},
    settings::Settings,
};
use serde_json::{Map, Value, json};

const BEGIN: &str = "<!-- flags: written by the test webhook/tests/reference.rs when LEADER_UPDATE_DOCS=1 -->\n";
const END: &str = "<!-- end of flags -->";
/// What begins like a key and is none: the name of the Events' writer.
const NO_KEYS: [&str; 1] = ["leader.io/webhook"];
/// Keys that only manifests of deploy/ name.
const OF_MANIFESTS: [&str; 1] = ["leader.io/enabled"];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> String {
    fs::read_to_string(checkout().join("docs/reference.md")).unwrap()
}

/// Every key that `text` names between these two.
fn keys(text: &str, before: &str, after: char) -> BTreeSet<String> {
    let begins = format!("{before}{}", names::PREFIX);
    let named = text.split(begins.as_str()).skip(1).filter_map(|rest| Some(rest.split_once(after)?.0));
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter == '-';
    let real = named.filter(|name| !name.is_empty() && name.chars().all(is_part));
    let all = real.map(|name| format!("{}{name}", names::PREFIX));
    all.filter(|key| !NO_KEYS.contains(&key.as_str())).collect()
}

/// What the sources in this folder say outside tests.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                sources(&path, all);
            }
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            all.push_str(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
        }
    }
}

#[test]
fn every_key_is_there_and_no_other() {
    let mut code = String::new();
    for folder in ["agent/src", "webhook/src"] {
        sources(&checkout().join(folder), &mut code);
    }
    let (known, told) = (keys(&code, "\"", '"'), keys(&page(), "`", '`'));
    let missing: Vec<_> = known.difference(&told).collect();
    let invented: Vec<_> = told.difference(&known).filter(|key| !OF_MANIFESTS.contains(&key.as_str())).collect();
    assert!(missing.is_empty() && invented.is_empty(), "docs/reference.md lacks {missing:?} and invents {invented:?}");
    assert!(known.len() > 20, "{known:?}");
}

#[test]
fn the_readmes_table_has_the_same_annotations() {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let page = page();
    let section = page.split("\n## ").find(|section| section.starts_with("Annotations of workloads")).unwrap();
    let rows = |text: &str| -> BTreeSet<String> {
        let rows = text.lines().filter(|line| line.starts_with("| `leader.io/"));
        rows.flat_map(|row| keys(row.split('|').nth(1).unwrap_or_default(), "`", '`')).collect()
    };
    assert_eq!(rows(&readme), rows(section));
}

#[test]
fn what_the_application_is_given() {
    let page = page();
    for name in [names::env::ID, names::env::IDENTITY, names::env::FENCING_TOKEN] {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

/// The exit codes that the page gives after this line.
fn codes(page: &str, of: &str) -> BTreeSet<u8> {
    let (_, rest) = page.split_once(of).unwrap();
    let rows = rest.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`')?.0.parse().ok()).collect()
}

/// The values of this file's, or folder's, constants of the type `u8`, with what stands before each.
fn bytes(path: &Path) -> Vec<(String, u8)> {
    let mut code = String::new();
    if path.is_dir() {
        sources(path, &mut code);
    } else {
        code = fs::read_to_string(path).unwrap();
    }
    let lines: Vec<&str> = code.lines().collect();
    let value = |line: &str| line.split_once(": u8 = ")?.1.strip_suffix(';')?.parse().ok();
    let constants = lines.windows(2).filter(|pair| pair[1].contains("const "));
    constants.filter_map(|pair| Some((pair[0].to_owned(), value(pair[1])?))).collect()
}

#[test]
fn every_exit_code_is_there_and_no_other() {
    let page = page();
    let agent = bytes(&checkout().join("agent/src"));
    let said: BTreeSet<_> =
        agent.iter().filter(|(comment, _)| comment.contains("exit code")).map(|(_, code)| *code).collect();
    assert!(
        said.is_superset(&BTreeSet::from([guard::START_FAILED, guard::FORCED_LOSS])),
        "the sources are read wrongly: {said:?}"
    );
    let error = || io::Error::from(io::ErrorKind::Other);
    let not_found = StartError::NotFound { command: String::new(), source: error() };
    let not_started = [not_found.exit_code(), StartError::Fork(error()).exit_code()];
    assert_eq!(codes(&page, "Of a wrapped container:\n"), said.into_iter().chain(not_started).collect());

    let [verbs, program] =
        ["cli", "bin/kubectl-leader.rs"].map(|path| bytes(&checkout().join("webhook/src").join(path)));
    assert!(verbs.len() > 1 && !program.is_empty(), "the sources are read wrongly: {verbs:?}, {program:?}");
    let all = verbs.into_iter().chain(program).map(|(_, code)| code).chain([0]);
    assert_eq!(codes(&page, "Of `kubectl leader`:\n"), all.collect());
}

/// A workload that carries these annotations beside its id, and its pods those.
fn workload(annotations: &[(&str, &str)], of_pods: &[(&str, &str)]) -> Value {
    let map = |pairs: &[(&str, &str)]| -> Map<String, Value> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect()
    };
    let container =
        |name: &str| json!({ "name": name, "image": "registry.example/billing:1", "command": ["/billing"] });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "billing", "annotations": map(&[&[(names::ID, "billing")], annotations].concat()) },
        "spec": {
            "selector": { "matchLabels": { "app": "billing" } },
            "template": {
                "metadata": { "labels": { "app": "billing" }, "annotations": map(of_pods) },
                "spec": { "containers": [container("one"), container("two")] },
            },
        },
    })
}

/// A workload as it is stored.
fn injected(workload: &Value) -> Value {
    let cli = Cli::try_parse_from(["kubectl-leader", "inject", "-f", "-", "-o", "json", "--offline"]).unwrap();
    let mut stdout = Vec::new();
    cli::run(&cli, workload.to_string().as_bytes(), &mut stdout, &mut io::sink(), false)
        .unwrap_or_else(|error| panic!("{workload}: {error}"));
    serde_json::from_slice(&stdout).unwrap()
}

/// The container that runs the agent.
fn wrapped(of_pods: &[(&str, &str)]) -> String {
    let stored = injected(&workload(&[], of_pods));
    let mut containers = stored["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter();
    let wrapped = containers.find(|container| container["command"][0] == names::AGENT_PATH).unwrap();
    wrapped["name"].as_str().unwrap().to_owned()
}

/// The keys of a table's rows, with the value that each says is the default.
fn defaults(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().filter(|line| line.starts_with("| `leader.io/"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let value =
        |cells: Vec<&str>| Some((cells[0].trim_matches('`').to_owned(), cells[2].split('`').nth(1)?.to_owned()));
    cells.filter(|cells| cells.len() == 3).filter_map(value).collect()
}

#[test]
fn what_the_tables_of_annotations_say_is_the_default_changes_nothing() {
    let page = page();
    let section = page.split("\n## ").find(|section| section.starts_with("Annotations of workloads")).unwrap();
    let defaults_there = defaults(section);
    assert_eq!(defaults(&fs::read_to_string(checkout().join("README.md")).unwrap()), defaults_there);
    assert!(defaults_there.len() > 6, "{defaults_there:?}");
    let changes = |key: &str, value: &str| {
        // In the mode in which it counts.
        let mode: &[_] = if key == names::STATUS_FILE { &[(names::MODE, "observe")] } else { &[] };
        let without = injected(&workload(mode, &[]));
        let mut with = without.clone();
        with["metadata"]["annotations"][key] = json!(value);
        injected(&with)["spec"]["template"] != without["spec"]["template"]
    };
    for (key, value) in &defaults_there {
        if key == "leader.io/container" {
            assert_eq!([wrapped(&[]), wrapped(&[(value, "two")])], ["one", "two"]);
        } else {
            // Its default depends on the pods' account, and so it is remembered when somebody says it.
            let is_remembered = key == "leader.io/service-account";
            assert_eq!(changes(key, value), is_remembered, "{value} is not the default of {key}");
        }
    }
    let account =
        |annotations| injected(&workload(annotations, &[]))["spec"]["template"]["spec"]["serviceAccountName"].take();
    assert_eq!(account(&[]), account(&[("leader.io/service-account", "dedicated")]));
    assert!(changes("leader.io/port", "9810") && changes(names::STATUS_FILE, "/elsewhere/leader"));
    let range = format!("| `leader.io/lease-duration` | `{}s` to `1h`, ", names::MIN_LEASE_SECONDS);
    assert!(section.contains(&range) && names::MAX_LEASE_SECONDS == 3600, "{range}");
}

/// The tables of a program's flags.
fn flags(program: &str, command: &Command) -> String {
    let mut text = String::new();
    table(program, command, &mut text);
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        text += &flags(&format!("{program} {}", subcommand.get_name()), subcommand);
    }
    text
}

fn table(title: &str, command: &Command, text: &mut String) {
    let is_own =
        |argument: &&Arg| !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str());
    let arguments: Vec<&Arg> = command.get_arguments().filter(is_own).collect();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    if arguments.is_empty() && command.has_subcommands() {
        return;
    }
    // Writing to a text cannot fail.
    let _ =
        writeln!(text, "\n### `{title}`\n\n{}{}", about.trim_end_matches('.'), if about.is_empty() { "" } else { "." });
    if arguments.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n| Flag | Meaning | Variable | Default |\n|---|---|---|---|");
    for argument in arguments {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        // A table's cell is one line, and a bar would end it.
        let help = help.lines().map(str::trim).collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
        let defaults: Vec<_> = defaults.filter(|_| argument.get_action().takes_values()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let _ = writeln!(text, "| {} | {help} | {variable} | {default} |", written(argument));
    }
}

/// How a flag or an argument is typed.
fn written(argument: &Arg) -> String {
    let values =
        argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let value = if argument.get_action().takes_values() { values } else { String::new() };
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match argument.get_long() {
        Some(long) if value.is_empty() => format!("{short}`--{long}`"),
        Some(long) => format!("{short}`--{long} {value}`"),
        None => format!("`{value}`"),
    }
}

fn all_flags() -> String {
    let built = |mut command: Command| {
        command.build();
        command
    };
    [
        flags("kubectl leader", &built(Cli::command())),
        flags("leader-webhook", &built(Settings::command())),
        flags("leader-agent", &built(Arguments::command())),
    ]
    .concat()
}

#[test]
fn every_flag_is_there_as_the_programs_have_it() {
    let page = page();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (there, after) = rest.split_once(END).unwrap();
    let flags = all_flags() + "\n";
    if env::var_os("LEADER_UPDATE_DOCS").is_some() {
        fs::write(checkout().join("docs/reference.md"), format!("{before}{BEGIN}{flags}{END}{after}")).unwrap();
        return;
    }
    let differs = there.lines().zip(flags.lines()).find(|(there, flags)| there != flags);
    assert!(there == flags, "docs/reference.md is old, first at {differs:?}: run this test with LEADER_UPDATE_DOCS=1");
    assert!(flags.contains("kubectl leader check") && flags.contains("`LEADER_WEBHOOK_LISTEN`"));
}
