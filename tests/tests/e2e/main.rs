//! End-to-end tests: a real API server, kubelet and registry, the webhook behind its Service, the agent as PID 1 in real pods.
//!
//! They need a cluster in which leader is installed (`cargo xtask test` brings one up), else they are left out, which is said.
//! With `LEADER_TESTS_LONG=1` the trials are as many, and the measurements as long, as a release asks for.

mod access;
mod admission;
mod availability;
mod browser;
mod certificates;
mod check;
mod configured;
mod controller_election;
mod corpus;
mod docs;
mod drained;
mod election;
mod entry_points;
mod events;
mod fail_over;
mod faults;
mod figures;
mod follow;
mod gitops;
mod installation;
mod interoperability;
mod kinds;
mod library;
mod local_api;
mod matrix;
mod modes;
mod monitoring;
mod moves;
mod noisy_neighbour;
mod observe_by_hand;
mod pages;
mod preferred;
mod private_webhook;
mod probes;
mod program;
mod rights;
mod rollouts;
mod services;
mod shapes;
mod site;
mod soak;
mod specimen;
mod stage;
mod steering;
mod succession;
mod threats;
mod turning_on;
mod ui;
mod unready;
mod warnings;
mod webhook_down;
mod workload;
mod writer;
