//! The webhook's server and its certificates against an API server in memory.

mod admission;
mod certificates;
mod connections;
mod facts;
mod fake_api;
mod images;
mod kinds;
#[path = "../registry/server.rs"]
#[allow(dead_code, reason = "the look-ups' own tests use more of it")]
mod registry;
mod running;
