//! The gRPC health protocol against tonic's server.

use std::{net::Ipv4Addr, time::Duration};

use leader_agent::probes::{
    Outcome,
    grpc::check,
    spec::{Grpc, Handler},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::{ServingStatus, server::health_reporter};

use crate::{handler, target};

const PATIENCE: Duration = Duration::from_secs(5);

fn grpc(port: u16, service: Option<&str>) -> Grpc {
    match handler(json!({ "grpc": { "port": port, "service": service } })) {
        Handler::Grpc(grpc) => grpc,
        other => panic!("{other:?}"),
    }
}

async fn probe(port: u16, service: &str) -> Outcome {
    check(&grpc(port, Some(service)), &target(), PATIENCE).await
}

fn failure(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failure(reason) => reason,
        other => panic!("{other:?}"),
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

#[tokio::test]
async fn only_serving_passes() {
    let (listener, port) = listener().await;
    let (reporter, service) = health_reporter();
    reporter.set_service_status("well", ServingStatus::Serving).await;
    reporter.set_service_status("sick", ServingStatus::NotServing).await;
    reporter.set_service_status("new", ServingStatus::Unknown).await;
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    assert_eq!(probe(port, "").await, Outcome::Success);
    assert_eq!(check(&grpc(port, None), &target(), PATIENCE).await, Outcome::Success);
    assert_eq!(probe(port, "well").await, Outcome::Success);
    assert_eq!(failure(probe(port, "sick").await), "service unhealthy (responded with NOT_SERVING)");
    assert_eq!(failure(probe(port, "new").await), "service unhealthy (responded with UNKNOWN)");
    let reason = failure(probe(port, "no.such.Service").await);
    assert!(reason.starts_with("health rpc probe failed: grpc status 5"), "{reason}");
    reporter.set_service_status("well", ServingStatus::NotServing).await;
    assert_eq!(failure(probe(port, "well").await), "service unhealthy (responded with NOT_SERVING)");
}

#[tokio::test]
async fn a_server_without_the_protocol_is_named() {
    let (listener, port) = listener().await;
    let router = Server::builder().add_routes(tonic::service::Routes::default());
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    let reason = failure(probe(port, "").await);
    assert!(reason.contains("does not implement the grpc health protocol"), "{reason}");
}

#[tokio::test]
async fn it_goes_on_trying_to_connect_until_the_timeout() {
    let (taken, port) = listener().await;
    drop(taken);
    let began = Instant::now();
    let reason = failure(check(&grpc(port, None), &target(), Duration::from_millis(1500)).await);
    assert!(reason.contains("cannot connect to 127.0.0.1:") && reason.contains("1.5s"), "{reason}");
    assert!(began.elapsed() >= Duration::from_millis(1500));

    let late = tokio::spawn(async move {
        sleep(Duration::from_millis(500)).await;
        let (_reporter, service) = health_reporter();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the same port");
        Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)).await
    });
    assert_eq!(probe(port, "").await, Outcome::Success);
    late.abort();
}

#[tokio::test]
async fn silence_and_another_protocol_are_failures_in_time() {
    let (silent, port) = listener().await;
    let began = Instant::now();
    let reason = failure(check(&grpc(port, None), &target(), Duration::from_millis(500)).await);
    assert!(reason.starts_with("no answer of the health protocol"), "{reason}");
    assert!(began.elapsed() < PATIENCE);
    // Nothing of the call is left: who is asked every second must not be left with a connection for each.
    let (mut connection, _) = silent.accept().await.expect("the probe's");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut rest)).await;
    assert!(end.is_ok(), "the connection is still open");
    drop(silent);
    let http = crate::server::Server::start(|_| crate::server::answer("200 OK", "", "")).await;
    let reason = failure(probe(http.port, "").await);
    assert!(reason.starts_with("health rpc probe failed"), "{reason}");
}
