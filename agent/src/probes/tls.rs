//! TLS to the app, whose certificate nobody checks: the kubelet's probes do not either (`InsecureSkipVerify` in pkg/probe/http/http.go).

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, Error,
    crypto::ring,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::limited::Limited;
use crate::unverified::Unverified;

/// HTTP/2 as applications are asked for it in the handshake (RFC 7540).
pub(super) const HTTP2: &[u8] = b"h2";
/// HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// Does the handshake with whoever answers, offering HTTP/2 as well, as the kubelet's transport does (`SetTransportDefaults` in
/// k8s.io/apimachinery/pkg/util/net/http.go).
pub(super) async fn handshake(stream: Limited, host: &str) -> io::Result<TlsStream<Limited>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified::new(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error: InvalidDnsNameError| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Whether a failed handshake was answered by something that does not speak TLS, such as a plain HTTP server.
pub(super) fn is_no_tls(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(error, Some(Error::InvalidMessage(_)))
}
