//! End-to-end tests: a real API server, kubelet and registry, the webhook behind its Service, the agent as PID 1 in real pods.
//!
//! They need a cluster in which leader is installed (`cargo xtask test` brings one up), else they are left out, which is said.
//! With `LEADER_TESTS_LONG=1` the trials are as many, and the measurements as long, as a release asks for.

mod admission;
mod corpus;
mod election;
mod entry_points;
mod faults;
mod figures;
mod interoperability;
mod kinds;
mod library;
mod local_api;
mod matrix;
mod moves;
mod probes;
mod rollouts;
mod shapes;
mod specimen;
mod stage;
mod warnings;
mod webhook_down;
mod workload;
mod writer;
