//! The certificate authority: made, read back from PEM and judged, asked for leaves.
//!
//! Where it is kept is [`crate::secret`]'s business.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::time::{after, before, set_validity};

/// How long an authority may sign: long, because replacing it is the one step that reviews can notice.
pub const LIFE: Duration = Duration::from_hours(24 * 3650);
/// An authority with less life left than this is replaced: 30 days, in which some replica surely runs.
pub const RENEW_BEFORE: Duration = Duration::from_hours(24 * 30);
/// Certificates are valid from a day before they are made, so that a clock that is behind accepts them.
pub const BACKDATED: Duration = Duration::from_hours(24);
/// The subject of every authority of ours.
pub const COMMON_NAME: &str = "leader-webhook-ca";

/// A certificate authority that can sign.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why something that was stored cannot be used as the authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate is no PEM, or no X.509.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The key is no PEM, or of an unknown kind.
    #[error("the private key cannot be read: {0}")]
    Key(rcgen::Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The certificate may not sign others.
    #[error("the certificate is not one of a certificate authority")]
    NoAuthority,
    /// The certificate's time is over, or nearly.
    #[error("the certificate ends at {not_after}, less than {} days from now", RENEW_BEFORE.as_secs() / 86_400)]
    Ending {
        /// Its last moment.
        not_after: Timestamp,
    },
    /// The certificate's time has not begun.
    #[error("the certificate is valid from {not_before} only: was it made by a machine whose clock is ahead?")]
    NotYet {
        /// Its first moment.
        not_before: Timestamp,
    },
    /// A new authority could not be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// A new authority: ECDSA on P-256, valid from [`BACKDATED`] before `now` for [`LIFE`] after it.
    pub fn generate(now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let (not_before, not_after) = (before(now, BACKDATED), after(now, LIFE));
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, not_before, not_after);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key), not_before, not_after })
    }

    /// The authority that was stored as PEM, if it can be used at `now`.
    pub fn from_pem(certificate: &str, key: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch);
        }
        if !parsed.is_ca() {
            return Err(AuthorityError::NoAuthority);
        }
        let moment =
            |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MIN);
        let (not_before, not_after) = (moment(parsed.validity().not_before), moment(parsed.validity().not_after));
        if now < not_before {
            return Err(AuthorityError::NotYet { not_before });
        }
        if after(now, RENEW_BEFORE) > not_after {
            return Err(AuthorityError::Ending { not_after });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { certificate: certificate.to_owned(), issuer, not_before, not_after })
    }

    /// The certificate as PEM: what the API server is to trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key as PEM (PKCS #8).
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The first moment of the certificate.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment of the certificate.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_was_stored_is_read_back() {
        let made = Authority::generate(now()).unwrap();
        let read = Authority::from_pem(made.certificate(), &made.key(), now()).unwrap();
        assert_eq!(read.certificate(), made.certificate());
        assert_eq!(read.key(), made.key());
        assert_eq!(read.not_after(), made.not_after());
        assert_eq!(read.not_after(), after(now(), LIFE));
    }

    #[test]
    fn what_cannot_sign_is_refused() {
        let made = Authority::generate(now()).unwrap();
        let other = Authority::generate(now()).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["a.b".to_owned()]).unwrap().signed_by(&leaf_key, made.issuer()).unwrap();
        let read = |certificate: &str, key: &str, time| Authority::from_pem(certificate, key, time).unwrap_err();

        assert!(matches!(read("junk", &made.key(), now()), AuthorityError::Certificate(_)));
        assert!(matches!(read(made.certificate(), "junk", now()), AuthorityError::Key(_)));
        assert!(matches!(read(made.certificate(), &other.key(), now()), AuthorityError::Mismatch));
        assert!(matches!(read(&leaf.pem(), &leaf_key.serialize_pem(), now()), AuthorityError::NoAuthority));
    }

    #[test]
    fn the_edges_of_its_time() {
        let made = Authority::generate(now()).unwrap();
        let read = |time| Authority::from_pem(made.certificate(), &made.key(), time);
        let second = Duration::from_secs(1);

        assert!(read(before(now(), BACKDATED)).is_ok());
        assert!(matches!(read(before(before(now(), BACKDATED), second)), Err(AuthorityError::NotYet { .. })));
        let last = before(made.not_after(), RENEW_BEFORE);
        assert!(read(last).is_ok());
        assert!(matches!(read(after(last, second)), Err(AuthorityError::Ending { .. })));
    }
}
