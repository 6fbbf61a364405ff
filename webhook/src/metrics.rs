//! What is counted, in the form that Prometheus reads. docs/observability.md lists it, which a test compares.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From the time that a review without requests of its own takes, to the admission timeout.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];

/// The label that says how something ended.
const RESULT: &str = "result";

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Result {
    /// Stored with a template that was injected in this review.
    Injected,
    /// Stored with the injected template that was there before.
    Kept,
    /// Stored without what an earlier review had injected.
    Ejected,
    /// Stored as it arrived.
    Passed,
    /// Not stored, for a reason that the user can do something about.
    Refused,
    /// Not stored, because something failed.
    Failed,
    /// Not a review.
    Malformed,
}

impl Result {
    const ALL: [Self; 7] =
        [Self::Injected, Self::Kept, Self::Ejected, Self::Passed, Self::Refused, Self::Failed, Self::Malformed];

    fn label(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Kept => "kept",
            Self::Ejected => "ejected",
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
        }
    }
}

impl fmt::Display for Result {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// How the look-up of an image ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookUp {
    /// The registry told.
    Found,
    /// It had told before; failures that are remembered count as what they were.
    Known,
    /// It refused: 401 or 403.
    Denied,
    /// It has no such image.
    Missing,
    /// It had too many requests.
    Limited,
    /// There was no connection to it.
    Unreachable,
    /// It did not answer in time.
    Slow,
    /// It answered with what cannot be used, or could not be asked.
    Unusable,
}

impl LookUp {
    const ALL: [Self; 8] = [
        Self::Found,
        Self::Known,
        Self::Denied,
        Self::Missing,
        Self::Limited,
        Self::Unreachable,
        Self::Slow,
        Self::Unusable,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Known => "known",
            Self::Denied => "denied",
            Self::Missing => "missing",
            Self::Limited => "limited",
            Self::Unreachable => "unreachable",
            Self::Slow => "slow",
            Self::Unusable => "unusable",
        }
    }
}

/// What became of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventResult {
    /// The API server has it.
    Written,
    /// There was too much to tell, about everything or about one object.
    Dropped,
    /// The API server did not take it.
    Failed,
}

impl EventResult {
    const ALL: [Self; 3] = [Self::Written, Self::Dropped, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reconcile {
    /// All is as it should be, or was made so.
    Done,
    /// Something failed; it is tried again.
    Failed,
}

impl Reconcile {
    const ALL: [Self; 2] = [Self::Done, Self::Failed];

    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

type Labels = [(&'static str, &'static str); 1];
/// Counters by the label `result`.
type Results = Family<Labels, Counter>;

/// The counters, and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reviews: Results,
    durations: Histogram,
    look_ups: Results,
    look_up_durations: Histogram,
    events: Results,
    reconciles: Results,
    reconcile_durations: Histogram,
    leading: Gauge,
    /// Without a value there is no sample: nothing has been issued yet.
    expiry: Family<Labels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("leader_webhook");
        registry.register("build", "The version of the webhook", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let help = "Admission reviews answered, by how they ended";
        let reviews = results(&mut registry, "reviews", help, &Result::ALL.map(Result::label));
        let durations = histogram(&mut registry, "review_duration", "From a review's last byte to its answer");
        let help = "Look-ups of images' entry points, by how they ended";
        let look_ups = results(&mut registry, "image_lookups", help, &LookUp::ALL.map(LookUp::label));
        let help = "From asking for an image's entry point to the answer, the pods' pull secrets included";
        let look_up_durations = histogram(&mut registry, "image_lookup_duration", help);
        let events = results(
            &mut registry,
            "events",
            "Events, by what became of them",
            &EventResult::ALL.map(EventResult::label),
        );
        let help = "Reconciliations of one id, by how they ended; on the leading replica";
        let reconciles = results(&mut registry, "reconciles", help, &Reconcile::ALL.map(Reconcile::label));
        let help = "How long the reconciliation of one id took";
        let reconcile_durations = histogram(&mut registry, "reconcile_duration", help);
        let (leading, expiry) = (Gauge::default(), Family::<Labels, Gauge>::default());
        let help = "1 on the replica whose controllers work, 0 on the others";
        registry.register("controller_leading", help, leading.clone());
        let help = "When the certificate that is shown to the API server ends; absent before there is one";
        registry.register_with_unit("certificate_expiry_timestamp", help, Unit::Seconds, expiry.clone());
        Self {
            registry,
            reviews,
            durations,
            look_ups,
            look_up_durations,
            events,
            reconciles,
            reconcile_durations,
            leading,
            expiry,
        }
    }
}

/// Counters under `name`, one for each of `all`: what has not happened is zero, and not absent.
fn results(registry: &mut Registry, name: &str, help: &str, all: &[&'static str]) -> Results {
    let counters = Results::default();
    registry.register(name, help, Results::clone(&counters));
    for &result in all {
        drop(counters.get_or_create(&[(RESULT, result)]));
    }
    counters
}

fn histogram(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::new(BUCKETS);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

impl Metrics {
    /// Counts one review.
    pub fn count(&self, result: Result, duration: Duration) {
        self.reviews.get_or_create(&[(RESULT, result.label())]).inc();
        self.durations.observe(duration.as_secs_f64());
    }

    /// Counts one look-up of an image.
    pub fn count_look_up(&self, result: LookUp, duration: Duration) {
        self.look_ups.get_or_create(&[(RESULT, result.label())]).inc();
        self.look_up_durations.observe(duration.as_secs_f64());
    }

    /// Counts one Event.
    pub fn count_event(&self, result: EventResult) {
        self.events.get_or_create(&[(RESULT, result.label())]).inc();
    }

    /// Counts one reconciliation of an id.
    pub fn count_reconcile(&self, result: Reconcile, duration: Duration) {
        self.reconciles.get_or_create(&[(RESULT, result.label())]).inc();
        self.reconcile_durations.observe(duration.as_secs_f64());
    }

    /// Whether this replica's controllers work from now on.
    pub fn set_leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    /// When the certificate that is shown ends.
    pub fn set_expiry(&self, until: Timestamp) {
        self.expiry.get_or_create(&[("certificate", "leaf")]).set(until.as_second());
    }

    /// Everything, as text.
    pub fn text(&self) -> std::result::Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn value(text: &str, start: &str) -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn what_has_not_happened_is_zero_and_what_is_not_known_is_absent() {
        let metrics = Metrics::default();
        let text = metrics.text().unwrap();
        for start in [
            "leader_webhook_reviews_total{result=\"refused\"}",
            "leader_webhook_image_lookups_total{result=\"denied\"}",
            "leader_webhook_events_total{result=\"dropped\"}",
            "leader_webhook_reconciles_total{result=\"failed\"}",
            "leader_webhook_controller_leading",
        ] {
            assert_eq!(value(&text, start), Some(0.0), "{start}: {text}");
        }
        let expiry = "leader_webhook_certificate_expiry_timestamp_seconds";
        assert_eq!(value(&text, expiry), None, "{text}");

        metrics.count_event(EventResult::Dropped);
        metrics.count_reconcile(Reconcile::Failed, Duration::from_millis(20));
        metrics.set_leading(true);
        metrics.set_expiry(Timestamp::from_second(1_795_000_000).unwrap());
        let text = metrics.text().unwrap();
        for (start, expected) in [
            ("leader_webhook_events_total{result=\"dropped\"}", 1.0),
            ("leader_webhook_reconciles_total{result=\"failed\"}", 1.0),
            ("leader_webhook_reconcile_duration_seconds_count", 1.0),
            ("leader_webhook_controller_leading", 1.0),
            (expiry, 1_795_000_000.0),
        ] {
            assert_eq!(value(&text, start), Some(expected), "{start}: {text}");
        }
        metrics.set_leading(false);
        let text = metrics.text().unwrap();
        assert_eq!(value(&text, "leader_webhook_controller_leading"), Some(0.0), "{text}");
    }

    /// What is served, and what docs/observability.md says of it: name, type, labels and meaning.
    #[test]
    fn the_documentation_lists_what_is_served() {
        let metrics = Metrics::default();
        metrics.set_expiry(Timestamp::UNIX_EPOCH);
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
                let labels: BTreeSet<_> = samples
                    .filter_map(|line| line.split_once('{')?.1.split_once('}'))
                    .flat_map(|(labels, _)| labels.split(','))
                    .filter_map(|label| Some(label.split_once('=')?.0))
                    .filter(|label| *label != "le")
                    .collect();
                let labels: Vec<_> = labels.into_iter().map(|label| format!("`{label}`")).collect();
                let (labels, meaning) = (labels.join(", "), meaning.trim_end_matches('.'));
                format!("| `{family}{suffix}` | {kind} | {labels} | {meaning} |").replace("|  |", "| |")
            })
            .collect();
        let documentation = include_str!("../../docs/observability.md");
        let documented = documentation.lines().filter(|line| line.starts_with("| `leader_webhook_"));
        let mut documented: Vec<_> = documented.map(str::to_owned).collect();
        served.sort();
        documented.sort();
        assert_eq!(served, documented);
        for value in
            text.lines().filter_map(|line| line.split_once("result=\"")?.1.split_once('"')).map(|(value, _)| value)
        {
            assert!(documentation.contains(&format!("`{value}`")), "{value}");
        }
    }
}
