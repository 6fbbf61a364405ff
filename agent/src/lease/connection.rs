//! Connections to the API server by what [`super::credentials`] found. The header that says who asks is in [`super::authorization`].
//!
//! kube would make them as well, but asks by the wall clock whether a token's file is to be read again, and brings along the means
//! to run programs for credentials, half a megabyte that an agent must never use.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
    config::AuthInfo,
};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem, pem::PemObject},
};
use secrecy::ExposeSecret;

use super::{authority::Authority, client::RequestError};
use crate::unverified::Unverified;

/// Why a connection cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// A file with a token, a certificate or a key.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Text in a kubeconfig.
    #[error("`{field}` of the kubeconfig is not base64: {source}")]
    Base64 {
        /// The key in the kubeconfig.
        field: &'static str,
        /// What is wrong.
        source: base64::DecodeError,
    },
    /// A token's file with nothing in it.
    #[error("{} is empty: it should have a token", .0.display())]
    NoToken(PathBuf),
    /// PEM in a file or a kubeconfig.
    #[error("{what} cannot be read as PEM: {source}")]
    Pem {
        /// What should have been PEM.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// One of two that belong together.
    #[error("the kubeconfig's user has a client certificate without a key, or a key without a certificate: give both")]
    Half,
    /// The token, or the user and password.
    #[error("the credentials have characters that cannot be sent in a header: is that the right file?")]
    Characters,
    /// The name that the kubeconfig gives the server.
    #[error("`tls-server-name` of the kubeconfig: {0}")]
    ServerName(InvalidDnsNameError),
    /// No certificate of an authority at all.
    #[error(
        "the kubeconfig names no certificate authority, and this system has none either: set `certificate-authority`"
    )]
    NoAuthority,
    /// Certificates and keys that do not fit.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Connections as `config` wants them, without its credentials for each request: those are in [`super::authorization`]. Nothing is sent yet.
/// Files are read now; that of the certificate authority at each handshake, too.
///
/// # Errors
/// When a file or a value of `config` cannot be used.
pub(super) fn connect(config: &Config) -> Result<Client, RequestError> {
    let tls = tls(config)?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = ServerName::try_from(name.clone()).map_err(ConnectionError::ServerName)?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    // One that nobody waits for any more may go on in the background: it ends as well.
    let mut connector = TimeoutConnector::new(builder.enable_http1().wrap_connector(tcp));
    connector.set_connect_timeout(config.connect_timeout);
    let service: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    Ok(ClientBuilder::new(service, &config.default_namespace)
        .with_layer(&config.base_uri_layer())
        .with_layer(&config.extra_headers_layer()?)
        .build())
}

fn tls(config: &Config) -> Result<ClientConfig, ConnectionError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &config.root_cert_file {
        _ if config.accept_invalid_certs => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new(provider)))
        }
        Some(path) => {
            let authority = Authority::new(path.clone(), provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(authority))
        }
        None => builder.with_root_certificates(authorities(config)?),
    };
    let mut tls = match identity(&config.auth_info)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    // Who takes up a session again shows no certificate, and might be believed after its authority was replaced.
    tls.resumption = Resumption::disabled();
    Ok(tls)
}

/// By whom the API server's certificate may be signed: without a word of `config`, by whom the system believes.
fn authorities(config: &Config) -> Result<RootCertStore, ConnectionError> {
    let Some(certificates) = &config.root_cert else { return of_system() };
    let mut store = RootCertStore::empty();
    for der in certificates {
        store.add(CertificateDer::from(der.clone()))?;
    }
    Ok(store)
}

fn of_system() -> Result<RootCertStore, ConnectionError> {
    let mut store = RootCertStore::empty();
    // Among many there may be some that nobody can use any more.
    let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(ConnectionError::NoAuthority) } else { Ok(store) }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The client certificate of a kubeconfig's user.
fn identity(user: &AuthInfo) -> Result<Option<Identity>, ConnectionError> {
    let chain = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(text), _) => Some(decoded("client-certificate-data", text)?),
        (None, Some(path)) => Some(read(Path::new(path))?),
        (None, None) => None,
    };
    let key = match (&user.client_key_data, &user.client_key) {
        (Some(text), _) => Some(decoded("client-key-data", text.expose_secret())?),
        (None, Some(path)) => Some(read(Path::new(path))?),
        (None, None) => None,
    };
    let (chain, key) = match (chain, key) {
        (None, None) => return Ok(None),
        (Some(chain), Some(key)) => (chain, key),
        _ => return Err(ConnectionError::Half),
    };
    let chain = certificates(&chain, "the client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|source| ConnectionError::Pem { what: "the client certificate's key", source })?;
    Ok(Some((chain, key)))
}

pub(super) fn certificates(text: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, ConnectionError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|source| ConnectionError::Pem { what, source })?;
    if found.is_empty() {
        return Err(ConnectionError::Pem { what, source: pem::Error::NoItemsFound });
    }
    Ok(found)
}

fn decoded(field: &'static str, text: &str) -> Result<Vec<u8>, ConnectionError> {
    STANDARD.decode(text.trim()).map_err(|source| ConnectionError::Base64 { field, source })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, ConnectionError> {
    fs::read(path).map_err(|source| ConnectionError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use http::{Method, Request};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer, server::WebPkiClientVerifier};
    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::lease::client::LeaseClient;

    /// A certificate authority.
    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A certificate and its key.
    fn signed(by: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, by).unwrap(), key)
    }

    /// An API server for `name` that asks for a client certificate, and tells each request whether it got one; of Leases it speaks only to
    /// who has the certificate `wanted`. It ends with the test's runtime.
    async fn server(by: &CertifiedIssuer<'static, KeyPair>, name: &str, wanted: Arc<Mutex<Vec<u8>>>) -> http::Uri {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(by.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = signed(by, name);
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let status = |code: u16| json!({ "kind": "Status", "status": "Failure", "code": code });
                let (code, body) = match &shown {
                    _ if head.starts_with(b"GET /livez") => (200, json!({ "known": shown.is_some() })),
                    Some(shown) if *shown == *wanted.lock().unwrap() => (404, status(404)),
                    _ => (401, status(401)),
                };
                let body = body.to_string();
                let length = body.len();
                let head = format!("HTTP/1.1 {code} x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        address
    }

    /// Nobody in particular is wanted.
    async fn any(by: &CertifiedIssuer<'static, KeyPair>, name: &str) -> http::Uri {
        server(by, name, Arc::default()).await
    }

    /// Whether the server knew who asked, on a new client.
    async fn known(config: &Config) -> Result<bool, String> {
        known_by(&connect(config).map_err(|error| error.to_string())?).await
    }

    /// The server closes each connection: every request begins with a handshake.
    async fn known_by(client: &Client) -> Result<bool, String> {
        let request = Request::builder().method(Method::GET).uri("/livez").body(Vec::new()).unwrap();
        let answer: Value = client.request(request).await.map_err(|error| RequestError::from(error).to_string())?;
        Ok(answer["known"].as_bool().unwrap())
    }

    #[tokio::test]
    async fn the_authority_is_read_anew_at_each_handshake_and_nobody_else_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let (old, new) = (authority(), authority());
        fs::write(&file, old.pem()).unwrap();
        let mut config = Config::new(any(&new, "127.0.0.1").await);
        config.root_cert_file = Some(file.clone());
        let client = connect(&config).unwrap();
        let error = known_by(&client).await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        fs::write(&file, new.pem()).unwrap();
        assert_eq!(known_by(&client).await, Ok(false));
        for unusable in ["", "no certificate"] {
            fs::write(&file, unusable).unwrap();
            assert_eq!(known_by(&client).await, Ok(false), "the last one that could be read counts");
            let error = known(&config).await.unwrap_err();
            assert!(error.starts_with("the certificate authority cannot be read as PEM"), "{error}");
        }
        fs::write(&file, old.pem()).unwrap();
        assert!(known_by(&client).await.is_err(), "what was replaced is not believed any more");
        fs::remove_file(&file).unwrap();
        let error = known(&config).await.unwrap_err();
        assert!(error.contains(&format!("cannot read {}", file.display())), "{error}");
    }

    #[tokio::test]
    async fn a_handshake_that_nobody_answers_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(format!("https://{}", listener.local_addr().unwrap()).parse().unwrap());
        config.root_cert = Some(vec![authority().der().to_vec()]);
        config.connect_timeout = Some(Duration::from_millis(50));
        assert!(known(&config).await.is_err());
        drop(listener);
    }

    #[tokio::test]
    async fn a_client_certificate_that_was_renewed_counts_after_a_401() {
        let (authority, folder) = (authority(), tempfile::tempdir().unwrap());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let issue = || {
            let (certificate, key) = signed(&authority, "somebody");
            fs::write(path("crt"), certificate.pem()).unwrap();
            fs::write(path("key"), key.serialize_pem()).unwrap();
            certificate.der().to_vec()
        };
        issue();
        let wanted = Arc::new(Mutex::new(Vec::new()));
        let mut config = Config::new(server(&authority, "127.0.0.1", Arc::clone(&wanted)).await);
        config.root_cert = Some(vec![authority.der().to_vec()]);
        (config.auth_info.client_certificate, config.auth_info.client_key) = (Some(path("crt")), Some(path("key")));
        let client = LeaseClient::new(config, "shop", &"billing".parse().unwrap(), Duration::from_mins(1));
        let refused = client.read().await.unwrap_err();
        assert!(matches!(refused, RequestError::Status { code: 401, .. }), "{refused}");
        *wanted.lock().unwrap() = issue();
        assert!(client.read().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_kubeconfigs_authority_name_and_client_certificate_count() {
        let authority = authority();
        let mut config = Config::new(any(&authority, "kubernetes.example").await);
        config.root_cert = Some(vec![authority.der().to_vec()]);
        let error = known(&config).await.unwrap_err();
        assert!(error.contains("not valid for name"), "{error}");
        config.tls_server_name = Some("kubernetes.example".to_owned());
        assert_eq!(known(&config).await, Ok(false));

        let (certificate, key) = signed(&authority, "somebody");
        config.auth_info.client_certificate_data = Some(STANDARD.encode(certificate.pem()));
        let error = known(&config).await.unwrap_err();
        assert!(error.contains("without a key"), "{error}");
        config.auth_info.client_key_data = Some(STANDARD.encode(key.serialize_pem()).into());
        assert_eq!(known(&config).await, Ok(true));
        config.auth_info.client_key_data = Some("?".to_owned().into());
        let error = known(&config).await.unwrap_err();
        assert!(error.starts_with("`client-key-data` of the kubeconfig is not base64"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("crt"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        config.auth_info =
            AuthInfo { client_certificate: Some(path("crt")), client_key: Some(path("key")), ..AuthInfo::default() };
        assert_eq!(known(&config).await, Ok(true));
    }

    #[tokio::test]
    async fn who_says_so_believes_anybody() {
        let mut config = Config::new(any(&authority(), "somebody.example").await);
        config.root_cert = Some(vec![authority().der().to_vec()]);
        assert!(known(&config).await.is_err());
        config.accept_invalid_certs = true;
        assert_eq!(known(&config).await, Ok(false));
    }
}
