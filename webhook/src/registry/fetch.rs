//! A document from a web address, on the same way as registries are reached: proxies, authorities, redirects, bounds.

use std::time::Duration;

use http::{StatusCode, Uri};
use hyper::body::Bytes;

use super::{
    failure::Failure,
    transport::{self, Options, OptionsError, Transport},
};

/// The longest document.
const LIMIT: usize = 64 * 1024 * 1024;
/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing can be reached at all.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The server does not give it.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// It is another answer than a document.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// It took too long.
    #[error("it was not read within {} s", PATIENCE.as_secs())]
    Slow,
}

/// Gets the document at `uri`, without credentials.
pub async fn fetch(uri: Uri) -> Result<Bytes, FetchError> {
    let transport = Transport::new(&Options::default())?;
    let read = async {
        let host = transport::host(&uri);
        let response = transport.get(uri, "*/*", None).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        Ok(transport::body(response, &host, "document", LIMIT).await?)
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or(Err(FetchError::Slow))
}
