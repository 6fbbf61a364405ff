//! Probes and hooks of the app: what the kubelet would do with them, done by the agent.

pub mod spec;
