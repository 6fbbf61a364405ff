//! `httpGet`, `tcpSocket` and `grpc` against servers that listen: what the kubelet would make of them.

mod grpc;
mod http;
mod server;
mod tls;

use std::net::Ipv4Addr;

use leader_agent::probes::{
    Outcome,
    connect::{Target, tcp},
    spec::{Handler, Probe},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The pod's address is the loopback's.
fn target() -> Target {
    Target::new(Some("127.0.0.1".to_owned()))
}

/// The handler of a probe, read as from the record.
fn handler(value: Value) -> Handler {
    serde_json::from_value::<Probe>(value).expect("a probe").handler
}

#[tokio::test]
async fn a_tcp_socket_passes_where_somebody_listens() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let probe = |host: &str| match handler(json!({ "tcpSocket": { "port": port, "host": host } })) {
        Handler::TcpSocket(socket) => socket,
        other => panic!("{other:?}"),
    };
    for host in ["", "127.0.0.1", "localhost"] {
        assert_eq!(tcp(&probe(host), &target()).await, Outcome::Success, "{host}");
    }
    assert!(matches!(tcp(&probe("no.such.host.invalid"), &target()).await, Outcome::Failure(_)));
    drop(listener);
    let Outcome::Failure(reason) = tcp(&probe(""), &target()).await else { panic!("it passes") };
    assert!(reason.starts_with(&format!("cannot connect to 127.0.0.1:{port}: ")), "{reason}");
}
