//! The Lease: what is read from one and written to one ([`record`]), and the requests that do it ([`client`]).

pub mod record;
