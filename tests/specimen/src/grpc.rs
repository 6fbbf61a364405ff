//! The gRPC health protocol, as far as a probe goes: `grpc.health.v1.Health/Check` for the service `specimen` and for
//! the whole program.
//!
//! By hand on HTTP/2, since a test's program should share no code with what it tests: the frame of five bytes
//! (gRPC's `PROTOCOL-HTTP2.md`), and a request and a response of one field each (`health.proto`).

use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::event::{What, tell};
use crate::http::listed;
use crate::options::Options;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;
/// Codes of gRPC.
const OK: u16 = 0;
const NOT_FOUND: u16 = 5;
const UNIMPLEMENTED: u16 = 12;

/// Runs hyper's tasks on the one thread.
#[derive(Clone, Copy, Debug)]
struct LocalTasks;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// Answers the requests of one connection.
pub async fn serve(stream: TcpStream, options: Rc<Options>) {
    let service = service_fn(move |request| {
        let options = Rc::clone(&options);
        async move { Ok::<_, Infallible>(answer(request, options).await) }
    });
    // A connection that breaks off is its client's business, and what came was written down.
    let _ = hyper::server::conn::http2::Builder::new(LocalTasks).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    options: Rc<Options>,
) -> Response<impl Body<Data = Bytes, Error = Infallible> + 'static> {
    let mut headers = listed(request.headers());
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    headers.insert(":authority".to_owned(), authority);
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let service = service(&body);
    if let Err(error) = tell(&options, What::Health { service: service.clone(), headers }) {
        eprintln!("specimen: {error}");
    }
    let (code, status) = respond(&path, &service, options.failing());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    let frame = status.map(|status| Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status])).unwrap_or_default();
    let mut response = Response::new(Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers)))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// gRPC's code, and the service's status with it.
fn respond(path: &str, service: &str, failing: bool) -> (u16, Option<u8>) {
    match service {
        _ if path != CHECK => (UNIMPLEMENTED, None),
        "" | "specimen" => (OK, Some(if failing { NOT_SERVING } else { SERVING })),
        _ => (NOT_FOUND, None),
    }
}

/// The one field of the request, which is left out when it is empty.
fn service(frame: &[u8]) -> String {
    match frame.get(5..) {
        Some([0x0a, length, name @ ..]) => {
            String::from_utf8_lossy(name.get(..usize::from(*length)).unwrap_or_default()).into_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_read_and_answered() {
        assert_eq!(service(&[0, 0, 0, 0, 0]), "");
        assert_eq!(service(b"\0\0\0\0\x05\x0a\x03abc"), "abc");
        assert_eq!(respond(CHECK, "specimen", false), (OK, Some(SERVING)));
        assert_eq!(respond(CHECK, "", true), (OK, Some(NOT_SERVING)));
        assert_eq!(respond(CHECK, "abc", false), (NOT_FOUND, None));
        assert_eq!(respond("/else", "", false), (UNIMPLEMENTED, None));
    }
}
