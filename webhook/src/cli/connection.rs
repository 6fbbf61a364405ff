//! Which cluster, as whom and in which namespace: the options that kubectl has as well, and the client that follows from them.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::api_error;

/// Options of kubectl.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connection {
    /// The namespace; without it that of the kubeconfig's context.
    #[arg(short, long)]
    pub(super) namespace: Option<String>,
    /// The context of the kubeconfig file to use.
    #[arg(long)]
    pub(super) context: Option<String>,
    /// The kubeconfig file; without it `KUBECONFIG`, `~/.kube/config`, or the pod's own account.
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The user to be, for whoever may impersonate.
    #[arg(long = "as", value_name = "USER")]
    pub(super) user: Option<String>,
    /// A group to be in, with --as; may be given more than once.
    #[arg(long = "as-group", value_name = "GROUP", requires = "user")]
    pub(super) groups: Vec<String>,
}

/// A client, and the namespace that is meant.
#[derive(Clone)]
pub(super) struct Connected {
    /// To the API server, as the person who asks.
    pub(super) client: Client,
    /// Where the election is.
    pub(super) namespace: String,
}

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The kubeconfig does not say which one it is, or the pod's account does not.
    #[error("finding the API server: {0}")]
    Config(String),
    /// What is said there cannot be used.
    #[error("connecting to the API server: {0}")]
    Client(String),
}

impl Connection {
    /// The client. No request is made.
    pub(super) async fn connect(&self) -> Result<Connected, ConnectionError> {
        let mut config = self.config().await.map_err(ConnectionError::Config)?;
        if self.user.is_some() {
            config.auth_info.impersonate.clone_from(&self.user);
            config.auth_info.impersonate_groups = Some(self.groups.clone()).filter(|groups| !groups.is_empty());
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ConnectionError::Client(api_error::reason(&error)))?;
        Ok(Connected { client, namespace })
    }

    async fn config(&self) -> Result<Config, String> {
        if self.context.is_none() && self.kubeconfig.is_none() {
            return Config::infer().await.map_err(|error| error.to_string());
        }
        let chosen = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
            None => Config::from_kubeconfig(&chosen).await,
            Some(path) => match Kubeconfig::read_from(path) {
                Ok(file) => Config::from_custom_kubeconfig(file, &chosen).await,
                Err(error) => Err(error),
            },
        };
        config.map_err(|error| error.to_string())
    }

    /// The same for kubectl, with the namespace that was found.
    pub(super) fn for_kubectl(&self, namespace: &str) -> Vec<OsString> {
        let mut arguments = vec!["--namespace".into(), namespace.into()];
        let mut add = |option: &str, value: OsString| arguments.extend([option.into(), value]);
        if let Some(context) = &self.context {
            add("--context", context.into());
        }
        if let Some(file) = &self.kubeconfig {
            add("--kubeconfig", file.into());
        }
        if let Some(user) = &self.user {
            add("--as", user.into());
        }
        for group in &self.groups {
            add("--as-group", group.into());
        }
        arguments
    }

    /// Takes what `later` says, where it says something: options may stand behind the id, too.
    pub(super) fn overridden_by(mut self, later: Self) -> Self {
        self.namespace = later.namespace.or(self.namespace);
        self.context = later.context.or(self.context);
        self.kubeconfig = later.kubeconfig.or(self.kubeconfig);
        self.user = later.user.or(self.user);
        self.groups.extend(later.groups);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_is_told_the_same() {
        let connection = Connection {
            namespace: None,
            context: Some("east".to_owned()),
            kubeconfig: Some("/etc/kube".into()),
            user: Some("alice".to_owned()),
            groups: vec!["ops".to_owned(), "dev".to_owned()],
        };
        let told: Vec<_> = connection.for_kubectl("shop").into_iter().map(|word| word.into_string().unwrap()).collect();
        let expected =
            "--namespace shop --context east --kubeconfig /etc/kube --as alice --as-group ops --as-group dev";
        assert_eq!(told.join(" "), expected);
        assert_eq!(Connection::default().for_kubectl("shop"), ["--namespace", "shop"]);
    }

    #[test]
    fn what_is_said_later_counts() {
        let first =
            Connection { namespace: Some("a".to_owned()), context: Some("x".to_owned()), ..Connection::default() };
        let later = Connection { namespace: Some("b".to_owned()), ..Connection::default() };
        let both = first.clone().overridden_by(later);
        assert_eq!((both.namespace.as_deref(), both.context.as_deref()), (Some("b"), Some("x")));
        assert_eq!(first.clone().overridden_by(Connection::default()), first);
    }
}
