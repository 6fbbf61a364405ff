//! The Lease: what is read from one and written to one ([`record`], [`steering`]), and the requests that do it ([`client`], [`watch`]), over a [`connection`].

mod authority;
mod authorization;
pub mod client;
pub mod connection;
pub mod credentials;
pub mod record;
pub mod steering;
pub mod watch;
