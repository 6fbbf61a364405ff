//! Connections as the API server keeps them: HTTP/1.1 over TLS, one for each request under way (`NextProtos` in k8s.io/apiserver,
//! pkg/util/webhook/client.go).

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How many connections there are: enough for both servers to be busy all the time.
pub(crate) const CONNECTIONS: usize = 32;
/// The name that both servers show a certificate for.
pub(crate) const NAME: &str = "leader-webhook.leader-bench.svc";

/// An open connection.
pub(crate) struct Connection {
    requests: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to a server whose certificate was signed by the authority.
    pub(crate) async fn open(address: SocketAddr, authority: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, stream).await?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { requests })
    }

    /// Sends a body and returns how long the answer's is.
    pub(crate) async fn post(&mut self, body: Bytes) -> anyhow::Result<usize> {
        let request = Request::post("/inject?timeout=10s")
            .header(header::HOST, NAME)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        self.requests.ready().await.context("waiting for the connection")?;
        let response = self.requests.send_request(request).await.context("sending a request")?;
        let status = response.status();
        let answer = response.into_body().collect().await.context("reading an answer")?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&answer));
        ensure!(!is_refusal(&answer), "refused: {}", String::from_utf8_lossy(&answer));
        Ok(answer.len())
    }
}

/// An answer begins with the review's own fields, so that this need not read a body that came back whole.
fn is_refusal(answer: &[u8]) -> bool {
    const REFUSED: &[u8] = b"\"allowed\":false";
    let start = &answer[..answer.len().min(300)];
    start.windows(REFUSED.len()).any(|part| part == REFUSED)
}
