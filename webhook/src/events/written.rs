//! How an Event is written down: under a name and with a note that the API takes, whatever the object is called and whatever there is to say.

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::api::ObjectMeta;

use super::book::Key;

/// The longest note that the API takes, in bytes (`noteLengthLimit` in k8s.io/kubernetes, pkg/apis/core/validation/events.go).
const NOTE: usize = 1024;
/// Where Events about objects without a namespace are, as client-go has it.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// How much of an object's name is taken into an Event's, which may have 253 bytes.
const STEM: usize = 200;
/// What the name of an Event about an object without a right name begins with.
const NAMELESS: &str = "leader";

/// The Event about `key`, the process's own `number`; whose it is, is left open.
pub(super) fn event(key: &Key, regarding: ObjectReference, number: u64, now: Timestamp) -> Event {
    let namespace = match key.object.namespace.as_str() {
        "" => DEFAULT_NAMESPACE,
        namespace => namespace,
    };
    // As client-go names them: the object's name, and something that no other process has at this moment.
    let name = format!("{}.{:x}{number:x}", stem(&key.object.name), now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
        action: Some(key.reason.clone()),
        event_time: Some(MicroTime(now)),
        note: Some(key.note.clone()),
        reason: Some(key.reason.clone()),
        regarding: Some(regarding),
        type_: Some(key.type_.as_str().to_owned()),
        ..Event::default()
    }
}

/// What an Event's name may begin with: the object's name, but for that of an object which was refused and has no right name.
fn stem(name: &str) -> &str {
    let mut name = &name[..name.floor_char_boundary(STEM)];
    name = name.trim_end_matches(['-', '.']);
    let is_right = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if is_right && begins && !name.contains("..") && !name.contains(".-") && !name.contains("-.") {
        name
    } else {
        NAMELESS
    }
}

/// At most [`NOTE`] bytes, cut between characters.
pub(super) fn shortened(note: &str) -> String {
    const MORE: &str = " ...";
    if note.len() <= NOTE {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(NOTE - MORE.len());
    format!("{}{MORE}", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let note = "\u{fc}".repeat(NOTE);
        let short = shortened(&note);
        assert!(short.len() <= NOTE && short.ends_with("\u{fc} ..."), "{}", short.len());
        assert_eq!(shortened("as it is"), "as it is");
        let exact = "a".repeat(NOTE);
        assert_eq!(shortened(&exact), exact);
    }

    #[test]
    fn names_that_the_api_takes() {
        for (name, expected) in [
            ("billing", "billing"),
            ("billing.v2-a", "billing.v2-a"),
            ("billing-7d4f-", "billing-7d4f"),
            ("Billing", NAMELESS),
            ("", NAMELESS),
            ("-", NAMELESS),
            ("a..b", NAMELESS),
            ("gr\u{fc}n", NAMELESS),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
        assert_eq!(stem(&"a".repeat(253)).len(), STEM);
    }
}
