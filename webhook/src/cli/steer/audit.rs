//! Who asks.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, Client, api::PostParams};

use crate::{cli::api::Clock, steered::Steered};

/// What is written on the Lease beside a request.
///
/// Who asks is what the API server takes this client for. One that does not tell (before Kubernetes 1.28) keeps nobody from asking.
pub(super) async fn by_me(client: &Client, what: &str) -> Result<Steered, kube::Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let user = review.ok().and_then(|review| review.status?.user_info?.username);
    let at = Clock::ask(client).await?.now();
    // Whole seconds: clocks differ by more.
    let at = jiff::Timestamp::from_second(at.as_second()).unwrap_or(at);
    Ok(Steered::new(user.as_deref().unwrap_or("unknown"), what, at.to_string()))
}
