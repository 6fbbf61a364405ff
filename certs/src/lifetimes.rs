//! How long certificates live, and the moments that follow from it.
//!
//! An authority is replaced, and a leaf renewed, when half of its life is over: the other half is there to repair whatever
//! stands in the way.

use std::time::Duration;

use jiff::SignedDuration;

/// The shortest life of a leaf: below it, a replica that hangs for seconds shows one that has ended. For tests.
pub const SHORTEST_CERTIFICATE: Duration = Duration::from_mins(1);
/// The longest life of a leaf: its key is in the memory of a process that may run for as long.
pub const LONGEST_CERTIFICATE: Duration = Duration::from_hours(24 * 30);
/// The longest life of an authority.
pub const LONGEST_AUTHORITY: Duration = Duration::from_hours(24 * 3650);
/// An authority lives for so many lives of a leaf at least, so that the last leaf of its first half ends within the second one.
const LEAVES: u32 = 2;
/// How long it takes at most until every API server has a bundle that was written, however long the leaf lives. Measured:
/// 5 to 70 ms; one that lost its watch finds out by the keep-alive of its connection to etcd, after 40 s.
const SPREAD: Duration = Duration::from_mins(1);

/// How long an authority and a leaf live. Made by [`Lifetimes::new`], which knows the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    authority: Duration,
    certificate: Duration,
}

/// Why lifetimes cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LifetimesError {
    /// A leaf would live too long, or not long enough.
    #[error(
        "a certificate cannot live for {}: from {} to {}",
        text(.0),
        text(&SHORTEST_CERTIFICATE),
        text(&LONGEST_CERTIFICATE)
    )]
    Certificate(Duration),
    /// An authority would live too long, or its leaves would outlive it.
    #[error(
        "a certificate authority cannot live for {} while certificates live for {}: from {} to {}",
        text(.authority),
        text(.certificate),
        text(&shortest_authority(.certificate)),
        text(&LONGEST_AUTHORITY)
    )]
    Authority {
        /// What was asked for.
        authority: Duration,
        /// The life of a leaf.
        certificate: Duration,
    },
}

/// A duration as a person writes it.
fn text(duration: &Duration) -> String {
    SignedDuration::try_from(*duration).map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}

fn shortest_authority(certificate: &Duration) -> Duration {
    certificate.saturating_mul(LEAVES)
}

impl Lifetimes {
    /// An authority's and a leaf's, if they are within the bounds.
    pub fn new(authority: Duration, certificate: Duration) -> Result<Self, LifetimesError> {
        if !(SHORTEST_CERTIFICATE..=LONGEST_CERTIFICATE).contains(&certificate) {
            return Err(LifetimesError::Certificate(certificate));
        }
        if !(shortest_authority(&certificate)..=LONGEST_AUTHORITY).contains(&authority) {
            return Err(LifetimesError::Authority { authority, certificate });
        }
        Ok(Self { authority, certificate })
    }

    /// How long an authority may sign.
    pub fn authority(&self) -> Duration {
        self.authority
    }

    /// How long a leaf is shown at most.
    pub fn certificate(&self) -> Duration {
        self.certificate
    }

    /// How long a bundle is left alone before anything is done that needs every API server to have it; also how often the objects
    /// are looked at when nothing seems to change.
    pub fn settle(&self) -> Duration {
        (self.certificate / 12).min(SPREAD)
    }

    /// How long a replica may take at most to show what an authority in the bundle has signed: one look until it sees the bundle, one
    /// [`Lifetimes::settle`], and one look more; and one to be sure.
    pub fn follow(&self) -> Duration {
        self.settle() * 4
    }

    /// How long an authority that signs no longer stays in the bundle: a replica that is cut off from the API server signs with it
    /// for one life of a leaf ([`Lifetimes::memory`]), that leaf lives for another, and what was last taken out must have reached
    /// every API server.
    pub fn retirement(&self) -> Duration {
        self.memory() + self.certificate + self.settle()
    }

    /// For how long a replica signs with what it last read from the Secret.
    pub fn memory(&self) -> Duration {
        self.certificate
    }
}

impl Default for Lifetimes {
    /// An authority for a year, a leaf for a day: so short that what leaked is soon worthless, and so long that a weekend without an
    /// API server ends none that matters.
    fn default() -> Self {
        Self { authority: Duration::from_hours(24 * 365), certificate: Duration::from_hours(24) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn the_bounds() {
        let default = Lifetimes::default();
        assert_eq!(Lifetimes::new(default.authority(), default.certificate()), Ok(default));
        assert!(Lifetimes::new(2 * MINUTE, MINUTE).is_ok());
        assert!(Lifetimes::new(LONGEST_AUTHORITY, LONGEST_CERTIFICATE).is_ok());
        for (authority, certificate) in [
            (2 * MINUTE, MINUTE / 2),
            (MINUTE, MINUTE),
            (2 * LONGEST_AUTHORITY, DAY),
            (LONGEST_AUTHORITY, 2 * LONGEST_CERTIFICATE),
            (Duration::MAX, Duration::MAX),
            (Duration::ZERO, Duration::ZERO),
        ] {
            assert!(Lifetimes::new(authority, certificate).is_err(), "{authority:?} {certificate:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_do() {
        let message = |authority, certificate| Lifetimes::new(authority, certificate).unwrap_err().to_string();
        let short = message(DAY, MINUTE / 2);
        assert_eq!(short, "a certificate cannot live for 30s: from 1m to 720h");
        let outlived = message(DAY, DAY);
        let expected =
            "a certificate authority cannot live for 24h while certificates live for 24h: from 48h to 87600h";
        assert_eq!(outlived, expected);
    }

    #[test]
    fn a_bundle_settles_long_before_a_leaf_has_to_be_renewed() {
        for certificate in [SHORTEST_CERTIFICATE, DAY, LONGEST_CERTIFICATE] {
            let lifetimes = Lifetimes::new(LONGEST_AUTHORITY, certificate).unwrap();
            assert!(lifetimes.settle() * 6 <= certificate);
            assert!(lifetimes.settle() <= SPREAD);
            assert!(lifetimes.retirement() > lifetimes.memory() + certificate);
        }
    }
}
