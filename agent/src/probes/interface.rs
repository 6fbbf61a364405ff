//! What the [`super::prober`] and its surroundings say to each other: questions in, answers and orders out. Decides nothing.

use std::{ffi::OsString, time::Duration};

use tokio::sync::oneshot;

use super::{Kind, Outcome};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does this probe pass?
    Probe(Kind),
    /// The kubelet is about to stop the container: the preStop hook, please.
    PreStop,
}

/// What a question is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it passed.
    pub passed: bool,
    /// Why, in one line.
    pub reason: String,
}

/// A question, and where its answer goes.
#[derive(Debug)]
pub struct Ask {
    /// The question.
    pub question: Question,
    /// When it came in, on the boot clock.
    pub asked: Duration,
    /// Who asked. Whoever gave up waiting does not matter.
    pub reply: oneshot::Sender<Answer>,
}

/// What is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A probe, once.
    Probe(Kind),
    /// The postStart hook.
    PostStart,
    /// The preStop hook.
    PreStop,
}

/// What the run loop has to do.
#[derive(Debug)]
pub enum Order {
    /// Start this beside the app, and hand the result to [`super::prober::Prober::exec_started`].
    Exec {
        /// For what.
        job: Job,
        /// The program and its arguments.
        command: Vec<OsString>,
    },
    /// The app's start has failed for good.
    AppFailed,
    /// The app's readiness probe passes, or fails, from now on.
    Ready(bool),
    /// The app is prepared for its stop.
    Prepared,
}

impl Answer {
    pub(super) fn new(passed: bool, reason: impl Into<String>) -> Self {
        Self { passed, reason: reason.into() }
    }

    /// What `outcome` means for a probe. What the kubelet does not count must not make it restart the app.
    pub(super) fn of(kind: Option<Kind>, outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::new(true, "ok"),
            Outcome::Warning(reason) => Self::new(true, reason),
            Outcome::Failure(reason) => Self::new(false, reason),
            Outcome::Unknown(reason) => Self::new(kind == Some(Kind::Liveness), format!("not carried out: {reason}")),
        }
    }
}
