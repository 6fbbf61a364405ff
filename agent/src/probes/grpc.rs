//! Carries `grpc` out: one call of the gRPC health protocol, whose two messages have one field each.
//!
//! Sources: pkg/probe/grpc/grpc.go; the protocol in github.com/grpc/grpc (doc/health-checking.md, doc/PROTOCOL-HTTP2.md,
//! doc/connection-backoff.md). The host is always the pod's, and there is no TLS.

use std::{future::Future, io, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT},
};
use tokio::time::sleep;

use super::{
    Outcome,
    client::http2,
    connect::{Target, authority},
    http::{VERSION, chain},
    limited::Limited,
    spec::Grpc,
};

/// The pause after a connection that failed; each next one is longer by [`BACKOFF`].
const PAUSE: Duration = Duration::from_secs(1);
const BACKOFF: f64 = 1.6;
/// An answer has a few bytes; no more than this is read.
const BODY: usize = 1024;
/// `HealthCheckResponse.ServingStatus`, by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;
/// The status code for a call of something that the server does not have.
const UNIMPLEMENTED: &str = "12";

/// Carries a `grpc` out within `timeout`. Like the kubelet's, it tries again to connect until that is over.
pub async fn check(grpc: &Grpc, target: &Target, timeout: Duration) -> Outcome {
    let (host, port) = (target.host(""), grpc.port.get());
    let address = authority(host, port);
    let mut last = None;
    let call = async {
        let stream = connect(|| target.connect(host, port), &mut last).await;
        let request = request(&address, &grpc.service, timeout)?;
        http2(stream, request, read).await.map_err(|error| format!("health rpc probe failed: {}", chain(&error)))?
    };
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = usize::try_from(status).ok().and_then(|status| STATUSES.get(status).copied());
            Outcome::Failure(format!("service unhealthy (responded with {})", name.unwrap_or("an unknown status")))
        }
        Ok(Err(reason)) => Outcome::Failure(reason),
        Err(_) => Outcome::Failure(match last {
            Some(error) => format!("cannot connect to {address} within {timeout:?}: {error}"),
            None => format!("no answer of the health protocol from {address} within {timeout:?}"),
        }),
    }
}

/// Opens a connection, again and again. `last` is the error while there is none.
async fn connect<F: Future<Output = io::Result<Limited>>>(
    open: impl Fn() -> F,
    last: &mut Option<io::Error>,
) -> Limited {
    let mut pause = PAUSE;
    loop {
        match open().await {
            Ok(stream) => {
                *last = None;
                return stream;
            }
            Err(error) => *last = Some(error),
        }
        sleep(pause).await;
        pause = pause.mul_f64(BACKOFF);
    }
}

fn request(address: &str, service: &str, timeout: Duration) -> Result<Request<Full<Bytes>>, String> {
    Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("grpc-timeout", format!("{}m", timeout.as_millis()))
        .header(USER_AGENT, format!("kube-probe/{VERSION}"))
        .body(Full::new(Bytes::from(message(service))))
        .map_err(|error| error.to_string())
}

/// A `HealthCheckRequest` with the five bytes in front that make it a gRPC message: not compressed, and its length.
fn message(service: &str) -> Vec<u8> {
    /// Field 1, length-delimited (protobuf's encoding).
    const SERVICE: u8 = 0x0a;
    let mut fields = Vec::new();
    if !service.is_empty() {
        fields.push(SERVICE);
        let mut length = service.len();
        while length >= 0x80 {
            fields.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        fields.push(u8::try_from(length).unwrap_or_default());
        fields.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(fields.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &fields].concat()
}

/// The number of the status that the server gave, or why there is none.
async fn read(response: Response<Incoming>) -> Result<u64, String> {
    if !response.status().is_success() {
        return Err(format!("health rpc probe failed: HTTP status {}", response.status().as_u16()));
    }
    let (parts, mut body) = response.into_parts();
    // An answer without a message has its status among the headers.
    refused(&parts.headers)?;
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("health rpc probe failed: {}", chain(&error)))?;
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data[..data.len().min(BODY.saturating_sub(bytes.len()))]),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    refused(&trailers)?;
    status(&bytes).ok_or_else(|| "health rpc probe failed: the answer is no HealthCheckResponse".to_owned())
}

/// What a `grpc-status` other than 0 means.
fn refused(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).map(HeaderValue::to_str).and_then(Result::ok);
    let message = text("grpc-message").unwrap_or_default();
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(UNIMPLEMENTED) => {
            Err(format!("this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"))
        }
        Some(code) => Err(format!("health rpc probe failed: grpc status {code} {message}")),
    }
}

/// Reads `HealthCheckResponse.status`, which is field 1 as a number, and 0 when it is missing.
fn status(bytes: &[u8]) -> Option<u64> {
    let (head, message) = bytes.split_at_checked(5)?;
    let [compressed, length @ ..] = head else { return None };
    let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
    let mut rest = message.get(..length).filter(|_| *compressed == 0)?;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = number(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = number(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(number(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number as protobuf writes it: seven bits in a byte, the lowest first.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protobuf_writes_them() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(300);
        assert_eq!(message(&long)[..8], [0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        // Fields of a later version are passed over.
        assert_eq!(status(&[0, 0, 0, 0, 7, 0x12, 1, 9, 0x18, 5, 8, 2]), Some(2));
        for broken in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(status(broken), None, "{broken:?}");
        }
    }
}
