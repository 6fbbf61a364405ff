//! The certificate that the TLS server shows to a new connection.
//!
//! A swap touches no open connection: each keeps the certificate it began with.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// One certificate for every client, replaced at any time.
#[derive(Debug)]
pub struct Resolver {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Resolver {
    /// Shows `certified_key` at first.
    pub fn new(certified_key: Arc<CertifiedKey>) -> Self {
        Self { current: RwLock::new(certified_key) }
    }

    /// Shows `certified_key` to every connection from now on.
    pub fn set(&self, certified_key: Arc<CertifiedKey>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified_key;
    }

    /// What a new connection is shown.
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}
