//! The agent's figures, in the form that Prometheus reads. docs/agent.md lists them.
//!
//! The id is a label of each, so that replicas of one election can be summed up.

use std::{borrow::Cow, fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use tokio::sync::watch;

use crate::{
    api::status::Status,
    clock,
    elector::{Reply, StopReason},
};

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a renewal on a quiet API server to the longest patience with one ([`crate::timing::LONGEST_REQUEST`]).
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How a renewal ended, as the label `result` says it.
const RESULTS: [&str; 4] = ["stored", "conflict", "refused", "unknown"];

/// Why the app is stopped, as the label `reason` says it.
const REASONS: [StopReason; 9] = [
    StopReason::Shutdown,
    StopReason::AppExited,
    StopReason::AppFailed,
    StopReason::RunningOut,
    StopReason::Hold,
    StopReason::StepDown,
    StopReason::Unready,
    StopReason::NoRoom,
    StopReason::ClockSkew,
];

type Labels = [(&'static str, &'static str); 1];

/// What is counted, and what is looked up when somebody asks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    starts: Counter,
    stops: Family<Labels, Counter>,
    renewals: Family<Labels, Counter>,
    renewal_durations: Histogram,
}

impl Metrics {
    /// The figures of one candidate of the election `id`, the present ones as `status` says.
    pub fn new(id: &str, status: watch::Receiver<Status>) -> Self {
        let labels = [(Cow::from("id"), Cow::from(id.to_owned()))];
        let mut registry = Registry::with_prefix_and_labels("leader_agent", labels.into_iter());
        registry.register("build", "The version of the agent", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register_collector(Box::new(Present(status)));
        let (starts, stops, renewals) = (Counter::default(), Family::default(), Family::default());
        let renewal_durations = Histogram::new(BUCKETS);
        registry.register("app_starts", "How often this process has started the application", starts.clone());
        let help = "How often the application was stopped or ended, by the reason";
        registry.register("app_stops", help, Family::clone(&stops));
        registry.register("renewals", "Renewals of the Lease, by how they ended", Family::clone(&renewals));
        let help = "From sending a renewal to its answer, or to the end of the patience with it";
        registry.register_with_unit("renewal_duration", help, Unit::Seconds, renewal_durations.clone());
        // What has not happened is zero, and not absent.
        for reason in REASONS {
            let _: &Counter = &stops.get_or_create(&[("reason", name(reason))]);
        }
        for result in RESULTS {
            let _: &Counter = &renewals.get_or_create(&[("result", result)]);
        }
        Self { registry, starts, stops, renewals, renewal_durations }
    }

    /// The app was started, or could not be.
    pub fn count_start(&self) {
        self.starts.inc();
    }

    /// The app is asked to stop, or has ended by itself.
    pub fn count_stop(&self, reason: StopReason) {
        self.stops.get_or_create(&[("reason", name(reason))]).inc();
    }

    /// A renewal ended so after `took`.
    pub fn count_renewal(&self, reply: &Reply, took: Duration) {
        let [stored, conflict, refused, unknown] = RESULTS;
        let result = match reply {
            Reply::Written(_) => stored,
            Reply::Conflict => conflict,
            Reply::Refused => refused,
            Reply::Unknown => unknown,
        };
        self.renewals.get_or_create(&[("result", result)]).inc();
        self.renewal_durations.observe(took.as_secs_f64());
    }

    /// Everything, as text.
    ///
    /// # Errors
    /// None that is known: a text takes whatever is written to it.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The label's value.
fn name(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Shutdown => "shutdown",
        StopReason::AppExited => "app_exited",
        StopReason::AppFailed => "app_failed",
        StopReason::RunningOut => "running_out",
        StopReason::Hold => "hold",
        StopReason::StepDown => "step_down",
        StopReason::Unready => "unready",
        StopReason::NoRoom => "no_room",
        StopReason::ClockSkew => "clock_skew",
    }
}

/// What is so at the moment somebody asks.
#[derive(Debug)]
struct Present(watch::Receiver<Status>);

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.borrow().clone();
        let left = status.deadline.map(|deadline| deadline.saturating_sub(clock::boot()).as_secs_f64());
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| {
            let descriptor = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            match value.map(ConstGauge::new) {
                Some(gauge) => gauge.encode(descriptor),
                None => Ok(()),
            }
        };
        let leading = if status.leading.is_some() { 1.0 } else { 0.0 };
        gauge(
            "leading",
            "1 on the leader, from the start of the application until it is asked to stop, and 0 elsewhere.",
            None,
            Some(leading),
        )?;
        let help =
            "Time until everything is dead unless a renewal succeeds, while the application runs; absent elsewhere.";
        gauge("deadline_remaining", help, Some(&Unit::Seconds), left)?;
        let help = "The safety margin at present: it grows with the lateness of this machine's timers.";
        gauge("margin", help, Some(&Unit::Seconds), Some(status.margin.as_secs_f64()))?;
        let transitions = status.transitions.map(f64::from);
        gauge("lease_transitions", "The Lease's leaseTransitions, as last seen.", None, transitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Leading;

    fn value(text: &str, start: &str) -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn what_happens_is_counted_and_what_did_not_is_zero() {
        let (sender, receiver) = watch::channel(Status::default());
        let metrics = Metrics::new("billing", receiver);
        let text = metrics.text().unwrap();
        assert_eq!(value(&text, "leader_agent_leading{id=\"billing\"}"), Some(0.0), "{text}");
        assert_eq!(value(&text, "leader_agent_deadline_remaining_seconds{"), None, "{text}");
        assert_eq!(value(&text, "leader_agent_app_stops_total{id=\"billing\",reason=\"hold\"}"), Some(0.0), "{text}");

        metrics.count_start();
        metrics.count_stop(StopReason::Hold);
        metrics.count_renewal(&Reply::Conflict, Duration::from_millis(20));
        let believe_until = clock::boot() + Duration::from_hours(1);
        let leading = Some(Leading { token: 1, believe_until });
        sender.send_replace(Status {
            leading,
            deadline: Some(believe_until),
            transitions: Some(7),
            ..Status::default()
        });
        let text = metrics.text().unwrap();
        for (start, expected) in [
            ("leader_agent_app_starts_total{", 1.0),
            ("leader_agent_app_stops_total{id=\"billing\",reason=\"hold\"}", 1.0),
            ("leader_agent_renewals_total{id=\"billing\",result=\"conflict\"}", 1.0),
            ("leader_agent_renewal_duration_seconds_count{", 1.0),
            ("leader_agent_renewal_duration_seconds_bucket{id=\"billing\",le=\"0.01\"}", 0.0),
            ("leader_agent_renewal_duration_seconds_bucket{id=\"billing\",le=\"0.025\"}", 1.0),
            ("leader_agent_leading{", 1.0),
            ("leader_agent_lease_transitions{", 7.0),
        ] {
            assert_eq!(value(&text, start), Some(expected), "{start}: {text}");
        }
        let left = value(&text, "leader_agent_deadline_remaining_seconds{").unwrap();
        assert!(left > 1800.0 && left <= 3600.0, "{left}");
    }

    /// What is served, and what docs/agent.md says of it: name, type, labels and meaning.
    #[test]
    fn the_documentation_lists_what_is_served() {
        let (sender, receiver) = watch::channel(Status::default());
        let metrics = Metrics::new("billing", receiver);
        sender.send_replace(Status { deadline: Some(Duration::ZERO), transitions: Some(1), ..Status::default() });
        let text = metrics.text().unwrap();
        let mut served: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(family, kind)| {
                let help = format!("# HELP {family} ");
                let meaning = text.lines().find_map(|line| line.strip_prefix(&help)).unwrap_or_default();
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                let samples = text.lines().filter(|line| line.starts_with(family));
                let labels: std::collections::BTreeSet<_> = samples
                    .filter_map(|line| line.split_once('{')?.1.split_once('}'))
                    .flat_map(|(labels, _)| labels.split(','))
                    .filter_map(|label| Some(label.split_once('=')?.0))
                    .filter(|label| *label != "id")
                    .collect();
                let labels: Vec<_> = labels.into_iter().map(|label| format!("`{label}`")).collect();
                let (labels, meaning) = (labels.join(", "), meaning.trim_end_matches('.'));
                format!("| `{family}{suffix}` | {kind} | {labels} | {meaning} |").replace("|  |", "| |")
            })
            .collect();
        let documented =
            include_str!("../../docs/agent.md").lines().filter(|line| line.starts_with("| `leader_agent_"));
        let mut documented: Vec<_> = documented.map(str::to_owned).collect();
        served.sort();
        documented.sort();
        assert_eq!(served, documented);
    }

    #[test]
    fn the_documentation_names_every_reason_and_result() {
        let documentation = include_str!("../../docs/agent.md");
        for value in REASONS.map(name).into_iter().chain(RESULTS) {
            assert!(documentation.contains(&format!("`{value}`")), "{value}");
        }
    }
}
