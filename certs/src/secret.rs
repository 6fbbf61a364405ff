//! The Secret that holds the authority: its form, and what a look at it says.
//!
//! The requests are [`crate::keeper`]'s. The form is that of `kubernetes.io/tls`: `tls.crt` and `tls.key`, as PEM.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::ObjectMeta;

use crate::authority::{Authority, AuthorityError};

const TYPE: &str = "kubernetes.io/tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What a look at the Secret says.
#[derive(Debug)]
pub enum Decision {
    /// It holds an authority that can be used.
    Use(Box<Authority>),
    /// There is none: create it.
    Create,
    /// What it holds cannot be used: overwrite it.
    Replace(Unusable),
    /// What it holds cannot be used yet, by this clock. It is left alone: if this clock is the one that is wrong, the others use
    /// it, and two replicas that disagree would replace each other's authority for ever.
    Wait(AuthorityError),
}

/// Why a Secret's content cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A key is missing, or is not text.
    #[error("its key `{0}` is missing or is not text")]
    Missing(&'static str),
    /// The keys are there, what they say is not usable.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Judges the Secret as it was read at `now`.
pub fn decide(secret: Option<&Secret>, now: Timestamp) -> Decision {
    let Some(secret) = secret else { return Decision::Create };
    let text = |key: &'static str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(Unusable::Missing(key))?;
        str::from_utf8(&value.0).map_err(|_| Unusable::Missing(key))
    };
    let read = || Ok(Authority::from_pem(text(CERTIFICATE)?, text(KEY)?, now)?);
    match read() {
        Ok(authority) => Decision::Use(Box::new(authority)),
        Err(Unusable::Authority(reason @ AuthorityError::NotYet { .. })) => Decision::Wait(reason),
        Err(reason) => Decision::Replace(reason),
    }
}

/// The Secret that holds `authority`. With the `old` one it carries that one's uid and resourceVersion, so that it
/// overwrites exactly what was judged; without, it can only be created.
pub fn build(name: &str, namespace: &str, authority: &Authority, old: Option<&Secret>) -> Secret {
    let data = [(CERTIFICATE, authority.certificate().to_owned()), (KEY, authority.key())];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "leader.io".to_owned())])),
            uid: old.and_then(|old| old.metadata.uid.clone()),
            resource_version: old.and_then(|old| old.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        // The type of a Secret cannot be changed.
        type_: old.map_or_else(|| Some(TYPE.to_owned()), |old| old.type_.clone()),
        data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    fn stored() -> Secret {
        build("ca", "system", &Authority::generate(now()).unwrap(), None)
    }

    #[test]
    fn a_stored_authority_is_used_again() {
        let secret = stored();
        let Decision::Use(authority) = decide(Some(&secret), now()) else { panic!("not used") };
        assert_eq!(build("ca", "system", &authority, None), secret);
    }

    #[test]
    fn none_is_created_and_whatever_cannot_be_used_is_replaced() {
        assert!(matches!(decide(None, now()), Decision::Create));
        let broken: [fn(&mut Secret); 5] = [
            |secret| secret.data = None,
            |secret| drop(secret.data.as_mut().unwrap().remove(KEY)),
            |secret| secret.data.as_mut().unwrap().get_mut(CERTIFICATE).unwrap().0.clear(),
            |secret| secret.data.as_mut().unwrap().get_mut(CERTIFICATE).unwrap().0[0] = 0xff,
            |secret| secret.data.as_mut().unwrap().get_mut(KEY).unwrap().0.truncate(60),
        ];
        for break_it in broken {
            let mut secret = stored();
            break_it(&mut secret);
            assert!(matches!(decide(Some(&secret), now()), Decision::Replace(_)), "{secret:?}");
        }
    }

    #[test]
    fn one_that_begins_later_is_left_alone_and_one_that_ends_is_replaced() {
        let secret = stored();
        let day = std::time::Duration::from_hours(24);
        assert!(matches!(decide(Some(&secret), now() - 2 * day), Decision::Wait(AuthorityError::NotYet { .. })));
        assert!(matches!(decide(Some(&secret), now() + 3640 * day), Decision::Replace(_)));
    }

    #[test]
    fn a_replacement_overwrites_only_what_was_judged() {
        let mut old = stored();
        old.metadata.uid = Some("uid".to_owned());
        old.metadata.resource_version = Some("7".to_owned());
        old.type_ = Some("Opaque".to_owned());
        let new = build("ca", "system", &Authority::generate(now()).unwrap(), Some(&old));
        assert_eq!(
            (new.metadata.uid, new.metadata.resource_version),
            (old.metadata.uid, old.metadata.resource_version)
        );
        assert_eq!(new.type_.as_deref(), Some("Opaque"));
        assert_ne!(new.data, old.data);
    }
}
