//! The certificate that the webhook's TLS server shows: short-lived, and only ever in memory.
//!
//! Which authority signs it, and when it is shown, is [`crate::showing`]'s business.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::{
    anchor::Anchor,
    authority::{Authority, BACKDATED},
    lifetimes::Lifetimes,
    time::{after, before, set_validity},
};

/// A certificate with its key, and its time.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// What rustls takes.
    pub certified_key: Arc<CertifiedKey>,
    /// What a client has to trust to accept it.
    pub authority: Anchor,
    /// From here on a new one is due.
    pub renew_at: Timestamp,
    /// The first moment in which a client accepts it.
    pub not_before: Timestamp,
    /// The last moment in which a client accepts it.
    pub not_after: Timestamp,
}

/// Why no leaf could be made.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The certificate could not be signed, or a name is none.
    #[error("no certificate can be made for {names:?}: {source}")]
    Sign {
        /// The DNS names asked for.
        names: Vec<String>,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// The TLS library did not take the key.
    #[error("the new certificate's key cannot be used: {0}")]
    Key(#[from] rustls::Error),
}

impl Leaf {
    /// A new certificate with the default life.
    pub fn issue(authority: &Authority, names: &[String], now: Timestamp) -> Result<Self, LeafError> {
        Self::issue_for(Lifetimes::default().certificate(), authority, names, now)
    }

    /// A new certificate for the DNS `names`, valid for `life` from `now`, though never longer than the authority's own. It is to be
    /// renewed when half of that is over.
    pub fn issue_for(
        life: Duration,
        authority: &Authority,
        names: &[String],
        now: Timestamp,
    ) -> Result<Self, LeafError> {
        let anchor = authority.anchor();
        let not_before = before(now, BACKDATED).max(anchor.not_before());
        let not_after = after(now, life).min(anchor.not_after());
        let sign = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            if let Some(name) = names.first() {
                params.distinguished_name.push(DnType::CommonName, name.as_str());
            }
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.use_authority_key_identifier_extension = true;
            set_validity(&mut params, not_before, not_after);
            let certificate = params.signed_by(&key, authority.issuer())?;
            Ok((certificate.der().clone(), key.serialize_der()))
        };
        let (certificate, key) = sign().map_err(|source| LeafError::Sign { names: names.to_vec(), source })?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let certified_key = CertifiedKey::from_der(vec![certificate], key, &ring::default_provider())?;
        let own = Duration::try_from(not_after.duration_since(now)).unwrap_or_default();
        Ok(Self {
            certified_key: Arc::new(certified_key),
            authority: anchor.clone(),
            renew_at: after(now, own / 2),
            not_before,
            not_after,
        })
    }

    /// Whether a client that trusts its authority accepts it at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether a new one should be shown from `now` on: it is old, or the clock that it was made by was ahead and has been set back.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at || now < self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00.5Z".parse().unwrap()
    }

    fn life() -> Duration {
        Lifetimes::default().certificate()
    }

    /// Whether a client that trusts `authority` accepts `leaf` for `name` at `time`.
    fn accepted(authority: &Authority, leaf: &Leaf, name: &str, time: Timestamp) -> bool {
        trust::check(&leaf.certified_key.cert, &[authority.anchor().clone()], name, time).is_ok()
    }

    #[test]
    fn a_client_that_trusts_the_authority_accepts_it_for_its_names_and_time_only() {
        let made = Authority::generate(now()).unwrap();
        let stored = Authority::from_pem(&made.certificate(), &made.key()).unwrap();
        let names = ["leader-webhook.leader-system.svc".to_owned(), "leader-webhook.leader-system".to_owned()];
        for authority in [&made, &stored] {
            let leaf = Leaf::issue(authority, &names, now()).unwrap();
            assert_eq!(leaf.authority, *made.anchor());
            for name in &names {
                assert!(accepted(authority, &leaf, name, now()), "{name}");
                assert!(accepted(authority, &leaf, name, before(leaf.not_after, Duration::from_secs(1))), "{name}");
            }
            assert!(!accepted(authority, &leaf, "leader-webhook.other.svc", now()));
            assert!(!accepted(authority, &leaf, &names[0], after(leaf.not_after, Duration::from_secs(1))));
            assert!(!accepted(&Authority::generate(now()).unwrap(), &leaf, &names[0], now()));
        }
    }

    #[test]
    fn it_is_renewed_long_before_it_ends() {
        let authority = Authority::generate(now()).unwrap();
        let leaf = Leaf::issue(&authority, &["a.b".to_owned()], now()).unwrap();
        assert_eq!(leaf.not_after, after(now(), life()));
        let renewal = after(now(), life() / 2);
        assert!(!leaf.is_due(before(renewal, Duration::from_secs(1))));
        assert!(leaf.is_due(renewal));
        assert!(leaf.is_valid(renewal) && !leaf.is_valid(leaf.not_after));
    }

    #[test]
    fn one_that_is_not_valid_yet_is_replaced() {
        let authority = Authority::generate(now()).unwrap();
        let made = after(now(), Duration::from_hours(240));
        let leaf = Leaf::issue(&authority, &["a.b".to_owned()], made).unwrap();
        assert!(!leaf.is_due(leaf.not_before));
        assert!(leaf.is_due(before(leaf.not_before, Duration::from_secs(1))));
        assert!(!accepted(&authority, &leaf, "a.b", before(leaf.not_before, Duration::from_secs(2))));
        // It never begins before its authority.
        let early = Leaf::issue(&authority, &["a.b".to_owned()], before(now(), Duration::from_hours(1))).unwrap();
        assert_eq!(early.not_before, authority.anchor().not_before());
    }

    #[test]
    fn it_never_outlives_the_authority() {
        let authority = Authority::generate(now()).unwrap();
        let late = before(authority.anchor().not_after(), Duration::from_hours(1));
        let leaf = Leaf::issue(&authority, &["a.b".to_owned()], late).unwrap();
        assert_eq!(leaf.not_after, authority.anchor().not_after());
        assert!(leaf.renew_at < leaf.not_after);
    }

    #[test]
    fn a_name_that_is_none_is_named() {
        let authority = Authority::generate(now()).unwrap();
        let error = Leaf::issue(&authority, &["grün".to_owned()], now()).unwrap_err();
        assert!(error.to_string().contains("grün"), "{error}");
    }
}
