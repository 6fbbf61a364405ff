//! Prints documents: as they were written, as JSON, as patches, or as a diff.

use std::{fmt::Write, io};

use serde::Serialize;
use serde_json::{
    Value, json,
    ser::{PrettyFormatter, Serializer},
};
use similar::{ChangeTag, TextDiff};

use super::{
    Error, Format,
    documents::{Document, File},
    edit::title,
};
use crate::{inject, review::printable};

const BOLD: &str = "\x1b[1m";
const CYAN: &str = "\x1b[36m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

/// Prints a file that was edited, and what its reader should know.
pub(super) fn print(
    file: &File,
    warnings: &[String],
    format: Format,
    colour: bool,
    stdout: &mut impl io::Write,
    stderr: &mut impl io::Write,
) -> Result<u8, Error> {
    for warning in warnings {
        writeln!(stderr, "Warning: {}", printable(warning)).map_err(Error::Write)?;
    }
    let text = match format {
        Format::Yaml => yaml(file)?,
        Format::Json => json(file)?,
        Format::Patch => patches(file)?,
        Format::Diff => diff(file, colour)?,
    };
    super::write(stdout, &text)?;
    Ok(u8::from(format == Format::Diff && !text.is_empty()))
}

/// All documents: untouched ones as they were, touched ones written anew between their leading and trailing comments.
pub(super) fn yaml(file: &File) -> Result<String, Error> {
    let mut text = String::new();
    let mut previous: Option<&Document> = None;
    for document in &file.documents {
        let part = match &document.changed {
            None => document.text.clone(),
            Some(changed) => changed_text(document, changed)?,
        };
        if previous.is_some_and(|previous| previous.file != document.file) {
            separate(&mut text, document);
        }
        text.push_str(&part);
        previous = Some(document);
    }
    Ok(text)
}

/// A changed document as it is printed.
fn changed_text(document: &Document, changed: &Value) -> Result<String, Error> {
    let mut part = document.head().to_owned();
    let content = &document.text[part.len()..];
    // Content may stand on the marker's own line.
    if content.starts_with("---") {
        part.push_str("---\n");
    }
    if document.is_json() {
        part.push_str(&json_like(document, content, changed)?);
    } else {
        part.push_str(&rendered(&document.file, changed)?);
        part.push_str(document.tail());
    }
    Ok(if document.text.contains("\r\n") { with_returns(&part) } else { part })
}

/// Ends what one file says, so that the next one's first document can follow.
fn separate(text: &mut String, next: &Document) {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut lines = next.head().lines();
    if lines.clone().any(|line| line.starts_with('%')) {
        // A directive may follow only a document that was ended (YAML 1.2, 9.1.1).
        text.push_str("...\n");
    } else if !lines.any(|line| line.starts_with("---")) && !next.text.starts_with("---") {
        text.push_str("---\n");
    }
}

/// JSON on one line, or with the same indentation, as the document was written.
fn json_like(document: &Document, content: &str, value: &Value) -> Result<String, Error> {
    let failed =
        |error: serde_json::Error| Error::Render { file: document.file.to_string(), message: error.to_string() };
    let Some((_, rest)) = content.trim_end().split_once('\n') else {
        return serde_json::to_string(value).map(|text| text + "\n").map_err(failed);
    };
    let indent = &rest[..rest.len() - rest.trim_start_matches([' ', '\t']).len()];
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter)).map_err(failed)?;
    bytes.push(b'\n');
    // It is made of a text and of serialised JSON.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One object, or a list of all objects as kubectl prints several.
pub(super) fn json(file: &File) -> Result<String, Error> {
    let mut objects: Vec<&Value> = file.documents.iter().map(current).filter(|value| !value.is_null()).collect();
    let list;
    let object = if objects.len() == 1 {
        objects.remove(0)
    } else {
        list = json!({"apiVersion": "v1", "kind": "List", "items": objects, "metadata": {"resourceVersion": ""}});
        &list
    };
    pretty(file, object)
}

/// The JSON Patch of each changed document, in their order.
pub(super) fn patches(file: &File) -> Result<String, Error> {
    let changed = file.documents.iter().filter_map(|document| Some((&document.value, document.changed.as_ref()?)));
    let patches: Vec<_> = changed.map(|(before, after)| inject::patch(before, after)).collect();
    if patches.is_empty() {
        return Ok("[]\n".to_owned());
    }
    patches.iter().map(|patch| pretty(file, patch)).collect()
}

/// What changes in each document, both sides written in the same way, so that only injection shows.
pub(super) fn diff(file: &File, colour: bool) -> Result<String, Error> {
    let mut text = String::new();
    for document in &file.documents {
        let Some(after) = &document.changed else { continue };
        let (before, after) = (rendered(&document.file, &document.value)?, rendered(&document.file, after)?);
        let title = title(&document.value);
        let diff = TextDiff::from_lines(&before, &after);
        let mut line = |style: &str, content: &str| {
            let content = content.trim_end_matches('\n');
            // Writing to a `String` cannot fail.
            let _ = if colour && !style.is_empty() {
                writeln!(text, "{style}{content}{RESET}")
            } else {
                writeln!(text, "{content}")
            };
        };
        line(BOLD, &format!("--- {} ({title})", document.file));
        line(BOLD, &format!("+++ {} ({title}, changed)", document.file));
        for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
            line(CYAN, &hunk.header().to_string());
            for change in hunk.iter_changes() {
                let (sign, style) = match change.tag() {
                    ChangeTag::Equal => (' ', ""),
                    ChangeTag::Delete => ('-', RED),
                    ChangeTag::Insert => ('+', GREEN),
                };
                line(style, &format!("{sign}{}", change.value()));
            }
        }
    }
    Ok(text)
}

fn current(document: &Document) -> &Value {
    document.changed.as_ref().unwrap_or(&document.value)
}

fn rendered(file: &str, value: &Value) -> Result<String, Error> {
    let options = serde_saphyr::ser_options! {
        // Long lines stay one line: folded ones are hard to compare.
        folded_wrap_chars: usize::MAX,
    };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Error::Render { file: file.to_owned(), message: error.to_string() })
}

fn pretty(file: &File, value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Error::Render { file: file.name.clone(), message: error.to_string() })
}

fn with_returns(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\n', "\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            ".{0,12}",
            "[ \\n\\t#:'\"|>\\\\-]{0,6}",
            "(yes|no|on|off|y|n|null|~|true|0o17|0644|1e3|0x1F|1_000|12:30|2026-11-02|\\.inf|=|<<|---|\\.\\.\\.)",
            "[a-z]{1,4}( [a-z]{20,40}){3}\\n{0,3}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e6..1e6).prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                vec((text.clone(), inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same_value(value in value()) {
            let text = rendered("file", &json!({ "value": value })).unwrap();
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(&read["value"], &value, "{}", text);
        }
    }
}
