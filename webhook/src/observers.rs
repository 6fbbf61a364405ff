//! Who is told what the webhook did: figures, Events and the log.
//!
//! Nothing here waits or fails, so that no review does for being told about.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::core::admission::AdmissionResponse;

use crate::{
    events::Recorder,
    metrics::{self, Metrics},
    notices,
    review::Review,
    rewrites::Rewrites,
};

/// What is told goes here.
#[derive(Debug)]
pub struct Observers {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told to people.
    pub recorder: Recorder,
    rewrites: Mutex<Rewrites>,
}

impl Default for Observers {
    /// Counts, and writes no Events.
    fn default() -> Self {
        Self::new(Arc::default(), Recorder::silent())
    }
}

impl Observers {
    /// Observers that count in `metrics` and tell `recorder`.
    pub fn new(metrics: Arc<Metrics>, recorder: Recorder) -> Self {
        Self { metrics, recorder, rewrites: Mutex::default() }
    }

    /// A review was answered with `response`, `took` after it had arrived.
    pub fn answered(&self, review: &Review, result: metrics::Result, response: &AdmissionResponse, took: Duration) {
        self.metrics.count(result, took);
        notices::tell(&self.recorder, review, result, response);
        tracing::info!(
            uid = review.request.uid,
            kind = review.request.kind.kind,
            namespace = review.namespace(),
            name = review.name(),
            operation = ?review.request.operation,
            user = review.request.user_info.username,
            dry_run = review.request.dry_run,
            %result,
            milliseconds = took.as_millis(),
            message = response.result.message,
        );
    }

    /// A workload is stored as it was before.
    pub fn rewritten(&self, review: &Review) {
        let uid = review.old.as_ref().and_then(|old| old["metadata"]["uid"].as_str());
        let Some(uid) = uid.filter(|_| !review.request.dry_run) else { return };
        // A panic while it was held leaves counts, which are as good as before.
        let mut rewrites = self.rewrites.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = rewrites.count(uid, Instant::now());
        drop(rewrites);
        if let Some(writes) = writes {
            notices::tell_of_rewrites(&self.recorder, review, writes);
        }
    }
}
