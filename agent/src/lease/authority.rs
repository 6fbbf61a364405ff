//! Whose signature the API server's certificate must have: that of an authority in a file, which may be replaced at any time.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::connection::{self, ConnectionError};

/// Reads the file at each handshake: an authority that was replaced is not believed any more from the next connection on, and the new one
/// is at once. While the file cannot be read, the last one that could be counts.
#[derive(Debug)]
pub(super) struct Authority {
    path: PathBuf,
    provider: Arc<CryptoProvider>,
    last: Mutex<Arc<WebPkiServerVerifier>>,
}

impl Authority {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read, or has no certificate of an authority.
    pub(super) fn new(path: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self, ConnectionError> {
        let last = Mutex::new(load(&path, &provider)?);
        Ok(Self { path, provider, last })
    }

    fn now(&self) -> Arc<WebPkiServerVerifier> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(verifier) = load(&self.path, &self.provider) {
            *last = verifier;
        }
        Arc::clone(&last)
    }
}

fn load(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, ConnectionError> {
    let mut store = RootCertStore::empty();
    for certificate in connection::certificates(&connection::read(path)?, "the certificate authority")? {
        store.add(certificate)?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()).into())
}

impl ServerCertVerifier for Authority {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.now().verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
