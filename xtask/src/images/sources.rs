//! A key of what an image is built from: equal sources need no build.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A key of the files under `roots` of the checkout, of their paths, and of `builder`.
pub(super) fn key<'a>(checkout: &Path, roots: impl Iterator<Item = &'a str>, builder: &str) -> Result<String> {
    let mut hash = Sha256::new();
    add(&mut hash, builder.as_bytes());
    for root in roots {
        add_path(&mut hash, checkout, Path::new(root))?;
    }
    Ok(short(hash))
}

/// The digest as far as it is needed to tell contents apart.
pub(super) fn short(hash: Sha256) -> String {
    let number = hash.finalize().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:016x}")
}

/// Adds a part; its length keeps the border between two parts from moving.
pub(super) fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update(part.len().to_le_bytes());
    hash.update(part);
}

fn add_path(hash: &mut Sha256, checkout: &Path, relative: &Path) -> Result<()> {
    let path = checkout.join(relative);
    let context = || format!("cannot read {}", path.display());
    if fs::metadata(&path).with_context(context)?.is_dir() {
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).with_context(context)? {
            names.push(entry.with_context(context)?.file_name());
        }
        names.sort();
        for name in names {
            add_path(hash, checkout, &relative.join(name))?;
        }
    } else {
        add(hash, relative.as_os_str().as_encoded_bytes());
        add(hash, &fs::read(&path).with_context(context)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_follows_content_names_and_builder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("a")).unwrap();
        fs::write(path.join("a/one"), "1").unwrap();
        let now = |builder: &str| key(path, ["a"].into_iter(), builder).unwrap();
        let first = now("b");
        assert_eq!(now("b"), first);
        assert_ne!(now("c"), first);
        fs::write(path.join("a/one"), "2").unwrap();
        let changed = now("b");
        assert_ne!(changed, first);
        fs::rename(path.join("a/one"), path.join("a/two")).unwrap();
        assert_ne!(now("b"), changed);
        assert!(key(path, ["missing"].into_iter(), "b").unwrap_err().to_string().contains("missing"));
    }
}
