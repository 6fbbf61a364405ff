//! A certificate that a client is to trust: an authority's, without its key.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, time::ASN1Time};

/// How many characters PEM has in a line (RFC 7468, section 2).
const PEM_LINE: usize = 64;

/// A certificate and its time. Two are equal when all their bytes are.
#[derive(Clone, PartialEq, Eq)]
pub struct Anchor {
    der: CertificateDer<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why something is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("the certificate cannot be read: {0}")]
pub struct AnchorError(pub(crate) String);

/// A certificate whose bytes were understood.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AnchorError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|error| AnchorError(error.to_string()))?;
    Ok(parsed)
}

impl Anchor {
    /// The certificate with these bytes.
    pub fn from_der(der: CertificateDer<'_>) -> Result<Self, AnchorError> {
        let moment = |time: ASN1Time| Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MIN);
        let (not_before, not_after) = {
            let parsed = parse(&der)?;
            let validity = parsed.validity();
            (moment(validity.not_before), moment(validity.not_after))
        };
        Ok(Self { der: der.into_owned(), not_before, not_after })
    }

    /// The first certificate in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, AnchorError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| AnchorError(error.to_string()))?;
        Self::from_der(der)
    }

    /// Every certificate in PEM, in order; none when it has none. What is no certificate is an error.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, AnchorError> {
        let certificates = CertificateDer::pem_slice_iter(pem);
        certificates.map(|der| Self::from_der(der.map_err(|error| AnchorError(error.to_string()))?)).collect()
    }

    /// The bytes.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        let text = BASE64_STANDARD.encode(&self.der);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(PEM_LINE));
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem + "-----END CERTIFICATE-----\n"
    }

    /// The first moment in which a client accepts it.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment in which a client accepts it.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether a client accepts it at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.der.len().saturating_sub(8);
        write!(formatter, "Anchor({} to {}, ..{:02x?})", self.not_before, self.not_after, &self.der[end..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

    #[test]
    fn pem_is_read_back() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let authorities = [Authority::generate(now).unwrap(), Authority::generate(now).unwrap()];
        let anchors = authorities.map(|authority| authority.anchor().clone());
        assert_ne!(anchors[0], anchors[1]);
        let pem = format!("# Comment\n{}\r\n{}", anchors[0].pem(), anchors[1].pem().replace('\n', "\r\n"));
        assert_eq!(Anchor::all_from_pem(pem.as_bytes()).unwrap(), anchors);
        assert_eq!(Anchor::from_pem(&pem).unwrap(), anchors[0]);
        assert!(anchors[0].pem().lines().all(|line| line.len() <= PEM_LINE));
        assert!(Anchor::all_from_pem(b"").unwrap().is_empty());
        assert!(Anchor::from_pem("junk").is_err());
        assert!(Anchor::all_from_pem(pem.replace("MII", "MXX").as_bytes()).is_err());
    }
}
