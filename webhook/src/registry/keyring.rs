//! Which credentials belong to which image, by the kubelet's rules.
//!
//! Source of the rules: <https://github.com/kubernetes/kubernetes/tree/v1.36.0/pkg/credentialprovider>, `keyring.go` (which entry
//! matches: `Add`, `Lookup`, `URLsMatch`, `isDefaultRegistryMatch`) and `config.go` (what an entry says).

use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{
        GeneralPurpose,
        general_purpose::{NO_PAD, PAD},
    },
};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    failure::{Failure, place},
    reference::Reference,
};

/// Where entries for Docker Hub stand, whose images say `docker.io`.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Credentials, and what could not be read of them.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    entries: Vec<Entry>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Host and path, as `registry.example.com:5000/team`.
    location: String,
    credential: Credential,
}

/// One way to say who asks. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where it comes from, as `secret regcred`.
    pub source: String,
    pub(super) proof: Proof,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Proof {
    Password {
        username: String,
        password: String,
    },
    /// An OAuth 2 refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credential").field("source", &self.source).finish_non_exhaustive()
    }
}

/// An entry of `auths`, or of the legacy file itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// Why a text has no credentials.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unreadable {
    #[error("{0}")]
    Json(String),
    #[error("it has no `auths`")]
    NoAuths,
    #[error("its entry for {0} is not base64 of USER:PASSWORD")]
    Auth(String),
    #[error("its entry for {0} is not as docker writes it")]
    Entry(String),
}

impl Keyring {
    /// Adds what a `config.json` of docker's says: the content of a Secret of type `kubernetes.io/dockerconfigjson`.
    pub fn add_config(&mut self, source: &str, bytes: &[u8]) {
        let read = parse(bytes).and_then(|config| match config.get("auths") {
            Some(Value::Object(auths)) => Ok(auths.clone()),
            None | Some(Value::Null) => Err(Unreadable::NoAuths),
            Some(_) => Err(Unreadable::Entry("`auths`".to_owned())),
        });
        self.add(source, read);
    }

    /// Adds the content of a Secret of type `kubernetes.io/dockercfg`: the entries without anything around them.
    pub fn add_legacy(&mut self, source: &str, bytes: &[u8]) {
        self.add(source, parse(bytes));
    }

    /// Remembers what is wrong with the credentials, for the case that none of them is of use.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A failure, with what is wrong with the credentials.
    pub fn explain(&self, failure: &Failure) -> String {
        self.notes.iter().fold(failure.to_string(), |text, note| format!("{text}; {note}"))
    }

    fn add(&mut self, source: &str, auths: Result<Map<String, Value>, Unreadable>) {
        let auths = auths.unwrap_or_else(|error| {
            self.note(format!("{source} cannot be used: {error}"));
            Map::new()
        });
        for (location, written) in auths {
            match proof(&location, written) {
                Ok(Some(proof)) => {
                    let credential = Credential { source: source.to_owned(), proof };
                    self.entries.push(Entry { location: key(&location), credential });
                }
                // Docker writes empty entries when the credentials are in a helper.
                Ok(None) => (),
                Err(error) => self.note(format!("{source} cannot be used: {error}")),
            }
        }
        // The more special ones are tried first; in one place, in the order of the sources.
        self.entries.sort_by(|one, other| other.location.cmp(&one.location));
    }

    /// The credentials for an image, in the order in which they are tried.
    pub fn matching(&self, image: &Reference) -> Vec<Credential> {
        let target = format!("{}/{}", image.domain(), image.repository());
        let of = |matches: &dyn Fn(&str) -> bool| -> Vec<Credential> {
            let entries = self.entries.iter().filter(|entry| matches(&entry.location));
            entries.map(|entry| entry.credential.clone()).collect()
        };
        let found = of(&|location| matches(location, &target));
        if found.is_empty() && image.domain() == "docker.io" {
            of(&|location| location == DEFAULT_REGISTRY)
        } else {
            found
        }
    }
}

/// What tells these credentials from others, without giving them away: what one got with them, nobody else may have.
pub(super) fn identity(credentials: &[Credential]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for credential in credentials {
        let (kind, parts) = match &credential.proof {
            Proof::Password { username, password } => (0_u8, [username.as_str(), password.as_str()]),
            Proof::IdentityToken(token) => (1, [token.as_str(), ""]),
        };
        hash.update([kind]);
        // The source is in messages, and a message that names another namespace's Secret is for that one only.
        for part in [credential.source.as_str()].into_iter().chain(parts) {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Unreadable> {
    serde_json::from_slice(bytes).map_err(|error| Unreadable::Json(place(&error)))
}

fn proof(location: &str, written: Value) -> Result<Option<Proof>, Unreadable> {
    let unreadable = || Unreadable::Entry(location.to_owned());
    let written: Written = serde_json::from_value(written).map_err(|_| unreadable())?;
    if let Some(token) = written.identitytoken.filter(|token| !token.is_empty()) {
        return Ok(Some(Proof::IdentityToken(token)));
    }
    let (username, password) = match written.auth.filter(|auth| !auth.is_empty()) {
        Some(auth) => decode(&auth).ok_or_else(|| Unreadable::Auth(location.to_owned()))?,
        None => (written.username.unwrap_or_default(), written.password.unwrap_or_default()),
    };
    let empty = username.is_empty() && password.is_empty();
    Ok((!empty).then_some(Proof::Password { username, password }))
}

/// `decodeDockerConfigFieldAuth`: with padding or without.
fn decode(auth: &str) -> Option<(String, String)> {
    let engine = GeneralPurpose::new(&alphabet::STANDARD, if auth.trim().ends_with('=') { PAD } else { NO_PAD });
    // Go's decoder takes no notice of line ends.
    let auth: String = auth.chars().filter(|letter| !matches!(letter, '\r' | '\n')).collect();
    let text = String::from_utf8(engine.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// The place that an entry is for, without scheme, and without the version of the API that docker writes.
fn key(location: &str) -> String {
    let bare = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let bare = bare.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = split(bare);
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Host and path; the path with its slash.
fn split(location: &str) -> (&str, &str) {
    location.split_at(location.find('/').unwrap_or(location.len()))
}

/// Whether an entry is for an image: equal ports, a path that begins so, and a host whose parts match one by one.
fn matches(location: &str, image: &str) -> bool {
    let ((pattern, prefix), (host, path)) = (split(location), split(image));
    let ((pattern, pattern_port), (host, port)) = (split_port(pattern), split_port(host));
    let (parts, patterns): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), pattern.split('.').collect());
    pattern_port == port
        && path.starts_with(prefix)
        && parts.len() == patterns.len()
        && patterns.iter().zip(&parts).all(|(pattern, part)| is_like(pattern.as_bytes(), part.as_bytes()))
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (host, ""),
    }
}

/// A part of a host name against a pattern with `*`. Go's `filepath.Match` has ranges too, which host names have no use for.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Behind the last `*`, and how much of the text that one has taken: giving an earlier one more would gain nothing.
    let mut last: Option<(usize, usize)> = None;
    while read < text.len() {
        match (pattern.get(at), last) {
            (Some(b'*'), _) => {
                last = Some((at + 1, read));
                at += 1;
            }
            (Some(letter), _) if *letter == text[read] => (at, read) = (at + 1, read + 1),
            (_, Some((behind, taken))) => {
                last = Some((behind, taken + 1));
                (at, read) = (behind, taken + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(image: &str) -> Reference {
        Reference::parse(image).unwrap()
    }

    /// The user names of the entries that match, where each has its place as its user name.
    fn matching(locations: &[&str], image: &str) -> Vec<String> {
        let mut keyring = Keyring::default();
        for location in locations {
            let auths = json!({ (*location): { "username": location, "password": "x" } });
            keyring.add_legacy("secret test", auths.to_string().as_bytes());
        }
        let users = keyring.matching(&reference(image)).into_iter().map(|credential| match credential.proof {
            Proof::Password { username, .. } => username,
            Proof::IdentityToken(_) => unreachable!(),
        });
        users.collect()
    }

    #[test]
    fn which_places_match() {
        let image = "registry.example.com/team/app:1";
        for location in [
            "registry.example.com",
            "registry.example.com/",
            "https://registry.example.com",
            "http://registry.example.com/v1/",
            "https://registry.example.com/v2/",
            "registry.example.com/team",
            "https://registry.example.com/v2/team/app",
            // A prefix of letters, not of parts, as the kubelet has it.
            "registry.example.com/te",
            "*.example.com",
            "registry.*.com",
            "reg*.example.c*m",
            // What is behind a question mark is no part of the place, in Go neither.
            "registry.example.com?x",
            "*.*.*",
        ] {
            assert_eq!(matching(&[location], image), [location], "{location}");
        }
        for location in [
            "example.com",
            "*.com",
            "*",
            "registry.example.com:443",
            "registry.example.com/other",
            "registry.example.com/team/app/more",
            "other.example.com",
            "registry.example.com.evil.org",
            // Only with a slash behind it is it the version of the API.
            "registry.example.com/v2",
            "index.docker.io",
        ] {
            assert_eq!(matching(&[location], image), [""; 0], "{location}");
        }
        assert_eq!(matching(&["*.example.com:5000"], "registry.example.com:5000/app"), ["*.example.com:5000"]);
        assert_eq!(matching(&["*.example.com"], "registry.example.com:5000/app"), [""; 0]);
        assert_eq!(matching(&["[::1]:5000"], "[::1]:5000/app"), ["[::1]:5000"]);
    }

    #[test]
    fn docker_hub_has_many_names() {
        for image in ["nginx", "team/app", "docker.io/team/app", "index.docker.io/library/nginx"] {
            let hub = "https://index.docker.io/v1/";
            assert_eq!(matching(&[hub], image), [hub], "{image}");
            assert_eq!(matching(&["docker.io"], image), ["docker.io"], "{image}");
            assert_eq!(matching(&["docker.io", hub], image), ["docker.io"], "{image}");
            assert_eq!(matching(&["registry-1.docker.io"], image), [""; 0], "{image}");
        }
        assert_eq!(matching(&["https://index.docker.io/v1/"], "quay.io/team/app"), [""; 0]);
    }

    #[test]
    fn the_more_special_one_is_first_and_all_are_tried() {
        let all = ["quay.io", "quay.io/team", "*.io", "quay.io/team/app", "ghcr.io"];
        assert_eq!(matching(&all, "quay.io/team/app:1"), ["quay.io/team/app", "quay.io/team", "quay.io", "*.io"]);
        let mut keyring = Keyring::default();
        for (source, user) in [("secret one", "a"), ("secret two", "b")] {
            let auths = json!({ "auths": { "quay.io": { "username": user, "password": "x" } } });
            keyring.add_config(source, auths.to_string().as_bytes());
        }
        let sources = keyring.matching(&reference("quay.io/app")).into_iter().map(|credential| credential.source);
        assert_eq!(sources.collect::<Vec<_>>(), ["secret one", "secret two"]);
    }

    #[test]
    fn what_an_entry_says() {
        let read = |written: Value| proof("quay.io", written);
        let password = |username: &str, password: &str| {
            Ok(Some(Proof::Password { username: username.to_owned(), password: password.to_owned() }))
        };
        assert!(read(json!({ "username": "u", "password": "p" })) == password("u", "p"));
        // base64 of u:p and of user:pass:word, with padding and without; it goes before the fields.
        assert!(read(json!({ "auth": "dTpw", "username": "other" })) == password("u", "p"));
        assert!(read(json!({ "auth": "dXNlcjpwYXNzOndvcmQ=" })) == password("user", "pass:word"));
        assert!(read(json!({ "auth": "dXNlcjpwYXNzOndvcmQ" })) == password("user", "pass:word"));
        assert!(read(json!({ "auth": "dXNlcjpw\nYXNzOndvcmQ=" })) == password("user", "pass:word"));
        assert!(
            read(json!({ "auth": "dTpw", "identitytoken": "t" })) == Ok(Some(Proof::IdentityToken("t".to_owned())))
        );
        assert!(read(json!({ "email": "a@example.com" })) == Ok(None));
        assert!(read(json!({ "auth": "" })) == Ok(None));
        assert!(read(json!({ "auth": "dQ==" })) == Err(Unreadable::Auth("quay.io".to_owned())), "no colon");
        assert!(read(json!({ "auth": "%%" })) == Err(Unreadable::Auth("quay.io".to_owned())));
        assert!(read(json!({ "auth": 7 })) == Err(Unreadable::Entry("quay.io".to_owned())));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_the_rest_is_used() {
        let mut keyring = Keyring::default();
        keyring.add_config("secret a", b"nonsense");
        keyring.add_config("secret b", b"{}");
        keyring.add_config("secret c", br#"{"auths": {"quay.io": {"auth": "hunter2"}, "ghcr.io": {"auth": "dTpw"}}}"#);
        assert_eq!(keyring.matching(&reference("ghcr.io/app")).len(), 1);
        let notes = keyring.explain(&Failure::Ended { host: "quay.io".to_owned() });
        assert!(notes.starts_with("the look-up of quay.io ended"), "{notes}");
        for part in [
            "secret a cannot be used: it is not JSON",
            "secret b cannot be used: it has no `auths`",
            "entry for quay.io",
        ] {
            assert!(notes.contains(part), "{notes}");
        }
        assert!(!notes.contains("hunter2"));
    }

    #[test]
    fn credentials_are_not_shown_and_told_apart() {
        let of = |source: &str, username: &str, password: &str| Credential {
            source: source.to_owned(),
            proof: Proof::Password { username: username.to_owned(), password: password.to_owned() },
        };
        let shown = format!("{:?}", of("secret a", "user", "hunter2"));
        assert!(shown.contains("secret a") && !shown.contains("hunter2") && !shown.contains("user"));
        let token = Credential { source: "s".to_owned(), proof: Proof::IdentityToken("ab".to_owned()) };
        let lists = [
            vec![],
            vec![of("s", "a", "b")],
            vec![of("s", "ab", "")],
            vec![of("s", "", "ab")],
            vec![token],
            vec![of("t", "a", "b")],
            vec![of("s", "a", "b"), of("s", "a", "b")],
        ];
        let identities: std::collections::HashSet<_> = lists.iter().map(|list| identity(list)).collect();
        assert_eq!(identities.len(), lists.len());
    }
}
