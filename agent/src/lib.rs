//! The supervisor that holds a Lease and runs an application on exactly one replica.

pub mod clock;
pub mod elector;
pub mod id;
pub mod lease;
pub mod names;
pub mod timing;
