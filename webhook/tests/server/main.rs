//! The webhook's server and its certificates against an API server in memory.

mod admission;
mod certificates;
mod connections;
mod facts;
mod fake_api;
mod kinds;
mod running;
