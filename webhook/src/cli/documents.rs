//! Files of many documents, kept as text and as values, so that what is not changed stays byte for byte.

use std::{io::Read, rc::Rc};

use serde_json::Value;

use super::{
    Error,
    source::{Source, Text},
};

/// What was named on the command line, and its documents.
#[derive(Debug)]
pub(super) struct File {
    /// Its name in messages.
    pub name: String,
    pub documents: Vec<Document>,
}

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The name in messages of the file that it stands in.
    pub file: Rc<str>,
    /// The text, with the marker line before it and everything up to the next one.
    pub text: String,
    /// The line of the file that `text` begins at, from 1.
    pub line: usize,
    /// What the text says; null for one without content.
    pub value: Value,
    /// The same after the command; `None` when it was not touched.
    pub changed: Option<Value>,
}

impl File {
    /// Reads what the command line names.
    pub(super) fn read(source: &Source, stdin: impl Read) -> Result<Self, Error> {
        let mut documents = Vec::new();
        for text in source.read(stdin)? {
            read(text, &mut documents)?;
        }
        Ok(Self { name: source.name(), documents })
    }
}

/// Adds the documents of one file.
fn read(Text { name, bytes }: Text, documents: &mut Vec<Document>) -> Result<(), Error> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        let (line, column) = end_of(&valid);
        Error::Invalid { file: name.clone(), line, column, message: "this is not UTF-8 text".to_owned() }
    })?;
    let file = Rc::from(name);
    for (line, text) in split(&text) {
        documents.push(Document::parse(&file, line, text)?);
    }
    Ok(())
}

impl Document {
    fn parse(file: &Rc<str>, line: usize, text: &str) -> Result<Self, Error> {
        let value = match json(text) {
            Some(value) => value,
            None => yaml(file, line, text)?,
        };
        if !value.is_object() && !value.is_null() {
            let line = (line + head(text).lines().count()) as u64;
            let message = "this is not a Kubernetes object, which has apiVersion and kind".to_owned();
            return Err(Error::Invalid { file: file.to_string(), line, column: 1, message });
        }
        Ok(Self { file: Rc::clone(file), text: text.to_owned(), line, value, changed: None })
    }

    /// Whether it is written as JSON, which is YAML as well.
    pub(super) fn is_json(&self) -> bool {
        json(&self.text).is_some()
    }

    /// The text before the first line of content: marker, directives and comments.
    pub(super) fn head(&self) -> &str {
        head(&self.text)
    }

    /// The comments and the end marker after the content. Empty lines right after the content are not among them: a block
    /// scalar may own them.
    pub(super) fn tail(&self) -> &str {
        let mut start = self.text.len();
        let mut end = start;
        for line in self.text[self.head().len()..].split_inclusive('\n').rev() {
            let trailing = line.starts_with('#') || is_marker(line, "...");
            if !trailing && !line.trim().is_empty() {
                break;
            }
            end -= line.len();
            if trailing {
                start = end;
            }
        }
        &self.text[start..]
    }
}

/// The value of a document in JSON; `None` when it is not written so.
///
/// The first letter decides for kubectl as well (`GuessJSONStream` in k8s.io/apimachinery, pkg/util/yaml/decoder.go). What is no
/// JSON after all is read as YAML, which also says where it is wrong.
fn json(text: &str) -> Option<Value> {
    let content = text[head(text).len()..].trim_start_matches('\u{feff}');
    if content.starts_with('{') { serde_json::from_str(content).ok() } else { None }
}

fn yaml(file: &str, line: usize, text: &str) -> Result<Value, Error> {
    let options = serde_saphyr::options! {
        // As kubectl reads them: 0644 is octal.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    // Empty lines in front make the parser count lines as the file does.
    let padded = "\n".repeat(line - 1) + text.trim_start_matches('\u{feff}');
    serde_saphyr::from_str_with_options(&padded, options).map_err(|error| {
        let (line, column) = error.location().map_or((line as u64, 1), |at| (at.line(), at.column()));
        let message = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        // The place is said in front.
        let message = message.replace(&format!(" at line {line}, column {column}"), "");
        let (line, column) = tab(&padded, &message, line).unwrap_or((line, column));
        Error::Invalid { file: file.to_owned(), line, column, message }
    })
}

/// Where the tab stands that a parser complains of: it names the place where the value before it begins.
fn tab(text: &str, message: &str, from: u64) -> Option<(u64, u64)> {
    let lines = (1_u64..).zip(text.lines()).filter(|&(number, _)| number >= from && message.contains("found a tab"));
    let indent = |line: &str| line.chars().take_while(|&letter| letter == ' ').count();
    lines
        .into_iter()
        .find_map(|(number, line)| line[indent(line)..].starts_with('\t').then(|| (number, indent(line) as u64 + 1)))
}

fn head(text: &str) -> &str {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_start_matches('\u{feff}');
        let marker = is_marker(bare, "---") && is_blank(&bare[3..]);
        if !marker && !is_blank(bare) && !bare.starts_with('%') {
            break;
        }
        end += line.len();
    }
    &text[..end]
}

/// Splits a text at the markers between documents; each part with its first line, from 1.
///
/// A marker stands at the start of a line, where neither a block scalar nor a quoted one can have text (YAML 1.2, 9.1.2).
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut first, mut at) = (0, 1, 0);
    let mut ended = false;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let part = &text[start..at];
        let has_marker = part.lines().any(|line| is_marker(line, "---"));
        let begins = is_marker(line, "---") && (has_marker || head(part).len() != part.len());
        if begins || ended && !is_blank(line) {
            parts.push((first, part));
            (start, first) = (at, index + 1);
        }
        ended = is_marker(line, "...") || ended && is_blank(line) && !begins;
        at += line.len();
    }
    if start < text.len() {
        parts.push((first, &text[start..]));
    }
    parts
}

/// Whether a line is a document marker, alone or with something after it.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Nothing but a comment.
fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// Line and column behind the last character of a text, from 1.
fn end_of(text: &str) -> (u64, u64) {
    let last = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() as u64 + 1, last.chars().count() as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_text_and_begin_at_markers() {
        for (text, expected) in [
            ("", 0),
            ("a: 1\n", 1),
            ("a: 1\n---\nb: 2\n", 2),
            ("# licence\n\n---\na: 1\n", 1),
            ("---\na: 1\n---\n---\nb: 2", 3),
            ("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n", 2),
            ("--- {a: 1}\n--- # two\nb: |\n  ---\n  x\n", 2),
            ("a: 1\r\n---\r\nb: 2\r\n", 2),
            ("a: 1\n...\n\n# end\n", 1),
            ("----\n", 1),
        ] {
            let parts = split(text);
            assert_eq!(parts.len(), expected, "{text:?} {parts:?}");
            assert_eq!(parts.iter().map(|(_, part)| *part).collect::<String>(), text);
            for (line, part) in parts {
                let before = &text[..part.as_ptr() as usize - text.as_ptr() as usize];
                assert_eq!(before.matches('\n').count() + 1, line, "{text:?}");
            }
        }
    }

    #[test]
    fn head_and_tail_are_what_is_not_content() {
        let document = |text: &str| Document {
            file: "file".into(),
            text: text.to_owned(),
            line: 1,
            value: Value::Null,
            changed: None,
        };
        let full = document("# licence\n---\n# why\na: |+\n  x\n\n# next\n\n...\n");
        assert_eq!((full.head(), full.tail()), ("# licence\n---\n# why\n", "# next\n\n...\n"));
        let bare = document("a: 1\n\n\n");
        assert_eq!((bare.head(), bare.tail()), ("", ""));
    }
}
