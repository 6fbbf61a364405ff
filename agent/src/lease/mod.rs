//! The Lease: what is read from one and written to one ([`record`]), and the requests that do it ([`client`], [`watch`]).

pub mod client;
pub mod credentials;
pub mod record;
pub mod watch;
