//! Versions: of Kubernetes, and of this project's programs.

use serde_json::Value;

use super::{MANIFESTS, check};
use crate::{
    cli::check::{
        report::{Check, Finding},
        snapshot::{Snapshot, name},
    },
    version,
};

/// The API server is new enough.
pub(super) fn kubernetes(snapshot: &Snapshot) -> Check {
    check("kubernetes", &snapshot.server, |server| match version::check(server) {
        Ok(minor) => {
            let missing: Vec<_> = version::missing(minor).map(|feature| feature.name).collect();
            let without = if missing.is_empty() { String::new() } else { format!(", without {}", missing.join(", ")) };
            (format!("{}.{}{without}", server.major, server.minor), Vec::new())
        }
        Err(error) => {
            let mend = format!("upgrade Kubernetes to 1.{} or later", version::OLDEST_MINOR);
            (String::new(), vec![Finding::problem("", error.to_string(), mend)])
        }
    })
}

/// This program, and the replicas of the webhook, are of one version.
pub(super) fn leader(snapshot: &Snapshot) -> Check {
    check("versions", &snapshot.webhook_pods, |pods| {
        let mut findings = Vec::new();
        let mut found: Vec<String> = Vec::new();
        for pod in pods {
            let figures = snapshot.figures.get(name(pod)).and_then(|figures| figures.as_ref().ok());
            let Some(running) = figures.and_then(|text| label(text, "leader_webhook_build_info", "version")) else {
                continue;
            };
            if !found.contains(&running) {
                found.push(running);
            }
        }
        let own = &snapshot.own_version;
        if let [first, other, ..] = &found[..] {
            let message = format!("replicas of different versions run: {first} and {other}");
            let mend = format!(
                "wait for the roll-out: kubectl -n {} rollout status deployment/leader-webhook",
                snapshot.namespace
            );
            findings.push(Finding::warning(format!("Deployment {}/leader-webhook", snapshot.namespace), message, mend));
        }
        for running in found.iter().filter(|running| *running != own) {
            let message = format!("the webhook is {running}, and this program {own}");
            let mend = if is_apart(running, own) {
                format!("use the kubectl-leader of the webhook's version, or {MANIFESTS}")
            } else {
                "one version apart is supported; nothing has to be done at once".to_owned()
            };
            findings.push(Finding::warning("", message, mend));
        }
        let webhook = if found.is_empty() { "of an unknown version".to_owned() } else { found.join(", ") };
        (format!("kubectl-leader {own}, webhook {webhook}"), findings)
    })
}

/// The value of a label of the first sample of a metric.
pub(super) fn label(figures: &str, metric: &str, key: &str) -> Option<String> {
    let line = figures.lines().find(|line| line.starts_with(metric))?;
    let (_, rest) = line.split_once(&format!("{key}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The value of the first sample of a metric.
pub(super) fn value(figures: &str, metric: &str) -> Option<f64> {
    let line = figures.lines().find(|line| line.starts_with(metric))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Whether two versions are more than one minor version apart. What is no version is not.
pub(super) fn is_apart(one: &str, other: &str) -> bool {
    let parsed = |text: &str| {
        let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']).map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    match (parsed(one), parsed(other)) {
        (Some((major, minor)), Some((other_major, other_minor))) => {
            major != other_major || minor.abs_diff(other_minor) > 1
        }
        _ => false,
    }
}

/// The tag of an image's reference, empty without one.
pub(super) fn tag(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map_or("", |(_, tag)| tag)
}

/// The record that a pod template, or a pod, carries.
pub(super) fn record(template: &Value) -> Option<Value> {
    let text = template["metadata"]["annotations"][leader_agent::names::INJECTED].as_str()?;
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_versions_are_apart() {
        assert!(!is_apart("0.1.0", "0.1.7"));
        assert!(!is_apart("0.1.0", "v0.2.0-rc.1"));
        assert!(is_apart("0.1.0", "0.3.0"));
        assert!(is_apart("1.0.0", "0.9.0"));
        assert!(!is_apart("latest", "0.3.0"));
        assert!(!is_apart("", "0.3.0"));
    }

    #[test]
    fn tags_of_images() {
        assert_eq!(tag("ghcr.io/leader-io/leader-agent:0.1.0"), "0.1.0");
        assert_eq!(tag("mirror:5000/leader-agent"), "");
        assert_eq!(tag("mirror:5000/leader-agent:0.1.0@sha256:ab"), "0.1.0");
    }

    #[test]
    fn samples_of_metrics() {
        let text = "# TYPE a info\na_info{version=\"0.1.0\"} 1\nb{x=\"y\"} 12.5\n";
        assert_eq!(label(text, "a_info", "version").as_deref(), Some("0.1.0"));
        assert_eq!(label(text, "c", "version"), None);
        assert_eq!(value(text, "b{"), Some(12.5));
    }
}
