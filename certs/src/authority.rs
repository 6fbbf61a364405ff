//! A certificate authority of ours: made, and read back from PEM.
//!
//! Where it is kept is [`crate::secret`]'s business, when it is replaced that of [`crate::rotation`].

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};

use crate::{
    anchor::{self, Anchor, AnchorError},
    lifetimes::Lifetimes,
    time::{after, before, set_validity},
};

/// Certificates are valid from a day before they are made, so that an API server whose clock is behind accepts them.
pub const BACKDATED: Duration = Duration::from_hours(24);
/// What the subject of every authority of ours begins with; the moment of its making follows.
pub const COMMON_NAME: &str = "leader-webhook-ca";

/// A certificate authority that can sign.
#[derive(Debug)]
pub struct Authority {
    anchor: Anchor,
    issuer: Issuer<'static, KeyPair>,
}

/// Why something that was stored cannot be used as the authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate is no PEM, or no X.509.
    #[error(transparent)]
    Certificate(#[from] AnchorError),
    /// The key is no PEM, or of an unknown kind.
    #[error("the private key cannot be read: {0}")]
    Key(rcgen::Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The certificate may not sign others.
    #[error("the certificate is not one of a certificate authority")]
    NoAuthority,
    /// A new authority could not be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// A new authority with the default life.
    pub fn generate(now: Timestamp) -> Result<Self, AuthorityError> {
        Self::generate_for(Lifetimes::default().authority(), now)
    }

    /// A new authority: ECDSA on P-256, valid from [`BACKDATED`] before `now` for `life` after it.
    pub fn generate_for(life: Duration, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Of its own, so that a client does not try a signature against the key of another authority.
        let name = format!("{COMMON_NAME} {now:.0}");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, before(now, BACKDATED), after(now, life));
        let certificate = params.self_signed(&key)?;
        let anchor = Anchor::from_der(certificate.der().clone())?;
        Ok(Self { anchor, issuer: Issuer::new(params, key) })
    }

    /// The authority that was stored as PEM, whatever its time.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        let anchor = Anchor::from_pem(certificate)?;
        let parsed = anchor::parse(anchor.der())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch);
        }
        if !parsed.is_ca() {
            return Err(AuthorityError::NoAuthority);
        }
        let issuer = Issuer::from_ca_cert_der(anchor.der(), key)?;
        Ok(Self { anchor, issuer })
    }

    /// What clients are to trust.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The certificate as PEM.
    pub fn certificate(&self) -> String {
        self.anchor.pem()
    }

    /// The private key as PEM (PKCS #8).
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Whether another one should follow it at `now`: half of its life is over. What counts is the shorter one of its own and the
    /// one that authorities are to have now, so that a shorter setting is obeyed at once.
    pub fn is_due(&self, lifetimes: &Lifetimes, now: Timestamp) -> bool {
        let made = after(self.anchor.not_before(), BACKDATED);
        let own = Duration::try_from(self.anchor.not_after().duration_since(made)).unwrap_or_default();
        now >= after(made, own.min(lifetimes.authority()) / 2)
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_was_stored_is_read_back() {
        let made = Authority::generate(now()).unwrap();
        let read = Authority::from_pem(&made.certificate(), &made.key()).unwrap();
        assert_eq!(read.anchor(), made.anchor());
        assert_eq!(read.key(), made.key());
        assert_eq!(read.anchor().not_after(), after(now(), Lifetimes::default().authority()));
        assert_eq!(read.anchor().not_before(), before(now(), BACKDATED));
    }

    #[test]
    fn what_cannot_sign_is_refused() {
        let made = Authority::generate(now()).unwrap();
        let other = Authority::generate(now()).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["a.b".to_owned()]).unwrap().signed_by(&leaf_key, made.issuer()).unwrap();
        let read = |certificate: &str, key: &str| Authority::from_pem(certificate, key).unwrap_err();

        assert!(matches!(read("junk", &made.key()), AuthorityError::Certificate(_)));
        assert!(matches!(read(&made.certificate(), "junk"), AuthorityError::Key(_)));
        assert!(matches!(read(&made.certificate(), &other.key()), AuthorityError::Mismatch));
        assert!(matches!(read(&leaf.pem(), &leaf_key.serialize_pem()), AuthorityError::NoAuthority));
    }

    #[test]
    fn it_is_followed_when_half_of_its_life_is_over() {
        let lifetimes = |authority| Lifetimes::new(authority, HOUR).unwrap();
        let made = Authority::generate_for(10 * HOUR, now()).unwrap();
        for (setting, due) in [(10 * HOUR, 5 * HOUR), (4 * HOUR, 2 * HOUR), (100 * HOUR, 5 * HOUR)] {
            assert!(!made.is_due(&lifetimes(setting), before(after(now(), due), SECOND)), "{setting:?}");
            assert!(made.is_due(&lifetimes(setting), after(now(), due)), "{setting:?}");
        }
    }
}
