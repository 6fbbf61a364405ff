//! What became of writes, and how long they took.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

/// No write takes longer: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

/// Writes since a moment.
pub(crate) struct Writes {
    from: Timestamp,
    started: Instant,
    /// In microseconds; of those that were stored.
    times: Histogram<u64>,
    last: Duration,
    /// How often each reason was given.
    refused: BTreeMap<String, u64>,
}

impl Writes {
    pub(crate) fn begin() -> Self {
        let Ok(times) = Histogram::new_with_bounds(1, LONGEST, 3) else { unreachable!("the bounds are right") };
        let last = Duration::ZERO;
        Self { from: Timestamp::now(), started: Instant::now(), times, last, refused: BTreeMap::new() }
    }

    /// One write, and how it ended.
    pub(crate) fn add(&mut self, took: Duration, result: kube::Result<()>) {
        match result {
            Ok(()) => self.times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            Err(error) => *self.refused.entry(error.to_string()).or_default() += 1,
        }
        self.last = self.last.max(took);
    }

    /// All of them, when the last one has ended.
    pub(crate) fn report(self) -> Value {
        let seconds = self.started.elapsed().as_secs_f64();
        let refused: u64 = self.refused.values().sum();
        json!({
            "sent": self.times.len() + refused,
            "stored": self.times.len(),
            "refused": refused,
            "reasons": self.refused,
            "from": self.from.to_string(),
            "until": Timestamp::now().to_string(),
            "seconds": seconds,
            "p50Micros": self.times.value_at_quantile(0.5),
            "p99Micros": self.times.value_at_quantile(0.99),
            "longestMicros": u64::try_from(self.last.as_micros()).unwrap_or(u64::MAX),
        })
    }
}
