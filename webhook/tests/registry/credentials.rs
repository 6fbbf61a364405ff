//! Logins, and who is given what with them.

use axum::{http::StatusCode, response::IntoResponse};
use leader_webhook::registry::{Keyring, Question};
use serde_json::json;

use crate::{
    ask, found, question, reason, registries,
    server::{Registry, json_answer, unauthorized},
    with_password,
};

/// `user` and `password`.
const BASIC: &str = "Basic dXNlcjpwYXNzd29yZA==";

async fn private() -> Registry {
    let registry = Registry::start().await;
    registry.put_image("team/app", Some("1"), &json!({ "Cmd": ["/app"] }));
    registry
}

#[tokio::test]
async fn a_token_for_a_password() {
    let registry = private().await;
    registry.require_token(BASIC);
    let (registries, host) = (registries(&[&registry]), registry.host());
    let image = format!("{host}/team/app:1");
    let answer = ask(&registries, with_password(&image, "regcred", &host, "user", "password")).await;
    assert_eq!(found(answer).cmd, ["/app"]);
    let asked = registry.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert_eq!(token.path, "/token?a=b&scope=repository%3Ateam%2Fapp%3Apull&service=the%20registry");
    // One login is enough for manifest and configuration, and the password goes to the token service only.
    assert_eq!(registry.count("/token"), 1);
    let to_registry = asked.iter().filter(|asked| asked.path.starts_with("/v2/"));
    assert!(to_registry.filter_map(|asked| asked.authorization()).all(|given| given == "Bearer TOKEN"));
}

#[tokio::test]
async fn a_token_for_everybody() {
    let registry = private().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", registry.host());
    registry.require("Bearer PUBLIC", challenge);
    registry.answer("/token", || json_answer(&json!({ "access_token": "PUBLIC" })));
    let answer = ask(&registries(&[&registry]), question(&format!("{}/team/app:1", registry.host()))).await;
    assert_eq!(found(answer).cmd, ["/app"]);
    let asked = registry.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert_eq!((token.path.as_str(), token.authorization()), ("/token?scope=repository%3Ateam%2Fapp%3Apull", None));
}

#[tokio::test]
async fn an_identity_token_is_handed_in() {
    let registry = private().await;
    registry.require("Bearer TOKEN", format!("Bearer realm=\"http://{}/token\",service=\"s\"", registry.host()));
    registry.rule(|asked| {
        (asked.path == "/token" && asked.method == "POST" && asked.body.contains("refresh_token=id%2Dtoken"))
            .then(|| json_answer(&json!({ "access_token": "TOKEN" })))
    });
    let (registries, host) = (registries(&[&registry]), registry.host());
    let mut keyring = Keyring::default();
    let auth = json!({ "auths": { host.clone(): { "auth": "dTo=", "identitytoken": "id-token" } } });
    keyring.add_config("secret regcred", auth.to_string().as_bytes());
    let question = question(&format!("{host}/team/app:1"));
    let question = Question { credentials: keyring.matching(&question.image), ..question };
    assert_eq!(found(ask(&registries, question).await).cmd, ["/app"]);
}

#[tokio::test]
async fn the_password_itself() {
    let registry = private().await;
    registry.require(BASIC, "Basic realm=\"x\"");
    let (registries, host) = (registries(&[&registry]), registry.host());
    let image = format!("{host}/team/app:1");
    let answer = ask(&registries, with_password(&image, "regcred", &host, "user", "password")).await;
    assert_eq!(found(answer).cmd, ["/app"]);

    let without = reason(ask(&registries, question(&image)).await);
    assert_eq!(without, format!("{host} denies access to team/app (401 Unauthorized; tried without credentials)"));
}

#[tokio::test]
async fn a_wrong_password_is_named_by_its_secret_and_not_shown() {
    let registry = private().await;
    registry.require_token(BASIC);
    let (registries, host) = (registries(&[&registry]), registry.host());
    let image = format!("{host}/team/app:1");
    let answer = ask(&registries, with_password(&image, "old-one", &host, "user", "hunter2")).await;
    let text = format!("{answer:?}");
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    let expected =
        format!("{host} denies access to team/app (401 Unauthorized; tried secret old-one, and without credentials)");
    assert_eq!(reason(answer), expected);
}

#[tokio::test]
async fn the_next_credential_is_tried_and_at_last_none() {
    let registry = private().await;
    registry.require_token(BASIC);
    let (registries, host) = (registries(&[&registry]), registry.host());
    let image = format!("{host}/team/app:1");
    let mut both = with_password(&image, "wrong", &host, "user", "wrong");
    both.credentials.extend(with_password(&image, "right", &host, "user", "password").credentials);
    assert_eq!(found(ask(&registries, both).await).cmd, ["/app"]);

    // A wrong password for what anybody may read.
    let public = private().await;
    let host = public.host();
    public.rule(|asked| {
        asked.authorization().filter(|given| given.starts_with("Basic")).map(|_| StatusCode::FORBIDDEN.into_response())
    });
    let challenge = format!("Bearer realm=\"http://{host}/token\"");
    public.require("Bearer PUBLIC", challenge);
    public.rule(|asked| {
        let anonymous = asked.path.starts_with("/token") && asked.authorization().is_none();
        anonymous.then(|| json_answer(&json!({ "token": "PUBLIC" })))
    });
    let registries = crate::registries(&[&public]);
    let wrong = with_password(&format!("{host}/team/app:1"), "wrong", &host, "user", "wrong");
    assert_eq!(found(ask(&registries, wrong).await).cmd, ["/app"]);
}

#[tokio::test]
async fn one_namespaces_answer_is_not_anothers() {
    let registry = private().await;
    registry.require_token(BASIC);
    let (registries, host) = (registries(&[&registry]), registry.host());
    let image = format!("{host}/team/app:1");
    let right = || with_password(&image, "regcred", &host, "user", "password");
    let digest = found(ask(&registries, right()).await).digest;

    // Neither by tag nor by digest, neither without credentials nor with others.
    for image in [image.clone(), format!("{host}/team/app@{digest}")] {
        for stranger in [question(&image), with_password(&image, "regcred", &host, "user", "guess")] {
            let before = registry.asked().len();
            let refused = reason(ask(&registries, stranger).await);
            assert!(refused.contains("denies access"), "{refused}");
            assert!(registry.asked().len() > before, "the registry was not asked");
        }
    }
    // And who was refused does not spoil it for who is allowed.
    let again = ask(&registries, right()).await;
    assert!(!again.was_asked);
    assert_eq!(found(again).cmd, ["/app"]);
}

#[tokio::test]
async fn logins_that_are_not_understood() {
    for (challenge, part) in [
        ("Negotiate", "asks for an authentication that is not understood: Negotiate"),
        ("Bearer realm=\"ftp://example.com/\"", "its token service is not behind TLS"),
        ("Bearer realm=\"http://user@example.com/\"", "its realm is not a URL"),
    ] {
        let registry = private().await;
        registry.rule(move |_| Some(unauthorized(challenge)));
        let answer = ask(&registries(&[&registry]), question(&format!("{}/team/app:1", registry.host()))).await;
        let reason = reason(answer);
        assert!(reason.contains(part), "{reason}");
    }
}
