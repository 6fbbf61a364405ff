//! What a registry says about an image: indexes, manifests and configurations, Docker's and OCI's.
//!
//! Only what is needed is read, as containerd does; the rest may be as it likes. Formats:
//! <https://github.com/opencontainers/image-spec/tree/v1.1.0> and
//! <https://distribution.github.io/distribution/spec/manifest-v2-2/>.

use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};

use super::{
    failure::{Failure, place, shown},
    platform::{Platform, Platforms, list},
};
use crate::inject::ImageFacts;

/// What manifests are asked for as.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const IMAGES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// The longest manifest that registries have to take:
/// <https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pushing-manifests>.
pub(super) const LONGEST_MANIFEST: usize = 4 * 1024 * 1024;
/// The same for the configuration, which has a history line for each layer.
pub(super) const LONGEST_CONFIG: usize = 4 * 1024 * 1024;
/// How many variants of an image are compared. Docker's official images have at most ten.
const MOST_VARIANTS: usize = 32;

/// A manifest, of one image or of its variants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    Index(Vec<Variant>),
    /// The digest of the configuration.
    Image(String),
}

/// An image in an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) digest: String,
    /// Absent where the index does not say.
    pub(super) platform: Option<Platform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Configuration {
    config: Option<Settings>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Settings {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    stop_signal: Option<String>,
}

/// The digest of `body` in the algorithm of `like`, or else in SHA-256.
pub(super) fn digest(body: &[u8], like: Option<&str>) -> String {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    match like {
        Some(like) if like.starts_with("sha512:") => format!("sha512:{}", hex(&Sha512::digest(body))),
        _ => format!("sha256:{}", hex(&Sha256::digest(body))),
    }
}

/// Checks that `body` is what was asked for.
pub(super) fn verify(host: &str, what: &'static str, body: &[u8], expected: &str) -> Result<(), Failure> {
    let found = digest(body, Some(expected));
    if found == expected {
        return Ok(());
    }
    Err(Failure::Digest { host: host.to_owned(), what, expected: shown(expected), found })
}

/// Reads a manifest; `media` is the `Content-Type` that it came with.
pub(super) fn parse(host: &str, body: &[u8], media: Option<&str>) -> Result<Manifest, Failure> {
    let what = "manifest";
    let garbage = |reason: String| Failure::Garbage { host: host.to_owned(), what, reason };
    let unknown = |media: &str| Failure::MediaType { host: host.to_owned(), what, media: shown(media) };
    let document: Document = serde_json::from_slice(body).map_err(|error| {
        // The type says more about what is no JSON object of ours, a page of a login form, say.
        let known = media.is_none_or(|media| media.contains("json"));
        if known { garbage(place(&error)) } else { unknown(media.unwrap_or_default()) }
    })?;
    let media =
        document.media_type.as_deref().or(media.map(|media| media.split(';').next().unwrap_or_default().trim()));
    let media = media.unwrap_or_default();
    // One that can be read as both would be another image for another program (CVE-2021-41190).
    let is_index = document.manifests.is_some();
    if is_index && (document.config.is_some() || document.layers.is_some()) {
        return Err(garbage("it is an index and an image at once".to_owned()));
    }
    if INDEXES.contains(&media) {
        let entries = document.manifests.ok_or_else(|| garbage("it is an index without manifests".to_owned()))?;
        let is_image = |entry: &Descriptor| entry.media_type.as_deref().is_none_or(|media| IMAGES.contains(&media));
        let variants = entries.into_iter().filter(is_image);
        return Ok(Manifest::Index(
            variants.map(|entry| Variant { digest: entry.digest, platform: entry.platform }).collect(),
        ));
    }
    if !IMAGES.contains(&media) {
        return Err(unknown(if media.is_empty() { "(none)" } else { media }));
    }
    let config = document.config.ok_or_else(|| garbage("it has no config".to_owned()))?;
    match config.media_type.as_deref() {
        Some(media) if CONFIGS.contains(&media) => Ok(Manifest::Image(config.digest)),
        other => {
            let media = shown(other.unwrap_or("(none)"));
            Err(Failure::MediaType { host: host.to_owned(), what: "configuration", media })
        }
    }
}

/// The variants that pods on `platforms` may get: those that say so, or where none does, those that say nothing. What an index has
/// beside images, attestations say, is for no platform of nodes.
pub(super) fn pick(variants: &[Variant], platforms: &Platforms) -> Result<Vec<Variant>, Failure> {
    let of = |wanted: &dyn Fn(Option<&Platform>) -> bool| -> Vec<Variant> {
        let mut found: Vec<Variant> = Vec::new();
        for variant in variants.iter().filter(|variant| wanted(variant.platform.as_ref())) {
            if !found.iter().any(|other| other.digest == variant.digest) {
                found.push(variant.clone());
            }
        }
        found.truncate(MOST_VARIANTS);
        found
    };
    let mut picked = of(&|platform| platform.is_some_and(|platform| platforms.contain(platform)));
    if picked.is_empty() {
        picked = of(&|platform| platform.is_none());
    }
    if picked.is_empty() {
        let named = variants.iter().filter_map(|variant| variant.platform.as_ref());
        let found = list(named.filter(|platform| platform.os != "unknown"));
        return Err(Failure::Platform { wanted: platforms.to_string(), found });
    }
    Ok(picked)
}

/// Reads a configuration. The digest is that of the image that the facts are about.
pub(super) fn facts(host: &str, body: &[u8], digest: String) -> Result<ImageFacts, Failure> {
    let garbage = |reason| Failure::Garbage { host: host.to_owned(), what: "configuration", reason };
    let configuration: Configuration = serde_json::from_slice(body).map_err(|error| garbage(place(&error)))?;
    let settings = configuration.config.unwrap_or_default();
    Ok(ImageFacts {
        digest,
        entrypoint: settings.entrypoint.unwrap_or_default(),
        cmd: settings.cmd.unwrap_or_default(),
        stop_signal: settings.stop_signal.filter(|signal| !signal.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn read(document: &Value, media: Option<&str>) -> Result<Manifest, String> {
        parse("quay.io", document.to_string().as_bytes(), media).map_err(|failure| failure.to_string())
    }

    fn image(config: &str) -> Value {
        json!({ "schemaVersion": 2, "config": { "mediaType": config, "digest": "sha256:c" }, "layers": [] })
    }

    #[test]
    fn manifests_of_both_makes() {
        let found = Ok(Manifest::Image("sha256:c".to_owned()));
        for (media, config) in IMAGES.into_iter().zip(CONFIGS) {
            let mut document = image(config);
            assert_eq!(read(&document, Some(&format!("{media}; charset=utf-8"))), found);
            document["mediaType"] = json!(media);
            assert_eq!(read(&document, Some("application/json")), found, "the document knows best");
            assert_eq!(read(&document, None), found);
        }
        for media in INDEXES {
            let document = json!({ "mediaType": media, "manifests": [
                { "mediaType": OCI, "digest": "sha256:a", "platform": { "os": "linux", "architecture": "amd64" } },
                { "mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:n" },
                { "digest": "sha256:b" },
            ] });
            let platform = Some("linux/amd64".parse().unwrap());
            let variants = vec![
                Variant { digest: "sha256:a".to_owned(), platform },
                Variant { digest: "sha256:b".to_owned(), platform: None },
            ];
            assert_eq!(read(&document, None), Ok(Manifest::Index(variants)));
        }
    }

    #[test]
    fn what_is_no_image() {
        let both = json!({ "mediaType": OCI, "manifests": [], "config": { "digest": "sha256:c" } });
        let chart = image("application/vnd.cncf.helm.config.v1+json");
        for (document, media, part) in [
            (
                json!({ "schemaVersion": 1 }),
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
                "v1+prettyjws",
            ),
            (json!({}), None, "(none)"),
            (both, None, "an index and an image at once"),
            (chart, Some(OCI), "configuration of the type application/vnd.cncf.helm.config.v1+json"),
            (json!({ "mediaType": OCI }), None, "no config"),
            (json!({ "mediaType": OCI_INDEX }), None, "without manifests"),
            (json!({ "mediaType": OCI, "config": { "mediaType": 7, "digest": "x" } }), None, "of another type"),
            (json!([]), Some(OCI), "cannot be read"),
        ] {
            let reason = read(&document, media).unwrap_err();
            assert!(reason.contains(part) && reason.contains("quay.io"), "{reason}");
        }
        let page = parse("quay.io", b"<html>", Some("text/html")).unwrap_err().to_string();
        assert!(page.contains("text/html"), "{page}");
    }

    #[test]
    fn which_variants_are_picked() {
        let variant = |digest: &str, platform: Option<&str>| Variant {
            digest: digest.to_owned(),
            platform: platform.map(|platform| platform.parse().unwrap()),
        };
        let all = vec![
            variant("a", Some("linux/amd64")),
            variant("b", Some("linux/arm64")),
            variant("b", Some("linux/arm64")),
            variant("w", Some("windows/amd64")),
            variant("x", Some("unknown/unknown")),
            variant("n", None),
        ];
        let picked = |variants: &[Variant], platforms: &Platforms| {
            let picked = pick(variants, platforms).map_err(|failure| failure.to_string())?;
            Ok::<String, String>(picked.iter().map(|variant| variant.digest.as_str()).collect())
        };
        let these = |names: &[&str]| Platforms::These(names.iter().map(|name| name.parse().unwrap()).collect());
        assert_eq!(picked(&all, &Platforms::Linux), Ok("ab".to_owned()));
        assert_eq!(picked(&all, &these(&["linux/arm64"])), Ok("b".to_owned()));
        assert_eq!(picked(&all, &these(&["linux/arm64", "linux/s390x"])), Ok("b".to_owned()));
        assert_eq!(picked(&all, &these(&["linux/s390x"])), Ok("n".to_owned()));
        let reason = picked(&all[..5], &these(&["linux/s390x"])).unwrap_err();
        assert_eq!(reason, "it has no variant for linux/s390x, only for linux/amd64, linux/arm64, windows/amd64");
        assert!(picked(&[], &Platforms::Linux).unwrap_err().contains("only for none that is named"));
    }

    #[test]
    fn digests_are_checked_in_their_own_algorithm() {
        // Of the empty text: FIPS 180-2's well-known values.
        let short = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b"", None), short);
        assert_eq!(verify("quay.io", "manifest", b"", short), Ok(()));
        let long = digest(b"", Some("sha512:"));
        assert!(long.starts_with("sha512:cf83e1357eefb8bd") && long.len() == 135);
        assert_eq!(verify("quay.io", "manifest", b"", &long), Ok(()));
        let reason = verify("quay.io", "manifest", b"x", short).unwrap_err().to_string();
        assert!(reason.starts_with("quay.io gave a manifest with the digest sha256:2d711642"), "{reason}");
    }

    #[test]
    fn what_a_configuration_says() {
        let read = |document: Value| facts("quay.io", document.to_string().as_bytes(), "sha256:d".to_owned());
        let full = json!({ "os": "linux", "config": { "Entrypoint": ["/a"], "Cmd": ["b", "c"], "StopSignal": "SIGQUIT", "Env": [] } });
        let found = read(full).unwrap();
        assert_eq!((found.digest.as_str(), found.stop_signal.as_deref()), ("sha256:d", Some("SIGQUIT")));
        assert_eq!((found.entrypoint, found.cmd), (vec!["/a".to_owned()], vec!["b".to_owned(), "c".to_owned()]));
        for bare in [
            json!({}),
            json!({ "config": null }),
            json!({ "config": { "Entrypoint": null, "Cmd": [], "StopSignal": "" } }),
        ] {
            let found = read(bare).unwrap();
            assert_eq!((found.entrypoint.len(), found.cmd.len(), found.stop_signal), (0, 0, None));
        }
        let wrong = read(json!({ "config": { "Entrypoint": "/a" } })).unwrap_err().to_string();
        assert!(wrong.contains("configuration that cannot be read") && !wrong.contains("/a"), "{wrong}");
    }
}
