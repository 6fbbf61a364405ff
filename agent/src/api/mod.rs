//! The local API: what the agent tells processes on its machine about its election, in answers, streams and figures.
//!
//! It informs and decides nothing, and nobody who asks can hold up whoever elects: the run loop leaves its newest [`status`] with
//! the [`publisher`] and goes on; a client that reads slowly misses states in between. How connections are bounded is left to
//! [`crate::probes::server`].

pub mod publisher;
pub mod routes;
pub mod status;
