//! Every command of the README and of `docs/`, in whatever form it stands there: somebody has run it, or it is understood by the program
//! that it is for.
//!
//! A page's `sh` blocks are walked; a command that only looks is run by [`LOOKS`]. Of the rest, our own programs
//! say whether they take the words; [`ELSEWHERE`] names the tests that do what the others say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};
use leader_agent::settings::Arguments;
use leader_webhook::cli::Cli;

use crate::pages::checkout;

/// What a command begins with.
const PROGRAMS: [&str; 6] = ["kubectl ", "leader-agent ", "cargo xtask ", "cargo install ", "cargo run ", "curl "];
/// What stands for a value of the reader's own.
const PLACES: [&str; 6] = ["COMMAND", "ID", "NAMESPACE", "POD", "ROW", "TEXT"];
/// The test that runs every command that only looks.
const LOOKS: &str = "a_leader_only_service_and_every_command_that_only_looks";
/// Commands that other tests carry out, and these tests.
const ELSEWHERE: [(&str, &str); 14] = [
    ("kubectl annotate deployment/billing leader.io/id=billing", "the_readme"),
    ("kubectl annotate deployment/billing leader.io/id=billing --dry-run=server -o yaml", "the_readme"),
    ("kubectl apply -f deploy/install.yaml", "the_rendered_file_is_the_base"),
    ("kubectl apply -k my-leader", "the_pages_are_walked_as_they_stand"),
    (
        "kubectl apply -k deploy/overlays/cert-manager",
        "the_overlay_for_cert_manager_says_what_cert_manager_and_the_webhook_understand",
    ),
    ("kubectl -n leader-system delete secret leader-webhook-ca", "an_authority_whose_key_has_leaked"),
    (
        r#"kubectl -n leader-system patch secret leader-webhook-ca --type=json --patch='[{"op": "remove", "path": "/data/retired.json"}]'"#,
        "an_authority_whose_key_has_leaked",
    ),
    ("kubectl annotate lease other leader.io/adopt=true", "an_id_that_names_another_programs_lease"),
    ("kubectl annotate service/billing leader.io/leader-only=billing", LOOKS),
    ("kubectl annotate service/billing leader.io/leader-only-", LOOKS),
    ("kubectl port-forward service/billing", LOOKS),
    ("kubectl port-forward service/x", LOOKS),
    ("kubectl drain --delete-emptydir-data", "drained_nodes_and_rollouts_refuse_no_review"),
    ("curl -s localhost:9809/leader", "every_agent_says_who_leads_before_and_after_a_hand_over"),
];
/// An example of the library, with the test that runs it.
const EXAMPLE: (&str, &str) = ("cargo run -p leader-agent --example controller ", "the_example_controllers_take_turns");

/// How a command stands in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In a block that is typed into a shell.
    Typed,
    /// In another block.
    Shown,
    /// In running text.
    Inline,
}

/// A command, without its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The page's name, without `.md`.
    pub(super) page: String,
    pub(super) form: Form,
    pub(super) line: String,
}

/// Every command of every page.
pub(super) fn all() -> Result<Vec<Said>> {
    let mut paths = vec![checkout().join("README.md")];
    for entry in fs::read_dir(checkout().join("docs"))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let page = path.file_stem().and_then(|name| name.to_str()).context("a page without a name")?.to_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        found.extend(commands(&text).into_iter().map(|(form, line)| Said { page: page.clone(), form, line }));
    }
    Ok(found)
}

/// The commands that nobody types when the pages are walked, each as it stands in every page that has it.
pub(super) fn not_walked() -> Result<Vec<Said>> {
    let all = all()?;
    let walked: BTreeSet<_> =
        all.iter().filter(|said| said.form == Form::Typed).map(|said| said.line.clone()).collect();
    Ok(all.into_iter().filter(|said| !walked.contains(&said.line)).collect())
}

/// The commands of a page.
fn commands(text: &str) -> Vec<(Form, String)> {
    let mut found = Vec::new();
    let mut fence: Option<Form> = None;
    let mut paragraph = String::new();
    for line in text.lines().chain([""]) {
        if let Some(kind) = line.strip_prefix("```") {
            inline(&mut found, &std::mem::take(&mut paragraph));
            fence = match fence {
                Some(_) => None,
                None if kind.trim() == "sh" => Some(Form::Typed),
                None => Some(Form::Shown),
            };
        } else if let Some(form) = fence {
            shown(&mut found, form, line);
        } else if let Some(line) = line.strip_prefix("    ").filter(|_| paragraph.is_empty()) {
            shown(&mut found, Form::Shown, line);
        } else if line.trim().is_empty() {
            inline(&mut found, &std::mem::take(&mut paragraph));
        } else {
            paragraph.push_str(line.trim());
            paragraph.push(' ');
        }
    }
    found
}

/// A line of a block: the command, and what its comment names.
fn shown(found: &mut Vec<(Form, String)>, form: Form, line: &str) {
    let (line, comment) = line.split_once("# ").unwrap_or((line, ""));
    enter(found, form, line.strip_prefix("$ ").unwrap_or(line).trim_end());
    enter(found, Form::Shown, comment.strip_prefix("or: ").unwrap_or_default());
    inline(found, comment);
}

/// A paragraph.
fn inline(found: &mut Vec<(Form, String)>, text: &str) {
    for code in text.split('`').skip(1).step_by(2) {
        enter(found, Form::Inline, code.trim());
    }
}

fn enter(found: &mut Vec<(Form, String)>, form: Form, line: &str) {
    if PROGRAMS.iter().any(|program| line.starts_with(program)) {
        found.push((form, line.to_owned()));
    }
}

/// The words of the first command of a line, as a shell splits them, quotes aside.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    let ends = words.iter().position(|word| word == "|").unwrap_or(words.len());
    words.truncate(ends);
    words.retain(|word| word != "...");
    words
}

/// Whether a command asks the cluster and changes nothing, so that it can be run wherever it stands.
pub(super) fn only_looks(line: &str) -> bool {
    let words = words(line);
    let mut words = words.iter().map(String::as_str).skip(1);
    let verb = match words.next() {
        Some("-n") => words.nth(1),
        Some("leader") => match words.next() {
            Some("history") => return words.next().is_some(),
            verb => return matches!(verb, Some("status" | "check")),
        },
        other => other,
    };
    line.starts_with("kubectl ") && matches!(verb, Some("get" | "describe" | "logs")) && words.next().is_some()
}

/// Whether a program takes these words, its own name first.
type Parses = fn(&[&str]) -> Result<(), clap::Error>;

/// Whether a program of ours, or the checkout, has what the command says; `None` for other programs.
fn understood(said: &Said) -> Option<Result<()>> {
    let words = words(&said.line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (program, rest, parses): (_, _, Parses) = match words[..] {
        ["kubectl", "leader", ref rest @ ..] => (Cli::command(), rest, |words| Cli::try_parse_from(words).map(drop)),
        ["leader-agent", ref rest @ ..] => {
            (Arguments::command(), rest, |words| Arguments::try_parse_from(words).map(drop))
        }
        ["cargo", "xtask", ref rest @ ..] => return Some(xtask(rest)),
        ["cargo", "install", "--path", package, "--bin", bin] => {
            let source = checkout().join(package).join("src/bin").join(bin).with_extension("rs");
            return Some(there(&source));
        }
        _ => return None,
    };
    Some(parsed(said.form, &program, rest, parses))
}

fn there(path: &Path) -> Result<()> {
    ensure!(path.exists(), "there is no {}", path.display());
    Ok(())
}

fn parsed(form: Form, program: &Command, words: &[&str], parses: Parses) -> Result<()> {
    let is_there = |name: &str| program.find_subcommand(name).is_some();
    match words {
        // A name, which a text has to be able to say.
        [] if form == Form::Inline => return Ok(()),
        [name] if form == Form::Inline => {
            ensure!(is_there(name), "there is no `{name}`");
            return Ok(());
        }
        _ => {}
    }
    let (verbs, rest) = words.split_first().context("nothing is asked for")?;
    // `COMMAND` is any of them.
    let any = program.get_subcommands().next().map_or("", Command::get_name);
    let verbs = if *verbs == "COMMAND" { any } else { verbs };
    for verb in verbs.split('|') {
        let filled = rest.iter().map(|word| if PLACES.contains(word) { "text" } else { *word });
        let line: Vec<&str> = [program.get_name(), verb].into_iter().chain(filled).collect();
        match parses(&line) {
            Err(error) if error.kind() != ErrorKind::DisplayHelp => Err(error)?,
            _ => {}
        }
    }
    Ok(())
}

/// The tasks and their options stand in the sources of `xtask`, which is no library.
fn xtask(words: &[&str]) -> Result<()> {
    let mut code = fs::read_to_string(checkout().join("xtask/src/main.rs"))?;
    let mut folder = checkout().join("xtask/src");
    for word in words {
        if PLACES.contains(word) {
            continue;
        }
        if let Some(option) = word.strip_prefix("--") {
            ensure!(code.contains(&format!("    {option}: ")), "there is no option `{word}`");
            continue;
        }
        let (first, rest) = word.split_at(1);
        ensure!(code.contains(&format!("    {}{rest}(", first.to_uppercase())), "there is no task `{word}`");
        folder.push(word);
        let file = Some(folder.with_extension("rs")).filter(|file| file.exists());
        code = fs::read_to_string(file.unwrap_or_else(|| folder.join("mod.rs"))).unwrap_or_default();
    }
    Ok(())
}

/// The sources of all tests.
fn tests(folder: &Path, all: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            tests(&path, all)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            all.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[test]
fn every_command_of_every_page_is_run_or_understood() -> Result<()> {
    let elsewhere = |line: &str| ELSEWHERE.iter().any(|(command, _)| *command == line) || line.starts_with(EXAMPLE.0);
    let mut wrong = Vec::new();
    for said in not_walked()? {
        // A verb, which a text has to be able to say.
        let is_name = said.form == Form::Inline
            && (said.line.split(' ').count() == 2 || said.line.starts_with("kubectl rollout "));
        let verdict = match understood(&said) {
            Some(verdict) => verdict,
            None if only_looks(&said.line) || elsewhere(&said.line) || is_name => Ok(()),
            None => Err(anyhow::anyhow!("nobody runs it")),
        };
        if let Err(error) = verdict {
            wrong.push(format!("{}.md: `{}`: {error:#}", said.page, said.line));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_command_that_is_run_elsewhere_stands_in_a_page_and_its_test_exists() -> Result<()> {
    let said = not_walked()?;
    let mut code = String::new();
    for folder in ["tests/tests", "webhook/tests"] {
        tests(&checkout().join(folder), &mut code)?;
    }
    for (command, test) in ELSEWHERE.into_iter().chain([EXAMPLE]) {
        ensure!(said.iter().any(|said| said.line.starts_with(command)), "no page says `{command}` any more");
        ensure!(
            code.contains(&format!("#[test]\nfn {test}()")),
            "`{command}` is for the test {test}, which is not there"
        );
    }
    Ok(())
}

#[test]
fn commands_are_found_in_every_form() {
    let page = "Do `kubectl get\npods`, not `rm`.\n\n    kubectl apply -f a  # or: kubectl apply -k b\n      kubectl no\n\n```text\n\
        $ curl x\n```\n\n```sh\nkubectl wait a\n# `kubectl logs b`\n```\n";
    let found = commands(page);
    let expected = [
        (Form::Inline, "kubectl get pods"),
        (Form::Shown, "kubectl apply -f a"),
        (Form::Shown, "kubectl apply -k b"),
        (Form::Shown, "curl x"),
        (Form::Typed, "kubectl wait a"),
        (Form::Inline, "kubectl logs b"),
    ];
    assert_eq!(found, expected.map(|(form, line)| (form, line.to_owned())));
    assert_eq!(words("a 'b c' --d=\"e f\" ... | g"), ["a", "b c", "--d=e f"]);
    let looking = ["kubectl -n a get pods", "kubectl leader status -A", "kubectl logs POD"].map(only_looks);
    assert_eq!(looking, [true; 3]);
    let other =
        ["kubectl get", "kubectl -n a delete pods", "kubectl leader ui", "kubectl leader history", "curl get x"]
            .map(only_looks);
    assert_eq!(other, [false; 5]);
}
