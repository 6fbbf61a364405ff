//! Admission of annotated workloads.
