//! The agents' tokens expire, or are renewed.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use leader_agent::names;
use leader_tests::Cluster;
use leader_tests::pki::Pki;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use super::trial::parallel;
use super::{Broken, Follow, Row};
use crate::workload::Workload;

/// How long a token is good.
const LIFE: Duration = Duration::from_mins(10);

/// The kubelet stands still, or it would soon put the right token back.
#[test]
fn expired() -> Result<()> {
    Row::new("Token", "the leader's has expired").on_all(|workloads| {
        let cluster = workloads[0].stage.namespace.cluster();
        let kubelet = cluster.pause_server("kubelet")?;
        let broken = Broken::mended_by(|| kubelet.resume());
        let expired = parallel(workloads, |workload| {
            let file = token_file(workload, &workload.leading()?.writer.pod)?;
            let good = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            replace(&file, &expired_token(cluster, &good)?)?;
            Ok(Broken::mended_by(move || replace(&file, &good)))
        });
        expired.into_iter().try_fold(broken, |broken, expired| Ok(broken.and(expired?)))
    })
}

/// By the kubelet, as ever: after this time every first token is worthless.
#[test]
fn renewed() -> Result<()> {
    let lasting = Follow::Lasting(LIFE + Duration::from_secs(30));
    Row::new("Token", "renewed by the kubelet, the old one expires").follow(lasting).at_once(20).on_all(|workloads| {
        let known = parallel(workloads, |workload| {
            let file = token_file(workload, &workload.leading()?.writer.pod)?;
            let token = fs::read_to_string(&file)?;
            Ok((file, token))
        });
        let known = known.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Broken::mended_by(move || {
            for (file, token) in known {
                ensure!(fs::read_to_string(&file)? != token, "{} was not renewed", file.display());
            }
            Ok(())
        }))
    })
}

/// The token of a pod's agent, as it lies on the node.
fn token_file(workload: &Workload<'_>, pod: &str) -> Result<PathBuf> {
    let namespace = &workload.stage.namespace;
    let object = namespace.get(&["pod", pod])?;
    let uid = object["metadata"]["uid"].as_str().context("a pod without a uid")?;
    let volumes = namespace.cluster().state().path("kubelet/pods").join(uid).join("volumes/kubernetes.io~projected");
    Ok(volumes.join(names::TOKEN_VOLUME).join("token"))
}

/// Puts a token in a file's place, whole at any moment, with the same owner and rights.
fn replace(file: &Path, token: &str) -> Result<()> {
    let real = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
    let (metadata, new) = (fs::metadata(&real)?, real.with_extension("new"));
    fs::write(&new, token)?;
    chown(&new, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(&new, Permissions::from_mode(metadata.mode()))?;
    fs::rename(&new, &real).with_context(|| format!("cannot replace {}", real.display()))
}

/// The same token, good until an hour ago, with the API server's own signature.
fn expired_token(cluster: &Cluster, token: &str) -> Result<String> {
    let key = fs::read_to_string(Pki::of(cluster.state()).key("service-account"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    signed(token, &KeyPair::from_pem(&key)?, |claims| {
        let until = now - 3600;
        claims["exp"] = json!(until);
        claims["iat"] = json!(until - LIFE.as_secs());
        claims["nbf"] = claims["iat"].clone();
    })
}

/// A token with other claims, signed anew (RFC 7515, ES256).
fn signed(token: &str, key: &KeyPair, change: impl FnOnce(&mut Value)) -> Result<String> {
    let mut parts = token.trim().split('.');
    let (header, claims) = (parts.next().context("an empty token")?, parts.next().context("a token without claims")?);
    let mut claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims)?)?;
    change(&mut claims);
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = fixed(&key.sign(signed.as_bytes())?).context("no signature of a P-256 key")?;
    Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// The two numbers of a signature with 32 bytes each (RFC 7518, section 3.4), from their ASN.1 form.
fn fixed(signature: &[u8]) -> Option<[u8; 64]> {
    let [0x30, _, rest @ ..] = signature else { return None };
    let mut both = [0; 64];
    let mut rest = rest;
    for half in both.chunks_exact_mut(32) {
        let [0x02, length, after @ ..] = rest else { return None };
        let (number, after) = after.split_at_checked(usize::from(*length))?;
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        half.get_mut(32usize.checked_sub(number.len())?..)?.copy_from_slice(number);
        rest = after;
    }
    rest.is_empty().then_some(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_two_numbers_of_32_bytes() {
        // The first has a zero in front, so as not to be negative; the second is shorter than 32 bytes.
        let mut der = vec![0x30, 33 + 2 + 31 + 2, 0x02, 33, 0];
        der.extend([0xff; 32]);
        der.extend([0x02, 31]);
        der.extend([0x11; 31]);
        let both = fixed(&der).unwrap();
        assert_eq!((&both[..32], both[32], &both[33..]), (&[0xff; 32][..], 0, &[0x11; 31][..]));
        assert_eq!(fixed(&der[..der.len() - 1]), None);
        assert_eq!(fixed(b""), None);
    }

    #[test]
    fn a_token_is_signed_with_what_was_changed() {
        let key = KeyPair::generate().unwrap();
        let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!("{}.{}.c2ln", encode(json!({"alg": "ES256"})), encode(json!({"exp": 9, "sub": "me"})));
        let other = signed(&token, &key, |claims| claims["exp"] = json!(1)).unwrap();
        let parts: Vec<_> = other.split('.').collect();
        let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims, json!({"exp": 1, "sub": "me"}));
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
    }
}
