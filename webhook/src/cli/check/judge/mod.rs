//! Judges a snapshot: what is wrong, and what to do about it. Pure: the same snapshot gives the same report.

mod access;
mod certificate;
mod installation;
mod leaders;
mod review;
mod services;
mod versions;
mod workloads;

#[cfg(test)]
mod tests;

use super::{
    report::{Check, Finding, Report},
    snapshot::{Read, Snapshot},
};

/// The manifests of the installation, as messages name them.
const MANIFESTS: &str = "apply the manifests of this version again (`kubectl apply -k deploy/`)";

/// Every check, in the order in which one thing needs the other.
pub(super) fn judge(snapshot: &Snapshot) -> Report {
    let checks = vec![
        versions::kubernetes(snapshot),
        versions::leader(snapshot),
        installation::webhook(snapshot),
        installation::configuration(snapshot),
        certificate::certificate(snapshot),
        review::answer(snapshot),
        installation::policies(snapshot),
        installation::rights(snapshot),
        workloads::injected(snapshot),
        workloads::images(snapshot),
        access::access(snapshot),
        services::traffic(snapshot),
        leaders::leaders(snapshot),
    ];
    Report { checks }
}

/// The check of something that was read; what could not be is said to be unknown.
fn check<T>(name: &'static str, read: &Read<T>, judge: impl FnOnce(&T) -> (String, Vec<Finding>)) -> Check {
    match read {
        Ok(found) => {
            let (good, findings) = judge(found);
            Check::new(name, good, findings)
        }
        Err(reason) => Check::new(name, "", vec![Finding::unknown(reason)]),
    }
}

/// `1 pod` or `3 pods`.
fn counted(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}
