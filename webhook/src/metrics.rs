//! What is counted, in the form that Prometheus reads.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From the time that a review without requests of its own takes, to the admission timeout.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
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

impl fmt::Display for Result {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Injected => "injected",
            Self::Kept => "kept",
            Self::Ejected => "ejected",
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
        })
    }
}

/// How the look-up of an image ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: Result,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookUpLabels {
    result: LookUp,
}

/// The counters, and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reviews: Family<Labels, Counter>,
    durations: Histogram,
    look_ups: Family<LookUpLabels, Counter>,
    look_up_durations: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("leader_webhook");
        let (reviews, durations) = (Family::<Labels, Counter>::default(), Histogram::new(BUCKETS));
        registry.register("reviews", "Admission reviews answered, by how they ended", reviews.clone());
        let help = "From a review's last byte to its answer";
        registry.register_with_unit("review_duration", help, Unit::Seconds, durations.clone());
        let (look_ups, look_up_durations) = (Family::<LookUpLabels, Counter>::default(), Histogram::new(BUCKETS));
        registry.register("image_lookups", "Look-ups of images' entry points, by how they ended", look_ups.clone());
        let help = "From asking for an image's entry point to the answer, the pods' pull secrets included";
        registry.register_with_unit("image_lookup_duration", help, Unit::Seconds, look_up_durations.clone());
        Self { registry, reviews, durations, look_ups, look_up_durations }
    }
}

impl Metrics {
    /// Counts one review.
    pub fn count(&self, result: Result, duration: Duration) {
        self.reviews.get_or_create(&Labels { result }).inc();
        self.durations.observe(duration.as_secs_f64());
    }

    /// Counts one look-up of an image.
    pub fn count_look_up(&self, result: LookUp, duration: Duration) {
        self.look_ups.get_or_create(&LookUpLabels { result }).inc();
        self.look_up_durations.observe(duration.as_secs_f64());
    }

    /// Everything, as text.
    pub fn text(&self) -> std::result::Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
