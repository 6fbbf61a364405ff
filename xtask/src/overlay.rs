//! Manifests of this checkout with the image names of a cluster's registry: changed by kustomize, and by nothing else.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use leader_tests::Cluster;

use crate::images::{References, checkout};

/// The registry and folder of the images' names in the manifests.
const PUBLISHED: &str = "ghcr.io/leader-io";

/// Writes a kustomization on top of `base`, a folder of the checkout, into the cluster's state folder, for
/// `kubectl apply -k`; gives its folder.
pub(crate) fn write(cluster: &Cluster, base: &str, references: &References) -> Result<PathBuf> {
    let folder = cluster.state().path("overlays").join(base.replace('/', "-"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let real = |path: &Path| path.canonicalize().with_context(|| format!("cannot read {}", path.display()));
    let base = relative(&real(&folder)?, &real(&checkout().join(base))?);
    let file = folder.join("kustomization.yaml");
    fs::write(&file, kustomization(&base, references)).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(folder)
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
}
