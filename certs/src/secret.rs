//! The Secret that holds the authorities: its form, read and written.
//!
//! The form is that of `kubernetes.io/tls`, `tls.crt` and `tls.key` as PEM, for the authority that signs: that part is what versions
//! before this one know. Beside it stand `next.crt` and `next.key`, of the authority that is to follow, and `retired.json`, the
//! certificates that no longer sign and are still to be trusted. What follows from it is decided by [`crate::rotation`], the requests
//! are [`crate::keeper`]'s.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Value, json};

use crate::{
    anchor::Anchor,
    authority::{Authority, AuthorityError},
    rotation::{Content, Retired},
};

const TYPE: &str = "kubernetes.io/tls";
/// The certificate of the authority that signs.
pub const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub const KEY: &str = "tls.key";
/// The certificate of the authority that is to sign next.
pub const NEXT_CERTIFICATE: &str = "next.crt";
/// Its key.
pub const NEXT_KEY: &str = "next.key";
/// The certificates of those that signed before, each with the moment until which it is to be trusted.
pub const RETIRED: &str = "retired.json";

/// What was found in the cluster.
#[derive(Debug)]
pub enum Found {
    /// There is no Secret.
    Nothing,
    /// There is one, without an authority that can sign.
    Unusable(Unusable),
    /// There is one that can be used.
    Content {
        /// What can be used of it.
        content: Content,
        /// Why the rest of it cannot.
        damage: Option<Unusable>,
    },
}

/// Why a Secret's content cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A key is missing, or is not text.
    #[error("its key `{0}` is missing or is not text")]
    Missing(&'static str),
    /// The keys are there, what they say is not usable.
    #[error("`{0}`: {1}")]
    Authority(&'static str, AuthorityError),
    /// What was retired cannot be read.
    #[error("`{RETIRED}` is not a list of certificates, each with the moment until which it is trusted")]
    Retired,
}

/// Reads the Secret.
pub fn read(secret: Option<&Secret>) -> Found {
    let Some(secret) = secret else { return Found::Nothing };
    let has = |key: &str| secret.data.as_ref().is_some_and(|data| data.contains_key(key));
    let text = |key: &'static str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(Unusable::Missing(key))?;
        str::from_utf8(&value.0).map_err(|_| Unusable::Missing(key))
    };
    let authority = |certificate: &'static str, key: &'static str| {
        let authority = Authority::from_pem(text(certificate)?, text(key)?);
        authority.map(Arc::new).map_err(|error| Unusable::Authority(certificate, error))
    };
    let signing = match authority(CERTIFICATE, KEY) {
        Ok(signing) => signing,
        Err(reason) => return Found::Unusable(reason),
    };
    let mut damage = None;
    let mut next = None;
    if has(NEXT_CERTIFICATE) || has(NEXT_KEY) {
        next = authority(NEXT_CERTIFICATE, NEXT_KEY).map_err(|reason| damage = Some(reason)).ok();
    }
    let mut retired = Vec::new();
    if has(RETIRED) {
        let read = text(RETIRED).and_then(|text| retired_from(text).ok_or(Unusable::Retired));
        retired = read.map_err(|reason| damage = Some(reason)).unwrap_or_default();
    }
    Found::Content { content: Content { signing, next, retired }, damage }
}

fn retired_from(text: &str) -> Option<Vec<Retired>> {
    let values: Vec<Value> = serde_json::from_str(text).ok()?;
    let one = |value: &Value| {
        let anchor = Anchor::from_pem(value["certificate"].as_str()?).ok()?;
        let until: Timestamp = value["until"].as_str()?.parse().ok()?;
        Some(Retired { anchor, until })
    };
    values.iter().map(one).collect()
}

/// The Secret that holds `content`. With the `old` one it carries that one's metadata, uid and resourceVersion among them, so that it
/// overwrites exactly what was judged; without, it can only be created.
pub fn build(name: &str, namespace: &str, content: &Content, old: Option<&Secret>) -> Secret {
    let mut data = vec![(CERTIFICATE, content.signing.certificate()), (KEY, content.signing.key())];
    if let Some(next) = &content.next {
        data.extend([(NEXT_CERTIFICATE, next.certificate()), (NEXT_KEY, next.key())]);
    }
    if !content.retired.is_empty() {
        let retired = content
            .retired
            .iter()
            .map(|retired| json!({ "certificate": retired.anchor.pem(), "until": retired.until.to_string() }));
        data.push((RETIRED, retired.collect::<Value>().to_string()));
    }
    let mut secret = old.cloned().unwrap_or_default();
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.namespace = Some(namespace.to_owned());
    let labels = secret.metadata.labels.get_or_insert_with(BTreeMap::new);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "leader.io".to_owned());
    // The type of a Secret cannot be changed.
    secret.type_ = secret.type_.or_else(|| Some(TYPE.to_owned()));
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())));
    secret.data = Some(data.collect());
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00.25Z".parse().unwrap()
    }

    fn authority() -> Arc<Authority> {
        Arc::new(Authority::generate(now()).unwrap())
    }

    fn content() -> Content {
        let retired = (0..2).map(|_| Retired { anchor: authority().anchor().clone(), until: now() }).collect();
        Content { signing: authority(), next: Some(authority()), retired }
    }

    fn stored() -> Secret {
        build("ca", "system", &content(), None)
    }

    #[test]
    fn what_was_stored_is_read_back() {
        let only = Content { next: None, retired: vec![], ..content() };
        for secret in [stored(), build("ca", "system", &only, None)] {
            let Found::Content { content, damage: None } = read(Some(&secret)) else { panic!("not read") };
            assert_eq!(build("ca", "system", &content, None), secret);
        }
        let data = build("ca", "system", &only, None).data.unwrap();
        // What versions before this one wrote, and read.
        assert_eq!(data.keys().collect::<Vec<_>>(), [CERTIFICATE, KEY]);
    }

    #[test]
    fn without_an_authority_that_signs_nothing_else_counts() {
        assert!(matches!(read(None), Found::Nothing));
        let broken: [fn(&mut BTreeMap<String, ByteString>); 5] = [
            BTreeMap::clear,
            |data| drop(data.remove(KEY)),
            |data| data.get_mut(CERTIFICATE).unwrap().0.clear(),
            |data| data.get_mut(CERTIFICATE).unwrap().0[0] = 0xff,
            |data| data.get_mut(KEY).unwrap().0.truncate(60),
        ];
        for break_it in broken {
            let mut secret = stored();
            break_it(secret.data.as_mut().unwrap());
            assert!(matches!(read(Some(&secret)), Found::Unusable(_)), "{secret:?}");
        }
    }

    #[test]
    fn damage_elsewhere_leaves_the_rest() {
        type Break = fn(&mut BTreeMap<String, ByteString>);
        let broken: [(Break, &str); 5] = [
            (|data| drop(data.remove(NEXT_KEY)), NEXT_KEY),
            (|data| data.get_mut(NEXT_CERTIFICATE).unwrap().0.clear(), NEXT_CERTIFICATE),
            (|data| data.get_mut(RETIRED).unwrap().0.clear(), RETIRED),
            (|data| data.get_mut(RETIRED).unwrap().0 = b"[{}]".to_vec(), RETIRED),
            (|data| data.get_mut(RETIRED).unwrap().0[3] = 0xff, RETIRED),
        ];
        for (break_it, key) in broken {
            let mut secret = stored();
            break_it(secret.data.as_mut().unwrap());
            let Found::Content { content, damage: Some(damage) } = read(Some(&secret)) else { panic!("{key}") };
            assert!(damage.to_string().contains(key), "{damage}");
            assert_eq!(content.next.is_none(), key != RETIRED, "{key}");
            assert_eq!(content.retired.is_empty(), key == RETIRED, "{key}");
        }
    }

    #[test]
    fn a_replacement_overwrites_only_what_was_judged() {
        let mut old = stored();
        old.metadata.uid = Some("uid".to_owned());
        old.metadata.resource_version = Some("7".to_owned());
        old.metadata.annotations = Some([("theirs".to_owned(), "kept".to_owned())].into());
        old.type_ = Some("Opaque".to_owned());
        let new = build("ca", "system", &content(), Some(&old));
        assert_eq!(new.metadata, old.metadata);
        assert_eq!(new.type_.as_deref(), Some("Opaque"));
        assert_ne!(new.data, old.data);
    }
}
