//! `kubectl leader` as a person runs it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::{Value, json};

const FILE: &str = "\
# licence header
apiVersion: v1
kind: Service   # not touched
metadata: {name: billing}
spec:
  ports:
  - {port:   80}
---
# the app
apiVersion: apps/v1
kind: Deployment
metadata: {name: billing, namespace: shop, annotations: {leader.io/id: billing}}
spec:
  replicas: 2
  selector: {matchLabels: {app: billing}}
  template:
    metadata: {labels: {app: billing}}
    spec:
      containers:
      - name: app
        image: registry.example/billing:1
        command: [/billing]   # the entry point
        args: [\"yes\", \"0644\", \"12:30\"]
      volumes:
      - {name: settings, configMap: {name: settings, defaultMode: 0644}}

# the settings
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  text: |
    ---
    # not a comment
...
";

fn leader(arguments: &[&str], input: &str) -> Output {
    finished(command(arguments), input)
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-leader"));
    command.args(arguments).env_remove("LEADER_AGENT_IMAGE").env("LEADER_OFFLINE", "true");
    command
}

fn finished(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read everything, when its arguments are wrong.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// What a successful run prints.
#[track_caller]
fn printed(arguments: &[&str], input: &str) -> String {
    let output = leader(arguments, input);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output).to_owned()
}

/// What a failed run says; nothing else is printed.
#[track_caller]
fn failed(arguments: &[&str], input: &str) -> String {
    let output = leader(arguments, input);
    assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""), "{}", stderr(&output));
    stderr(&output).to_owned()
}

/// The same Deployment without the annotation.
fn plain() -> String {
    FILE.replace(", annotations: {leader.io/id: billing}", "")
}

fn deployment(json: &str) -> Value {
    let list: Value = serde_json::from_str(json).unwrap();
    list["items"].as_array().unwrap().iter().find(|item| item["kind"] == "Deployment").unwrap().clone()
}

#[test]
fn documents_that_are_not_touched_stay_byte_for_byte() {
    let injected = printed(&["inject", "-f", "-"], FILE);
    let (service, rest) = FILE.split_once("---\n").unwrap();
    let settings = &rest[rest.find("# the settings").unwrap()..];
    assert!(injected.starts_with(&format!("{service}---\n# the app\napiVersion: apps/v1\n")), "{injected}");
    assert!(injected.ends_with(settings), "{injected}");
    assert!(injected.contains("name: leader-agent"), "{injected}");
}

#[test]
fn a_file_without_an_id_is_printed_as_it_is_and_says_so() {
    let output = leader(&["inject", "-f", "-"], &plain());
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), plain().as_str()));
    assert!(stderr(&output).starts_with("Warning: <stdin>: nothing to inject"), "{}", stderr(&output));
}

#[test]
fn what_yaml_1_1_would_take_for_something_else_is_read_and_written_as_kubectl_does() {
    let injected = printed(&["inject", "-f", "-"], FILE);
    for text in ["- \"yes\"\n", "- \"0644\"\n", "- \"12:30\"\n", "defaultMode: 420\n"] {
        assert!(injected.contains(text), "{text} {injected}");
    }
}

#[test]
fn eject_is_the_inverse_and_injecting_twice_changes_nothing() {
    let injected = printed(&["inject", "-f", "-", "--id", "billing"], &plain());
    assert_eq!(printed(&["inject", "-f", "-"], &injected), injected);
    let ejected = printed(&["eject", "-f", "-", "-o", "json"], &injected);
    assert_eq!(ejected, printed(&["eject", "-f", "-", "-o", "json"], &plain()));
    assert_eq!(stdout(&leader(&["inject", "-f", "-", "-o", "diff"], &injected)), "");
}

#[test]
fn options_are_written_as_annotations() {
    let no_command = plain().replace("        command: [/billing]   # the entry point\n", "");
    let arguments = ["inject", "-f", "-", "-o", "json", "--id", "b", "--container", "app", "--command", r#"["/x"]"#];
    let object = deployment(&printed(&arguments, &no_command));
    let annotations = json!({"leader.io/id": "b", "leader.io/container": "app", "leader.io/command": "[\"/x\"]"});
    assert_eq!(object["metadata"]["annotations"], annotations);
    assert_eq!(
        object["spec"]["template"]["spec"]["containers"][0]["command"],
        json!(["/leader/agent", "run", "--", "/x"])
    );
}

#[test]
fn options_that_do_not_fit_the_file_are_refused() {
    let two = format!("{}---\n{}", plain(), plain());
    let error = failed(&["inject", "-f", "-", "--id", "x"], &two);
    assert!(
        error.contains("--id is about one workload") && error.matches("Deployment shop/billing").count() == 2,
        "{error}"
    );
    let error = failed(&["inject", "-f", "-", "--id", "x"], "kind: Service\n");
    assert!(error.contains("the file has none"), "{error}");
    let error = failed(&["inject", "-f", "-", "--container", "app"], &plain());
    assert!(error.contains("or give --id"), "{error}");
    let error = failed(&["inject", "-f", "-", "--id", "other"], FILE);
    assert!(error.contains("leader.io/id: billing, but --id says other"), "{error}");
}

#[test]
fn an_id_on_the_pod_template_stays_there_and_ejecting_takes_it_off() {
    let on_template = plain().replace(
        "metadata: {labels: {app: billing}}",
        "metadata: {labels: {app: billing}, annotations: {leader.io/id: billing}}",
    );
    let output = leader(&["inject", "-f", "-"], &on_template);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), on_template.as_str()), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("Deployment shop/billing: the pod template stays as it is"),
        "{}",
        stderr(&output)
    );
    let ejected = deployment(&printed(&["eject", "-f", "-", "-o", "json"], &on_template));
    assert_eq!(ejected["spec"]["template"]["metadata"], json!({"labels": {"app": "billing"}}));
}

#[test]
fn namespaces_in_which_the_webhook_refuses_are_pointed_out() {
    for namespace in ["kube-system", "leader-system"] {
        let output =
            leader(&["inject", "-f", "-"], &FILE.replace("namespace: shop", &format!("namespace: {namespace}")));
        assert_eq!(output.status.code(), Some(0));
        let warning =
            format!("Deployment {namespace}/billing: the webhook refuses annotated workloads in namespace {namespace}");
        assert!(stderr(&output).contains(&warning), "{}", stderr(&output));
    }
    assert!(!stderr(&leader(&["inject", "-f", "-"], FILE)).contains("refuses"));
}

#[test]
fn annotations_that_are_no_map_are_not_overwritten() {
    for (annotations, place) in [
        ("annotations: 5", "metadata.annotations is not a map"),
        ("annotations: [leader.io/id]", "metadata.annotations is not a map"),
    ] {
        let file = FILE.replace("annotations: {leader.io/id: billing}", annotations);
        let error = failed(&["inject", "-f", "-", "--id", "billing"], &file);
        assert_eq!(error, format!("error: <stdin>:10: Deployment shop/billing: {place}\n"));
    }
    let file =
        FILE.replace("metadata: {name: billing, namespace: shop, annotations: {leader.io/id: billing}}", "metadata: x");
    let error = failed(&["inject", "-f", "-", "--id", "billing"], &file);
    assert!(error.ends_with(": metadata is not a map\n"), "{error}");
    let empty = FILE.replace("annotations: {leader.io/id: billing}", "annotations: null");
    printed(&["inject", "-f", "-", "--id", "billing"], &empty);
}

#[test]
fn the_patch_makes_what_json_prints() {
    let patch: json_patch::Patch =
        serde_json::from_str(&printed(&["inject", "-f", "-", "-o", "patch", "--id", "billing"], &plain())).unwrap();
    let mut patched = deployment(&printed(&["inject", "-f", "-", "-o", "json"], &plain()));
    json_patch::patch(&mut patched, &patch).unwrap();
    assert_eq!(patched, deployment(&printed(&["inject", "-f", "-", "-o", "json", "--id", "billing"], &plain())));
    assert_eq!(printed(&["inject", "-f", "-", "-o", "patch"], &plain()), "[]\n");
}

#[test]
fn a_diff_has_the_exit_codes_of_kubectl_diff_and_no_colour_in_a_pipe() {
    let output = leader(&["inject", "-f", "-", "-o", "diff"], FILE);
    assert_eq!(output.status.code(), Some(1));
    let diff = stdout(&output);
    assert!(diff.starts_with("--- <stdin> (Deployment shop/billing)\n+++ "), "{diff}");
    assert!(diff.contains("\n+        - /leader/agent\n") && !diff.contains('\x1b'), "{diff}");
    // What only is written otherwise is not shown.
    assert!(!diff.contains("\n-"), "{diff}");
    let same = leader(&["inject", "-f", "-", "-o", "diff"], &plain());
    assert_eq!((same.status.code(), stdout(&same)), (Some(0), ""));
    failed(&["inject", "-f", "-", "-o", "diff"], "a: [");
}

#[test]
fn a_file_that_is_not_valid_names_line_and_column() {
    for (text, place) in [
        ("a: 1\n---\nb: [1\nc: 2\n", "<stdin>:4:2: "),
        ("a: 1\n---\nb: 1\n\tc: 2\n", "<stdin>:4:1: "),
        ("a: 1\n--- # two\n\nb: 1\nb: 2\n", "<stdin>:5:1: "),
        ("a: b: c\n", "<stdin>:1:5: "),
        ("---\n# a letter\nDear kubectl\n", "<stdin>:3:1: "),
    ] {
        let error = failed(&["inject", "-f", "-"], text);
        assert!(error.starts_with(&format!("error: {place}")), "{text:?} {error}");
    }
}

#[test]
fn files_are_read_and_named_in_errors() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("inject_cli.yaml");
    std::fs::write(&path, b"a: 1\nb: \"\xc3\xa9\xff\"\n").unwrap();
    let path = path.to_str().unwrap();
    let error = failed(&["inject", "-f", path], "");
    assert_eq!(error, format!("error: {path}:2:6: this is not UTF-8 text\n"));
    std::fs::write(path, FILE).unwrap();
    assert_eq!(printed(&["inject", "-f", path], ""), printed(&["inject", "-f", "-"], FILE));
    let error = failed(&["inject", "-f", "/does/not/exist"], "");
    assert!(error.starts_with("error: /does/not/exist: No such file"), "{error}");
}

#[test]
fn refusals_name_file_line_and_workload_and_all_are_said() {
    let no_command = FILE.replace("        command: [/billing]   # the entry point\n", "");
    let error = failed(&["inject", "-f", "-"], &format!("{no_command}---\n{}", no_command.replace("shop", "stage")));
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("error: <stdin>:10: Deployment shop/billing: container `app`"), "{error}");
    assert!(lines[1].contains("Deployment stage/billing"), "{error}");
}

#[test]
fn warnings_are_written_as_kubectl_writes_them() {
    let output = leader(&["inject", "-f", "-"], FILE);
    for line in stderr(&output).lines() {
        assert!(line.starts_with("Warning: <stdin>:10: Deployment shop/billing: "), "{line}");
    }
    let injected = stdout(&output);
    let ejected = leader(&["eject", "-f", "-"], injected);
    assert!(stderr(&ejected).contains("all 2 replicas run the app at the same time"), "{}", stderr(&ejected));
}

#[test]
fn workloads_in_a_list_are_injected() {
    let object = printed(&["eject", "-f", "-", "-o", "json"], &plain());
    let injected = deployment(&printed(&["inject", "-f", "-", "-o", "json", "--id", "billing"], &object));
    assert_eq!(injected["spec"]["template"]["spec"]["initContainers"][0]["name"], "leader-agent");
}

#[test]
fn lines_that_end_with_carriage_returns_stay_so() {
    let injected = printed(&["inject", "-f", "-"], &FILE.replace('\n', "\r\n"));
    assert_eq!(injected.replace("\r\n", ""), printed(&["inject", "-f", "-"], FILE).replace('\n', ""));
}

#[test]
fn the_agents_image_is_this_versions_or_the_one_asked_for() {
    let of_version = format!("image: ghcr.io/leader-io/leader-agent:{}\n", env!("CARGO_PKG_VERSION"));
    assert!(printed(&["inject", "-f", "-"], FILE).contains(&of_version));
    let arguments = ["inject", "-f", "-", "--agent-image", "mirror.example/agent:1"];
    assert!(printed(&arguments, FILE).contains("image: mirror.example/agent:1\n"));
}

/// An empty folder of this test.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inject_cli").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_folder_is_read_as_kubectl_reads_it() {
    let path = folder("folder");
    fs::create_dir(path.join("inner.yaml")).unwrap();
    for (name, content) in [
        ("c.yml", "---\nkind: Service\n"),
        ("a.json", r#"{"kind": "ConfigMap"}"#),
        ("b.yaml", FILE),
        ("README.md", "[not yaml"),
        ("inner.yaml/d.yaml", "kind: Secret\n"),
        ("e.yaml", "%YAML 1.2\n---\nkind: Role\n"),
    ] {
        fs::write(path.join(name), content).unwrap();
    }
    let output = leader(&["inject", "-f", path.to_str().unwrap()], "");
    let file = printed(&["inject", "-f", "-"], FILE);
    let expected =
        format!("{}\n---\n{file}---\nkind: Service\n...\n%YAML 1.2\n---\nkind: Role\n", r#"{"kind": "ConfigMap"}"#);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), expected.as_str()), "{}", stderr(&output));
    // What was joined is as many documents, and a message names the file that it is about.
    let diff = leader(&["inject", "-f", path.to_str().unwrap(), "-o", "diff"], "");
    assert!(stdout(&diff).starts_with(&format!("--- {}/b.yaml (Deployment", path.display())), "{}", stdout(&diff));
    assert_eq!(printed(&["inject", "-f", "-"], &expected), expected);
    fs::write(path.join("d.yaml"), "a: 1\nb: [\n").unwrap();
    let error = failed(&["inject", "-f", path.to_str().unwrap()], "");
    assert!(error.starts_with(&format!("error: {}/d.yaml:", path.display())), "{error}");

    let empty = folder("empty");
    let error = failed(&["inject", "-f", empty.to_str().unwrap()], "");
    let text = "the folder has no file that ends in .json, .yaml, .yml";
    assert_eq!(error, format!("error: {}: {text}\n", empty.display()));
}

#[test]
fn options_are_about_the_only_workload_of_a_folder() {
    let path = folder("options");
    fs::write(path.join("service.yaml"), "kind: Service\n").unwrap();
    fs::write(path.join("app.yaml"), plain()).unwrap();
    let path = path.to_str().unwrap();
    assert!(printed(&["inject", "-f", path, "--id", "billing"], "").contains("name: leader-agent"));
    let error = failed(&["inject", "-f", path, "--id", "billing", "-k", path], "");
    assert!(error.contains("cannot be used with"), "{error}");
    assert!(failed(&["inject"], "").contains("required"));
}

/// A folder with a program of this name, to be looked up in.
fn program(name: &str, script: &str) -> PathBuf {
    let path = folder(&format!("path-{name}-{}", script.len()));
    fs::write(path.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_kustomization_is_built_by_kubectl_or_kustomize() {
    let source = folder("kustomization");
    fs::write(source.join("built"), FILE).unwrap();
    let source = source.to_str().unwrap();
    let arguments = ["inject", "-k", source];
    let with = |path: &Path| {
        let mut command = command(&arguments);
        // The shell's builtins are all that the scripts use.
        command.env("PATH", path);
        finished(command, "")
    };
    let script = |verb: &str| {
        format!(
            "[ \"$1 $2 $3\" = '{verb} {source} ' ] || exit 9; while IFS= read -r line; do printf '%s\\n' \"$line\"; done < \"$2/built\""
        )
    };
    let injected = printed(&["inject", "-f", "-"], FILE);
    for path in [program("kubectl", &script("kustomize")), program("kustomize", &script("build"))] {
        let output = with(&path);
        assert_eq!(stdout(&output), injected, "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("Warning: {source}:10: Deployment")), "{}", stderr(&output));
    }
    let output = with(&program("kubectl", "echo 'error: no kustomization.yaml' >&2; exit 1"));
    let message = format!("error: `kubectl kustomize {source}` failed: exit status: 1: error: no kustomization.yaml\n");
    assert_eq!((output.status.code(), stderr(&output)), (Some(2), message.as_str()));
    let output = with(&folder("path-empty"));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("neither kubectl nor kustomize is in PATH"), "{}", stderr(&output));
}

#[test]
fn what_is_injected_already_is_printed_byte_for_byte() {
    let injected = printed(&["inject", "-f", "-"], FILE);
    // As a person tidies it up: with comments, another order of keys, another style.
    let tidied = injected
        .replace("replicas: 2\n", "replicas:   2   # two\n")
        .replace("        command:\n", "        # wrapped\n        command:\n");
    assert_ne!(tidied, injected);
    for text in [&injected, &tidied, &injected.replace('\n', "\r\n")] {
        let output = leader(&["inject", "-f", "-"], text);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), text.as_str()), "{}", stderr(&output));
        assert_eq!(stdout(&leader(&["inject", "-f", "-", "-o", "patch"], text)), "[]\n");
    }
    let with_options = printed(&["inject", "-f", "-", "--id", "b", "--container", "app"], &plain());
    assert_eq!(printed(&["inject", "-f", "-", "--id", "b", "--container", "app"], &with_options), with_options);
}

#[test]
fn json_stays_json() {
    let object = deployment(&printed(&["eject", "-f", "-", "-o", "json"], FILE));
    let arguments = ["inject", "-f", "-", "--id", "billing"];
    let expected = deployment(&format!(
        "{{\"items\": [{}]}}",
        printed(&[&arguments[..], &["-o", "json"]].concat(), &object.to_string())
    ));

    // As `kubectl get -o json` indents it.
    let mut indented = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    serde::Serialize::serialize(&object, &mut serde_json::Serializer::with_formatter(&mut indented, formatter))
        .unwrap();
    let indented = String::from_utf8(indented).unwrap() + "\n";
    let injected = printed(&arguments, &indented);
    assert_eq!(serde_json::from_str::<Value>(&injected).unwrap(), expected);
    assert!(injected.contains("\n    \"spec\": {\n        \"replicas\": 2,\n"), "{injected}");
    assert_eq!(printed(&arguments, &injected), injected);
    let untouched = indented.replace("  \"replicas\": 2,", "  \"replicas\" :2,");
    assert_ne!(untouched, indented);
    assert_eq!(printed(&["inject", "-f", "-"], &untouched), untouched);

    let compact = printed(&arguments, &object.to_string());
    assert_eq!((compact.lines().count(), serde_json::from_str::<Value>(&compact).unwrap()), (1, expected.clone()));
    // Among documents in YAML, too, with what only JSON can say: a pair of surrogates.
    let crab = object.to_string().replace("\"/billing\"", r#""/billing","\ud83e\udd80""#);
    let mixed = printed(&arguments, &format!("# first\nkind: Service\n---\n{crab}\n---\nkind: Secret # last\n"));
    assert!(mixed.starts_with("# first\nkind: Service\n---\n{\"apiVersion\":\"apps/v1\","), "{mixed}");
    assert!(mixed.ends_with("}\n---\nkind: Secret # last\n") && mixed.contains("🦀"), "{mixed}");
    // Braces alone make no JSON.
    let flow = format!("{{a: 1}}\n---\n{}", plain());
    assert!(printed(&arguments, &flow).starts_with("{a: 1}\n---\n"));
}

#[test]
fn a_web_address_is_read_through_redirects() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let answer = match line.split(' ').nth(1).unwrap() {
                "/moved" => "302 Found\r\nlocation: /app.yaml\r\ncontent-length: 0\r\n\r\n".to_owned(),
                "/app.yaml" => format!("200 OK\r\ncontent-length: {}\r\n\r\n{FILE}", FILE.len()),
                _ => "404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            };
            while line != "\r\n" {
                line.clear();
                stream.read_line(&mut line).unwrap();
            }
            write!(stream.get_mut(), "HTTP/1.1 {}", answer.replacen("\r\n", "\r\nconnection: close\r\n", 1)).unwrap();
        }
    });
    let url = |path: &str| format!("http://{address}/{path}");
    let output = leader(&["inject", "-f", &url("moved")], "");
    assert_eq!(stdout(&output), printed(&["inject", "-f", "-"], FILE), "{}", stderr(&output));
    assert!(stderr(&output).starts_with(&format!("Warning: {}:10: Deployment", url("moved"))), "{}", stderr(&output));
    let error = failed(&["inject", "-f", &url("nothing")], "");
    assert_eq!(error, format!("error: {}: the server answered 404 Not Found\n", url("nothing")));
    let error = failed(&["inject", "-f", "https://[::/"], "");
    assert!(error.starts_with("error: https://[::/: this is no URL"), "{error}");
}
