//! The address of a request, as far as probes need one: made from the fields of an `httpGet`, and from a redirect's Location.
//!
//! Made as `formatURL` in pkg/probe/http/request.go makes it with Go's net/url, and joined as RFC 3986, section 5.2 says.

use std::fmt::{self, Write};

use super::{connect::authority, spec::Scheme};

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// Without brackets.
    pub(super) host: String,
    /// `None` is the scheme's own.
    port: Option<u16>,
    /// Path and query, ready to be sent; begins with a slash.
    pub(super) target: String,
}

/// Where a redirect leads.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) url: Url,
    /// The Location names no scheme.
    pub(super) is_relative: bool,
}

impl Url {
    /// The address that an `httpGet` means. Its `path` may hold a query.
    pub(super) fn new(scheme: Scheme, host: &str, port: u16, path: &str) -> Self {
        let stated = without_fragment(path);
        // What looks like a host in front is taken for one, and the handler's own is used.
        let stated =
            stated.strip_prefix("//").map_or(stated, |rest| &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]);
        let target = if has_bad_escape(path) || path.bytes().any(|byte| byte.is_ascii_control()) {
            // Nothing that can be taken apart: all of it is the path.
            escape(path, |byte| !matches!(byte, b'%' | b'?' | b'#'))
        } else {
            escape(stated, |_| true)
        };
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        Self { scheme, host: host.to_owned(), port: Some(port), target }
    }

    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.scheme == Scheme::Https { 443 } else { 80 })
    }

    /// Host and port, as they stand in a Host header.
    pub(super) fn authority(&self) -> String {
        match self.port {
            Some(port) => authority(&self.host, port),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    /// The address that `location`, seen from this one, means; `None` when it means none.
    pub(super) fn join(&self, location: &str) -> Option<Joined> {
        if has_bad_escape(location) || location.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let (scheme, rest) = match split_scheme(location) {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, location),
        };
        let is_relative = scheme.is_none();
        let scheme = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None => self.scheme,
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) => return None,
        };
        let rest = without_fragment(rest);
        let (host, port, target) = if let Some(rest) = rest.strip_prefix("//") {
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let (host, port) = split_authority(authority)?;
            (host, port, target.to_owned())
        } else if !is_relative {
            return None;
        } else {
            (self.host.clone(), self.port, self.join_target(rest))
        };
        let target = escape(&without_dots(&target), |_| true);
        Some(Joined { url: Self { scheme, host, port, target }, is_relative })
    }

    /// A reference without scheme and authority.
    fn join_target(&self, reference: &str) -> String {
        let (path, _) = split_query(&self.target);
        match reference.as_bytes().first() {
            None => self.target.clone(),
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{path}{reference}"),
            Some(_) => {
                let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
                format!("{folder}{reference}")
            }
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.scheme == Scheme::Https { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority(), self.target)
    }
}

fn without_fragment(text: &str) -> &str {
    text.split_once('#').map_or(text, |(before, _)| before)
}

/// Path and query; the query with its question mark.
fn split_query(target: &str) -> (&str, &str) {
    target.split_at(target.find('?').unwrap_or(target.len()))
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let letter = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    let rest_of_it = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (letter && rest_of_it).then_some((scheme, rest))
}

/// Host and port of `user@host:port`.
fn split_authority(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let (host, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (host, rest) = text.split_once(']')?;
            (host, if rest.is_empty() { "" } else { rest.strip_prefix(':')? })
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|port| *port != 0)?) };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// RFC 3986, section 5.2.4. The query is left alone.
fn without_dots(target: &str) -> String {
    let (path, query) = split_query(target);
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(usize::from(path.starts_with('/'))).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if segments.peek().is_none() {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// Whether a `%` in the path is not followed by two hexadecimal digits.
fn has_bad_escape(text: &str) -> bool {
    let (path, _) = split_query(without_fragment(text));
    path.split('%')
        .skip(1)
        .any(|rest| !rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)))
}

/// Escapes what cannot stand in a request, and what `keep` refuses.
fn escape(text: &str, keep: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) && keep(byte) {
            escaped.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> String {
        Url::new(Scheme::Http, "10.0.0.1", 8080, path).target
    }

    /// What `formatURL` and Go 1.26 make of them.
    #[test]
    fn paths_are_sent_as_the_kubelet_sends_them() {
        for (path, sent) in [
            ("", "/"),
            ("/", "/"),
            ("/healthz", "/healthz"),
            ("healthz", "/healthz"),
            ("/a?b=c&d=/e", "/a?b=c&d=/e"),
            ("?b=c", "/?b=c"),
            ("/a#fragment", "/a"),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%20b"),
            ("/über", "/%C3%BCber"),
            ("/100%?x#y", "/100%25%3Fx%23y"),
            ("/a/../b/.", "/a/../b/."),
            ("/a|b\"c", "/a%7Cb%22c"),
            ("//host/path", "/path"),
            ("/a?b=%zz", "/a?b=%zz"),
        ] {
            assert_eq!(target(path), sent, "{path}");
        }
    }

    #[test]
    fn a_location_is_seen_from_the_address_before() {
        let base = Url::new(Scheme::Http, "10.0.0.1", 8080, "/a/b?c=d");
        for (location, address, is_relative) in [
            ("/x", "http://10.0.0.1:8080/x", true),
            ("x?y=z", "http://10.0.0.1:8080/a/x?y=z", true),
            ("?y", "http://10.0.0.1:8080/a/b?y", true),
            ("", "http://10.0.0.1:8080/a/b?c=d", true),
            ("../x/./y/..", "http://10.0.0.1:8080/x/", true),
            ("/../x#y", "http://10.0.0.1:8080/x", true),
            ("//other", "http://other/", true),
            ("HTTPS://10.0.0.1:8443/x y", "https://10.0.0.1:8443/x%20y", false),
            ("http://[fd00::1]:81?q", "http://[fd00::1]:81/?q", false),
            ("http://me@there:80/", "http://there:80/", false),
        ] {
            let joined = base.join(location).expect(location);
            assert_eq!((joined.url.to_string().as_str(), joined.is_relative), (address, is_relative), "{location}");
        }
        for location in
            ["ftp://10.0.0.1/", "http:x", "http://:80/", "http://a:b/", "/100%", "mailto:me@there", "/\u{7f}"]
        {
            assert!(base.join(location).is_none(), "{location}");
        }
    }

    #[test]
    fn a_scheme_has_its_port() {
        let base = Url::new(Scheme::Https, "fd00::1", 8443, "/");
        assert_eq!((base.port(), base.authority().as_str()), (8443, "[fd00::1]:8443"));
        let joined = base.join("http://fd/").expect("an address").url;
        assert_eq!((joined.port(), joined.authority().as_str()), (80, "fd"));
        assert_eq!(base.join("//fd/").expect("an address").url.port(), 443);
    }
}
