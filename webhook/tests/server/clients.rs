//! A review that something else than the API server sends, where the admin has set up by what the API server is known.

use std::{fs, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Method, StatusCode},
    routing::{get, post},
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use leader_certs::{authority::Authority, leaf::Leaf, resolver::Resolver};
use leader_webhook::{clients, server};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

use crate::running::{NAME, request, text};

/// A certificate and its key.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// An authority of clients.
struct Clients(CertifiedIssuer<'static, KeyPair>);

impl Clients {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self) -> Shown {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

/// A server that answers reviews of the holders of certificates of an authority.
struct Server {
    address: SocketAddr,
    authority: Authority,
    _stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(clients: &Clients) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        fs::write(&file, clients.0.pem()).unwrap();
        let authorities = clients::read(&file).unwrap();
        let now = Timestamp::now();
        let authority = Authority::generate(now).unwrap();
        let leaf = Leaf::issue(&authority, &[NAME.to_owned()], now).unwrap();
        let tls = server::tls_asking(Arc::new(Resolver::new(leaf.certified_key)), Some(authorities)).unwrap();
        let router = Router::new().route("/inject", post(async || "answered")).route("/readyz", get(async || "ready"));
        let router = clients::only_verified(router, "/inject");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server::serve(listener, tls, router, async { drop(stopped.await) }));
        Self { address, authority, _stop: stop }
    }

    /// What a client that shows this certificate, or none, is answered.
    async fn ask(&self, shown: Option<Shown>, method: Method, path: &str) -> std::io::Result<(StatusCode, String)> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        // In TLS 1.3 a client hears only now that its certificate was not taken.
        let sent = sender.send_request(request(method, path, "", Body::empty())).await;
        Ok(text(sent.map_err(std::io::Error::other)?).await)
    }
}

#[tokio::test]
async fn reviews_are_answered_for_those_who_show_a_certificate_of_the_authority() {
    let (ours, others) = (Clients::new(), Clients::new());
    let server = Server::start(&ours).await;
    let review = async |shown| server.ask(shown, Method::POST, "/inject").await;

    let (status, answer) = review(Some(ours.issue())).await.unwrap();
    assert_eq!((status, answer.as_str()), (StatusCode::OK, "answered"));
    let (status, answer) = review(None).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(answer.contains("--client-ca"), "{answer}");
    assert!(review(Some(others.issue())).await.is_err(), "somebody else's authority");

    // Kubelets and Prometheus show nothing.
    let (status, answer) = server.ask(None, Method::GET, "/readyz").await.unwrap();
    assert_eq!((status, answer.as_str()), (StatusCode::OK, "ready"));
}

#[test]
fn what_is_wrong_with_the_file_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let error = || clients::read(&file).unwrap_err().to_string();
    assert!(error().contains("cannot be read"), "{}", error());
    for (content, part) in [
        ("", "has no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not a certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used as an authority"),
    ] {
        fs::write(&file, content).unwrap();
        assert!(error().contains(part) && error().contains("--client-ca"), "{}", error());
    }
}
