use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, header::HeaderName},
};
use serde_json::Value;
use tower_service::Service as _;

use super::*;
use crate::cli::ui::view::{Election, Happening, Pod, Seen, Term};

/// Elections that are only told of.
#[derive(Clone, Default)]
struct Told(Arc<Inner>);

#[derive(Default)]
struct Inner {
    looks: AtomicUsize,
    asked: Mutex<Vec<(Place, Wish)>>,
    is_broken: bool,
    /// Whether the leader has not renewed the Lease a moment longer than clocks may be apart.
    is_late: bool,
    terms: AtomicUsize,
    /// How often Events cannot be read.
    failures: usize,
}

/// The API server's time, which is not that of this machine.
const NOW: i64 = 100_000;
const LASTS: i64 = 15_000;

impl Elections for Told {
    async fn look(&self) -> Result<Seen, String> {
        self.0.looks.fetch_add(1, Ordering::Relaxed);
        if self.0.is_broken {
            return Err("leases is forbidden".to_owned());
        }
        let leader = Some(Pod { name: "billing-2".to_owned(), node: None, ready: true });
        let place = (String::from("shop"), String::from("billing"));
        let (namespace, id) = place;
        let renewed = Some(NOW - LASTS - i64::from(self.0.is_late) - 10_000);
        let lasts = Some(LASTS);
        let since = Some(9_000);
        let elections = vec![Election { namespace, id, leader, since, renewed, lasts, ..Election::default() }];
        Ok(Seen { elections, now: NOW })
    }

    async fn terms(&self) -> Result<Vec<Term>, String> {
        if self.0.terms.fetch_add(1, Ordering::Relaxed) < self.0.failures {
            return Err("the API server is away".to_owned());
        }
        let leader = Some("billing-1".to_owned());
        Ok(vec![Term { namespace: "shop".to_owned(), id: "billing".to_owned(), at: 5_000, leader }])
    }

    async fn happened(&self, _of: &Place) -> Result<Vec<Happening>, String> {
        let happening =
            |at: i64| Happening { at, reason: "LeaderElected".to_owned(), note: String::new(), warning: false };
        Ok(vec![happening(1), happening(2)])
    }

    async fn ask(&self, of: &Place, wish: &Wish) -> Result<String, String> {
        self.0.asked.lock().unwrap().push((of.clone(), wish.clone()));
        match wish {
            Wish::Transfer { to } if to.as_str() == "nobody" => Err("nobody is not a standby".to_owned()),
            _ => Ok("done".to_owned()),
        }
    }
}

struct Asker {
    router: Router,
    told: Told,
    token: Token,
}

impl Asker {
    fn of(told: Told) -> Self {
        let token = Token::new().unwrap();
        Self { router: router(Desk::new(told.clone()), token.clone()), told, token }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: &str,
    ) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = self.router.call(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap())
    }

    /// As the page asks.
    async fn ask(&mut self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let token = format!("Bearer {}", self.token.as_str());
        let headers = [
            (header::HOST, "127.0.0.1:8080"),
            (header::ORIGIN, "http://127.0.0.1:8080"),
            (header::AUTHORIZATION, token.as_str()),
            (header::CONTENT_TYPE, "application/json"),
        ];
        let (status, text) = self.send(method, path, &headers, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

const BILLING: &str = "/api/elections/shop/billing";

#[tokio::test]
async fn elections_with_their_past() {
    let mut asker = Asker::of(Told::default());
    let (status, view) = asker.ask(Method::GET, "/api/elections", "").await;
    assert_eq!(status, StatusCode::OK);
    let billing = &view["elections"][0];
    assert_eq!((&billing["id"], &billing["leader"]["name"]), (&"billing".into(), &"billing-2".into()));
    assert_eq!(billing["line"][0], json!({"pod": "billing-1", "from": 5_000, "until": 9_000}));
    assert_eq!((&billing["line"][1]["pod"], &billing["line"][1]["from"]), (&"billing-2".into(), &9_000.into()));
    let (status, history) = asker.ask(Method::GET, BILLING, "").await;
    assert_eq!((status, &history[0]["at"]), (StatusCode::OK, &2.into()), "the newest first");
}

#[tokio::test]
async fn a_leader_is_late_by_the_clock_of_the_api_server_and_by_more_than_clocks_are_apart() {
    for is_late in [false, true] {
        let told = Told(Arc::new(Inner { is_late, ..Inner::default() }));
        let (_, view) = Asker::of(told).ask(Method::GET, "/api/elections", "").await;
        assert_eq!((&view["now"], &view["elections"][0]["overdue"]), (&NOW.into(), &is_late.into()));
        assert_eq!(view["elections"][0]["line"][1]["until"].is_null(), !is_late);
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_read_once_are_read_again() {
    let mut asker = Asker::of(Told(Arc::new(Inner { failures: 2, ..Inner::default() })));
    let mut lines = Vec::new();
    for _ in 0..4 {
        let (_, view) = asker.ask(Method::GET, "/api/elections", "").await;
        lines.push(view["elections"][0]["line"].as_array().unwrap().len());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(lines, [1, 1, 2, 2]);
    assert_eq!(asker.told.0.terms.load(Ordering::Relaxed), 3, "and not any more once they were");
}

#[tokio::test(start_paused = true)]
async fn many_pages_are_one_look() {
    let mut asker = Asker::of(Told::default());
    for _ in 0..5 {
        asker.ask(Method::GET, "/api/elections", "").await;
    }
    let looks = |asker: &Asker| asker.told.0.looks.load(Ordering::Relaxed);
    assert_eq!(looks(&asker), 1);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    asker.ask(Method::GET, "/api/elections", "").await;
    assert_eq!(looks(&asker), 2);
    // Who wished for something wants to see it.
    asker.ask(Method::POST, BILLING, r#"{"wish": "step-down"}"#).await;
    asker.ask(Method::GET, "/api/elections", "").await;
    assert_eq!(looks(&asker), 3);
}

#[tokio::test]
async fn each_button_and_its_outcome() {
    let mut asker = Asker::of(Told::default());
    let reason = Some("maintenance".to_owned());
    let wishes = [
        (r#"{"wish": "step-down"}"#, Wish::StepDown),
        (r#"{"wish": "transfer", "to": "billing-1"}"#, Wish::Transfer { to: "billing-1".parse().unwrap() }),
        (r#"{"wish": "hold", "reason": "maintenance"}"#, Wish::Hold { reason }),
        (r#"{"wish": "hold"}"#, Wish::Hold { reason: None }),
        (r#"{"wish": "resume"}"#, Wish::Resume),
    ];
    for (body, wish) in wishes {
        let (status, answer) = asker.ask(Method::POST, BILLING, body).await;
        assert_eq!((status, &answer["said"]), (StatusCode::OK, &"done".into()), "{body}");
        let (place, found) = asker.told.0.asked.lock().unwrap().pop().unwrap();
        assert_eq!((place.namespace.as_str(), place.id.as_str(), found), ("shop", "billing", wish));
    }
    let (status, answer) = asker.ask(Method::POST, BILLING, r#"{"wish": "transfer", "to": "nobody"}"#).await;
    assert_eq!((status, &answer["error"]), (StatusCode::CONFLICT, &"nobody is not a standby".into()));
}

#[tokio::test]
async fn nothing_but_a_wish_reaches_the_cluster() {
    let mut asker = Asker::of(Told::default());
    for body in [
        "",
        "{}",
        r#"{"wish": "delete"}"#,
        r#"{"wish": "transfer"}"#,
        r#"{"wish": "transfer", "to": "a/../b"}"#,
        &format!("\"{}\"", "a".repeat(2 * WISH)),
    ] {
        let (status, _) = asker.ask(Method::POST, BILLING, body).await;
        assert!(status.is_client_error(), "{body}: {status}");
    }
    for path in ["/api/elections/a%2F..%2Fb/billing", "/api/elections/shop/Billing", "/api/elections/shop/a%3Fb"] {
        let (status, _) = asker.ask(Method::POST, path, r#"{"wish": "hold"}"#).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path) in [(Method::POST, "/api/elections"), (Method::DELETE, BILLING), (Method::GET, "/api")] {
        let (status, _) = asker.ask(method, path, "").await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
    assert!(asker.told.0.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_has_not_read_the_address_gets_the_page_and_nothing_in_it() {
    let mut asker = Asker::of(Told::default());
    let right = format!("Bearer {}", asker.token.as_str());
    let here = (header::HOST, "localhost:8080");
    let json = (header::CONTENT_TYPE, "application/json");
    let shown = (header::AUTHORIZATION, right.as_str());
    for (headers, expected) in [
        (vec![here.clone(), json.clone()], StatusCode::UNAUTHORIZED),
        (vec![here.clone(), json.clone(), (header::AUTHORIZATION, "Bearer guessed")], StatusCode::UNAUTHORIZED),
        (
            vec![here.clone(), json.clone(), shown.clone(), (header::ORIGIN, "http://evil.example")],
            StatusCode::FORBIDDEN,
        ),
        (vec![(header::HOST, "evil.example"), json.clone(), shown.clone()], StatusCode::FORBIDDEN),
        // A form of another site can send no JSON.
        (vec![here.clone(), shown.clone(), (header::CONTENT_TYPE, "text/plain")], StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        let (status, _) = asker.send(Method::POST, BILLING, &headers, r#"{"wish": "hold"}"#).await;
        assert_eq!(status, expected, "{headers:?}");
    }
    let (status, answer) = asker.send(Method::GET, "/api/elections", std::slice::from_ref(&here), "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!answer.contains("billing"), "{answer}");
    assert!(asker.told.0.asked.lock().unwrap().is_empty() && asker.told.0.looks.load(Ordering::Relaxed) == 0);
    let (status, page) = asker.send(Method::GET, "/", &[here], "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("<!doctype html>") && !page.contains(asker.token.as_str()));
    let (status, _) = asker.send(Method::GET, "/", &[(header::HOST, "evil.example")], "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_cluster_that_cannot_be_read_is_said() {
    let told = Told(Arc::new(Inner { is_broken: true, ..Inner::default() }));
    let (status, answer) = Asker::of(told).ask(Method::GET, "/api/elections", "").await;
    assert_eq!((status, &answer["error"]), (StatusCode::BAD_GATEWAY, &"leases is forbidden".into()));
}
