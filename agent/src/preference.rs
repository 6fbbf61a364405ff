//! Where the leader had better be (`leader.io/prefer`), and whether a place is one. Pure; what it changes is the elector's.

use std::str::FromStr;

/// A soft preference of a place: every part that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preference {
    region: Option<String>,
    zone: Option<String>,
    node: Option<String>,
}

/// Where a candidate runs, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node's label `topology.kubernetes.io/region`.
    pub region: Option<String>,
    /// The node's label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// The node's name.
    pub node: Option<String>,
}

/// What is wrong with a preference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreferenceError {
    /// Not `key=value`, or an unknown key, or an impossible value.
    #[error("`{part}` is not a place: write `zone=NAME`, `region=NAME` or `node=NAME`, several of them with commas")]
    NotAPlace {
        /// The part.
        part: String,
    },
    /// One key, two values: no place fits.
    #[error("`{key}` is given twice: a leader is in one {key} only")]
    Twice {
        /// The key.
        key: &'static str,
    },
}

impl FromStr for Preference {
    type Err = PreferenceError;

    fn from_str(text: &str) -> Result<Self, PreferenceError> {
        let mut preference = Self::default();
        for part in text.split(',').map(str::trim) {
            let wrong = || PreferenceError::NotAPlace { part: part.chars().take(64).collect() };
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let (slot, key) = match key {
                "region" => (&mut preference.region, "region"),
                "zone" => (&mut preference.zone, "zone"),
                "node" => (&mut preference.node, "node"),
                _ => return Err(wrong()),
            };
            if !is_name(value) {
                return Err(wrong());
            }
            if slot.replace(value.to_owned()).is_some() {
                return Err(PreferenceError::Twice { key });
            }
        }
        Ok(preference)
    }
}

impl Preference {
    /// Whether `place` is preferred; `None` where that cannot be told, because a part of it is not known there.
    pub fn is_met(&self, place: &Place) -> Option<bool> {
        let parts = [(&self.region, &place.region), (&self.zone, &place.zone), (&self.node, &place.node)];
        let mut wanted = parts.into_iter().filter_map(|(wanted, found)| Some((wanted.as_ref()?, found.as_ref())));
        wanted
            .try_fold(Some(true), |met, (wanted, found)| match found {
                Some(found) if found != wanted => Err(()),
                Some(_) => Ok(met),
                None => Ok(None),
            })
            .unwrap_or(Some(false))
    }
}

/// Whether `text` can be a label's value or a node's name.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(zone: Option<&str>, node: Option<&str>) -> Place {
        Place { region: None, zone: zone.map(str::to_owned), node: node.map(str::to_owned) }
    }

    #[test]
    fn a_place_fits_if_every_part_does() {
        let zone: Preference = "zone=a".parse().unwrap();
        assert_eq!(zone.is_met(&place(Some("a"), None)), Some(true));
        assert_eq!(zone.is_met(&place(Some("b"), None)), Some(false));
        assert_eq!(zone.is_met(&place(None, Some("n1"))), None);
        let both: Preference = "zone=a, node=n1".parse().unwrap();
        assert_eq!(both.is_met(&place(Some("a"), Some("n1"))), Some(true));
        assert_eq!(both.is_met(&place(Some("a"), None)), None);
        // One part that is wrong is enough, whatever the other one is.
        assert_eq!(both.is_met(&place(Some("b"), None)), Some(false));
        assert_eq!(both.is_met(&place(None, Some("n2"))), Some(false));
    }

    #[test]
    fn what_is_no_place_is_refused_with_its_part() {
        for (text, part) in [
            ("", "``"),
            ("a", "`a`"),
            ("zone=", "`zone=`"),
            ("zone=a,", "``"),
            ("rack=7", "`rack=7`"),
            ("zone=a b", "`zone=a b`"),
            ("zone=a,zone=b", "`zone` is given twice"),
        ] {
            let error = text.parse::<Preference>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
