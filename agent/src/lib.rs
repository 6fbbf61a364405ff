//! The supervisor that holds a Lease and runs an application on exactly one replica.

pub mod api;
pub mod app;
pub mod ask;
pub mod campaign;
pub mod clock;
pub mod cpu;
pub mod election;
pub mod elector;
pub mod follow;
pub mod guard;
pub mod id;
pub mod injected;
pub mod install;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod mode;
#[doc(hidden)]
pub mod mutant;
pub mod names;
pub mod observe;
pub mod preference;
pub mod probes;
pub mod program;
pub mod ready;
pub mod run;
pub mod settings;
pub mod slices;
pub mod status_file;
pub mod stop_signal;
mod sys;
pub mod term_file;
pub mod timing;
mod unverified;

#[cfg(feature = "mutants")]
#[doc(hidden)]
pub use sys::rogue;
