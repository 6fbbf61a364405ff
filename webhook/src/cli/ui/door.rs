//! Who is answered: who has read the address that this run printed, in a browser that shows nothing but this page.
//!
//! Whoever is answered acts with the rights of the person who started the page. Other users of the machine can reach the port, and so can
//! every site that this person's browser shows: the former lack the token, the latter are told apart by Host, Origin and Sec-Fetch-Site.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, header, uri::Authority};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls::crypto::{GetRandomFailed, ring};

/// Bytes of a token: as many as a key has that nobody guesses.
const BYTES: usize = 32;
/// Says where a request comes from (<https://www.w3.org/TR/fetch-metadata/>); browsers do not let pages write it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The secret of one run. It stands behind the `#` of the address, which a browser sends to nobody: the page itself sends it.
#[derive(Clone)]
pub(super) struct Token(String);

/// Why somebody is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    /// The name in the address leads here, and is not this machine's own: a site whose name was pointed at this machine.
    #[error(
        "this page is only at http://localhost and http://127.0.0.1: open the address that `kubectl leader ui` printed"
    )]
    Host,
    /// Another site asks.
    #[error("a page of another site asks: open the address that `kubectl leader ui` printed")]
    Site,
    /// The token is missing, or that of an earlier run.
    #[error("the token is missing or not this run's: open the address that `kubectl leader ui` printed last")]
    Token,
}

impl Token {
    /// A new one.
    pub(super) fn new() -> Result<Self, GetRandomFailed> {
        let mut bytes = [0; BYTES];
        ring::default_provider().secure_random.fill(&mut bytes)?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// As it stands in the address.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the other one, in a time that does not tell how much of it is right.
    fn is(&self, other: &str) -> bool {
        let differences = self.0.bytes().zip(other.bytes()).fold(0, |sum, (one, two)| sum | (one ^ two));
        self.0.len() == other.len() && differences == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

/// Whether this machine was asked by a name of its own. That much is asked of everybody, also of who only wants the page.
pub(super) fn is_here(headers: &HeaderMap) -> Result<(), Closed> {
    host(headers).map(drop)
}

/// Whether the page of this run asks.
pub(super) fn is_ours(headers: &HeaderMap, token: &Token) -> Result<(), Closed> {
    let here = format!("http://{}", host(headers)?);
    let is_foreign = |name: HeaderName, right: &dyn Fn(&[u8]) -> bool| {
        // Programs that are no browsers send neither.
        headers.get_all(name).iter().any(|value| !right(value.as_bytes()))
    };
    if is_foreign(header::ORIGIN, &|origin| origin == here.as_bytes())
        || is_foreign(SEC_FETCH_SITE, &|site| matches!(site, b"same-origin" | b"none"))
    {
        return Err(Closed::Site);
    }
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if shown.is_some_and(|shown| token.is(shown)) { Ok(()) } else { Err(Closed::Token) }
}

/// The host and port by which this machine was asked. The port is not compared: one that was forwarded (`ssh -L`) has another number.
fn host(headers: &HeaderMap) -> Result<Authority, Closed> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Closed::Host) };
    let host: Authority = host.to_str().ok().and_then(|host| host.parse().ok()).ok_or(Closed::Host)?;
    let is_own = matches!(host.host(), "localhost" | "127.0.0.1" | "[::1]") && !host.as_str().contains('@');
    if is_own { Ok(host) } else { Err(Closed::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in of {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in ["localhost:8080", "127.0.0.1:1", "[::1]:8080", "localhost"] {
            assert_eq!(is_here(&headers(&[(header::HOST, host)])), Ok(()), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "localhost@evil.example",
            "10.0.0.1",
            "",
        ] {
            assert_eq!(is_here(&headers(&[(header::HOST, host)])), Err(Closed::Host), "{host}");
        }
        assert_eq!(is_here(&HeaderMap::new()), Err(Closed::Host));
        let two = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert_eq!(is_here(&headers(&two)), Err(Closed::Host));
    }

    #[test]
    fn only_the_page_of_this_run_is_given_anything() {
        let token = Token::new().unwrap();
        let right = format!("Bearer {}", token.as_str());
        let asked = |more: &[(HeaderName, &str)]| {
            is_ours(&headers(&[&[(header::HOST, "localhost:8080")], more].concat()), &token)
        };
        let with_token = |name: HeaderName, value: &str| asked(&[(header::AUTHORIZATION, &right), (name, value)]);
        assert_eq!(asked(&[(header::AUTHORIZATION, &right)]), Ok(()));
        assert_eq!(with_token(header::ORIGIN, "http://localhost:8080"), Ok(()));
        assert_eq!(with_token(SEC_FETCH_SITE, "same-origin"), Ok(()));
        for origin in ["http://localhost:8081", "https://localhost:8080", "http://evil.example", "null"] {
            assert_eq!(with_token(header::ORIGIN, origin), Err(Closed::Site), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(with_token(SEC_FETCH_SITE, site), Err(Closed::Site), "{site}");
        }
        assert_eq!(asked(&[]), Err(Closed::Token));
        let other = format!("Bearer {}", Token::new().unwrap().as_str());
        for wrong in ["", "Bearer ", &right[..right.len() - 1], &format!("{right}a"), token.as_str(), &other] {
            assert_eq!(asked(&[(header::AUTHORIZATION, wrong)]), Err(Closed::Token), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_long_and_not_told_by_accident() {
        let token = Token::new().unwrap();
        assert_eq!(token.as_str().len(), 43);
        assert!(token.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert!(!format!("{token:?}").contains(token.as_str()));
    }
}
