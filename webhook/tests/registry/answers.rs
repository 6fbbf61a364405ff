//! What a registry that behaves well says.

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use leader_certs::authority::Authority;
use leader_webhook::registry::{Options, Platforms, Question, Registries};
use serde_json::json;

use crate::{
    ask, found, question, reason, registries,
    server::{DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, MANIFEST, Registry},
};

fn of_platforms(image: &str, platforms: &[&str]) -> Question {
    let platforms = platforms.iter().map(|platform| platform.parse().unwrap()).collect();
    Question { platforms: Platforms::These(platforms), ..question(image) }
}

#[tokio::test]
async fn images_of_both_makes_by_tag_and_by_digest() {
    let registry = Registry::start().await;
    let config = json!({ "Entrypoint": ["/bin/app", "--flag"], "Cmd": ["one", "two"], "StopSignal": "SIGQUIT" });
    let oci = registry.put_image("team/oci", Some("1"), &config);
    let docker = registry.put_image_as("docker", Some("latest"), &config, DOCKER_MANIFEST, DOCKER_CONFIG);
    let (registries, host) = (registries(&[&registry]), registry.host());
    for (image, digest) in [
        (format!("{host}/team/oci:1"), &oci),
        (format!("{host}/team/oci:other@{oci}"), &oci),
        (format!("{host}/docker"), &docker),
    ] {
        let facts = found(ask(&registries, question(&image)).await);
        assert_eq!(&facts.digest, digest, "{image}");
        assert_eq!(facts.entrypoint, ["/bin/app", "--flag"]);
        assert_eq!(facts.cmd, ["one", "two"]);
        assert_eq!(facts.stop_signal.as_deref(), Some("SIGQUIT"));
    }
    assert!(registry.asked().iter().all(|asked| asked.authorization().is_none() && asked.method == "GET"));
    let bare = registry.put_image("bare", Some("1"), &json!({}));
    let facts = found(ask(&registries, question(&format!("{host}/bare:1"))).await);
    assert_eq!((facts.digest, facts.entrypoint.len(), facts.cmd.len(), facts.stop_signal), (bare, 0, 0, None));
}

#[tokio::test]
async fn an_index_is_asked_for_the_platforms_that_matter() {
    let registry = Registry::start().await;
    let put = |entry: &str| {
        registry.put_image(
            "app",
            None,
            &json!({ "Entrypoint": [entry], "Cmd": [entry.len()
        .to_string()] }),
        )
    };
    let (amd, arm) = (
        put("/app"),
        registry.put_image("app", None, &json!({ "Entrypoint": ["/app"], "Cmd": ["4"], "Env": ["A=1"] })),
    );
    let (odd, attestation) = (put("/other"), "sha256:".to_owned() + &"0".repeat(64));
    let index = registry.put_index(
        "app",
        "1",
        &[
            ("linux/amd64", amd),
            ("linux/arm64", arm),
            ("linux/s390x", odd.clone()),
            ("windows/amd64", attestation.clone()),
            ("unknown/unknown", attestation),
        ],
    );
    let (registries, image) = (registries(&[&registry]), format!("{}/app:1", registry.host()));

    for platforms in [&["linux/amd64"][..], &["linux/amd64", "linux/arm64"], &["linux/arm64", "linux/riscv64"]] {
        let facts = found(ask(&registries, of_platforms(&image, platforms)).await);
        assert_eq!((&facts.digest, facts.entrypoint), (&index, vec!["/app".to_owned()]), "{platforms:?}");
    }
    let other = found(ask(&registries, of_platforms(&image, &["linux/s390x"])).await);
    assert_eq!(other.entrypoint, ["/other"]);

    let differing = reason(ask(&registries, of_platforms(&image, &["linux/amd64", "linux/s390x"])).await);
    assert_eq!(differing, "its variants for linux/amd64 and linux/s390x differ in ENTRYPOINT, CMD or STOPSIGNAL");
    assert_eq!(reason(ask(&registries, question(&image)).await), differing);
    let none = reason(ask(&registries, of_platforms(&image, &["linux/riscv64"])).await);
    assert!(none.starts_with("it has no variant for linux/riscv64, only for linux/amd64, linux/arm64"), "{none}");
}

#[tokio::test]
async fn an_index_of_dockers_and_one_without_platforms() {
    let registry = Registry::start().await;
    let image = registry.put_image_as("app", None, &json!({ "Cmd": ["/app"] }), DOCKER_MANIFEST, DOCKER_CONFIG);
    let entry = json!({ "mediaType": DOCKER_MANIFEST, "digest": image, "size": 1 });
    let index = json!({ "schemaVersion": 2, "mediaType": DOCKER_INDEX, "manifests": [entry] });
    registry.put_manifest("app", Some("1"), DOCKER_INDEX, &index);
    let image = format!("{}/app:1", registry.host());
    let asked = ask(&registries(&[&registry]), of_platforms(&image, &["linux/arm64"])).await;
    assert_eq!(found(asked).cmd, ["/app"]);
}

#[tokio::test]
async fn blobs_may_be_elsewhere() {
    let (registry, storage) = (Registry::start().await, Registry::start().await);
    registry.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    storage.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    registry.require("Basic dXNlcjpwYXNzd29yZA==", "Basic realm=\"x\"");
    let to = storage.host();
    registry.rule(move |asked| {
        let authorized = asked.authorization().is_some();
        let location = (header::LOCATION, format!("http://{to}{}", asked.path));
        (authorized && asked.path.contains("/blobs/"))
            .then(|| (StatusCode::TEMPORARY_REDIRECT, [location]).into_response())
    });
    // The storage is not named as one without TLS: that is for registries.
    let (registries, host) = (registries(&[&registry]), registry.host());
    let question = crate::with_password(&format!("{host}/app:1"), "regcred", &host, "user", "password");
    assert_eq!(found(ask(&registries, question).await).cmd, ["/app"]);
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].authorization().is_none(), "the password of one server was given to another");
    assert!(registry.asked().iter().any(|asked| asked.authorization().is_some()));
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let authority = Authority::generate(jiff::Timestamp::now()).unwrap();
    let registry = Registry::start_tls(&authority).await;
    registry.put_image("app", Some("1"), &json!({ "Cmd": ["/app"] }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.certificate()).unwrap();
    let trusting = Registries::new(&Options { plain_http_registry: vec![], registry_ca: Some(file) }).unwrap();
    let image = format!("localhost:{}/app:1", registry.address.port());
    assert_eq!(found(ask(&trusting, question(&image)).await).cmd, ["/app"]);

    let strange = reason(ask(&Registries::new(&Options::default()).unwrap(), question(&image)).await);
    let host = image.split('/').next().unwrap();
    assert!(strange.starts_with(&format!("{host} cannot be reached over TLS: invalid peer certificate")), "{strange}");
    assert!(strange.contains("--registry-ca"), "{strange}");
}

#[tokio::test]
async fn what_an_answer_is_asked_as() {
    let registry = Registry::start().await;
    registry.put_image("app", Some("1"), &json!({}));
    found(ask(&registries(&[&registry]), question(&format!("{}/app:1", registry.host()))).await);
    let accept = registry.asked()[0].headers[header::ACCEPT].to_str().unwrap().to_owned();
    assert!(accept.contains(MANIFEST) && accept.contains(DOCKER_INDEX), "{accept}");
}
