//! Plain HTTP.

use std::time::Duration;

use leader_agent::probes::{
    Outcome,
    http::{Purpose, get},
    spec::{Handler, HttpGet},
};
use serde_json::{Value, json};

use crate::{
    handler,
    server::{Server, answer},
    target,
};

/// An `httpGet` with these fields.
pub(crate) fn http_get(fields: &Value) -> HttpGet {
    match handler(json!({ "httpGet": fields })) {
        Handler::HttpGet(get) => get,
        other => panic!("{other:?}"),
    }
}

async fn probe(fields: Value) -> Outcome {
    get(&http_get(&fields), &target(), Purpose::Probe).await
}

fn failure(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failure(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_status_decides() {
    let server = Server::start(|head| answer(&head[5..8], "", "body")).await;
    for (status, passes) in
        [("200", true), ("204", true), ("299", true), ("400", false), ("404", false), ("500", false), ("503", false)]
    {
        let outcome = probe(json!({ "port": server.port, "path": format!("/{status}") })).await;
        if passes {
            assert_eq!(outcome, Outcome::Success, "{status}");
        } else {
            assert_eq!(failure(outcome), format!("HTTP probe failed with statuscode: {status}"));
        }
    }
    for status in ["300", "304", "399"] {
        let outcome = probe(json!({ "port": server.port, "path": format!("/{status}") })).await;
        assert!(matches!(outcome, Outcome::Warning(_)), "{status}: {outcome:?}");
    }
}

/// What Go's client writes of what `newProbeRequest` makes, with keep-alive and compression off (pkg/probe/http).
#[tokio::test]
async fn a_request_looks_like_the_kubelets() {
    let server = Server::start(|_| answer("200 OK", "", "")).await;
    assert_eq!(probe(json!({ "port": server.port, "path": "/healthz?full=1" })).await, Outcome::Success);
    let request = server.requests().remove(0);
    let mut lines: Vec<&str> = request.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "GET /healthz?full=1 HTTP/1.1");
    lines.sort_unstable();
    let host = format!("Host: 127.0.0.1:{}", server.port);
    assert_eq!(lines, ["Accept: */*", "Connection: close", &host, "User-Agent: kube-probe/1.36"]);
}

#[tokio::test]
async fn headers_are_the_users() {
    let server = Server::start(|_| answer("200 OK", "", "")).await;
    let headers = json!([
        { "name": "host", "value": "shop.example" },
        { "name": "X-Two", "value": "1" },
        { "name": "x-two", "value": "2" },
        { "name": "User-Agent", "value": "mine" },
        { "name": "Accept", "value": "" },
        { "name": "Content-Length", "value": "7" },
        { "name": "X-None", "value": null },
    ]);
    assert_eq!(probe(json!({ "port": server.port, "httpHeaders": headers })).await, Outcome::Success);
    assert_eq!(server.header("Host").as_deref(), Some("shop.example"));
    assert_eq!(server.header("User-Agent").as_deref(), Some("mine"));
    assert_eq!((server.header("Accept"), server.header("Content-Length")), (None, None));
    let request = server.requests().remove(0);
    assert!(request.contains("X-Two: 1\r\n") && request.contains("X-Two: 2\r\n"), "{request}");
    assert!(request.contains("X-None: \r\n"), "{request}");
    let bad = json!([{ "name": "X-Bad", "value": "two\nlines" }]);
    let reason = failure(probe(json!({ "port": server.port, "httpHeaders": bad })).await);
    assert!(reason.contains("X-Bad"), "{reason}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_alone() {
    let other = Server::start(|_| answer("200 OK", "", "")).await;
    let port = other.port;
    let server = Server::start(move |head| {
        let to = |status: &str, location: &str| answer(status, &format!("Location: {location}\r\n"), "moved");
        match head.split(' ').nth(1).unwrap_or_default() {
            "/relative" => to("302 Found", "sick?a=b"),
            "/other-port" => to("307 Temporary Redirect", &format!("http://127.0.0.1:{port}/there")),
            "/other-host" => to("301 Moved Permanently", &format!("http://localhost:{port}/there")),
            "/loop" => to("308 Permanent Redirect", "/loop"),
            "/nowhere" => to("303 See Other", "ftp://127.0.0.1/"),
            "/unsaid" => answer("302 Found", "", ""),
            "/not-modified" => to("304 Not Modified", "/sick"),
            _ => answer("500 Sick", "", ""),
        }
    })
    .await;
    let ask = |path: &str| {
        let headers =
            json!([{ "name": "Host", "value": "shop.example" }, { "name": "Authorization", "value": "secret" }]);
        let fields = json!({ "port": server.port, "path": path, "httpHeaders": headers });
        async move { probe(fields).await }
    };
    assert_eq!(failure(ask("/relative").await), "HTTP probe failed with statuscode: 500");
    assert!(server.requests()[1].starts_with("GET /sick?a=b "), "{:?}", server.requests());
    assert_eq!(server.header("Host").as_deref(), Some("shop.example"), "a relative redirect keeps it");
    assert_eq!(server.header("Authorization").as_deref(), Some("secret"));
    assert!(server.header("Referer").is_some_and(|referer| referer.ends_with("/relative")));

    assert_eq!(ask("/other-port").await, Outcome::Success);
    assert_eq!(other.requests().len(), 1);
    assert_eq!(other.header("Host"), Some(format!("127.0.0.1:{port}")), "another host is said");

    assert!(matches!(ask("/other-host").await, Outcome::Warning(_)));
    assert_eq!(other.requests().len(), 1, "not followed");

    let before = server.requests().len();
    assert_eq!(failure(ask("/loop").await), "stopped after 10 redirects");
    assert_eq!(server.requests().len() - before, 10);
    assert!(failure(ask("/nowhere").await).contains("ftp://"));
    assert!(matches!(ask("/unsaid").await, Outcome::Warning(_)));
    assert!(matches!(ask("/not-modified").await, Outcome::Warning(_)));
}

#[tokio::test]
async fn no_more_of_a_body_is_read_than_the_kubelet_reads() {
    let endless = "x".repeat(11 * 1024);
    let server = Server::start(move |head| match head.split(' ').nth(1).unwrap_or_default() {
        "/endless" => format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{endless}..."),
        "/short" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_owned(),
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n".to_owned(),
        "/until-the-end" => "HTTP/1.0 200 OK\r\n\r\nbody".to_owned(),
        _ => "no HTTP at all\r\n\r\n".to_owned(),
    })
    .await;
    let ask = |path: &str| probe(json!({ "port": server.port, "path": path }));
    assert_eq!(ask("/endless").await, Outcome::Success);
    assert_eq!(ask("/chunked").await, Outcome::Success);
    assert_eq!(ask("/until-the-end").await, Outcome::Success);
    // What broke off is not counted.
    assert!(matches!(ask("/short").await, Outcome::Unknown(_)));
    assert!(matches!(ask("/nonsense").await, Outcome::Failure(_)));
}

#[tokio::test]
async fn nobody_there_is_a_failure_and_silence_is_the_callers_affair() {
    let server = Server::start(|_| "HTTP/1.1 200 OK\r\nX-Slow: ...".to_owned()).await;
    let silent = http_get(&json!({ "port": server.port }));
    let target = target();
    let asked = tokio::time::timeout(Duration::from_millis(300), get(&silent, &target, Purpose::Probe));
    assert!(asked.await.is_err());
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let reason = failure(probe(json!({ "port": gone.port() })).await);
    assert!(reason.starts_with("cannot connect to 127.0.0.1:"), "{reason}");
}

#[tokio::test]
async fn a_hook_is_content_with_any_answer() {
    let server = Server::start(|_| answer("500 Sick", "", "")).await;
    let ask = |port: u16| async move { get(&http_get(&json!({ "port": port })), &target(), Purpose::Hook).await };
    assert_eq!(ask(server.port).await, Outcome::Success);
    assert_eq!(server.header("User-Agent").as_deref(), Some("kube-lifecycle/1.36"));
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    assert!(matches!(ask(gone.port()).await, Outcome::Failure(_)));
}
