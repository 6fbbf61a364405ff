//! The supervisor that holds a Lease and runs an application on exactly one replica.

pub mod app;
pub mod clock;
pub mod elector;
pub mod guard;
pub mod id;
pub mod install;
pub mod lease;
pub mod names;
mod sys;
pub mod timing;
