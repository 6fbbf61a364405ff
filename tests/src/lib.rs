//! A real one-node Kubernetes cluster for tests and the demo, and a kit for tests that run on it.
//!
//! Everything is real: API server, scheduler, controllers, kubelet, containerd, a registry. It all lives in one network
//! namespace without a way out, a control group and a state folder, by which it is found again and removed.

pub mod binaries;
pub mod cgroup;
pub mod cluster;
pub mod command;
pub mod control_plane;
pub mod image;
pub mod kit;
pub mod machine;
pub mod mounts;
pub mod network;
pub mod node;
pub mod pki;
pub mod process;
pub mod progress;
pub mod registry;
pub mod state;
pub mod wait;

pub use cluster::{Cluster, Status};
pub use state::ClusterName;
