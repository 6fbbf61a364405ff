//! `deploy/`: what is installed without kustomize equals what is installed with it, and the names in it are the program's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use leader_agent::names;
use leader_webhook::{
    controller::succession::COST,
    services::slices::{MANAGED_BY, MANAGER},
};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

/// What `kubectl kustomize` makes of a folder, or nothing where there is no kubectl.
fn rendered(folder: &Path) -> Option<String> {
    match Command::new("kubectl").arg("kustomize").arg(folder).output() {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        Ok(output) => panic!("kubectl kustomize {}: {}", folder.display(), String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("left out: kubectl cannot be run ({error})");
            None
        }
    }
}

#[test]
fn the_rendered_file_is_the_base() {
    let Some(rendered) = rendered(&deploy()) else { return };
    let file = deploy().join("install.yaml");
    let committed = fs::read_to_string(&file).unwrap();
    assert!(rendered == committed, "{} is old: kubectl kustomize deploy > deploy/install.yaml", file.display());
}

#[test]
fn an_overlay_that_names_images_changes_both() {
    // kustomize takes a base by a relative path only, and none above the overlay.
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("overlay");
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.canonicalize().unwrap();
    let up = "../".repeat(folder.components().count() - 1);
    let base = format!("{up}{}", deploy().strip_prefix("/").unwrap().display());
    let kustomization = format!(
        "resources: [{base}]\nimages:\n\
         - {{name: ghcr.io/leader-io/leader-agent, newName: mirror.example.com/agent, newTag: '9'}}\n\
         - {{name: ghcr.io/leader-io/leader-webhook, newName: mirror.example.com/webhook, newTag: '9'}}\n"
    );
    fs::write(folder.join("kustomization.yaml"), kustomization).unwrap();
    let Some(rendered) = rendered(&folder) else { return };
    assert!(!rendered.contains("ghcr.io"), "an image was not changed");
    assert_eq!(rendered.matches("image: mirror.example.com/agent:9").count(), 1);
    assert_eq!(rendered.matches("image: mirror.example.com/webhook:9").count(), 1);
    // The injected image is that of this container, so nothing else may name one.
    assert!(!rendered.contains("LEADER_AGENT_IMAGE"));
}

/// A kind that is missing here is stored without election, however plainly its annotations ask for one.
#[test]
fn every_kind_that_makes_pods_meets_webhook_and_policy() {
    let read = |file: &str| fs::read_to_string(deploy().join("base").join(file)).unwrap();
    let kinds = |text: &str| -> BTreeSet<String> {
        let lists = text.lines().filter_map(|line| line.trim().strip_prefix("resources: [")?.strip_suffix(']'));
        lists.flat_map(|list| list.split(", ").map(str::to_owned)).collect()
    };
    let all = [
        "cronjobs",
        "daemonsets",
        "deployments",
        "jobs",
        "pods",
        "replicasets",
        "replicationcontrollers",
        // They make none, and are steered.
        "services",
        "statefulsets",
    ];
    let (webhook, policy) = (read("webhook-configuration.yaml"), read("policy.yaml"));
    assert_eq!(kinds(&webhook), kinds(&policy));
    assert!(kinds(&webhook).iter().eq(all), "{:?}", kinds(&webhook));
    // Controllers must be able to change running pods while the webhook is down.
    let (_, pods) = webhook.split_once("- name: pods.inject.leader.io\n").unwrap();
    let (pods, _) = pods.split_once("- name: services.inject.leader.io\n").unwrap();
    assert!(pods.contains("resources: [pods]\n    operations: [CREATE]\n") && !pods.contains("UPDATE"));
}

/// A policy without a binding judges nothing.
#[test]
fn every_policy_is_bound() {
    for file in ["policy.yaml", "limits.yaml"] {
        let policy = fs::read_to_string(deploy().join("base").join(file)).unwrap();
        let named = |kind: &str| -> BTreeSet<&str> {
            let documents = policy.split("\n---\n").filter(|document| document.contains(&format!("\nkind: {kind}\n")));
            documents.filter_map(|document| document.lines().find_map(|line| line.strip_prefix("  name: "))).collect()
        };
        assert_eq!(named("ValidatingAdmissionPolicy"), named("ValidatingAdmissionPolicyBinding"), "{file}");
        assert_eq!(
            named("ValidatingAdmissionPolicy").len(),
            policy.matches("validationActions: [Deny]").count(),
            "{file}"
        );
    }
}

#[test]
fn the_names_are_the_programs() {
    // Rendered, the text would be folded and quoted anew.
    let read = |file: &str| fs::read_to_string(deploy().join("base").join(file)).unwrap();
    let text = ["webhook-configuration.yaml", "policy.yaml", "limits.yaml", "deployment.yaml"].map(read).concat();
    let expected = [
        format!("k.startsWith('{}')", names::PREFIX),
        format!("k != '{}'", names::INJECTED),
        "path: /inject\n".to_owned(),
        format!("'{}' in object.metadata.annotations", names::ID),
        format!("'{}' in object.metadata.annotations", names::LEADER_ONLY),
        format!("c.name == '{}'", names::INIT_CONTAINER),
        format!("'{}' in c.command", names::AGENT_PATH),
        format!("key == '{COST}'"),
        format!("'{MANAGED_BY}' in oldObject.metadata.labels"),
        format!("oldObject.metadata.labels['{MANAGED_BY}'] == '{MANAGER}'"),
        format!("{MANAGED_BY}: {MANAGER}\n"),
        format!("[{}, --version]", names::AGENT_IMAGE_PATH),
        "containerPort: 10250\n".to_owned(),
        format!("leader-agent:{}\n", env!("CARGO_PKG_VERSION")),
        format!("leader-webhook:{}\n", env!("CARGO_PKG_VERSION")),
    ];
    for part in expected {
        assert!(text.contains(&part), "{part:?} is not in deploy/base");
    }
}
