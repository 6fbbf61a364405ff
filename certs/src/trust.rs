//! Whether a client that trusts a bundle accepts a certificate: the API server's judgement, made here first.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    CertificateError, Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier, verify_server_name},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::anchor::Anchor;

/// Why a certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// There is nothing that it could be trusted by.
    #[error("the bundle is empty")]
    Empty,
    /// There is no certificate.
    #[error("there is no certificate")]
    Nothing,
    /// The name is none that a certificate can have.
    #[error("{0:?} is no DNS name")]
    Name(String),
    /// It was judged, and not accepted.
    #[error("{}", reason(.0))]
    Refused(#[from] Error),
}

/// Judges a certificate, followed by those between it and its authority, for the DNS `name` at `now`.
pub fn check(chain: &[CertificateDer<'_>], bundle: &[Anchor], name: &str, now: Timestamp) -> Result<(), TrustError> {
    let (leaf, between) = chain.split_first().ok_or(TrustError::Nothing)?;
    let server_name = ServerName::try_from(name).map_err(|_| TrustError::Name(name.to_owned()))?;
    // A certificate that vouches for itself may stand in the bundle, and clients take it: what signs it is itself.
    if let Some(itself) = bundle.iter().find(|anchor| anchor.der().as_ref() == leaf.as_ref()) {
        verify_server_name(&ParsedCertificate::try_from(leaf)?, &server_name)?;
        return if now < itself.not_before() {
            Err(Error::from(CertificateError::NotValidYet).into())
        } else if now >= itself.not_after() {
            Err(Error::from(CertificateError::Expired).into())
        } else {
            Ok(())
        };
    }
    let mut roots = RootCertStore::empty();
    for anchor in bundle {
        // One that cannot vouch for anything is as good as absent.
        drop(roots.add(anchor.der().clone()));
    }
    if roots.is_empty() {
        return Err(TrustError::Empty);
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
    let seconds = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
    verifier.verify_server_cert(leaf, between, &server_name, &[], UnixTime::since_unix_epoch(seconds))?;
    Ok(())
}

/// The commonest reasons in the words of the one who has to put them right.
fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "no certificate in the bundle has signed it".to_owned()
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its time is over".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "its time has not begun".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::{authority::Authority, leaf::Leaf};

    const NAME: &str = "leader-webhook.leader-system.svc";

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_leaf_is_accepted_beside_other_authorities_and_only_in_its_time() {
        let authorities = [Authority::generate(now()).unwrap(), Authority::generate(now()).unwrap()];
        let anchors: Vec<Anchor> = authorities.iter().map(|authority| authority.anchor().clone()).collect();
        let names = [NAME.to_owned()];
        for authority in &authorities {
            let leaf = Leaf::issue(authority, &names, now()).unwrap();
            let chain = &leaf.certified_key.cert;
            check(chain, &anchors, NAME, now()).unwrap();
            let over = check(chain, &anchors, NAME, leaf.not_after + Duration::from_secs(1)).unwrap_err();
            assert_eq!(over.to_string(), "its time is over");
            let early = check(chain, &anchors, NAME, leaf.not_before - Duration::from_secs(2)).unwrap_err();
            assert_eq!(early.to_string(), "its time has not begun");
            assert!(matches!(check(chain, &[], NAME, now()), Err(TrustError::Empty)));
            assert!(matches!(check(chain, &anchors, "", now()), Err(TrustError::Name(_))));
            assert!(matches!(check(chain, &anchors, "other.svc", now()), Err(TrustError::Refused(_))));
        }
        let leaf = Leaf::issue(&authorities[0], &names, now()).unwrap();
        let unknown = check(&leaf.certified_key.cert, &anchors[1..], NAME, now()).unwrap_err();
        assert_eq!(unknown.to_string(), "no certificate in the bundle has signed it");
        assert!(matches!(check(&[], &anchors, NAME, now()), Err(TrustError::Nothing)));
    }

    #[test]
    fn a_certificate_may_vouch_for_itself() {
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let bundle = [Anchor::from_der(certificate.der().clone()).unwrap()];
        let chain = [certificate.der().clone()];
        check(&chain, &bundle, NAME, now()).unwrap();
        assert!(check(&chain, &bundle, "other.svc", now()).is_err());
        assert!(check(&chain, &bundle, NAME, bundle[0].not_after()).is_err());
    }

    #[test]
    fn certificates_between_leaf_and_authority_are_followed() {
        let authority = |depth| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
            params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, format!("depth {depth}"));
            params
        };
        let root = CertifiedIssuer::self_signed(authority(1), KeyPair::generate().unwrap()).unwrap();
        let between = CertifiedIssuer::signed_by(authority(0), KeyPair::generate().unwrap(), &root).unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &between).unwrap();
        let bundle = [Anchor::from_der(root.der().clone()).unwrap()];
        check(&[leaf.der().clone(), between.der().clone()], &bundle, NAME, now()).unwrap();
        assert!(check(&[leaf.der().clone()], &bundle, NAME, now()).is_err());
    }
}
