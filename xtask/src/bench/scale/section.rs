//! What was measured, as a section of docs/benchmarks.md.

use anyhow::{Context, Result};
use serde_json::Value;

use super::figures::Histogram;
use super::{Measured, Storm};
use crate::bench::document::{micros, table};
use crate::bench::memory::megabytes;

/// The goals of the project.
const MEMORY: u64 = 64_000_000;
const REQUESTS: f64 = 1.0;
const REVIEW_SECONDS: f64 = 0.1;
/// The share of the reviews that the last one is about.
const SHARE: f64 = 0.99;

/// The section's text.
pub(super) fn text(machine: &str, measured: &Measured) -> Result<String> {
    let Measured { extent, fill, pods, first, steady, storm, memory } = measured;
    let seconds = |value: &Value| value.as_f64().with_context(|| format!("{value} is no number"));
    let mut at_rest = vec![["request", "count", "per second"].map(str::to_owned).to_vec()];
    let total: usize = steady.values().sum();
    let rows = steady.iter().map(|(kind, count)| (kind.as_str(), *count)).chain([("all", total)]);
    at_rest.extend(rows.map(|(kind, count)| {
        vec![kind.to_owned(), count.to_string(), format!("{:.2}", per_second(count, extent.steady.as_secs_f64()))]
    }));
    let mut used = vec![["", "now", "highest since its start"].map(str::to_owned).to_vec()];
    used.extend(
        memory.iter().map(|(when, memory)| vec![(*when).to_owned(), megabytes(memory.now), megabytes(memory.highest)]),
    );
    Ok(format!(
        "Repeat it with `cargo xtask bench scale`, as root on a machine that does nothing else. The numbers here are of\n{machine}\n\n\
         {}\n\
         {} annotated Deployments of three replicas each in ten namespaces (the 7 kB manifest of the injection's benchmark), with the Lease, account, Role and RoleBinding of each, and \
         the {pods} pods that the cluster's own controllers make of them: objects on a real API server. Each Lease has a holder. No node runs the pods, so that the processors are left to API server, etcd, controllers and \
         the two replicas of the webhook, installed from `deploy/`. Memory is `VmRSS` and `VmHWM` of proc_pid_status(5), of the replica that uses more. Requests are those of the webhook's account in the API server's audit log, of both replicas.\n\n\
         ### Memory\n\n{}\n\
         ### First look at everything\n\n\
         Creating the workloads, eight at a time and while the cluster's controllers made the pods, took {:.0} s ({:.1} a second; each one {} at the median, {} at the 99th percentile). Then both replicas were started anew: {:.1} s after one of them had become the \
         controller every id was reconciled, with {} requests; {:.0} reconciliations failed.\n\n\
         ### At rest\n\n\
         Over {} s in which nothing changed, the election of the controller included:\n\n{}\n\
         ### Rollout of everything at once\n\n{}",
        goals(measured, total)?,
        extent.workloads,
        table(&used),
        seconds(&fill["seconds"])?,
        seconds(&fill["stored"])? / seconds(&fill["seconds"])?,
        micros(seconds(&fill["p50Micros"])?),
        micros(seconds(&fill["p99Micros"])?),
        first.took.as_secs_f64(),
        first.requests,
        first.failed,
        extent.steady.as_secs(),
        table(&at_rest),
        rollout(storm)?,
    ))
}

fn goals(measured: &Measured, requests: usize) -> Result<String> {
    let highest = measured.memory.iter().map(|(_, memory)| memory.highest).max().unwrap_or_default();
    let rate = per_second(requests, measured.extent.steady.as_secs_f64());
    let refused =
        measured.storm.report["refused"].as_u64().context("the storm's report does not say what was refused")?;
    let goal = |what: &str, goal: String, measured: String, met: bool| {
        vec![what.to_owned(), goal, measured, if met { "yes" } else { "**no**" }.to_owned()]
    };
    let Storm { at_api_server, at_webhook, .. } = &measured.storm;
    let quick = |whose: &str, reviews: &Histogram| -> Result<Vec<String>> {
        Ok(goal(
            &format!("99th percentile of its reviews, {whose}"),
            micros(REVIEW_SECONDS * 1e6),
            micros(reviews.quantile(SHARE)? * 1e6),
            reviews.within(REVIEW_SECONDS)? >= SHARE,
        ))
    };
    Ok(table(&[
        ["goal", "at most", "measured", "met"].map(str::to_owned).to_vec(),
        goal("highest resident memory", megabytes(MEMORY), megabytes(highest), highest < MEMORY),
        goal("requests per second at rest", format!("{REQUESTS}"), format!("{rate:.2}"), rate < REQUESTS),
        goal("refused in the rollout", "0".to_owned(), refused.to_string(), refused == 0),
        quick("from the last byte of one to its answer", at_webhook)?,
        quick("as the API server sees them, with their waiting for a turn", at_api_server)?,
    ]))
}

/// Who measured how long what took.
fn rollout(storm: &Storm) -> Result<String> {
    let number = |name: &str| -> Result<f64> {
        storm.report[name].as_f64().with_context(|| format!("no {name} in {}", storm.report))
    };
    let of = |what: &str, histogram: &Histogram| -> Result<Vec<String>> {
        let quantile =
            |share: f64| Ok::<_, anyhow::Error>(format!("about {}", micros(histogram.quantile(share)? * 1e6)));
        let within = format!("{:.1}%", histogram.within(REVIEW_SECONDS)? * 100.0);
        Ok(vec![what.to_owned(), format!("{:.0}", histogram.count()), quantile(0.5)?, quantile(SHARE)?, within])
    };
    let times = table(&[
        ["", "count", "p50", "p99", "within 100 ms"].map(str::to_owned).to_vec(),
        of("a review, in the webhook", &storm.at_webhook)?,
        of("a review, as the API server sees it", &storm.at_api_server)?,
        vec![
            "a whole write, as its client sees it".to_owned(),
            format!("{:.0}", number("stored")?),
            micros(number("p50Micros")?),
            micros(number("p99Micros")?),
            "-".to_owned(),
        ],
    ]);
    let reasons = storm.report["reasons"].as_object().into_iter().flatten().take(3);
    let reasons = reasons.map(|(reason, count)| format!("{count} times: {reason}")).collect::<Vec<_>>().join("; ");
    let refused = if reasons.is_empty() { "none refused".to_owned() } else { format!("refused {reasons}") };
    Ok(format!(
        "Each workload's template was changed (as by `kubectl rollout restart`) by a client with a connection of its own, all at the same moment, under ten service accounts, one of each namespace: {:.0} writes, {refused}; the last one was answered \
         after {:.1} s, {:.0} a second. Clients, API server, etcd, controllers and webhook share the processors, so that most of a write's time is waiting for its turn in the API server. Times of \
         reviews are guessed from the buckets of histograms, as Prometheus does; the share within 100 ms is exact.\n\n{times}",
        number("sent")?,
        number("seconds")?,
        number("sent")? / number("seconds")?,
    ))
}

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn per_second(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::bench::scale::figures::Figures;
    use crate::bench::scale::replicas::{First, Memory};
    use crate::bench::scale::{QUICK, Storm};

    #[test]
    fn goals_that_were_missed_are_told() {
        let text = "took_bucket{le=\"0.1\"} 99\ntook_bucket{le=\"0.5\"} 100\ntook_bucket{le=\"+Inf\"} 100\n";
        let times = Figures::new(text.to_owned()).histogram("took", &[]);
        let writes = |refused: u64| {
            json!({"sent": 100, "stored": 100 - refused, "refused": refused, "seconds": 2.0, "p50Micros": 900, "p99Micros": 40_000,
                "reasons": if refused == 0 { json!({}) } else { json!({"no room": refused}) }})
        };
        let measured = |refused: u64, highest: u64| Measured {
            extent: QUICK,
            fill: writes(0),
            pods: 300,
            first: First { took: Duration::from_millis(1500), requests: 7, failed: 0.0 },
            steady: [("update leases".to_owned(), 15)].into(),
            storm: Storm { report: writes(refused), at_api_server: times.clone(), at_webhook: times.clone() },
            memory: vec![("at rest", Memory { now: 30_000_000, highest })],
        };
        let good = super::text("a machine", &measured(0, 40_000_000)).unwrap();
        assert!(good.contains("a machine") && !good.contains("**no**"), "{good}");
        for part in [
            "| highest resident memory | 64.0 MB | 40.0 MB | yes |",
            "| update leases | 15 | 0.50 |",
            "none refused",
            "99.0%",
        ] {
            assert!(good.contains(part), "no `{part}` in {good}");
        }
        let bad = super::text("a machine", &measured(3, 70_000_000)).unwrap();
        assert_eq!(bad.matches("**no**").count(), 2, "{bad}");
        assert!(bad.contains("refused 3 times: no room"), "{bad}");
    }
}
