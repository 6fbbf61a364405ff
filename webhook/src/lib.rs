//! Admission of annotated workloads.

pub mod inject;
