//! HTTPS with a certificate that nobody would trust.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use leader_agent::probes::{
    Outcome,
    http::{Purpose, get},
};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    http::http_get,
    server::{Server, answer},
    target,
};

/// Speaks these protocols, with a certificate for another name that it signed itself.
fn acceptor(protocols: &[&[u8]]) -> TlsAcceptor {
    let signed = rcgen::generate_simple_self_signed(["somebody.else.example".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.into())
        .expect("a configuration");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn nobody_checks_a_certificate() {
    for protocols in [&[][..], &[&b"http/1.1"[..]]] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let server = Server::on(listener.local_addr().expect("an address").port());
        let (acceptor, serving) = (acceptor(protocols), server.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                serving
                    .clone()
                    .serve(stream, |head| answer(if head.contains(" /sick ") { "500" } else { "200" }, "", ""))
                    .await;
            }
        });
        let ask = |path: &str| {
            let fields = json!({ "port": server.port, "path": path, "scheme": "HTTPS" });
            async move { get(&http_get(&fields), &target(), Purpose::Probe).await }
        };
        assert_eq!(ask("/").await, Outcome::Success);
        assert_eq!(ask("/sick").await, Outcome::Failure("HTTP probe failed with statuscode: 500".to_owned()));
        assert_eq!(server.header("User-Agent").as_deref(), Some("kube-probe/1.36"));
    }
}

#[tokio::test]
async fn a_server_that_wants_http_2_gets_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = acceptor(&[b"h2"]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(|request: Request<Incoming>| async move {
                // A page that is longer than what is read of all of them.
                let mut response = Response::new(Full::<Bytes>::from(vec![b'x'; 1 << 20]));
                if request.uri().path() != "/healthz"
                    || request.uri().authority().is_none_or(|host| host != "shop.example")
                {
                    *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
                }
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let headers = json!([{ "name": "Host", "value": "shop.example" }]);
    let fields = json!({ "port": port, "path": "/healthz", "scheme": "HTTPS", "httpHeaders": headers });
    for _ in 0..20 {
        assert_eq!(get(&http_get(&fields), &target(), Purpose::Probe).await, Outcome::Success);
    }
}

#[tokio::test]
async fn a_server_without_tls_fails_a_probe_and_a_hook_asks_again_without_its_secret() {
    let server =
        Server::start(|head| if head.starts_with("GET ") { answer("200 OK", "", "") } else { String::new() }).await;
    let fields = json!({ "port": server.port, "scheme": "HTTPS",
        "httpHeaders": [{ "name": "Authorization", "value": "secret" }, { "name": "X-Mine", "value": "1" }] });
    // The server reads a line end before it answers, and a handshake has none: like a server of Go's, this one answers anything.
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = plain.local_addr().expect("an address").port();
    let serving = server.clone();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = plain.accept().await {
            let mut first = [0];
            stream.peek(&mut first).await.expect("a byte");
            if first == *b"G" {
                serving.clone().serve(stream, |_| answer("200 OK", "", "")).await;
            } else {
                stream
                    .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request\n")
                    .await
                    .expect("written");
            }
        }
    });
    let mut fields = fields;
    fields["port"] = json!(port);
    let Outcome::Failure(reason) = get(&http_get(&fields), &target(), Purpose::Probe).await else {
        panic!("it passes")
    };
    assert!(reason.starts_with("no TLS with 127.0.0.1:"), "{reason}");
    assert!(server.requests().is_empty());
    assert_eq!(get(&http_get(&fields), &target(), Purpose::Hook).await, Outcome::Success);
    assert_eq!((server.header("Authorization"), server.header("X-Mine").as_deref()), (None, Some("1")));
}
