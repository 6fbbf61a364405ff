//! `kubectl leader inject` as a person runs it, on a workload whose entry point is in its image.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::server::Registry;

fn deployment(image: &str) -> String {
    let template = json!({ "metadata": { "labels": { "app": "billing" } },
        "spec": { "containers": [{ "name": "app", "image": image }] } });
    let metadata = json!({ "name": "billing", "namespace": "shop", "annotations": { "leader.io/id": "billing" } });
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {
        "replicas": 2, "selector": { "matchLabels": { "app": "billing" } }, "template": template } })
    .to_string()
}

/// Runs beside the registry, which is in this process.
async fn leader(arguments: &[&str], image: &str, docker: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-leader"));
    command.args(["inject", "-f", "-", "-o", "json"]).args(arguments).env("DOCKER_CONFIG", docker);
    command.env_remove("LEADER_OFFLINE").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let text = deployment(image);
    let run = move || {
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn words(output: &Output) -> (Value, Value) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let printed = if printed["kind"] == "List" { printed["items"][0].clone() } else { printed };
    let container = &printed["spec"]["template"]["spec"]["containers"][0];
    (container["command"].clone(), container["args"].clone())
}

fn failure(output: &Output) -> &str {
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]));
    std::str::from_utf8(&output.stderr).unwrap()
}

#[tokio::test]
async fn entry_points_come_from_the_registry() {
    let registry = Registry::start().await;
    registry.put_image("team/app", Some("1"), &json!({ "Entrypoint": ["/app"], "Cmd": ["serve"] }));
    registry.require_token("Basic dXNlcjpwYXNzd29yZA==");
    let (host, docker) = (registry.host(), tempfile::tempdir().unwrap());
    let image = format!("{host}/team/app:1");
    let write = |config: Value| std::fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    let plain = ["--plain-http-registry", &host];

    // Without a file there are no credentials, which is no error of its own.
    let denied = leader(&plain, &image, docker.path()).await;
    assert!(failure(&denied).contains("tried without credentials"), "{denied:?}");

    write(json!({ "auths": { host.clone(): { "auth": "dXNlcjpwYXNzd29yZA==" } } }));
    let injected = leader(&plain, &image, docker.path()).await;
    let command = json!(["/leader/agent", "run", "--", "/app"]);
    assert_eq!(words(&injected), (command, json!(["serve"])));

    write(json!({ "auths": { host.clone(): {} }, "credsStore": "desktop" }));
    let helped = leader(&plain, &image, docker.path()).await;
    assert!(failure(&helped).contains("the helper docker-credential-desktop, which is not supported"), "{helped:?}");
    write(json!({ "credHelpers": { host.clone(): "ecr" } }));
    let helped = leader(&plain, &image, docker.path()).await;
    assert!(failure(&helped).contains("docker-credential-ecr"), "{helped:?}");
}

#[tokio::test]
async fn which_platform_is_asked_for() {
    let registry = Registry::start().await;
    let put = |word: &str| registry.put_image("app", None, &json!({ "Entrypoint": [word] }));
    let variants = [("linux/amd64", put("/amd")), ("linux/arm64", put("/arm"))];
    registry.put_index("app", "1", &variants);
    let (host, docker) = (registry.host(), tempfile::tempdir().unwrap());
    let image = format!("{host}/app:1");
    let plain = ["--plain-http-registry", &host];
    let all = leader(&plain, &image, docker.path()).await;
    assert!(failure(&all).contains("linux/amd64 and linux/arm64 differ"), "{all:?}");
    let one = leader(&[&plain[..], &["--platform", "linux/arm64"]].concat(), &image, docker.path()).await;
    assert_eq!(words(&one).0, json!(["/leader/agent", "run", "--", "/arm"]));
    let wrong = leader(&[&plain[..], &["--platform", "arm64"]].concat(), &image, docker.path()).await;
    assert!(failure(&wrong).contains("expected OS/ARCHITECTURE"), "{wrong:?}");
}

#[tokio::test]
async fn offline_nobody_is_asked() {
    let registry = Registry::start().await;
    let docker = tempfile::tempdir().unwrap();
    let image = format!("{}/app:1", registry.host());
    let output = leader(&["--offline"], &image, docker.path()).await;
    let said = failure(&output);
    assert!(said.contains(&image) && said.contains("leader.io/command"), "{said}");
    assert_eq!(registry.asked().len(), 0);

    let options = leader(&["--registry-ca", "/nowhere/ca.pem"], &image, docker.path()).await;
    assert!(failure(&options).contains("/nowhere/ca.pem"), "{options:?}");
}
