//! Admission of annotated workloads.

pub mod cli;
pub mod inject;

pub mod access;
pub mod api_error;
pub mod facts;
pub mod handler;
pub mod metrics;
pub mod registry;
pub mod review;
pub mod run;
pub mod sent;
pub mod server;
pub mod settings;
