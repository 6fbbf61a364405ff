//! The webhook's certificates: those that the API server trusts, the authority that signs, and how long each lasts.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use leader_certs::authority::BACKDATED;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

use super::{check, versions};
use crate::cli::check::{
    gather::{AUTHORITY, WEBHOOK},
    report::{Check, Finding},
    snapshot::Snapshot,
};

/// An authority that ends this soon, and of whose life a quarter is left at most, is not replaced as it should be: the webhook makes the
/// next one when half of its life is over.
const AUTHORITY_SOON: SignedDuration = SignedDuration::from_hours(24 * 7);
/// A certificate that ends this soon may not be renewed as it should be.
const LEAF_SOON: SignedDuration = SignedDuration::from_hours(1);
/// When the shown certificate ends, as the webhook counts it.
const EXPIRY: &str = "leader_webhook_certificate_expiry_timestamp_seconds";

/// The API server trusts what the webhook shows, now and for some time.
pub(super) fn certificate(snapshot: &Snapshot) -> Check {
    check("certificate", &snapshot.configuration, |configuration| {
        // Without a configuration there is nothing to trust, which another check says.
        let Some(configuration) = configuration else { return ("no caBundle to judge".to_owned(), Vec::new()) };
        let mut findings = Vec::new();
        let mut good = Vec::new();
        bundle(snapshot, configuration, &mut good, &mut findings);
        leaf(snapshot, &mut good, &mut findings);
        (good.join("; "), findings)
    })
}

fn bundle(snapshot: &Snapshot, configuration: &Value, good: &mut Vec<String>, findings: &mut Vec<Finding>) {
    let object = format!("MutatingWebhookConfiguration {WEBHOOK}");
    let logs = format!("kubectl -n {} logs deployment/{WEBHOOK}", snapshot.namespace);
    let signs = match &snapshot.authority {
        Ok(Some(pem)) => certificates(pem.as_bytes()),
        // A mounted certificate, or one of cert-manager, has no such Secret.
        Ok(None) => Vec::new(),
        Err(reason) => {
            findings.push(Finding::unknown(reason));
            Vec::new()
        }
    };
    for webhook in configuration["webhooks"].as_array().into_iter().flatten() {
        let name = webhook["name"].as_str().unwrap_or_default();
        let text = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        if text.is_empty() {
            // The configuration's own check says so.
            continue;
        }
        let trusted = certificates(&BASE64_STANDARD.decode(text).unwrap_or_default());
        let ends: Vec<_> = trusted.iter().filter_map(|der| end(der)).collect();
        let Some((last, life)) = ends.iter().max() else {
            let message = format!("caBundle of {name} has no certificate that can be read: every review fails");
            findings.push(Finding::problem(
                &*object,
                message,
                format!("the webhook puts it right within a minute; if not: {logs}"),
            ));
            continue;
        };
        if *last <= snapshot.now {
            let message =
                format!("all certificates in caBundle of {name} have ended, the last at {last}: every review fails");
            findings.push(Finding::problem(
                &*object,
                message,
                format!("the webhook renews its authority by itself: {logs}"),
            ));
        } else if last.duration_since(snapshot.now) < AUTHORITY_SOON.min(*life / 4) && !signs.is_empty() {
            let message = format!("the authority in caBundle of {name} ends at {last}, and there is no next one yet");
            findings.push(Finding::warning(
                &*object,
                message,
                format!("the webhook renews its authority by itself: {logs}"),
            ));
        }
        if !signs.is_empty() && !signs.iter().any(|authority| trusted.contains(authority)) {
            let message = format!(
                "caBundle of {name} does not have the authority of Secret {}/{AUTHORITY}: the API server does not trust the webhook",
                snapshot.namespace
            );
            let mend = format!(
                "the webhook puts it right within a minute, unless somebody keeps writing it (docs/certificates.md); if not: {logs}"
            );
            findings.push(Finding::problem(&*object, message, mend));
        }
        let authority = format!("the authority ends in {}", days(last.duration_since(snapshot.now)));
        if !good.contains(&authority) {
            good.push(authority);
        }
    }
}

fn leaf(snapshot: &Snapshot, good: &mut Vec<String>, findings: &mut Vec<Finding>) {
    let mut first_to_end: Option<Timestamp> = None;
    for (pod, figures) in &snapshot.figures {
        let object = format!("Pod {}/{pod}", snapshot.namespace);
        let figures = match figures {
            Ok(figures) => figures,
            Err(reason) => {
                findings.push(Finding { object, ..Finding::unknown(&format!("its certificate, because {reason}")) });
                continue;
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a year that certificates can name")]
        let until = versions::value(figures, EXPIRY).and_then(|value| Timestamp::from_second(value as i64).ok());
        let logs = format!("kubectl -n {} logs {pod}", snapshot.namespace);
        match until {
            None => {
                let message = "it shows no certificate that the API server trusts";
                findings.push(Finding::problem(object, message, format!("the reason is in its log: {logs}")));
            }
            Some(until) if until <= snapshot.now => {
                let message = format!("its certificate ended at {until}");
                let mend =
                    format!("it is renewed by itself; why not, says its log: {logs}; is the node's clock right?");
                findings.push(Finding::problem(object, message, mend));
            }
            Some(until) if until.duration_since(snapshot.now) < LEAF_SOON => {
                let message = format!("its certificate ends in {}", days(until.duration_since(snapshot.now)));
                findings.push(Finding::warning(object, message, format!("if it is not renewed by then: {logs}")));
            }
            Some(_) => (),
        }
        first_to_end = [first_to_end, until].into_iter().flatten().min();
    }
    if let Some(until) = first_to_end {
        good.insert(0, format!("the shown certificate ends in {}", days(until.duration_since(snapshot.now))));
    }
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// When a certificate ends, and how long it lives from the moment in which it was made.
fn end(der: &CertificateDer<'_>) -> Option<(Timestamp, SignedDuration)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let moment = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let until = moment(certificate.validity().not_after)?;
    let made = moment(certificate.validity().not_before)?.checked_add(BACKDATED).ok()?;
    Some((until, until.duration_since(made)))
}

/// `3649 days`, `0.9 days`.
fn days(left: SignedDuration) -> String {
    let days = left.as_secs_f64() / (24.0 * 3600.0);
    if days < 10.0 { format!("{days:.1} days") } else { format!("{days:.0} days") }
}
