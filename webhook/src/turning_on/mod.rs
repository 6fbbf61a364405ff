//! Turning on: while pods that know nothing of an election still run the app, none of its pods may begin to.
//!
//! The Lease's annotation `leader.io/turning-on` says whose pods are waited for, an [`Entry`] for each [`Workload`]; agents acquire
//! nothing while it is there. A review puts the entry there before it is answered ([`review`]), so before any elected pod can exist. The
//! controller takes it off ([`crate::controller::turning_on`]), by what is said here of [`pods`], read from the API server's newest
//! state. docs/safety.md has the argument.

mod entry;
mod look;
mod makers;
mod pods;
mod resume;
pub mod review;
mod sight;
mod workload;

pub use self::{
    entry::{Entry, TurningOn},
    look::{Seen, elected_container, list, object, pod_called, workloads},
    makers::{Set, Which, may_make_pods, sets},
    pods::{Owner, Verdict, belongs, has_ended, lost, owner, verdict},
    resume::{ResumeError, resume},
    sight::{Looked, Sight, Stored, look, look_for_workloads},
    workload::{BadSelector, Kind, Workload},
};
