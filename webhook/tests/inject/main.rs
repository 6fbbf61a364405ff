//! Injection against what users write and what the API server makes of it.

mod apply;
mod cluster;
mod entry_points;
mod handlers;
mod kinds;
mod modes;
mod pods;
mod properties;
mod pull_secrets;
mod records;
mod refusals;
mod snapshots;
mod templates;
mod writes;

use leader_webhook::inject::{Decision, Defaults, Facts, ImageAnswer, Outcome, Refusal, workload};
use serde_json::{Value, json};

const AGENT_IMAGE: &str = "ghcr.io/leader-io/leader-agent:0.1.0";

/// The webhook's decision about one review.
fn review(object: &Value, old: Option<&Value>) -> Result<Outcome, Refusal> {
    done(object, old, AGENT_IMAGE, &Facts::default())
}

/// The decision, where registries are not asked unless `facts` say what they answered.
fn done(object: &Value, old: Option<&Value>, agent_image: &str, facts: &Facts) -> Result<Outcome, Refusal> {
    configured(object, old, &Defaults { agent_image: agent_image.to_owned(), agent_pull_secret: None }, facts)
}

fn configured(object: &Value, old: Option<&Value>, defaults: &Defaults, facts: &Facts) -> Result<Outcome, Refusal> {
    let decide = |facts: &Facts| workload(object, old, defaults, facts);
    let decision = match decide(facts)? {
        Decision::NeedsImage(_) => decide(&Facts { image: Some(ImageAnswer::NotAsked), ..facts.clone() })?,
        done @ Decision::Done(_) => done,
    };
    match decision {
        Decision::Done(outcome) => Ok(outcome),
        Decision::NeedsImage(request) => panic!("it was answered: {request:?}"),
    }
}

/// The same after an upgrade of the webhook.
fn upgraded(object: &Value, old: Option<&Value>) -> Result<Outcome, Refusal> {
    let facts = Facts { default_account_in_use: true, ..Facts::default() };
    done(object, old, "ghcr.io/leader-io/leader-agent:9.9.9", &facts)
}

/// What the webhook answers when nothing is live.
fn inject(object: &Value) -> Value {
    review(object, None).unwrap().object
}

/// The same where registries answer, and say this of every image, and the agent's image is private.
mod images {
    use leader_webhook::inject::ImageFacts;

    use super::{AGENT_IMAGE, Defaults, Facts, ImageAnswer, Outcome, Refusal, Value, configured};

    fn defaults(agent_image: &str) -> Defaults {
        Defaults { agent_image: agent_image.to_owned(), agent_pull_secret: Some("agent".to_owned()) }
    }

    fn facts(default_account_in_use: bool) -> Facts {
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        let image = ImageFacts {
            digest: "sha256:00ff".to_owned(),
            entrypoint: words(["/entry", "$(X)"]),
            cmd: words(["serve", "$X"]),
            stop_signal: Some("SIGQUIT".to_owned()),
        };
        Facts {
            image: Some(ImageAnswer::Found(image)),
            default_account_in_use,
            account_pull_secrets: vec!["registry".to_owned()],
            ..Facts::default()
        }
    }

    pub(crate) fn review(object: &Value, old: Option<&Value>) -> Result<Outcome, Refusal> {
        configured(object, old, &defaults(AGENT_IMAGE), &facts(false))
    }

    pub(crate) fn upgraded(object: &Value, old: Option<&Value>) -> Result<Outcome, Refusal> {
        configured(object, old, &defaults("ghcr.io/leader-io/leader-agent:9.9.9"), &facts(true))
    }

    pub(crate) fn inject(object: &Value) -> Value {
        review(object, None).unwrap().object
    }
}

/// The same as a workload of another kind.
fn of_kind(object: &Value, kind: &str) -> Value {
    let mut object = object.clone();
    object["kind"] = kind.into();
    match kind {
        "StatefulSet" => {
            object["spec"]["serviceName"] = "billing".into();
            object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {}}]);
        }
        "DaemonSet" => drop(object["spec"].as_object_mut().unwrap().shift_remove("replicas")),
        _ => {}
    }
    object
}

/// A Deployment of this pod template with this annotation of ours, or none.
fn deployment(template: &Value, id: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "billing", "namespace": "shop", "annotations": {"team": "payments"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "billing"}}, "template": template},
    });
    if let Some(id) = id {
        object["metadata"]["annotations"]["leader.io/id"] = id.into();
    }
    object
}

/// The same workload after `kubectl annotate ... leader.io/id-`.
fn without_id(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/id");
    object
}

fn template(object: &Value) -> &Value {
    &object["spec"]["template"]
}

fn record(object: &Value) -> Value {
    let text = template(object)["metadata"]["annotations"]["leader.io/injected"].as_str().unwrap();
    serde_json::from_str(text).unwrap()
}

/// How often the agent stands in the template, in front of a program.
fn wrappers(object: &Value) -> usize {
    let containers = template(object)["spec"]["containers"].as_array().unwrap();
    let words = |container: &Value| {
        ["command", "args"]
            .into_iter()
            .flat_map(|key| container[key].as_array().cloned().unwrap_or_default())
            .filter(|word| word == "/leader/agent")
            .count()
    };
    containers.iter().map(words).sum()
}
