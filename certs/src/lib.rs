//! The certificates of the webhook: one certificate authority in a Secret that all replicas share, a short-lived leaf in the
//! memory of each, and the `caBundle` by which the API server trusts them. Or, instead of all that, a pair of files that
//! somebody else keeps.
//!
//! [`rotation`], [`showing`], [`secret`], [`bundle`] and [`trust`] decide: functions from values and times to values. [`keeper`] and
//! [`files`] do the I/O and own the only clocks; [`resolver`] is what the TLS server asks for a certificate.
//!
//! # Lives
//! The authority lives a year and a leaf a day unless [`lifetimes`] says otherwise; both are renewed after half of that. A leaf is bound
//! to a process, costs no request, and is swapped under the TLS server: open connections keep the one they began with. Authorities
//! overlap in the bundle ([`rotation`]), so that no review meets a certificate that the API server does not trust, also when the Secret
//! is deleted or destroyed. What is left is a bundle that somebody else empties: reviews fail until it is put right, which takes
//! as long as a watch and a write.

pub mod anchor;
pub mod authority;
pub mod bundle;
pub mod files;
pub mod keeper;
pub mod leaf;
pub mod lifetimes;
pub mod notice;
pub mod pair;
pub mod resolver;
pub mod rotation;
pub mod secret;
pub mod showing;
pub mod sightings;
pub mod state;
pub mod trust;

mod server;
mod time;
