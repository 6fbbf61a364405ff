//! Passes the run loop's news on to all who want them: clients of the local API, the figures and the status file.
//!
//! None of them is waited for, with one exception that the caller chooses: [`Publisher::withdrawn`].

use std::{io, sync::Arc};

use tokio::sync::watch;

use super::status::{Candidate, Leading, Status};
use crate::{
    elector::{Elector, StopReason},
    metrics::Metrics,
    status_file::StatusFile,
};

/// One candidate's news.
#[derive(Debug)]
pub struct Publisher {
    status: watch::Sender<Status>,
    metrics: Arc<Metrics>,
    file: Option<StatusFile>,
    /// The token that the app was started with, until it is asked to stop.
    token: Option<u64>,
}

impl Publisher {
    /// For a candidate that has seen nothing yet.
    pub fn new(candidate: &Candidate, file: Option<StatusFile>) -> Self {
        let status = watch::Sender::new(Status::default());
        let metrics = Arc::new(Metrics::new(&candidate.id, status.subscribe()));
        Self { status, metrics, file, token: None }
    }

    /// The newest status, and each that follows.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The figures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The app was started, or shall be.
    pub fn app_started(&mut self, token: u64) {
        self.metrics.count_start();
        self.token = Some(token);
    }

    /// The app is asked to stop, or has ended by itself. Whoever believes in its leadership shall stop as well.
    pub fn app_stops(&mut self, reason: StopReason) {
        if self.token.take().is_some() {
            self.metrics.count_stop(reason);
        }
        if let Some(file) = &mut self.file {
            file.remove();
        }
    }

    /// Everything is about to die. What can still be done, is done by others and not waited for.
    pub fn dies(&mut self) {
        self.token = None;
        if let Some(file) = &mut self.file {
            file.remove();
        }
    }

    /// Tells what is new since the last time.
    pub fn refresh(&mut self, elector: &Elector) {
        let status = Status::of(elector, self.token);
        let told = self.status.borrow().leading;
        if let Some(file) = self.file.as_mut().filter(|_| told != status.leading) {
            match status.leading {
                Some(Leading { token, believe_until }) => file.write(token, believe_until),
                None => file.remove(),
            }
        }
        self.status.send_if_modified(|old| {
            let new = *old != status;
            *old = status;
            new
        });
    }

    /// Whether no status file says that this candidate leads.
    pub fn is_withdrawn(&self) -> bool {
        self.file.as_ref().is_none_or(StatusFile::is_removed)
    }

    /// Waits until no status file says that this candidate leads. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the file cannot be removed: the Lease must not be released.
    pub async fn withdrawn(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.removed().await,
            None => Ok(()),
        }
    }
}
