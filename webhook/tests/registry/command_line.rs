//! `kubectl leader inject` as a person runs it, on a workload whose entry point is in its image.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

use leader_certs::authority::Authority;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

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
    leader_in(&[], arguments, image, docker).await
}

/// The same with variables set.
async fn leader_in(variables: &[(&str, &str)], arguments: &[&str], image: &str, docker: &Path) -> Output {
    leader_on(deployment(image), variables, arguments, docker).await
}

async fn leader_on(text: String, variables: &[(&str, &str)], arguments: &[&str], docker: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-leader"));
    command.args(["inject", "-f", "-", "-o", "json"]).args(arguments).env("DOCKER_CONFIG", docker);
    for name in ["LEADER_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        // It may end before it has read everything, when its arguments are wrong.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes());
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

    // One after the other, from the same registry.
    registry.put_image("team/other", Some("1"), &json!({ "Entrypoint": ["/other"] }));
    let list = format!("{}\n---\n{}", deployment(&image), deployment(&format!("{host}/team/other:1")));
    let both = leader_on(list, &[], &plain, docker.path()).await;
    let printed = String::from_utf8(both.stdout).unwrap();
    assert!(printed.contains("\"/app\"") && printed.contains("\"/other\""), "{printed}");

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

/// A proxy that lets through what comes with this authorization, and tells for whom it was asked.
async fn proxy(to: SocketAddr) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            sender.send(String::from_utf8(head).unwrap()).unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            tokio::spawn(async move { drop(copy_bidirectional(&mut client, &mut server).await) });
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn proxies_are_used_as_the_variables_say() {
    let authority = Authority::generate(jiff::Timestamp::now()).unwrap();
    let registry = Registry::start_tls(&authority).await;
    registry.put_image("app", Some("1"), &json!({ "Entrypoint": ["/app"] }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, authority.certificate()).unwrap();
    let (address, mut asked) = proxy(registry.address).await;
    let image = format!("localhost:{}/app:1", registry.address.port());
    let trusting = ["--registry-ca", file.to_str().unwrap()];
    let through = format!("http://user:password@{address}");
    let output = leader_in(&[("HTTPS_PROXY", &through)], &trusting, &image, folder.path()).await;
    assert_eq!(words(&output).0, json!(["/leader/agent", "run", "--", "/app"]));
    let head = asked.try_recv().unwrap();
    assert!(head.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", registry.address.port())), "{head}");
    assert!(head.contains("Basic dXNlcjpwYXNzd29yZA=="), "{head}");

    let variables = [("HTTPS_PROXY", through.as_str()), ("NO_PROXY", "localhost")];
    words(&leader_in(&variables, &trusting, &image, folder.path()).await);
    let nobody = leader_in(&[("HTTPS_PROXY", "http://127.0.0.1:1")], &trusting, &image, folder.path()).await;
    assert!(failure(&nobody).contains("through the proxy: Connection refused"), "{nobody:?}");
    let odd = leader_in(&[("HTTPS_PROXY", "https://127.0.0.1:1")], &trusting, &image, folder.path()).await;
    assert!(failure(&odd).contains("a proxy that speaks https is not supported"), "{odd:?}");
    assert!(asked.try_recv().is_err(), "NO_PROXY is not heeded");
}
