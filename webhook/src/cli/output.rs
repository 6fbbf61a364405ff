//! Prints documents: YAML, JSON, patches, or a diff.

use std::fmt::Write;

use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::{
    Error,
    documents::{Document, File},
    edit::title,
};
use crate::inject;

const BOLD: &str = "\x1b[1m";
const CYAN: &str = "\x1b[36m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const RESET: &str = "\x1b[0m";

/// All documents: untouched ones as they were, touched ones written anew between their leading and trailing comments.
pub(super) fn yaml(file: &File) -> Result<String, Error> {
    let mut text = String::new();
    for document in &file.documents {
        let Some(changed) = &document.changed else {
            text.push_str(&document.text);
            continue;
        };
        let mut part = document.head().to_owned();
        // Content may stand on the marker's own line.
        if document.text[part.len()..].starts_with("---") {
            part.push_str("---\n");
        }
        part.push_str(&rendered(file, changed)?);
        part.push_str(document.tail());
        text.push_str(&if document.text.contains("\r\n") { with_returns(&part) } else { part });
    }
    Ok(text)
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
        let (before, after) = (rendered(file, &document.value)?, rendered(file, after)?);
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
        line(BOLD, &format!("--- {} ({title})", file.name));
        line(BOLD, &format!("+++ {} ({title}, changed)", file.name));
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

fn rendered(file: &File, value: &Value) -> Result<String, Error> {
    let options = serde_saphyr::ser_options! {
        // Long lines stay one line: folded ones are hard to compare.
        folded_wrap_chars: usize::MAX,
    };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Error::Render { file: file.name.clone(), message: error.to_string() })
}

fn pretty(file: &File, value: &impl serde::Serialize) -> Result<String, Error> {
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
            let file = File { name: "file".to_owned(), documents: Vec::new() };
            let text = rendered(&file, &json!({ "value": value })).unwrap();
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(&read["value"], &value, "{}", text);
        }
    }
}
