//! The pages of `docs/`, followed by somebody who types what stands there and nothing else.
//!
//! In a page, a fenced block `sh` is typed into a shell, and a block `yaml` whose first line is a comment with a path, such as
//! `# my-leader/kustomization.yaml`, is saved there. Other blocks are only read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use leader_tests::Cluster;

use crate::program;

/// The checkout that this program was built from.
pub(crate) fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A page of `docs/`.
pub(crate) struct Page {
    name: &'static str,
    text: String,
}

/// What a reader does with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    Type(String),
    Save { path: String, content: String },
}

impl Page {
    /// The page `docs/NAME.md`.
    pub(crate) fn read(name: &'static str) -> Result<Self> {
        let path = checkout().join("docs").join(name).with_extension("md");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name, text })
    }

    /// The page with its text changed.
    pub(crate) fn with(self, change: impl FnOnce(&str) -> Result<String>) -> Result<Self> {
        Ok(Self { text: change(&self.text)?, ..self })
    }

    /// Does what the section says, its subsections included, in this folder; gives what the commands printed.
    pub(crate) fn follow(&self, section: &str, cluster: &Cluster, folder: &Path) -> Result<String> {
        self.follow_text(self.section(section)?, &format!("section `{section}` of"), cluster, folder)
    }

    /// Does what the whole page says.
    pub(crate) fn follow_all(&self, cluster: &Cluster, folder: &Path) -> Result<String> {
        self.follow_text(&self.text, "", cluster, folder)
    }

    fn follow_text(&self, text: &str, part: &str, cluster: &Cluster, folder: &Path) -> Result<String> {
        let blocks = blocks(text);
        ensure!(!blocks.is_empty(), "{part} docs/{}.md has nothing to do", self.name);
        let mut printed = String::new();
        for block in blocks {
            let what = || format!("{part} docs/{}.md: {block:?}", self.name);
            match &block {
                Block::Type(commands) => printed += &type_in(cluster, folder, commands).with_context(what)?,
                Block::Save { path, content } => save(folder, path, content).with_context(what)?,
            }
        }
        Ok(printed)
    }

    /// The content of a file that the page shows.
    pub(crate) fn file(&self, wanted: &str) -> Result<String> {
        let found = blocks(&self.text).into_iter().find_map(|block| match block {
            Block::Save { path, content } if path == wanted => Some(content),
            _ => None,
        });
        found.with_context(|| format!("docs/{}.md has no file {wanted}", self.name))
    }

    fn section(&self, heading: &str) -> Result<&str> {
        section(&self.text, heading).with_context(|| format!("docs/{}.md has no section `{heading}`", self.name))
    }
}

fn type_in(cluster: &Cluster, folder: &Path, commands: &str) -> Result<String> {
    // With `kubectl leader` installed, as it is for the reader.
    let commands = format!("PATH=\"$0:$PATH\"\n{commands}");
    let bash = cluster.tool("bash").args(["-euo", "pipefail", "-c", &commands]).arg(program::folder()?);
    bash.current_dir(folder).run()
}

fn save(folder: &Path, path: &str, content: &str) -> Result<()> {
    let path = folder.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(fs::write(path, content)?)
}

/// The lines of a text, each with whether it is part of a fenced block, and the byte at which it begins.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let (mut at, mut fenced) = (0, false);
    text.split_inclusive('\n').map(move |line| {
        let begins = at;
        at += line.len();
        let fence = line.starts_with("```");
        let inside = fenced || fence;
        fenced ^= fence;
        (begins, line, inside)
    })
}

/// What stands under a heading, up to the next one of its level or a higher one.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
    let mut headings = lines(text).filter(|(_, line, fenced)| !fenced && line.starts_with('#'));
    let (begins, line, _) = headings.find(|(_, line, _)| line.trim_start_matches('#').trim() == heading)?;
    let ends = headings.find(|(_, next, _)| level(next) <= level(line)).map_or(text.len(), |(at, ..)| at);
    Some(&text[begins..ends])
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for (_, line, fenced) in lines(text) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some((kind.trim().to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take().and_then(|(kind, content)| block(&kind, content))),
            (Some((_, content)), None) if fenced => content.push_str(line),
            _ => {}
        }
    }
    found
}

fn block(kind: &str, content: String) -> Option<Block> {
    match kind {
        "sh" => Some(Block::Type(content)),
        "yaml" => {
            let path = content.lines().next()?.strip_prefix("# ")?.trim();
            let is_path =
                Path::new(path).extension().is_some_and(|kind| kind == "yaml") && !path.contains(char::is_whitespace);
            is_path.then(|| Block::Save { path: path.to_owned(), content: content.clone() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n```sh\none\n# no heading\n```\n\n## Part\n\ntext\n\n```yaml\n# a/b.yaml\nkind: A\n```\n\
        \n```yaml\nkind: Only shown\n```\n\n### Below\n\n```text\nnot typed\n```\n```sh\ntwo\n```\n\n## Next\n\n```sh\nthree\n```\n";

    /// The files that a page links to, as they stand in it.
    fn links(text: &str) -> Vec<&str> {
        let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        let files = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
        files.map(|target| target.split_once('#').map_or(target, |(file, _)| file)).collect()
    }

    #[test]
    fn every_link_of_a_page_leads_somewhere() {
        let mut pages: Vec<PathBuf> = ["README.md", "tests/README.md"].map(|page| checkout().join(page)).to_vec();
        pages.extend(fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
        // A picture has no links.
        pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
        for page in pages {
            let text = fs::read_to_string(&page).unwrap();
            for link in links(&text) {
                let target = page.parent().unwrap().join(link);
                assert!(target.exists(), "{} links to {link}, which is not there", page.display());
            }
        }
    }

    #[test]
    fn what_is_typed_and_what_is_saved() {
        let typed = |text: &str| Block::Type(text.to_owned());
        let saved = Block::Save { path: "a/b.yaml".to_owned(), content: "# a/b.yaml\nkind: A\n".to_owned() };
        assert_eq!(blocks(PAGE), [typed("one\n# no heading\n"), saved.clone(), typed("two\n"), typed("three\n")]);
        assert_eq!(blocks(section(PAGE, "Part").unwrap()), [saved, typed("two\n")]);
        assert_eq!(blocks(section(PAGE, "Next").unwrap()), [typed("three\n")]);
        assert_eq!(section(PAGE, "no heading"), None);
    }
}
