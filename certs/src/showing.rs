//! Which authority's leaf a replica shows.
//!
//! A new authority's only when the bundle must have come to every API server; until then what is shown is as good as ever. A replica
//! that shows nothing yet shows it at once: it is Ready, and reached, only later than any API server needs to learn of the bundle.

use std::{sync::Arc, time::Duration};

use crate::{
    authority::Authority,
    leaf::Leaf,
    rotation::{Content, View},
};

/// The authority that is to sign a new leaf, when one is needed. `content` was last read at `read_at` by the process's own clock.
pub fn choose<'a>(
    shown: Option<&Leaf>,
    content: &'a Content,
    read_at: Duration,
    view: &View<'_>,
) -> Option<&'a Arc<Authority>> {
    let signing = &content.signing;
    // By then another one may have been promoted, and this one's place in the bundle may end before a new leaf does.
    if view.at.saturating_sub(read_at) > view.lifetimes.memory() {
        return None;
    }
    let is_needed = match shown {
        None => true,
        Some(leaf) if leaf.authority == *signing.anchor() => leaf.is_due(view.now),
        Some(leaf) => {
            let is_accepted = view.bundle.has(&leaf.authority) && leaf.is_valid(view.now);
            !is_accepted || view.bundle.has_for(signing.anchor(), view.lifetimes.settle(), view.at)
        }
    };
    is_needed.then_some(signing)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{anchor::Anchor, lifetimes::Lifetimes, sightings::Sightings, time::after};

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().unwrap()
    }

    fn authority() -> Arc<Authority> {
        Arc::new(Authority::generate(now()).unwrap())
    }

    fn leaf(authority: &Authority) -> Leaf {
        Leaf::issue(authority, &["a.b".to_owned()], now()).unwrap()
    }

    /// Whether a new leaf is chosen by one that has seen the bundle since the first second.
    fn chooses(
        shown: Option<&Leaf>,
        signing: &Arc<Authority>,
        bundle: &[Anchor],
        now: Timestamp,
        at: Duration,
    ) -> bool {
        let content = Content { signing: Arc::clone(signing), next: None, retired: vec![] };
        let (mut sightings, retired) = (Sightings::default(), Sightings::default());
        sightings.see(bundle, SECOND);
        let lifetimes = Lifetimes::default();
        let view = View {
            now,
            at,
            bundle: &sightings,
            is_uniform: true,
            is_shared: false,
            retired: &retired,
            lifetimes: &lifetimes,
        };
        choose(shown, &content, SECOND, &view).is_some()
    }

    #[test]
    fn the_first_is_shown_at_once_and_renewed_in_time() {
        let signing = authority();
        let bundle = [signing.anchor().clone()];
        assert!(chooses(None, &signing, &[], now(), SECOND));
        let shown = leaf(&signing);
        assert!(!chooses(Some(&shown), &signing, &bundle, now(), SECOND));
        assert!(!chooses(Some(&shown), &signing, &[], now(), SECOND));
        assert!(chooses(Some(&shown), &signing, &bundle, shown.renew_at, SECOND));
    }

    #[test]
    fn a_new_authority_waits_until_the_bundle_has_come_everywhere() {
        let (old, new) = (authority(), authority());
        let both = [old.anchor().clone(), new.anchor().clone()];
        let shown = leaf(&old);
        let settled = SECOND + Lifetimes::default().settle();
        let unsettled = Lifetimes::default().settle();
        assert!(!chooses(Some(&shown), &new, &both[..1], now(), settled));
        assert!(!chooses(Some(&shown), &new, &both, now(), unsettled));
        assert!(chooses(Some(&shown), &new, &both, now(), settled));
        // Due is not over: what is shown is good for as long again.
        assert!(!chooses(Some(&shown), &new, &both, shown.renew_at, unsettled));
        // Nothing is lost where what is shown is accepted no longer.
        assert!(chooses(Some(&shown), &new, &both[1..], now(), SECOND));
        assert!(chooses(Some(&shown), &new, &both, shown.not_after, SECOND));
    }

    #[test]
    fn what_was_read_long_ago_signs_nothing() {
        let signing = authority();
        let shown = leaf(&signing);
        let memory = Lifetimes::default().memory();
        let later = after(now(), memory);
        let bundle = [signing.anchor().clone()];
        assert!(chooses(Some(&shown), &signing, &bundle, later, SECOND + memory));
        assert!(!chooses(Some(&shown), &signing, &bundle, later, 2 * SECOND + memory));
    }
}
