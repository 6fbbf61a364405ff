//! The certificates of the webhook: one certificate authority in a Secret that all replicas share, a short-lived leaf in the
//! memory of each, and the `caBundle` by which the API server trusts them.
//!
//! [`authority`], [`secret`] and [`bundle`] decide: functions from values and a time to values. [`keeper`] does the I/O and
//! owns the only clock; [`resolver`] is what the TLS server asks for a certificate.
//!
//! # Lives
//! The authority lives ten years ([`authority::LIFE`]), a leaf one day ([`leaf::LIFE`]), renewed after half of it. A leaf is
//! bound to a process, costs no request, and is swapped under the TLS server: open connections keep the one they began with.
//! An authority that cannot be used (unreadable, mismatched, about to expire) is replaced at once (one that begins later is not:
//! some clock is wrong, and it may be this one), and reviews fail between the
//! moment in which the Secret is written and the one in which the API server has the new bundle. A rotation without that gap
//! needs two authorities in the bundle at once: [`secret::decide`] and [`bundle::decide`] are where a second one goes.

pub mod authority;
pub mod bundle;
pub mod keeper;
pub mod leaf;
pub mod resolver;
pub mod secret;

mod time;
