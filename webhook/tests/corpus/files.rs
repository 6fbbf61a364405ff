//! The command line on the corpus's files: what nobody elects stays to the last byte, comments and all.

use clap::Parser;
use leader_agent::names;
use leader_webhook::cli;
use serde_json::Value;

use super::{Manifest, manifests, plain};

/// What `kubectl leader VERB -f -` prints.
fn leader(verb: &str, manifest: &Manifest, text: &str, format: &[&str]) -> String {
    let mut words = vec!["kubectl-leader", verb, "-f", "-"];
    if verb == "inject" {
        words.push("--offline");
    }
    words.extend(format);
    let cli = cli::Cli::try_parse_from(words).unwrap();
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    cli::run(&cli, text.as_bytes(), &mut printed, &mut said, false)
        .unwrap_or_else(|error| panic!("{}: {verb}: {error}", manifest.name));
    String::from_utf8(printed).unwrap()
}

/// Without a registry nobody knows what an image runs.
fn is_offline(manifest: &Manifest) -> bool {
    !manifest.text.contains("registry.example/entry-point")
}

/// The documents of a text, as it is.
fn documents(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = text.match_indices("\n---").map(|(at, _)| at + 1).collect();
    starts.insert(0, 0);
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).map(|(&from, to)| &text[from..to]).collect()
}

#[test]
fn documents_that_nobody_elects_stay_as_they_are() {
    let mut untouched = 0;
    for manifest in manifests(".").iter().filter(|manifest| is_offline(manifest)) {
        let injected = leader("inject", manifest, &manifest.text, &[]);
        for document in documents(&manifest.text) {
            if !document.contains(names::ID) {
                assert!(injected.contains(document), "{}: lost {document:?} in {injected}", manifest.name);
                untouched += 1;
            }
        }
    }
    assert!(untouched >= 6, "only {untouched} documents were left alone");
}

#[test]
fn files_are_ejected_to_what_they_said() {
    for manifest in manifests(".").iter().filter(|manifest| is_offline(manifest)) {
        let injected = leader("inject", manifest, &manifest.text, &[]);
        let ejected = Manifest { name: manifest.name.clone(), text: leader("eject", manifest, &injected, &[]) };
        let expected: Vec<Value> = manifest.objects().iter().map(plain).collect();
        assert_eq!(text(&ejected.objects()), text(&expected), "{}", manifest.name);
    }
}

fn text(objects: &[Value]) -> String {
    serde_json::to_string_pretty(objects).unwrap()
}

#[test]
fn files_that_are_injected_already_do_not_change() {
    for manifest in manifests(".").iter().filter(|manifest| is_offline(manifest)) {
        let injected = leader("inject", manifest, &manifest.text, &[]);
        assert_eq!(leader("inject", manifest, &injected, &[]), injected, "{}", manifest.name);
        assert_eq!(leader("inject", manifest, &injected, &["-o", "diff"]), "", "{}", manifest.name);
    }
}
