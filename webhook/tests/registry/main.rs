//! Look-ups of entry points in registries that behave well and badly, over real connections.

mod answers;
mod caches;
mod command_line;
mod credentials;
mod faults;
mod server;

use std::{sync::Arc, time::Duration};

use leader_webhook::{
    inject::ImageFacts,
    registry::{Answer, Keyring, Options, Platforms, Question, Reference, Registries},
};
use serde_json::json;

use crate::server::Registry;

/// Much longer than a look-up on this machine takes, and what one that fails must keep.
const BUDGET: Duration = Duration::from_secs(4);

/// Look-ups that know this registry as one without TLS.
fn registries(of: &[&Registry]) -> Arc<Registries> {
    let plain_http_registry = of.iter().map(|registry| registry.host()).collect();
    Registries::new(&Options { plain_http_registry, registry_ca: None }).unwrap()
}

fn question(image: &str) -> Question {
    Question { image: Reference::parse(image).unwrap(), credentials: vec![], platforms: Platforms::Linux }
}

/// The same with the credentials of a Secret for everything.
fn with_password(image: &str, secret: &str, host: &str, username: &str, password: &str) -> Question {
    let mut keyring = Keyring::default();
    let config = json!({ "auths": { host: { "username": username, "password": password } } });
    keyring.add_config(&format!("secret {secret}"), config.to_string().as_bytes());
    let mut question = question(image);
    question.credentials = keyring.matching(&question.image);
    assert_eq!(question.credentials.len(), 1);
    question
}

async fn ask(registries: &Arc<Registries>, question: Question) -> Answer {
    registries.look_up(question, BUDGET).await
}

#[track_caller]
fn found(answer: Answer) -> ImageFacts {
    answer.facts.unwrap()
}

#[track_caller]
fn reason(answer: Answer) -> String {
    answer.facts.unwrap_err().to_string()
}
