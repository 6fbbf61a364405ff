//! Admission of annotated workloads.

pub mod cli;
pub mod inject;

pub mod access;
pub mod api_error;
pub mod certificates;
pub mod clients;
pub mod controller;
pub mod events;
pub mod facts;
pub mod handler;
mod judge;
pub mod metrics;
pub mod network_policy;
pub mod notices;
pub mod observers;
pub mod registry;
pub mod review;
pub mod rewrites;
pub mod room;
pub mod run;
pub mod sent;
pub mod server;
pub mod services;
pub mod settings;
pub mod steered;
mod steering;
pub mod turning_on;
pub mod version;
