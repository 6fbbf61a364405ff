//! The webhook's server and its certificates against an API server in memory.

mod admission;
mod certificates;
mod clients;
mod connections;
mod controller;
mod events;
mod facts;
mod fail_over;
mod fake_api;
mod images;
mod kinds;
mod mounted;
#[path = "../registry/server.rs"]
#[allow(dead_code, reason = "the look-ups' own tests use more of it")]
mod registry;
mod running;
mod services;
mod succession;
mod turning_on;
