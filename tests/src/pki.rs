//! The cluster's keys and certificates, and a kubeconfig for each of its parts.

use crate::network::{API_SERVICE_ADDRESS, AddressRange};
use crate::state::State;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The node's name.
pub const NODE: &str = "node0";

/// A certificate's subject.
struct Subject {
    /// Name of the files, e.g. `admin.crt`.
    file: &'static str,
    common_name: &'static str,
    organization: Option<&'static str>,
}

/// The clients of the API server; each gets a kubeconfig. The names are those that Kubernetes' own roles are bound to.
const CLIENTS: [Subject; 5] = [
    Subject { file: "admin", common_name: "admin", organization: Some("system:masters") },
    Subject { file: "kubelet", common_name: "system:node:node0", organization: Some("system:nodes") },
    Subject { file: "manager", common_name: "system:kube-controller-manager", organization: None },
    Subject { file: "scheduler", common_name: "system:kube-scheduler", organization: None },
    Subject { file: "proxy", common_name: "system:kube-proxy", organization: None },
];

/// The files of the cluster's keys.
#[derive(Debug, Clone)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// The keys in the cluster's state folder; nothing is made.
    pub fn of(state: &State) -> Self {
        Self { folder: state.path("pki") }
    }

    /// The certificate authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.certificate("ca")
    }

    /// The certificate of the authority behind `registry.crt`, which vouches for private registries and for nothing else.
    pub fn registry_authority(&self) -> PathBuf {
        self.certificate("registry-ca")
    }

    /// The certificate of this name.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.crt"))
    }

    /// The private key of this name.
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }

    /// The key with which tokens of service accounts are checked.
    pub fn service_account_public_key(&self) -> PathBuf {
        self.folder.join("service-account.pub")
    }

    /// The kubeconfig of this client.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.kubeconfig"))
    }

    /// Makes all keys, certificates and kubeconfigs.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(&self, range: AddressRange) -> Result<()> {
        let authority = CertifiedIssuer::self_signed(authority_params("test cluster")?, KeyPair::generate()?)?;
        self.write("ca.crt", &authority.pem())?;

        let service_accounts = KeyPair::generate()?;
        self.write("service-account.key", &service_accounts.serialize_pem())?;
        self.write("service-account.pub", &service_accounts.public_key_pem())?;

        let node = IpAddr::V4(range.node_address());
        let server = Subject { file: "apiserver", common_name: "kube-apiserver", organization: None };
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        self.issue(&authority, &server, &names, &[IpAddr::V4(API_SERVICE_ADDRESS), node])?;
        let serving = Subject { file: "kubelet-serving", common_name: NODE, organization: None };
        self.issue(&authority, &serving, &[NODE], &[node])?;
        for client in &CLIENTS {
            self.issue(&authority, client, &[], &[])?;
            let content = serde_json::to_string_pretty(&self.kubeconfig_of(client.file, range))?;
            self.write(&format!("{}.kubeconfig", client.file), &content)?;
        }

        let authority = CertifiedIssuer::self_signed(authority_params("private registries")?, KeyPair::generate()?)?;
        self.write("registry-ca.crt", &authority.pem())?;
        let registry = Subject { file: "registry", common_name: "registry", organization: None };
        self.issue(&authority, &registry, &[], &[node])
    }

    fn issue(
        &self,
        authority: &CertifiedIssuer<'_, KeyPair>,
        subject: &Subject,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        if let Some(organization) = subject.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        for name in names {
            params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?;
        self.write(&format!("{}.crt", subject.file), &certificate.pem())?;
        self.write(&format!("{}.key", subject.file), &key.serialize_pem())
    }

    /// JSON, which is YAML too.
    fn kubeconfig_of(&self, client: &str, range: AddressRange) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": range.api_url(), "certificate-authority": self.authority(),
            }}],
            "users": [{"name": client, "user": {
                "client-certificate": self.certificate(client), "client-key": self.key(client),
            }}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": client}}],
            "current-context": "test",
        })
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        use std::io::Write;
        let path = self.folder.join(name);
        let mut options = fs::File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(content.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn authority_params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_gets_a_key_a_certificate_and_a_kubeconfig() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki { folder: folder.path().to_owned() };
        pki.create(AddressRange::new(7)).unwrap();
        for client in &CLIENTS {
            assert!(fs::read_to_string(pki.certificate(client.file)).unwrap().contains("BEGIN CERTIFICATE"));
            assert!(fs::read_to_string(pki.key(client.file)).unwrap().contains("PRIVATE KEY"));
            let config: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(pki.kubeconfig(client.file)).unwrap()).unwrap();
            assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.10.7.1:6443");
        }
        assert!(fs::read_to_string(pki.service_account_public_key()).unwrap().contains("PUBLIC KEY"));
        let authorities = [pki.authority(), pki.registry_authority()].map(|file| fs::read_to_string(file).unwrap());
        assert_ne!(authorities[0], authorities[1]);
    }

    #[test]
    fn the_kubelet_is_called_by_the_node_s_name() {
        assert!(CLIENTS.iter().any(|client| client.common_name == format!("system:node:{NODE}")));
    }
}
