//! The header by which each request says who asks: a token, the file of one, or a name and a password.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use kube::config::AuthInfo;
use secrecy::ExposeSecret;
use tracing::warn;

use super::connection::ConnectionError;

/// How each request says who asks.
#[derive(Debug)]
pub(super) enum Authorization {
    /// It does not, or the client certificate says it.
    Silent,
    /// Always the same.
    Fixed(HeaderValue),
    /// A token that the kubelet writes anew before it runs out. It is read for each request: it is small and in memory (tmpfs).
    File {
        /// The file.
        path: PathBuf,
        /// What was read last: used while the file cannot be read.
        last: Option<HeaderValue>,
        /// That it cannot be read was said.
        complained: bool,
    },
}

impl Authorization {
    /// What `user` says, in kube's order: a name with a password, a token, a token's file.
    ///
    /// # Errors
    /// When a value cannot be sent.
    pub(super) fn of(user: &AuthInfo) -> Result<Self, ConnectionError> {
        if let (Some(name), Some(password)) = (&user.username, &user.password) {
            let pair = STANDARD.encode(format!("{name}:{}", password.expose_secret()));
            return Ok(Self::Fixed(header(&format!("Basic {pair}"))?));
        }
        Ok(match (&user.token, &user.token_file) {
            (Some(token), _) => Self::Fixed(bearer(token.expose_secret())?),
            (None, Some(path)) => Self::File { path: path.into(), last: None, complained: false },
            (None, None) => Self::Silent,
        })
    }

    /// The header's value for a request that is sent now.
    ///
    /// # Errors
    /// When there is a token's file, and it never could be read.
    pub(super) fn now(&mut self) -> Result<Option<HeaderValue>, ConnectionError> {
        let Self::File { path, last, complained } = self else {
            return Ok(if let Self::Fixed(value) = self { Some(value.clone()) } else { None });
        };
        match (token(path), &last) {
            (Ok(value), _) => (*last, *complained) = (Some(value), false),
            (Err(error), None) => return Err(error),
            (Err(error), Some(_)) => {
                if !std::mem::replace(complained, true) {
                    warn!(%error, "using the last token again, for as long as it is valid");
                }
            }
        }
        Ok(last.clone())
    }
}

fn token(path: &Path) -> Result<HeaderValue, ConnectionError> {
    let token = fs::read_to_string(path).map_err(|source| ConnectionError::File { path: path.to_owned(), source })?;
    match token.trim() {
        // Somebody is writing it at this moment.
        "" => Err(ConnectionError::NoToken(path.to_owned())),
        token => bearer(token),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ConnectionError> {
    header(&format!("Bearer {}", token.trim()))
}

fn header(text: &str) -> Result<HeaderValue, ConnectionError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ConnectionError::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a request by `user`.
    fn sent(user: &AuthInfo) -> String {
        let value = Authorization::of(user).unwrap().now().unwrap();
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn a_password_comes_before_a_token_and_a_token_before_its_file() {
        let mut user = AuthInfo::default();
        assert_eq!(sent(&user), "");
        user.token_file = Some("/nowhere".to_owned());
        user.token = Some("a\n".to_owned().into());
        assert_eq!(sent(&user), "Bearer a");
        user.username = Some("aladdin".to_owned());
        assert_eq!(sent(&user), "Bearer a");
        user.password = Some("opensesame".to_owned().into());
        // As RFC 7617 has it, in lower case and without the blank.
        assert_eq!(sent(&user), "Basic YWxhZGRpbjpvcGVuc2VzYW1l");
        let torn = AuthInfo { token: Some("a\nb".to_owned().into()), ..AuthInfo::default() };
        assert!(Authorization::of(&torn).unwrap_err().to_string().contains("cannot be sent"));
    }

    #[test]
    fn a_tokens_file_is_read_each_time_and_while_it_cannot_be_the_last_token_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let user = AuthInfo { token_file: Some(path.display().to_string()), ..AuthInfo::default() };
        let mut authorization = Authorization::of(&user).unwrap();
        let error = authorization.now().unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}", path.display())), "{error}");
        for token in ["one", "two\n"] {
            fs::write(&path, token).unwrap();
            let value = authorization.now().unwrap().unwrap();
            assert!(value.is_sensitive());
            assert_eq!(value, format!("Bearer {}", token.trim()).as_str());
        }
        fs::write(&path, "").unwrap();
        assert_eq!(authorization.now().unwrap().unwrap(), "Bearer two");
        let error = Authorization::of(&user).unwrap().now().unwrap_err().to_string();
        assert!(error.ends_with("token is empty: it should have a token"), "{error}");
        fs::remove_file(&path).unwrap();
        assert_eq!(authorization.now().unwrap().unwrap(), "Bearer two");
    }
}
