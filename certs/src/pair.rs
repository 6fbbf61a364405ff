//! A certificate and its key as somebody else made them, in PEM.

use std::sync::Arc;

use rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::{
    anchor::{Anchor, AnchorError},
    trust::TrustError,
};

/// A certificate that can be shown.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What rustls takes: the certificate, those between it and its authority, and the key.
    pub certified_key: Arc<CertifiedKey>,
    /// The certificate itself.
    pub certificate: Anchor,
}

/// Why it cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The certificate, or one of those between, is none.
    #[error(transparent)]
    Certificate(#[from] AnchorError),
    /// There is no certificate.
    #[error("there is no certificate in PEM")]
    Empty,
    /// The key is none.
    #[error("there is no private key in PEM: {0}")]
    Key(rustls::pki_types::pem::Error),
    /// The key cannot be used, or belongs to another certificate.
    #[error("the private key cannot be used with the certificate: {0}")]
    Mismatch(#[from] rustls::Error),
}

impl Pair {
    /// Reads both. The certificate comes first, as in `tls.crt` of a Secret of the type `kubernetes.io/tls`.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let chain = Anchor::all_from_pem(certificate)?;
        let first = chain.first().cloned().ok_or(PairError::Empty)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(PairError::Key)?;
        let chain = chain.into_iter().map(|anchor| anchor.der().clone()).collect();
        let certified_key = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        Ok(Self { certified_key: Arc::new(certified_key), certificate: first })
    }
}

/// Whether `new` is to be shown instead of `shown`: not while the API server would accept only the latter. Its bundle and the files
/// change at different times.
pub fn replaces(new: &Pair, shown: Option<&Pair>, judge: impl Fn(&Pair) -> Result<(), TrustError>) -> bool {
    shown.is_none_or(|shown| judge(shown).is_err() || judge(new).is_ok())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["a.b".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn read(certificate: &str, key: &str) -> Result<Pair, PairError> {
        Pair::from_pem(certificate.as_bytes(), key.as_bytes())
    }

    #[test]
    fn a_certificate_is_read_with_what_follows_it() {
        let (certificate, key) = pem();
        let chain = certificate.clone() + &pem().0;
        let pair = read(&chain, &key).unwrap();
        assert_eq!(pair.certified_key.cert.len(), 2);
        assert_eq!(pair.certificate, Anchor::from_pem(&certificate).unwrap());
    }

    #[test]
    fn what_cannot_be_shown_is_refused() {
        let ((certificate, key), (other, _)) = (pem(), pem());
        assert!(matches!(read("", &key), Err(PairError::Empty)));
        assert!(matches!(read("junk", &key), Err(PairError::Empty)));
        assert!(matches!(read(&certificate.replace("MII", "MXX"), &key), Err(PairError::Certificate(_))));
        assert!(matches!(read(&certificate, ""), Err(PairError::Key(_))));
        assert!(matches!(read(&certificate, &certificate), Err(PairError::Key(_))));
        assert!(matches!(read(&other, &key), Err(PairError::Mismatch(_))));
        // The other way round, as it happens in a command line.
        assert!(read(&key, &certificate).is_err());
    }

    #[test]
    fn a_new_one_waits_only_for_a_bundle_that_knows_it() {
        let pairs = [(); 2].map(|()| {
            let (certificate, key) = pem();
            read(&certificate, &key).unwrap()
        });
        let [old, new] = &pairs;
        let replaces = |shown, accepted: &[&Pair]| {
            super::replaces(new, shown, |pair| {
                let known = accepted.iter().any(|known| known.certificate == pair.certificate);
                known.then_some(()).ok_or(TrustError::Empty)
            })
        };
        assert!(replaces(None, &[]));
        assert!(replaces(Some(old), &[old, new]));
        assert!(replaces(Some(old), &[new]));
        assert!(replaces(Some(old), &[]));
        assert!(!replaces(Some(old), &[old]));
    }
}
