//! Tells a person what is done and why, and does it by the commands that the person would type.

use std::fmt::Display;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Result, ensure};
use leader_tests::Cluster;
use leader_tests::command::{Output, Tool, quoted};

/// The teller of one demo.
pub(super) struct Narrator<'a> {
    cluster: &'a Cluster,
    step: u32,
    colours: bool,
}

impl<'a> Narrator<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        Self { cluster, step: 0, colours: std::io::stdout().is_terminal() }
    }

    /// Begins a step.
    pub(super) fn step(&mut self, title: &str) {
        self.step += 1;
        let title = format!("{}. {title}", self.step);
        println!("\n{}", self.painted("1;36", &title));
    }

    /// Says that something was checked and is as it should be.
    pub(super) fn good(&self, text: impl Display) {
        println!("{} {text}", self.painted("1;32", "ok"));
    }

    /// Runs kubectl and shows the command and what it said; an exit code other than 0 is an error.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let words: Vec<_> = arguments.iter().map(|word| quoted(word)).collect();
        self.run(&format!("kubectl {}", words.join(" ")), self.cluster.kubectl(arguments), &[0])
    }

    /// As [`Narrator::kubectl`], for a whole line of a shell and for exit codes that are as good as 0.
    pub(super) fn shell(&self, line: &str, good_codes: &[i32]) -> Result<Output> {
        self.run(line, self.cluster.tool("sh").args(["-c", line]), good_codes)
    }

    /// `kubectl apply -k` of a folder, which a person knows by another name.
    pub(super) fn apply(&self, folder: &Path, known_as: &str) -> Result<Output> {
        let tool = self.cluster.kubectl(&["apply", "-k"]).arg(folder);
        self.run(&format!("kubectl apply -k {known_as}"), tool, &[0])
    }

    fn run(&self, line: &str, tool: Tool, good_codes: &[i32]) -> Result<Output> {
        println!("{} {}", self.painted("1;33", "$"), self.painted("1", line));
        let output = tool.output()?;
        for text in [&output.stdout, &output.stderr] {
            show(text);
        }
        ensure!(good_codes.contains(&output.code), "`{line}` ended with code {}", output.code);
        Ok(output)
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Shows a text, indented. `kubectl rollout status` says the same again and again: once is enough.
fn show(text: &str) {
    let mut last = None;
    for line in text.trim_end().lines() {
        if last != Some(line) {
            println!("    {line}");
        }
        last = Some(line);
    }
}
