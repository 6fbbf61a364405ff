//! Manifests of this checkout with the image names of a cluster's registry, and told how its registries are reached: changed by
//! kustomize, and by nothing else.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use leader_tests::Cluster;
use leader_tests::pki::Pki;
use serde_json::json;

use crate::images::{References, checkout};

/// The registry and folder of the images' names in the manifests.
const PUBLISHED: &str = "ghcr.io/leader-io";

/// Where the webhook finds the certificate of the private registries' authority.
const AUTHORITY_FOLDER: &str = "/registry-authority";
const AUTHORITY_FILE: &str = "ca.crt";

/// Writes a kustomization on top of `base`, a folder of the checkout, into the cluster's state folder, for
/// `kubectl apply -k`; gives its folder.
pub(crate) fn write(cluster: &Cluster, base: &str, references: &References) -> Result<PathBuf> {
    write_with(cluster, base, references, "")
}

/// As [`write()`] with `deploy/`, and the webhook asks the cluster's registries as they want to be asked: the cluster's own
/// without TLS, private ones with their authority's certificate.
pub(crate) fn write_deploy(cluster: &Cluster, references: &References) -> Result<PathBuf> {
    let folder = write_with(cluster, "deploy", references, &registries(&cluster.registry()))?;
    let authority = Pki::of(cluster.state()).registry_authority();
    fs::copy(&authority, folder.join(AUTHORITY_FILE))
        .with_context(|| format!("cannot copy {}", authority.display()))?;
    Ok(folder)
}

fn write_with(cluster: &Cluster, base: &str, references: &References, more: &str) -> Result<PathBuf> {
    let folder = cluster.state().path("overlays").join(base.replace('/', "-"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let real = |path: &Path| path.canonicalize().with_context(|| format!("cannot read {}", path.display()));
    let base = relative(&real(&folder)?, &real(&checkout().join(base))?);
    let file = folder.join("kustomization.yaml");
    let content = kustomization(&base, references) + more;
    fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(folder)
}

/// What the webhook is told of registries. The patch is JSON, which is YAML too.
fn registries(plain: &str) -> String {
    let environment = json!([
        {"name": "LEADER_WEBHOOK_PLAIN_HTTP_REGISTRIES", "value": plain},
        {"name": "LEADER_WEBHOOK_REGISTRY_CA", "value": format!("{AUTHORITY_FOLDER}/{AUTHORITY_FILE}")},
    ]);
    let mounts = json!([{"name": "registry-authority", "mountPath": AUTHORITY_FOLDER, "readOnly": true}]);
    let patch = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "leader-webhook", "namespace": "leader-system"},
        "spec": {"template": {"spec": {
            "containers": [{"name": "webhook", "env": environment, "volumeMounts": mounts}],
            "volumes": [{"name": "registry-authority", "configMap": {"name": "registry-authority"}}],
        }}},
    });
    format!(
        "configMapGenerator:\n- name: registry-authority\n  namespace: leader-system\n  files: [{AUTHORITY_FILE}]\n\
         patches:\n- patch: '{patch}'\n"
    )
}

fn kustomization(base: &Path, references: &References) -> String {
    let images = references.iter().map(|(name, reference)| {
        // A registry's port has a colon, too: the tag comes after the last one.
        let (new_name, new_tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
        format!("- name: {PUBLISHED}/{name}\n  newName: {new_name}\n  newTag: {new_tag}\n")
    });
    let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n";
    format!("{head}- {}\nimages:\n{}", base.display(), images.collect::<Vec<_>>().concat())
}

/// The way from one folder to another, both absolute and without links: kustomize takes no absolute paths.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (mut from, mut to) = (from.components().peekable(), to.components().peekable());
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    from.map(|_| Component::ParentDir).chain(to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_goes_up_and_down() {
        assert_eq!(relative(Path::new("/a/b/c"), Path::new("/a/d")), Path::new("../../d"));
        assert_eq!(relative(Path::new("/a"), Path::new("/a/d/e")), Path::new("d/e"));
    }

    #[test]
    fn every_image_gets_its_name_and_tag() {
        let references = References::from([("leader-agent".to_owned(), "10.10.0.1:5000/leader-agent:abc".to_owned())]);
        let text = kustomization(Path::new("../deploy"), &references);
        let expected = "resources:\n- ../deploy\nimages:\n- name: ghcr.io/leader-io/leader-agent\n  \
            newName: 10.10.0.1:5000/leader-agent\n  newTag: abc\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn the_webhook_is_told_of_registries_in_a_patch_of_one_line() {
        let text = registries("10.10.0.1:5000");
        let patch = text.lines().find_map(|line| line.strip_prefix("- patch: '")?.strip_suffix('\'')).unwrap();
        let patch: serde_json::Value = serde_json::from_str(patch).unwrap();
        let container = &patch["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["env"][0]["value"], "10.10.0.1:5000");
        assert_eq!(container["env"][1]["value"], "/registry-authority/ca.crt");
    }
}
