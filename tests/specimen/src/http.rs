//! HTTP: what a probe of the kubelet may meet.
//!
//! `/ok` is fine, `/headers` wants `X-Demanded: yes`, `/redirect` leads to `/ok`, `/redirect/away` to another host,
//! `/redirect/loop` to itself, `/slow` takes 3 s, `/who` is answered with the pod's name and not written down. Everything else is not found.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, LOCATION};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::event::{What, escape, tell};
use crate::options::Options;

/// Who answers.
const WHO: &str = "/who";
/// How long `/slow` takes.
pub const SLOW: Duration = Duration::from_secs(3);

/// Answers the requests of one connection.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, tls: bool, options: Rc<Options>) {
    let service = service_fn(move |request| {
        let options = Rc::clone(&options);
        async move { Ok::<_, Infallible>(answer(&request, tls, &options).await) }
    });
    // A connection that breaks off is its client's business, and what came was written down.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, tls: bool, options: &Options) -> Response<Full<Bytes>> {
    let headers = listed(request.headers());
    let path = request.uri().to_string();
    if path == WHO {
        // It is asked a hundred times a second.
        return Response::new(Full::new(Bytes::from(options.pod.clone() + "\n")));
    }
    let demanded = headers.get("x-demanded").is_some_and(|value| value == "yes");
    if let Err(error) = tell(options, What::Request { tls, path: path.clone(), headers }) {
        eprintln!("specimen: {error}");
    }
    if path == "/slow" {
        tokio::time::sleep(SLOW).await;
    }
    let (status, location) = respond(&path, demanded, options.failing());
    let mut response = Response::new(Full::new(Bytes::from(status.to_string() + "\n")));
    *response.status_mut() = status;
    if let Some(location) = location {
        response.headers_mut().insert(LOCATION, hyper::header::HeaderValue::from_static(location));
    }
    response
}

fn respond(path: &str, demanded: bool, failing: bool) -> (StatusCode, Option<&'static str>) {
    match path {
        _ if failing => (StatusCode::SERVICE_UNAVAILABLE, None),
        "/ok" | "/slow" => (StatusCode::OK, None),
        "/headers" if demanded => (StatusCode::OK, None),
        "/headers" => (StatusCode::BAD_REQUEST, None),
        "/redirect" => (StatusCode::FOUND, Some("/ok")),
        "/redirect/away" => (StatusCode::FOUND, Some("http://elsewhere.invalid/")),
        "/redirect/loop" => (StatusCode::FOUND, Some("/redirect/loop")),
        _ => (StatusCode::NOT_FOUND, None),
    }
}

/// Headers with their values, several of one name joined as HTTP has it.
pub(crate) fn listed(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = escape(std::os::unix::ffi::OsStrExt::from_bytes(value.as_bytes()) as &std::ffi::OsStr);
        let known = all.entry(name.to_string()).or_default();
        *known = if known.is_empty() { value } else { format!("{known}, {value}") };
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_path_header_and_command() {
        assert_eq!(respond("/ok", false, false).0, 200);
        assert_eq!(respond("/headers", false, false).0, 400);
        assert_eq!(respond("/headers", true, false).0, 200);
        assert_eq!(respond("/redirect", false, false), (StatusCode::FOUND, Some("/ok")));
        assert_eq!(respond("/ok", true, true).0, 503);
        assert_eq!(respond("/else", true, false).0, 404);
    }
}
