//! Probes and hooks of the app: what the kubelet would do with them, done by the agent.
//!
//! A standby has no app, so the kubelet's probes and hooks are answered by the agent ([`server`], [`prober`]), which keeps the
//! user's own ([`spec`]). What an answer is made of is decided by a machine without I/O ([`gate`]); what has to be carried out
//! is carried out as the kubelet does it ([`http`], [`connect`], [`grpc`], and [`crate::app::Exec`]). When the app is stopped is
//! left to the elector.
//!
//! The rules are those of Kubernetes 1.36: pkg/probe, pkg/kubelet/prober and pkg/kubelet/lifecycle.

pub(crate) mod client;
pub mod connect;
pub mod gate;
pub mod grpc;
pub mod http;
pub mod interface;
mod limited;
pub mod prober;
mod readiness;
pub mod routes;
pub mod server;
pub mod spec;
mod tls;
mod url;

/// How a probe or hook ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Success,
    /// It passed, and somebody should know of this.
    Warning(String),
    /// It failed, for this reason.
    Failure(String),
    /// It could not be carried out, or not to its end: the kubelet counts that neither way (`doProbe` in
    /// pkg/kubelet/prober/worker.go throws the result of a prober error away).
    Unknown(String),
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
    /// `startupProbe`.
    Startup,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Liveness, Self::Readiness, Self::Startup];

    /// The name in paths and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Liveness => crate::names::probe::LIVENESS,
            Self::Readiness => crate::names::probe::READINESS,
            Self::Startup => crate::names::probe::STARTUP,
        }
    }
}
