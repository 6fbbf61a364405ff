//! What a person should hear about the certificates where no one reads logs. Who makes an Event of it is the caller's business.

use std::sync::Arc;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether a person should look.
    pub is_warning: bool,
    /// One word for it, always the same.
    pub reason: &'static str,
    /// What happened, what was done about it, and what is left to do.
    pub note: String,
}

/// Takes notices. It is called between requests and must not wait.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

impl Notice {
    /// Logs it, and hands it on.
    pub(crate) fn tell(self, tell: &Tell) {
        let Self { is_warning, reason, note } = &self;
        if *is_warning {
            tracing::warn!(reason, "{note}");
        } else {
            tracing::info!(reason, "{note}");
        }
        tell(self);
    }
}

/// A new authority is in the bundle, and is going to sign.
pub const ANNOUNCED: &str = "CertificateAuthorityAnnounced";
/// A new authority signs.
pub const PROMOTED: &str = "CertificateAuthorityReplaced";
/// The Secret with the authorities was deleted.
pub const MISSING: &str = "CertificateAuthorityMissing";
/// The Secret with the authorities has something that cannot be used.
pub const UNUSABLE: &str = "CertificateAuthorityUnusable";
/// Somebody else had changed the `caBundle`.
pub const REPAIRED: &str = "CABundleRepaired";
/// The mounted certificate cannot be used.
pub const FILES_UNUSABLE: &str = "CertificateFilesUnusable";
/// A new mounted certificate is shown.
pub const FILES_RELOADED: &str = "CertificateFilesReloaded";
/// A new mounted certificate is not shown, because the `caBundle` covers only the one before.
pub const FILES_WAITING: &str = "CertificateFilesWaiting";
/// The `caBundle` does not cover the certificate that is shown.
pub const NOT_COVERED: &str = "CertificateNotCovered";
