//! Who may send reviews: with `--client-ca` only those who show a certificate of that authority, which an admin gives to the API server
//! alone (docs/access.md). Without it anybody who reaches the port may ask what injection would make of an object; nobody gets anything
//! stored by that, but the objects of an id in a namespace are made for whoever asks.
//!
//! Health and metrics are asked for by kubelets and Prometheus, who have no such certificate. Therefore a certificate is asked of
//! everybody and demanded for reviews.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{Error as PemError, PemObject},
    },
};

/// What a connection's client has shown: [`crate::server`] puts it into each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// A certificate of an authority that counts, and the proof that its key is there.
    pub is_verified: bool,
}

/// Why the authorities of clients cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The file cannot be read.
    #[error("--client-ca: {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("--client-ca: {} has a part that is not a certificate in PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PemError,
    },
    /// A certificate is not one.
    #[error("--client-ca: {} has a certificate that cannot be used as an authority: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// There is nothing in it.
    #[error("--client-ca: {} has no certificate: put that of the authority there which signs the API server's, in PEM", .0.display())]
    Empty(PathBuf),
}

/// Reads the authorities of clients from a file in PEM.
pub fn read(path: &Path) -> Result<RootCertStore, ClientsError> {
    let text = fs::read(path).map_err(|source| ClientsError::Read { path: path.to_owned(), source })?;
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|source| ClientsError::Pem { path: path.to_owned(), source })?;
        let added = authorities.add(certificate);
        added.map_err(|source| ClientsError::Certificate { path: path.to_owned(), source })?;
    }
    if authorities.is_empty() { Err(ClientsError::Empty(path.to_owned())) } else { Ok(authorities) }
}

/// `router` with `path` for verified clients only.
pub fn only_verified(router: Router, path: &'static str) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| demand(path, request, next)))
}

async fn demand(path: &'static str, request: Request, next: Next) -> Response {
    let is_verified = request.extensions().get::<Client>().is_some_and(|client| client.is_verified);
    if request.uri().path() == path && !is_verified {
        tracing::warn!("refused a review by a client without a certificate of --client-ca");
        let reason = "reviews are answered only for clients with a certificate of the authority that --client-ca names: the API server \
                      shows one when its AdmissionConfiguration names a kubeconfig for this webhook\n";
        return (StatusCode::UNAUTHORIZED, reason).into_response();
    }
    next.run(request).await
}
