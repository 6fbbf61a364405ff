//! Carries `httpGet` out, as the kubelet does it for a probe and for a hook.
//!
//! Sources: pkg/probe/http/http.go and request.go, pkg/kubelet/lifecycle/handlers.go, and of Go's net/http what they rely on:
//! client.go (`redirectBehavior`, `refererForURL`, `Client.do`) and request.go (`reqWriteExcludeHeader`).

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERER,
        TRAILER, TRANSFER_ENCODING, USER_AGENT,
    },
};

use super::{
    Outcome,
    client::{http1, http2},
    connect::{Target, not_connected},
    spec::{Header, HttpGet, Scheme},
    tls,
    url::Url,
};

/// The kubelet reads no more of a body (`maxRespBodyLength`).
const BODY: usize = 10 * 1024;
/// After so many requests a redirect is an error (`RedirectChecker`).
const REQUESTS: usize = 10;
/// The version that this agent's requests name: of the kubelet whose rules these are.
pub(super) const VERSION: &str = "1.36";

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A probe: the status decides.
    Probe,
    /// A hook: any answer is success (`runHTTPHandler`).
    Hook,
}

/// Why a request got no usable answer.
#[derive(Debug)]
enum Failed {
    /// The other side did not take part: a failure.
    Request(String),
    /// It answered, and the body broke off.
    Body(String),
    /// It does not speak TLS.
    NoTls(String),
}

/// Carries an `httpGet` out. Leaves the time it takes to the caller.
pub async fn get(get: &HttpGet, target: &Target, purpose: Purpose) -> Outcome {
    let headers = match headers(&get.http_headers, purpose) {
        Ok(headers) => headers,
        Err(reason) => return Outcome::Failure(reason),
    };
    let url = Url::new(get.scheme, target.host(&get.host), get.port.get(), &get.path);
    let answer = match follow(url.clone(), &headers, target).await {
        Err(Failed::NoTls(_)) if purpose == Purpose::Hook => plain(url, headers, target).await,
        answer => answer,
    };
    match (answer, purpose) {
        (Err(Failed::Body(_)) | Ok(_), Purpose::Hook) => Outcome::Success,
        (Err(Failed::Request(reason) | Failed::NoTls(reason)), _) => Outcome::Failure(reason),
        (Err(Failed::Body(reason)), Purpose::Probe) => Outcome::Unknown(reason),
        (Ok(status), Purpose::Probe) if status.is_success() => Outcome::Success,
        (Ok(status), Purpose::Probe) if status.is_redirection() => {
            Outcome::Warning(format!("status {}: a redirect that is not followed", status.as_u16()))
        }
        (Ok(status), Purpose::Probe) => {
            Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
    }
}

/// A hook's second try, where the first one found no TLS: without it, and without what it should have protected.
async fn plain(mut url: Url, mut headers: HeaderMap, target: &Target) -> Result<StatusCode, Failed> {
    url.scheme = Scheme::Http;
    headers.remove(AUTHORIZATION);
    follow(url, &headers, target).await
}

/// The headers of the first request.
fn headers(stated: &[Header], purpose: Purpose) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for Header { name, value } in stated {
        let bad = |what| format!("the {what} of the header `{name}` cannot be sent");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("name"))?;
        headers.append(key, HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| bad("value"))?);
    }
    let product = if purpose == Purpose::Probe { "kube-probe" } else { "kube-lifecycle" };
    let user_agent = HeaderValue::from_str(&format!("{product}/{VERSION}")).map_err(|error| error.to_string())?;
    for (name, default) in [(USER_AGENT, user_agent), (ACCEPT, HeaderValue::from_static("*/*"))] {
        // Stated and empty: none is sent.
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(&name);
        } else if !headers.contains_key(&name) {
            headers.insert(name, default);
        }
    }
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER] {
        headers.remove(name);
    }
    Ok(headers)
}

/// Sends the request, and those that redirects to the same host ask for. Returns the last status.
async fn follow(mut url: Url, stated: &HeaderMap, target: &Target) -> Result<StatusCode, Failed> {
    let first = url.host.clone();
    let mut headers = stated.clone();
    for _ in 0..REQUESTS {
        let Answer { status, location } = send(&url, &headers, target).await?;
        let Some(location) = location else { return Ok(status) };
        let next = location.to_str().ok().and_then(|location| url.join(location));
        let Some(next) = next else {
            return Err(Failed::Request(format!("the Location of a redirect is no address: {location:?}")));
        };
        if next.url.host != first {
            return Ok(status);
        }
        // A Host header of the user's own goes on where the Location does not say another host.
        match stated.get(HOST).filter(|_| next.is_relative) {
            Some(host) => headers.insert(HOST, host.clone()),
            None => headers.remove(HOST),
        };
        if !stated.contains_key(REFERER) {
            let tells = url.scheme == Scheme::Http || next.url.scheme == Scheme::Https;
            match HeaderValue::from_str(&url.to_string()).ok().filter(|_| tells) {
                Some(referer) => headers.insert(REFERER, referer),
                None => headers.remove(REFERER),
            };
        }
        url = next.url;
    }
    Err(Failed::Request(format!("stopped after {REQUESTS} redirects")))
}

/// Sends one request and reads the beginning of its answer's body, where no redirect is to follow.
async fn send(url: &Url, headers: &HeaderMap, target: &Target) -> Result<Answer, Failed> {
    let (host, port) = (url.host.as_str(), url.port());
    let failed = |error: hyper::Error| Failed::Request(format!("GET {url}: {}", chain(&error)));
    let stream = target.connect(host, port).await;
    let stream = stream.map_err(|error| Failed::Request(not_connected(host, port, &error)))?;
    if url.scheme == Scheme::Http {
        return http1(stream, http1_request(url, headers)?, read).await.map_err(failed)?;
    }
    let stream = tls::handshake(stream, host).await.map_err(|error| {
        let reason = format!("no TLS with {}: {error}", url.authority());
        if tls::is_no_tls(&error) { Failed::NoTls(reason) } else { Failed::Request(reason) }
    })?;
    if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
        http2(stream, http2_request(url, headers)?, read).await.map_err(failed)?
    } else {
        http1(stream, http1_request(url, headers)?, read).await.map_err(failed)?
    }
}

/// What is kept of an answer.
struct Answer {
    status: StatusCode,
    /// Where a redirect leads.
    location: Option<HeaderValue>,
}

async fn read(response: Response<Incoming>) -> Result<Answer, Failed> {
    let status = response.status();
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|value| redirects && !value.is_empty()).cloned();
    if location.is_none() {
        let (mut body, mut length) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failed::Body(format!("the answer broke off: {}", chain(&error))))?;
            length += frame.data_ref().map_or(0, Bytes::len);
            if length >= BODY {
                break;
            }
        }
    }
    Ok(Answer { status, location })
}

fn http1_request(url: &Url, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, Failed> {
    let mut headers = headers.clone();
    let host = HeaderValue::from_str(&url.authority()).map_err(|error| Failed::Request(error.to_string()))?;
    headers.entry(HOST).or_insert(host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    request(&url.target, headers)
}

/// In HTTP/2 the host is part of the address, and there are no headers about the connection (RFC 9113, section 8.2.2).
fn http2_request(url: &Url, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, Failed> {
    let mut headers = headers.clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    headers.remove(CONNECTION);
    request(&format!("https://{}{}", host.unwrap_or_else(|| url.authority()), url.target), headers)
}

fn request(uri: &str, headers: HeaderMap) -> Result<Request<Empty<Bytes>>, Failed> {
    let mut request = Request::get(uri)
        .body(Empty::new())
        .map_err(|error| Failed::Request(format!("`{uri}` cannot be asked for: {error}")))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// An error with its causes: hyper keeps what matters in the last one.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
