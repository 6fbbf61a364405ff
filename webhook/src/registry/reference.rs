//! References to images, as containers name them.
//!
//! The grammar and the default names are those of <https://github.com/distribution/reference> (`reference.go`, `normalize.go`), which
//! kubelet and containerd use. The ready-made parser (`oci_spec::distribution::Reference`, the one of oci-client) is not used: its
//! regular expression takes 160 ms and 14 MB when it is first used, which is most of what a whole webhook takes.

use std::fmt;

use super::failure::Failure;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// `NameTotalLengthMax` of the grammar.
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A reference with all that was left out filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Reads the `image` of a container.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        read(text).map_err(|reason| Failure::Reference { reference: text.chars().take(LONGEST_NAME).collect(), reason })
    }

    /// The registry's name in the reference, `docker.io` where it has none.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository, without the registry.
    pub fn repository(&self) -> &str {
        &self.path
    }

    /// The digest, where the reference has one. It decides, whatever the tag says.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Tag or digest, as the registry is asked.
    pub fn version(&self) -> &str {
        self.digest().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }

    /// Host and port of the server that has the images.
    pub fn host(&self) -> &str {
        // https://github.com/containerd/containerd/blob/v2.1.0/core/remotes/docker/registry.go: DefaultHost.
        if self.domain == DEFAULT_DOMAIN { "registry-1.docker.io" } else { &self.domain }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        write!(formatter, "{}/{}{separator}{}", self.domain, self.path, self.version())
    }
}

fn read(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest) {
        return Err("after @ must come a digest as sha256: and 64 hexadecimal digits");
    }
    // The last colon, unless it is the port's.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if !tag.is_none_or(is_tag) {
        return Err("its tag is not one: letters, digits, _, . and -, at most 128");
    }
    let (domain, path) = split(name);
    if path.is_empty() {
        return Err("it has no name");
    }
    if !is_domain(domain) {
        return Err("its registry is not a host name with an optional port");
    }
    let official = if domain == DEFAULT_DOMAIN && !path.contains('/') { OFFICIAL } else { "" };
    let path = format!("{official}{path}");
    if !path.split('/').all(is_component) {
        return Err("its name may have small letters, digits and single separators only");
    }
    if path.len() > LONGEST_NAME {
        return Err("its name is longer than 255 characters");
    }
    let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG));
    Ok(Reference { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

/// The first part is a registry when it looks like a host name: `splitDockerDomain`.
fn split(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|letter: char| letter.is_uppercase()) =>
        {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

pub(super) fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_label = |label: &str| {
        let letters = label.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'-');
        !label.is_empty() && letters && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let separators: Vec<&str> = text.split(is_letter).filter(|separator| !separator.is_empty()).collect();
    let is_separator =
        |separator: &&str| matches!(*separator, "." | "_" | "__") || separator.bytes().all(|letter| letter == b'-');
    text.starts_with(is_letter) && text.ends_with(is_letter) && separators.iter().all(is_separator)
}

fn is_tag(text: &str) -> bool {
    let is_word = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
    let rest = |letter: u8| is_word(letter) || letter == b'.' || letter == b'-';
    text.len() <= LONGEST_TAG && text.bytes().next().is_some_and(is_word) && text.bytes().all(rest)
}

/// The algorithms that OCI registers, without the one that nobody writes:
/// <https://github.com/opencontainers/image-spec/blob/v1.1.0/descriptor.md#registered-algorithms>.
pub(super) fn is_digest(text: &str) -> bool {
    let is_hex = |hex: &str, digits: usize| {
        hex.len() == digits && hex.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    };
    match text.split_once(':') {
        Some(("sha256", hex)) => is_hex(hex, 64),
        Some(("sha512", hex)) => is_hex(hex, 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn what_is_left_out_is_filled_in() {
        for (text, host, repository, version) in [
            ("nginx", "registry-1.docker.io", "library/nginx", "latest"),
            ("nginx:1.27", "registry-1.docker.io", "library/nginx", "1.27"),
            ("team/app", "registry-1.docker.io", "team/app", "latest"),
            ("docker.io/nginx", "registry-1.docker.io", "library/nginx", "latest"),
            ("index.docker.io/team/app:1", "registry-1.docker.io", "team/app", "1"),
            ("localhost/app", "localhost", "app", "latest"),
            ("localhost:5000/a/b-c__d.e:v1", "localhost:5000", "a/b-c__d.e", "v1"),
            ("registry.example.com/app", "registry.example.com", "app", "latest"),
            ("[::1]:5000/app", "[::1]:5000", "app", "latest"),
            ("10.0.0.1:5000/app:A_b.c-d", "10.0.0.1:5000", "app", "A_b.c-d"),
            ("Host/app", "Host", "app", "latest"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.host(), reference.repository(), reference.version()),
                (host, repository, version),
                "{text}"
            );
            assert_eq!(reference.digest(), None);
        }
        let both = Reference::parse(&format!("ghcr.io/a/b:1@{DIGEST}")).unwrap();
        assert_eq!((both.version(), both.digest()), (DIGEST, Some(DIGEST)));
        assert_eq!(both.to_string(), format!("ghcr.io/a/b@{DIGEST}"));
        assert_eq!(Reference::parse("nginx").unwrap().to_string(), "docker.io/library/nginx:latest");
    }

    #[test]
    fn what_is_no_reference() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "@",
            "/",
            "nginx:",
            "nginx@",
            "nginx@sha256:1",
            "Nginx",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b c",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "reg:port/a",
            "reg:99999/a",
            "exa_mple.com/a",
            "a.b:/c",
            "nginx:\u{e9}",
            "[::1/a",
            "[zz]:1/a",
            "https://registry.example.com/a",
            &long,
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
        let error = Reference::parse("Nginx").unwrap_err().to_string();
        assert_eq!(
            error,
            "the reference \"Nginx\" cannot be read: its name may have small letters, digits and single separators only"
        );
    }
}
