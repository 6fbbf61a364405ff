//! One image from one registry: manifest, variants, configurations, with one credential after the other.

use std::sync::Mutex;

use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use hyper::body::Incoming;

use super::{
    auth,
    failure::{Failure, Tried, shown},
    keyring::Credential,
    manifest::{self, LONGEST_CONFIG, LONGEST_MANIFEST, Manifest, Variant},
    platform::{Platform, Platforms},
    reference::{Reference, is_digest},
    transport::{Document, Transport},
};
use crate::inject::ImageFacts;

/// How many variants are asked for at once.
const AT_ONCE: usize = 4;

/// A manifest as the registry has it now.
pub(super) struct Head {
    digest: String,
    body: Document,
    media: Option<String>,
}

impl Head {
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}

/// Conversations with one registry about one image, under one name.
pub(super) struct Session<'a> {
    transport: &'a Transport,
    image: &'a Reference,
    credential: Option<&'a Credential>,
    authorization: Mutex<Option<HeaderValue>>,
}

/// A session with each credential, and at last one with none.
///
/// The kubelet stops after the credentials (`PullImage` in `pkg/kubelet/kuberuntime/kuberuntime_image.go`). What anyone may read is
/// no secret, so here a wrong password does not stand in the way: it is the pods that must say so.
pub(super) fn sessions<'a>(
    transport: &'a Transport,
    image: &'a Reference,
    credentials: &'a [Credential],
) -> impl Iterator<Item = Session<'a>> {
    let all = credentials.iter().map(Some).chain([None]);
    all.map(move |credential| Session { transport, image, credential, authorization: Mutex::new(None) })
}

/// What the sessions before came to.
#[derive(Default)]
pub(super) struct Attempts {
    worst: Option<Failure>,
}

impl Attempts {
    /// The result, unless the next session may come to a better one.
    pub(super) fn settle<T>(&mut self, result: Result<T, Failure>) -> Option<Result<T, Failure>> {
        match result {
            Err(failure) if failure.is_of_the_credentials() => {
                // A plain no says less than any other answer.
                if self.worst.as_ref().is_none_or(|worst| matches!(worst, Failure::Denied { .. })) {
                    self.worst = Some(failure);
                }
                None
            }
            settled => Some(settled),
        }
    }

    /// Why none of them came to anything.
    pub(super) fn failure(self, image: &Reference, credentials: &[Credential]) -> Failure {
        let mut tried: Vec<String> = credentials.iter().map(|credential| credential.source.clone()).collect();
        tried.dedup();
        let ended = || Failure::Ended { host: image.host().to_owned() };
        self.worst.unwrap_or_else(ended).after(Tried(tried))
    }
}

impl Session<'_> {
    /// The manifest that the reference names.
    pub(super) async fn head(&self) -> Result<Head, Failure> {
        self.manifest(self.image.version(), self.image.digest()).await
    }

    /// The facts about the image whose manifest `head` is, for all of its variants for `platforms`.
    pub(super) async fn facts(&self, head: Head, platforms: &Platforms) -> Result<ImageFacts, Failure> {
        let Head { digest, body, media } = head;
        let parsed = manifest::parse(self.image.host(), &body, media.as_deref())?;
        // Its place is for the variants.
        drop(body);
        let variants = match parsed {
            Manifest::Image(config) => return self.configuration(&config, digest).await,
            Manifest::Index(variants) => manifest::pick(&variants, platforms)?,
        };
        let named: Vec<Option<Platform>> = variants.iter().map(|variant| variant.platform.clone()).collect();
        let asked: Vec<_> = variants.iter().map(|variant| self.variant(variant, &digest)).collect();
        let found: Vec<ImageFacts> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let found = named.into_iter().zip(found).collect();
        agreed(found).unwrap_or_else(|| Err(Failure::Ended { host: self.image.host().to_owned() }))
    }

    async fn variant(&self, variant: &Variant, digest: &str) -> Result<ImageFacts, Failure> {
        let Head { body, media, .. } = self.manifest(&variant.digest, Some(&variant.digest)).await?;
        let parsed = manifest::parse(self.image.host(), &body, media.as_deref())?;
        drop(body);
        match parsed {
            Manifest::Image(config) => self.configuration(&config, digest.to_owned()).await,
            Manifest::Index(_) => Err(Failure::MediaType {
                host: self.image.host().to_owned(),
                what: "variant",
                media: "an index in an index".to_owned(),
            }),
        }
    }

    async fn manifest(&self, version: &str, digest: Option<&str>) -> Result<Head, Failure> {
        let (host, what) = (self.image.host(), "manifest");
        if !digest.is_none_or(is_digest) {
            return Err(self.no_digest(what));
        }
        let response = self.get(&format!("manifests/{version}"), manifest::ACCEPT).await?;
        let text =
            |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        let (media, said) =
            (text(header::CONTENT_TYPE), text(header::HeaderName::from_static("docker-content-digest")));
        let body = self.transport.read(response, host, what, LONGEST_MANIFEST).await?;
        // By tag there is only the registry's own word: https://github.com/opencontainers/distribution-spec, "Pulling manifests".
        let said = said.filter(|said| is_digest(said));
        let expected = digest.or(said.as_deref());
        if let Some(expected) = expected {
            manifest::verify(host, what, &body, expected)?;
        }
        Ok(Head { digest: manifest::digest(&body, expected), body, media })
    }

    async fn configuration(&self, digest: &str, of: String) -> Result<ImageFacts, Failure> {
        let (host, what) = (self.image.host(), "configuration");
        if !is_digest(digest) {
            return Err(self.no_digest("manifest"));
        }
        let response = self.get(&format!("blobs/{digest}"), "*/*").await?;
        let body = self.transport.read(response, host, what, LONGEST_CONFIG).await?;
        manifest::verify(host, what, &body, digest)?;
        manifest::facts(host, &body, of)
    }

    fn no_digest(&self, what: &'static str) -> Failure {
        let reason = "it names something by what is no digest that is known".to_owned();
        Failure::Garbage { host: self.image.host().to_owned(), what, reason }
    }

    /// A successful answer, after a login where the registry asks for one.
    async fn get(&self, path: &str, accept: &'static str) -> Result<Response<Incoming>, Failure> {
        let (host, repository) = (self.image.host(), self.image.repository());
        let uri = format!("{}://{host}/v2/{repository}/{path}", self.transport.scheme(host));
        let reason = "its registry is no host that can be asked";
        let uri: Uri = uri.parse().map_err(|_| Failure::Reference { reference: self.image.to_string(), reason })?;
        let before = self.authorization();
        let mut response = self.transport.get(uri.clone(), accept, before.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && before.is_none() {
            let asked = auth::authorization(self.transport, self.image, self.credential, response.headers()).await?;
            if let Some(authorization) = asked {
                response = self.transport.get(uri, accept, Some(&authorization)).await?;
                *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(authorization);
            }
        }
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let what =
            if path.starts_with("blobs/") { "the image's configuration".to_owned() } else { self.image.to_string() };
        let failure = unwelcome(host, &what, response.status(), response.headers());
        Err(match failure {
            Failure::Denied { host, status, tried, .. } => {
                Failure::Denied { host, repository: repository.to_owned(), status, tried }
            }
            other => other,
        })
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// What an answer means that is none.
pub(super) fn unwelcome(host: &str, what: &str, status: StatusCode, headers: &HeaderMap) -> Failure {
    let (host, what, tried) = (host.to_owned(), what.to_owned(), Tried::default());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied { host, repository: what, status, tried },
        StatusCode::NOT_FOUND => Failure::Missing { host, what, status, tried },
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let is_number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
            let wait = wait.map(|text| if is_number(text) { format!("{} s", shown(text)) } else { shown(text) });
            Failure::Limited { host, status, wait, tried }
        }
        _ => Failure::Status { host, what, status },
    }
}

/// What all variants say, where they say the same; none of no variants.
fn agreed(found: Vec<(Option<Platform>, ImageFacts)>) -> Option<Result<ImageFacts, Failure>> {
    let name = |platform: &Option<Platform>| {
        platform.as_ref().map_or_else(|| "one without a name".to_owned(), ToString::to_string)
    };
    let mut rest = found.into_iter();
    let (platform, facts) = rest.next()?;
    let differing = rest.find(|(_, other)| *other != facts);
    Some(match differing {
        Some((other, _)) => Err(Failure::Disagreement { one: name(&platform), other: name(&other) }),
        None => Ok(facts),
    })
}
