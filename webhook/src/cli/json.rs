//! JSON for programs, which a person may read on a terminal.

use std::fmt::Write;

use serde::Serialize;

use super::Error;
use crate::review::is_printable;

/// The value, ended by a line break. Characters that a terminal would act upon are escaped, which means the same to whoever parses it.
pub(super) fn text(value: &impl Serialize, on_one_line: bool) -> Result<String, Error> {
    let text = if on_one_line { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    let text = text.map_err(|error| Error::Cluster { reason: error.to_string() })?;
    let mut printed = String::with_capacity(text.len() + 1);
    for letter in text.chars() {
        // Outside of texts there are line breaks, and no other such character; inside of them none is left as it is.
        if letter == '\n' || is_printable(letter) {
            printed.push(letter);
        } else {
            let mut halves = [0; 2];
            for half in letter.encode_utf16(&mut halves) {
                // Writing to a text cannot fail.
                let _ = write!(printed, "\\u{half:04x}");
            }
        }
    }
    printed.push('\n');
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_means_the_same_and_does_nothing_to_a_terminal() {
        let value = json!({ "hold": "a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\nb", "key\u{85}": "gr\u{fc}n" });
        for on_one_line in [true, false] {
            let printed = text(&value, on_one_line).unwrap();
            assert!(printed.chars().all(|letter| letter == '\n' || is_printable(letter)), "{printed:?}");
            assert!(printed.contains("gr\u{fc}n") && printed.contains("\\u009b"), "{printed}");
            assert_eq!(printed.lines().count() == 1, on_one_line);
            assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), value);
        }
    }
}
