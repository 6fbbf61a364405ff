//! The certificate that the webhook's TLS server shows: short-lived, and only ever in memory.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::{
    authority::{Authority, BACKDATED},
    time::{after, before, set_validity},
};

/// How long a leaf is valid: a day, so that one that leaked is soon worthless.
pub const LIFE: Duration = Duration::from_hours(24);
/// A leaf older than this is renewed: half of [`LIFE`], which leaves twelve hours to repair whatever stands in the way.
pub const RENEW_AFTER: Duration = Duration::from_hours(12);

/// A certificate with its key, and its time.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// What rustls takes.
    pub certified_key: Arc<CertifiedKey>,
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
    /// A new certificate for the DNS `names`, valid for [`LIFE`] from `now`, though never longer than the authority's own.
    pub fn issue(authority: &Authority, names: &[String], now: Timestamp) -> Result<Self, LeafError> {
        let not_before = before(now, BACKDATED).max(authority.not_before());
        let not_after = after(now, LIFE).min(authority.not_after());
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
        let renew_at = after(now, RENEW_AFTER).min(not_after);
        Ok(Self { certified_key: Arc::new(certified_key), renew_at, not_before, not_after })
    }

    /// Whether a new one should be shown from `now` on: it is old, or the clock that it was made by was ahead and has been set back.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at || now < self.not_before
    }
}

#[cfg(test)]
mod tests {
    use rustls::client::danger::ServerCertVerifier;
    use rustls::{
        RootCertStore,
        client::WebPkiServerVerifier,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00.5Z".parse().unwrap()
    }

    /// Whether a client that trusts `authority` accepts `leaf` for `name` at `time`.
    fn accepted(authority: &Authority, leaf: &Leaf, name: &str, time: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(time.as_second().try_into().unwrap()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&leaf.certified_key.cert[0], &[], &name, &[], time).is_ok()
    }

    #[test]
    fn a_client_that_trusts_the_authority_accepts_it_for_its_names_and_time_only() {
        let made = Authority::generate(now()).unwrap();
        let stored = Authority::from_pem(made.certificate(), &made.key(), now()).unwrap();
        let names = ["leader-webhook.leader-system.svc".to_owned(), "leader-webhook.leader-system".to_owned()];
        for authority in [&made, &stored] {
            let leaf = Leaf::issue(authority, &names, now()).unwrap();
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
        let renewal = after(now(), RENEW_AFTER);
        assert!(!leaf.is_due(before(renewal, Duration::from_secs(1))));
        assert!(leaf.is_due(renewal));
        assert!(after(renewal, Duration::from_hours(11)) < leaf.not_after);
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
        assert_eq!(early.not_before, authority.not_before());
    }

    #[test]
    fn it_never_outlives_the_authority() {
        let authority = Authority::generate(now()).unwrap();
        let late = before(authority.not_after(), Duration::from_hours(1));
        let leaf = Leaf::issue(&authority, &["a.b".to_owned()], late).unwrap();
        assert_eq!(leaf.not_after, authority.not_after());
        assert!(leaf.renew_at <= leaf.not_after);
    }

    #[test]
    fn a_name_that_is_none_is_named() {
        let authority = Authority::generate(now()).unwrap();
        let error = Leaf::issue(&authority, &["grün".to_owned()], now()).unwrap_err();
        assert!(error.to_string().contains("grün"), "{error}");
    }
}
