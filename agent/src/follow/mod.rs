//! Followers: other containers of the pod that run while the app does (`leader.io/follow`).
//!
//! Each is wrapped like the app, with a stub and a deadline of its own, and elects nobody: the leader's agent tells it over a Unix socket in
//! the folder that they share when to run, and with each word the deadline ([`wire`]). It dies by the last deadline that it heard, or sooner
//! where its own container needs a larger margin ([`margin`]), and at once when the leader's agent is gone ([`follower`]).
//!
//! # Why the Lease is not released beside a follower that runs
//! The leader's agent keeps in its [`roll`] who may run: from before it says so the first time until that follower reports that `wait()` has
//! answered ECHILD, or until what the follower heard last, and the margin for its end, have passed. Only then it hands on that the app is
//! gone ([`leader`]). A follower that was started anew reports as well: the container before it had ended, or it would not be there, which
//! only the first process of a PID namespace of its own may say. What an earlier process of the leader's container told is not known to
//! the present one, so that it takes everybody for running, for one lease.

pub mod follower;
pub mod leader;
pub mod margin;
pub mod roll;
pub mod settings;
pub mod wire;
