//! The whole agent as it runs in a pod, with a Lease served by the test: the real binary, with its probes, hooks and signals.

mod api;
mod follow;
mod hooks;
mod leader;
mod pod;
mod port;
mod probes;
mod ready;
mod signals;
mod silence;
mod status_file;
mod steering;
