//! How a registry wants to be asked, and the answer to that.
//!
//! Basic authentication, and the token service of <https://distribution.github.io/distribution/spec/auth/token/>; an identity token is
//! handed in as <https://distribution.github.io/distribution/spec/auth/oauth/> says.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Scheme};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    failure::{Failure, place, shown},
    keyring::{Credential, Proof},
    reference::Reference,
    transport::{Transport, body, host},
};

/// Tokens are a few kB.
const LONGEST_TOKEN: usize = 64 * 1024;
const CLIENT: &str = "leader.io";

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a 401 asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The `Authorization` that a 401 asks for; none when there is nothing to give.
pub(super) async fn authorization(
    transport: &Transport,
    image: &Reference,
    credential: Option<&Credential>,
    headers: &HeaderMap,
) -> Result<Option<HeaderValue>, Failure> {
    match (challenge(image, headers)?, credential.map(|credential| &credential.proof)) {
        (Challenge::Basic, Some(Proof::Password { username, password })) => Ok(Some(basic(username, password))),
        (Challenge::Basic, _) => Ok(None),
        (Challenge::Bearer { realm, service, scope }, proof) => {
            let realm = realm_uri(transport, image, &realm)?;
            let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", image.repository()));
            let token = token(transport, image, &realm, service.as_deref(), &scope, proof).await?;
            sensitive(format!("Bearer {token}")).map(Some).ok_or_else(|| Failure::Garbage {
                host: host(&realm),
                what: "token",
                reason: "it has characters that no header may have".to_owned(),
            })
        }
    }
}

async fn token(
    transport: &Transport,
    image: &Reference,
    realm: &Uri,
    service: Option<&str>,
    scope: &str,
    proof: Option<&Proof>,
) -> Result<String, Failure> {
    let server = host(realm);
    let mut fields = vec![("scope", scope)];
    fields.extend(service.map(|service| ("service", service)));
    let response = match proof {
        Some(Proof::IdentityToken(token)) => {
            fields.extend([("grant_type", "refresh_token"), ("client_id", CLIENT), ("refresh_token", token)]);
            transport.post(realm, form(&fields)).await?
        }
        other => {
            let authorization = match other {
                Some(Proof::Password { username, password }) => Some(basic(username, password)),
                _ => None,
            };
            let separator = if realm.query().is_some() { '&' } else { '?' };
            let uri = format!("{realm}{separator}{}", form(&fields)).parse::<Uri>();
            let uri = uri.map_err(|_| not_understood(&server, "its realm is not a URL"))?;
            transport.get(uri, "application/json", authorization.as_ref()).await?
        }
    };
    match response.status() {
        StatusCode::OK => (),
        // A token service says so when it does not know the name or password, and some when the repository is not public.
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) => {
            let repository = image.repository().to_owned();
            return Err(Failure::Denied { host: server, repository, status, tried: super::failure::Tried::default() });
        }
        status => return Err(super::pull::unwelcome(&server, "a token", status, response.headers())),
    }
    let bytes = body(response, &server, "token", LONGEST_TOKEN).await?;
    let garbage = |reason: String| Failure::Garbage { host: server.clone(), what: "token", reason };
    let answer: Token = serde_json::from_slice(&bytes).map_err(|error| garbage(place(&error)))?;
    let tokens = [answer.token, answer.access_token].into_iter().flatten();
    tokens
        .into_iter()
        .find(|token| !token.is_empty())
        .ok_or_else(|| garbage("it has neither token nor access_token".to_owned()))
}

/// A registry with TLS must have its token service behind TLS: a password goes there.
fn realm_uri(transport: &Transport, image: &Reference, realm: &str) -> Result<Uri, Failure> {
    let refuse = |reason| not_understood(image.host(), reason);
    let uri: Uri = realm.parse().map_err(|_| refuse("its realm is not a URL"))?;
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(refuse("its realm is not a URL"));
    }
    let plain = transport.scheme(image.host()) == Scheme::HTTP;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain => Ok(uri),
        _ => Err(refuse("its token service is not behind TLS")),
    }
}

fn challenge(image: &Reference, headers: &HeaderMap) -> Result<Challenge, Failure> {
    let mut schemes = Vec::new();
    let mut basic = false;
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        let Some(challenges) = value.to_str().ok().and_then(|text| http_auth::parse_challenges(text).ok()) else {
            return Err(not_understood(image.host(), "its WWW-Authenticate cannot be read"));
        };
        for challenge in challenges {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let Some(realm) = parameter("realm") else {
                    return Err(not_understood(image.host(), "it asks for a token and does not say from where"));
                };
                return Ok(Challenge::Bearer { realm, service: parameter("service"), scope: parameter("scope") });
            }
            basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            schemes.push(shown(challenge.scheme));
        }
    }
    match basic {
        true => Ok(Challenge::Basic),
        false if schemes.is_empty() => Err(not_understood(image.host(), "it does not say which")),
        false => Err(not_understood(image.host(), &schemes.join(", "))),
    }
}

fn not_understood(host: &str, reason: &str) -> Failure {
    Failure::Authentication { host: host.to_owned(), reason: reason.to_owned() }
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{username}:{password}"));
    // The alphabet of base64 is one of headers.
    sensitive(format!("Basic {encoded}")).unwrap_or_else(|| HeaderValue::from_static("Basic"))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let fields = fields.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    fields.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&Reference::parse("quay.io/app").unwrap(), &headers).map_err(|failure| failure.to_string())
    }

    #[test]
    fn what_is_asked_for() {
        let bearer = |scope: Option<&str>| {
            let (realm, service) = ("https://auth.example.com/token".to_owned(), Some("quay.io".to_owned()));
            Ok(Challenge::Bearer { realm, service, scope: scope.map(str::to_owned) })
        };
        let full = r#"Bearer realm="https://auth.example.com/token",service="quay.io",scope="repository:app:pull""#;
        assert_eq!(read(&[full]), bearer(Some("repository:app:pull")));
        assert_eq!(
            read(&[r#"bearer realm="https://auth.example.com/token", service="quay.io", scope="""#]),
            bearer(None)
        );
        assert_eq!(read(&["Basic realm=\"x\""]), Ok(Challenge::Basic));
        // A token gives less away than a password.
        assert_eq!(read(&["Basic realm=\"x\"", full]), bearer(Some("repository:app:pull")));
        for (values, part) in [
            (&[][..], "does not say which"),
            (&["Negotiate"], "Negotiate"),
            (&["Bearer service=\"x\""], "does not say from where"),
            (&["Bearer realm=\"x"], "cannot be read"),
        ] {
            let reason = read(values).unwrap_err();
            assert!(reason.contains(part) && reason.contains("quay.io"), "{reason}");
        }
    }

    #[test]
    fn a_form_is_encoded() {
        let fields = [("scope", "repository:a/b:pull"), ("service", "x&y=z")];
        assert_eq!(form(&fields), "scope=repository%3Aa%2Fb%3Apull&service=x%26y%3Dz");
    }
}
