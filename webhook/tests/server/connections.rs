//! Everything about the webhook's server that is not a review: paths, limits, health, certificates, and its end.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, StatusCode, header},
};
use jiff::Timestamp;
use leader_certs::{keeper::State, leaf::Leaf};
use leader_webhook::server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::client::TlsStream;

use crate::running::{NAME, Running, create, deployment, patched, post, request, text};

#[tokio::test]
async fn other_requests() {
    let running = Running::start().await;
    let status = async |request| running.send(request).await.0;
    let body = || Body::from(create(&deployment()).to_string());
    assert_eq!(status(request(Method::GET, "/inject", "", Body::empty())).await, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(status(request(Method::POST, "/", "application/json", body())).await, StatusCode::NOT_FOUND);
    for media in ["", "text/plain", "application/yaml", "application/jsonp"] {
        assert_eq!(status(request(Method::POST, "/inject", media, body())).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    assert_eq!(
        status(request(Method::POST, "/inject", "Application/JSON; charset=utf-8", body())).await,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_body_may_have_three_mebibytes_and_not_one_byte_more() {
    let running = Running::start().await;
    let padded = |length: usize| {
        let mut body = create(&deployment()).to_string();
        body.push_str(&" ".repeat(length - body.len()));
        body
    };
    let limit = 3 * 1024 * 1024;
    assert_eq!(running.send(post(padded(limit))).await.0, StatusCode::OK);
    assert_eq!(running.send(post(padded(limit + 1))).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // A client that does not say how long it is.
    let chunks = futures::stream::iter((0..400).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 8192]))));
    assert_eq!(running.send(post(Body::from_stream(chunks))).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let running = Running::start().await;
    let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    assert_eq!(running.send(post(Body::from_stream(never))).await.0, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn ready_only_with_a_certificate_that_is_trusted() {
    let running = Running::start().await;
    assert_eq!(running.get("/livez").await, (StatusCode::OK, "alive\n".to_owned()));
    assert_eq!(running.get("/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
    running.certificates.send_replace(State::Untrusted("no bundle".to_owned()));
    assert_eq!(running.get("/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "no bundle\n".to_owned()));
    assert_eq!(running.get("/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_new_certificate_drops_no_connection() {
    let running = Running::start().await;
    let certificate =
        |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let before = certificate(&running.tls().await.unwrap());
    let (mut one, mut other) = (running.connect().await, running.connect().await);
    let ask = || request(Method::GET, "/livez", "", Body::empty());
    assert_eq!(text(one.send_request(ask()).await.unwrap()).await.0, StatusCode::OK);
    assert_eq!(text(other.send_request(ask()).await.unwrap()).await.0, StatusCode::OK);

    let leaf = Leaf::issue(&running.authority, &[NAME.to_owned()], Timestamp::now()).unwrap();
    running.resolver.set(leaf.certified_key);

    assert_eq!(text(one.send_request(ask()).await.unwrap()).await.0, StatusCode::OK);
    assert_eq!(text(other.send_request(ask()).await.unwrap()).await.0, StatusCode::OK);
    assert_ne!(certificate(&running.tls().await.unwrap()), before);
}

#[tokio::test]
async fn a_replica_on_its_way_out_ends_a_connection_with_the_answer() {
    let running = Running::start().await;
    let mut sender = running.connect().await;
    let ask = || request(Method::GET, "/livez", "", Body::empty());
    let first = sender.send_request(ask()).await.unwrap();
    assert!(!first.headers().contains_key(header::CONNECTION));
    text(first).await;
    sender.ready().await.unwrap();

    running.webhook.drain();
    let last = sender.send_request(ask()).await.unwrap();
    assert_eq!(last.headers()[header::CONNECTION], "close");
    assert_eq!(text(last).await.0, StatusCode::OK);
    assert!(sender.ready().await.is_err(), "the connection is still open");
}

#[tokio::test]
async fn it_drains() {
    let mut running = Running::start().await;
    let (mut one, mut other) = (running.connect().await, running.connect().await);
    // Two reviews whose bodies are still on their way when the stop comes.
    let (first, body_of_first) = half_sent();
    let (second, body_of_second) = half_sent();
    let answers = tokio::spawn(async move {
        let (first, second) = tokio::join!(one.send_request(first), other.send_request(second));
        (text(first.unwrap()).await, text(second.unwrap()).await)
    });
    body_of_first.started.await.unwrap();
    body_of_second.started.await.unwrap();

    running.webhook.drain();
    assert_eq!(running.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    // Clients that have not noticed yet are served on.
    patched(&deployment(), &running.review(&create(&deployment())).await);
    running.stop.take().unwrap().send(()).unwrap();
    while running.tls().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!running.task.is_finished());

    body_of_first.rest.send(()).unwrap();
    body_of_second.rest.send(()).unwrap();
    let (first, second) = answers.await.unwrap();
    for (status, text) in [first, second] {
        assert_eq!(status, StatusCode::OK, "{text}");
        assert!(text.contains("\"allowed\":true"), "{text}");
    }
    let end = tokio::time::timeout(Duration::from_secs(5), &mut running.task).await;
    end.expect("the server did not end after its last request").unwrap();
}

/// What a test has in hand of a body that is sent in two halves.
struct HalfSent {
    started: oneshot::Receiver<()>,
    rest: oneshot::Sender<()>,
}

fn half_sent() -> (Request<Body>, HalfSent) {
    let body = create(&deployment()).to_string().into_bytes();
    let (first, second) = body.split_at(body.len() / 2);
    let (first, second) = (Bytes::from(first.to_vec()), Bytes::from(second.to_vec()));
    let (started, has_started) = oneshot::channel::<()>();
    let (rest, go_on) = oneshot::channel::<()>();
    let halves = futures::stream::unfold((0, Some((started, go_on))), move |(step, mut hands)| {
        let (first, second) = (first.clone(), second.clone());
        async move {
            match (step, hands.take()) {
                (0, hands) => Some((Ok::<_, std::io::Error>(first), (1, hands))),
                (1, Some((started, go_on))) => {
                    started.send(()).unwrap();
                    go_on.await.unwrap();
                    Some((Ok(second), (2, None)))
                }
                _ => None,
            }
        }
    });
    (post(Body::from_stream(halves)), HalfSent { started: has_started, rest })
}

/// The API server keeps its connections for 90 s, and must not meet one that is being closed.
#[tokio::test]
async fn a_connection_is_kept_between_requests() {
    let running = Running::start().await;
    let mut kept = running.tls().await.unwrap();
    let mut answer = vec![0; 4096];
    for _ in 0..2 {
        kept.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let length = kept.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{:?}", answer[..length].escape_ascii().to_string());
        // Nothing is said, and it is not closed, which would read as an end.
        let silence = tokio::time::timeout(Duration::from_secs(7), kept.read(&mut answer)).await;
        assert!(silence.is_err(), "{silence:?}");
    }
}

/// Anybody who reaches the port may open connections and say nothing on them.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let running = Running::start().await;
    let mut silent = Vec::new();
    for _ in 0..server::CONNECTIONS {
        silent.push(running.tls().await.unwrap());
    }
    // They would stay for a minute and a half.
    let asked = tokio::time::timeout(Duration::from_secs(45), running.get("/livez")).await;
    assert_eq!(asked.expect("no room was made").0, StatusCode::OK);
}

#[tokio::test]
async fn plain_text_and_silence_end_the_connection() {
    let running = Running::start().await;
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    let ended = async {
        let mut rest = Vec::new();
        // What the server says last is no matter, only that it ends.
        drop(plain.read_to_end(&mut rest).await);
        drop(silent.read_to_end(&mut rest).await);
    };
    tokio::time::timeout(Duration::from_secs(15), ended).await.expect("a connection was kept");
    assert_eq!(running.get("/livez").await.0, StatusCode::OK);
}
