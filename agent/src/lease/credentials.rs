//! With which credentials the API server is asked. kube's own choice is not used: it prefers a kubeconfig to the pod's
//! account. A folder that was named is never passed over, so that no file in the application's image decides who the agent is.

use std::{
    env,
    path::{Path, PathBuf},
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where a pod finds its account when injection gave it none of its own.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The address in the environment is unusable.
    #[error("KUBERNETES_SERVICE_HOST=`{host}` and KUBERNETES_SERVICE_PORT=`{port}` do not make an address: {source}")]
    Address {
        /// The host.
        host: String,
        /// The port.
        port: String,
        /// What is wrong.
        source: http::uri::InvalidUri,
    },
    /// A credentials folder was named, but this process is not told where the API server is.
    #[error("{} has an account's token, but KUBERNETES_SERVICE_HOST is not set: is this a pod?", folder.display())]
    NoAddress {
        /// The folder.
        folder: PathBuf,
    },
    /// The kubeconfig wants a program to be run for credentials.
    #[error(
        "the kubeconfig's user gets its credentials from a program ({0}), which could hang while the lease runs out: use a client certificate, a token or a token file"
    )]
    Program(String),
    /// The API server is reached through a proxy.
    #[error(
        "the API server would be reached through the proxy {0}, which the agent does not speak to: name an address of the API server that needs none, or leave out `proxy-url` and HTTPS_PROXY"
    )]
    Proxy(String),
    /// The kubeconfig that was named cannot be used.
    #[error("the kubeconfig {} cannot be used: {source}", path.display())]
    Named {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: kube::config::KubeconfigError,
    },
    /// No kubeconfig could be used.
    #[error(
        "no credentials: this is no pod with a service account, and no kubeconfig can be used: {0}. Set KUBECONFIG"
    )]
    Kubeconfig(#[from] kube::config::KubeconfigError),
}

/// The pod's account: from `folder` where one is given, else from the usual place; outside a pod, KUBECONFIG or its default.
///
/// # Errors
/// When neither can be used.
pub async fn find(folder: Option<&Path>) -> Result<Config, CredentialsError> {
    let host = env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty());
    let usual = PathBuf::from(SERVICE_ACCOUNT_DIR);
    let folder = match (folder, &host) {
        (Some(folder), None) => return Err(CredentialsError::NoAddress { folder: folder.to_owned() }),
        (Some(folder), Some(_)) => Some(folder.to_owned()),
        (None, Some(_)) => Some(usual).filter(|folder| folder.join("token").exists()),
        (None, None) => None,
    };
    match (folder, host) {
        (Some(folder), Some(host)) => checked(of_account(&folder, host)?),
        _ => checked(Config::from_kubeconfig(&KubeConfigOptions::default()).await?),
    }
}

/// What the kubeconfig at `path` says where one is named, else as [`find`] does.
///
/// # Errors
/// When neither can be used.
pub async fn named(path: Option<&Path>, folder: Option<&Path>) -> Result<Config, CredentialsError> {
    match path {
        Some(path) => of_kubeconfig(path).await,
        None => find(folder).await,
    }
}

/// What the kubeconfig at `path` says, also in a pod.
///
/// # Errors
/// When it cannot be used.
async fn of_kubeconfig(path: &Path) -> Result<Config, CredentialsError> {
    let named = |source| CredentialsError::Named { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(named)?;
    checked(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(named)?)
}

/// `config`, if an election can use it.
///
/// # Errors
/// When a program would have to be run for credentials, or a proxy be asked.
pub fn checked(config: Config) -> Result<Config, CredentialsError> {
    if let Some(program) = &config.auth_info.exec {
        return Err(CredentialsError::Program(format!("exec: {}", program.command.as_deref().unwrap_or_default())));
    }
    if let Some(provider) = &config.auth_info.auth_provider {
        return Err(CredentialsError::Program(format!("auth-provider: {}", provider.name)));
    }
    if let Some(proxy) = &config.proxy_url {
        // Without the password that may be before it.
        return Err(CredentialsError::Proxy(proxy.host().unwrap_or_default().to_owned()));
    }
    Ok(config)
}

fn of_account(folder: &Path, host: String) -> Result<Config, CredentialsError> {
    let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let address = format!("https://{bracketed}:{port}").parse().map_err(|source| CredentialsError::Address {
        host,
        port,
        source,
    })?;
    let mut config = Config::new(address);
    config.root_cert_file = Some(folder.join("ca.crt"));
    config.auth_info.token_file = Some(folder.join("token").to_string_lossy().into_owned());
    if let Ok(namespace) = std::fs::read_to_string(folder.join("namespace")) {
        namespace.trim().clone_into(&mut config.default_namespace);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use kube::config::{AuthProviderConfig, ExecConfig};

    use super::*;

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::new("https://192.0.2.1".parse().unwrap());
        change(&mut config);
        checked(config).unwrap_err().to_string()
    }

    #[test]
    fn what_could_hang_or_is_not_spoken_is_refused_by_name() {
        let program = ExecConfig { command: Some("get-token".to_owned()), ..ExecConfig::default() };
        let by_program = refusal(|config| config.auth_info.exec = Some(program));
        assert!(by_program.contains("exec: get-token"), "{by_program}");
        let provider = AuthProviderConfig { name: "gcp".to_owned(), ..AuthProviderConfig::default() };
        let by_provider = refusal(|config| config.auth_info.auth_provider = Some(provider));
        assert!(by_provider.contains("auth-provider: gcp"), "{by_provider}");
        let proxy = refusal(|config| config.proxy_url = Some("http://me:secret@proxy.example:3128".parse().unwrap()));
        assert!(proxy.contains("the proxy proxy.example,") && !proxy.contains("secret"), "{proxy}");
    }
}
