//! Registries that behave badly: a reason in time, and no more memory than a good one takes.

use std::time::{Duration, Instant};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::future::join_all;
use leader_webhook::registry::{Options, Registries};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    BUDGET, ask, found, question, reason, registries,
    server::{CONFIG, INDEX, MANIFEST, Registry, digest_header, endless, json_answer, silent},
};

async fn good() -> Registry {
    let registry = Registry::start().await;
    registry.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    registry
}

/// What is said about a registry after `spoil`; its name is `HOST` there.
async fn said(spoil: impl FnOnce(&Registry)) -> String {
    let registry = good().await;
    spoil(&registry);
    let started = Instant::now();
    let answer = ask(&registries(&[&registry]), question(&format!("{}/app:1", registry.host()))).await;
    assert!(started.elapsed() < BUDGET, "{:?}", started.elapsed());
    reason(answer).replace(&registry.host(), "HOST")
}

fn text(status: StatusCode, media: &'static str, body: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, media)], body).into_response()
}

#[tokio::test]
async fn statuses() {
    let status =
        |status: StatusCode| said(move |registry| registry.answer("/manifests/", move || status.into_response()));
    let denied = "HOST denies access to app (403 Forbidden; tried without credentials)";
    assert_eq!(status(StatusCode::FORBIDDEN).await, denied);
    let missing = "HOST has no HOST/app:1 (404 Not Found; tried without credentials)";
    assert_eq!(status(StatusCode::NOT_FOUND).await, missing);
    let broken = "HOST answered 500 Internal Server Error when asked for HOST/app:1";
    assert_eq!(status(StatusCode::INTERNAL_SERVER_ERROR).await, broken);
    let odd = "HOST answered 204 No Content when asked for HOST/app:1";
    assert_eq!(status(StatusCode::NO_CONTENT).await, odd);
    let blob = said(|registry| registry.answer("/blobs/", || StatusCode::BAD_GATEWAY.into_response())).await;
    assert_eq!(blob, "HOST answered 502 Bad Gateway when asked for the image's configuration");

    let limited = |wait: &'static str| {
        said(move |registry| {
            registry.answer("/manifests/", move || {
                (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, wait)]).into_response()
            });
        })
    };
    let expected =
        "HOST had too many requests (429 Too Many Requests; tried without credentials) and asks to wait: 37 s";
    assert_eq!(limited("37").await, expected);
    assert!(limited("Fri, 31 Dec 1999 23:59:59 GMT").await.ends_with("wait: Fri, 31 Dec 1999 23:59:59 GMT"));
    assert_eq!(status(StatusCode::TOO_MANY_REQUESTS).await, expected.split(" and asks").next().unwrap());
}

#[tokio::test]
async fn bodies_without_end() {
    let manifest = said(|registry| registry.answer("/manifests/", || endless(MANIFEST))).await;
    assert_eq!(manifest, "HOST gave a manifest of more than 4194304 bytes");
    let config = said(|registry| registry.answer("/blobs/", || endless("application/octet-stream"))).await;
    assert_eq!(config, "HOST gave a configuration of more than 4194304 bytes");
    let token = said(|registry| {
        registry.require("Bearer TOKEN", format!("Bearer realm=\"http://{}/token\"", registry.host()));
        registry.answer("/token", || endless("application/json"));
    });
    assert_eq!(token.await, "HOST gave a token of more than 65536 bytes");
    // A body that is said to be a GiB is not waited for.
    let announced = said(|registry| {
        registry.answer("/manifests/", || {
            ([(header::CONTENT_LENGTH, (1_u64 << 30).to_string())], endless(MANIFEST).into_body()).into_response()
        });
    });
    assert_eq!(announced.await, "HOST gave a manifest of more than 4194304 bytes");
    // Nor is the body of an error.
    let page = said(|registry| {
        registry.answer("/manifests/", || (StatusCode::BAD_GATEWAY, endless("text/html").into_body()).into_response());
    });
    assert_eq!(page.await, "HOST answered 502 Bad Gateway when asked for HOST/app:1");
}

#[tokio::test]
async fn many_large_ones_are_read_one_after_the_other() {
    let registry = good().await;
    // An index and its configuration, each of 300 kB: both need a place.
    let padding = "x".repeat(300_000);
    for number in 0..12 {
        let config = json!({ "Cmd": ["/app"], "Labels": { "padding": padding } });
        let image = registry.put_image("app", None, &config);
        let entry =
            json!({ "mediaType": MANIFEST, "digest": image, "platform": { "os": "linux", "architecture": "amd64" } });
        let index = json!({ "mediaType": INDEX, "manifests": [entry], "annotations": { "padding": padding } });
        registry.put_manifest("app", Some(&format!("large-{number}")), INDEX, &index);
    }
    let registries = registries(&[&registry]);
    let images = (0..12).map(|number| format!("{}/app:large-{number}", registry.host()));
    let answers = join_all(images.map(|image| ask(&registries, question(&image)))).await;
    assert!(answers.into_iter().all(|answer| found(answer).cmd == ["/app"]));
}

#[tokio::test]
async fn garbage() {
    let manifest = |media: &'static str, body: &'static str| {
        said(move |registry| registry.answer("/manifests/", move || text(StatusCode::OK, media, body)))
    };
    let page = manifest("text/html; charset=utf-8", "<html>Please log in</html>").await;
    assert_eq!(
        page,
        "HOST gave a manifest of the type text/html; charset=utf-8, which is not that of a container image"
    );
    let broken = manifest(MANIFEST, "{\"config\": \"the secret").await;
    assert_eq!(broken, "HOST gave a manifest that cannot be read: it ends too early, at line 1 column 22");
    let old = manifest("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}").await;
    assert!(old.contains("v1+prettyjws, which is not that of a container image"), "{old}");
    let bytes = said(|registry| registry.answer("/blobs/", || vec![0, 159, 146, 150].into_response())).await;
    assert!(bytes.starts_with("HOST gave a configuration with the digest sha256:"), "{bytes}");
    let token = said(|registry| {
        registry.require("Bearer TOKEN", format!("Bearer realm=\"http://{}/token\"", registry.host()));
        registry.answer("/token", || json_answer(&json!({ "tokens": ["the secret"] })));
    });
    assert_eq!(token.await, "HOST gave a token that cannot be read: it has neither token nor access_token");
    let header = said(|registry| {
        registry.require("Bearer TOKEN", format!("Bearer realm=\"http://{}/token\"", registry.host()));
        registry.answer("/token", || json_answer(&json!({ "token": "a\nb" })));
    });
    assert_eq!(header.await, "HOST gave a token that cannot be read: it has characters that no header may have");
}

#[tokio::test]
async fn contents_that_are_not_what_was_asked_for() {
    let manifest =
        format!("{{\"mediaType\": \"{MANIFEST}\", \"config\": {{\"mediaType\": \"{CONFIG}\", \"digest\": \"x\"}}}}");
    let body = manifest.clone();
    let pathless = said(move |registry| registry.answer("/manifests/", move || body.clone().into_response())).await;
    assert_eq!(
        pathless,
        "HOST gave a manifest that cannot be read: it names something by what is no digest that is known"
    );

    let claimed = "sha256:".to_owned() + &"0".repeat(64);
    let said_digest = claimed.clone();
    let wrong = said(move |registry| {
        registry.answer("/manifests/", move || {
            ([(digest_header(), said_digest.clone())], manifest.clone()).into_response()
        });
    });
    let wrong = wrong.await;
    assert!(wrong.starts_with("HOST gave a manifest with the digest sha256:") && wrong.ends_with(&claimed), "{wrong}");

    // By digest, and in an index, the body must be that one, whatever a header says.
    let registry = good().await;
    let index = registry.put_index("app", "index", &[("linux/amd64", claimed.clone())]);
    assert!(index.starts_with("sha256:"));
    registry.answer("/manifests/sha256:000", || text(StatusCode::OK, MANIFEST, "{}"));
    let registries = registries(&[&registry]);
    for image in [format!("{}/app@{claimed}", registry.host()), format!("{}/app:index", registry.host())] {
        let reason = reason(ask(&registries, question(&image)).await);
        assert!(reason.contains("instead of sha256:000"), "{reason}");
    }
}

#[tokio::test]
async fn redirects_that_are_not_followed() {
    let to = |location: &'static str| {
        said(move |registry| {
            registry.answer("/manifests/", move || (StatusCode::FOUND, [(header::LOCATION, location)]).into_response());
        })
    };
    assert_eq!(to("/v2/app/manifests/1").await, "HOST redirects in a circle");
    assert_eq!(to("file:///etc/passwd").await, "HOST redirects to no URL");
    assert_eq!(to("ftp://example.com/").await, "HOST redirects to something else than HTTP");
    let nowhere = said(|registry| registry.answer("/manifests/", || StatusCode::FOUND.into_response()));
    assert_eq!(nowhere.await, "HOST redirects to nowhere");
}

#[tokio::test]
async fn an_index_in_an_index() {
    let nested = said(|registry| {
        let inner = registry.put_index("app", "inner", &[]);
        let entry = json!({ "digest": inner, "platform": { "os": "linux", "architecture": "amd64" } });
        registry.put_manifest("app", Some("1"), INDEX, &json!({ "mediaType": INDEX, "manifests": [entry] }));
    });
    assert!(nested.await.contains("an index in an index, which is not that of a container image"));
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options = Options { plain_http_registry: vec![host.clone()], registry_ca: None };
    let registries = Registries::new(&options).unwrap();
    let refused = reason(ask(&registries, question(&format!("{host}/app"))).await);
    assert!(refused.starts_with(&format!("{host} cannot be reached: Connection refused")), "{refused}");

    // RFC 2606: never the name of anything.
    let unknown = reason(ask(&registries, question("registry.invalid/app")).await);
    assert!(unknown.starts_with("registry.invalid cannot be reached: "), "{unknown}");

    let nonsense = good().await;
    let tls = reason(ask(&registries, question(&format!("{}/app:1", nonsense.host()))).await);
    assert!(tls.contains("cannot be reached over TLS") && tls.contains("--plain-http-registry"), "{tls}");
}

#[tokio::test]
async fn nobody_answers() {
    let short = Duration::from_millis(300);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = listener.local_addr().unwrap().to_string();
    let slow = good().await;
    slow.answer("/manifests/", || silent(MANIFEST));
    let hosts = vec![mute.clone(), slow.host()];
    let registries = Registries::new(&Options { plain_http_registry: hosts.clone(), registry_ca: None }).unwrap();
    for host in hosts {
        let started = Instant::now();
        let answer = registries.look_up(question(&format!("{host}/app:1")), short).await;
        assert!(started.elapsed() < BUDGET, "{:?}", started.elapsed());
        assert_eq!(reason(answer), format!("{host} did not answer within 300ms"));
    }
}

#[tokio::test]
async fn a_connection_that_breaks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut answer = [0; 64];
            stream.readable().await.unwrap();
            drop(stream.try_read(&mut answer));
            drop(stream.try_write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"));
        }
    });
    let registries = Registries::new(&Options { plain_http_registry: vec![host.clone()], registry_ca: None }).unwrap();
    let broken = reason(ask(&registries, question(&format!("{host}/app"))).await);
    assert!(broken.starts_with(&format!("the connection to {host} broke: ")), "{broken}");
}
