//! What is to be done next about the authorities, from what stands in the Secret and in the bundle.
//!
//! An authority is first announced: it stands in the Secret and in the bundle, and signs nothing. When every API server must have that
//! bundle it is promoted: from then on it signs. The one before it is retired: it signs no longer, and stays in the bundle until every
//! leaf of it has ended. So whatever a replica shows is trusted wherever the bundle has come, and no step depends on another replica:
//! each is a write to one Secret under its resourceVersion, or of one bundle that follows from that Secret, and a replica that
//! died in between is continued by any other.
//!
//! Wall clocks decide only what may be late: when to announce, and until when to keep what is retired. That the bundle has come
//! everywhere, and that the others have had time to follow, each replica measures itself ([`crate::sightings`]).

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    anchor::Anchor,
    authority::{Authority, AuthorityError},
    lifetimes::Lifetimes,
    secret::Found,
    sightings::Sightings,
    time::after,
};

/// How many retired certificates are kept at most, the newest: more come from a Secret that is deleted again and again, or from a
/// bundle that was no bundle of ours.
const RETIRED: usize = 16;

/// What the Secret holds.
#[derive(Clone, Debug)]
pub struct Content {
    /// Signs every leaf.
    pub signing: Arc<Authority>,
    /// Signs nothing yet.
    pub next: Option<Arc<Authority>>,
    /// Sign nothing any more, newest first.
    pub retired: Vec<Retired>,
}

/// The certificate of an authority that does not sign any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// What is still to be trusted.
    pub anchor: Anchor,
    /// Until when.
    pub until: Timestamp,
}

impl Content {
    /// What clients are to trust.
    pub fn anchors(&self) -> Vec<Anchor> {
        let authorities = [Some(&self.signing), self.next.as_ref()].into_iter().flatten();
        let signing = authorities.map(|authority| authority.anchor().clone());
        signing.chain(self.retired.iter().map(|retired| retired.anchor.clone())).collect()
    }
}

/// What a replica knows besides the Secret.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The API server's wall clock.
    pub now: Timestamp,
    /// This process's own, which is never set.
    pub at: Duration,
    /// What stands in the bundle.
    pub bundle: &'a Sightings,
    /// Whether the bundle, of every webhook, is that and nothing else.
    pub is_uniform: bool,
    /// Whether somebody else writes the bundle, too, whose certificates are to be left in it.
    pub is_shared: bool,
    /// What stands in the Secret as retired.
    pub retired: &'a Sightings,
    /// How long certificates live.
    pub lifetimes: &'a Lifetimes,
}

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// Write the Secret.
    Write(Content, Why),
    /// Write the bundle.
    Publish(Vec<Anchor>),
    /// Nothing.
    Rest,
}

/// Why the Secret is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was none.
    Missing,
    /// The one that signs cannot be used, for the reason given.
    Unusable(String),
    /// A part that does not sign cannot be used, for the reason given.
    Damaged(String),
    /// Another one is to follow.
    Announced,
    /// The announced one signs from now on.
    Promoted,
    /// The bundle knew none of them, but others: what is shown elsewhere stays trusted.
    Joined,
    /// What is over was taken out.
    Tidied,
}

/// The next step of a replica that has read the Secret first and the bundle after it; `make` makes an authority.
///
/// In the other order, a bundle could be written that is older than the Secret it follows from.
pub fn next(
    found: Found,
    view: &View<'_>,
    make: impl FnOnce() -> Result<Authority, AuthorityError>,
) -> Result<Step, AuthorityError> {
    let (mut content, mut why) = match found {
        Found::Nothing => return Ok(Step::Write(view.begun(make()?), Why::Missing)),
        Found::Unusable(reason) => return Ok(Step::Write(view.begun(make()?), Why::Unusable(reason.to_string()))),
        Found::Content { content, damage } => (content, damage.map(|reason| Why::Damaged(reason.to_string()))),
    };
    if why.is_some() {
        // What the damaged part said is not known, so that nothing is taken out that is trusted now.
        let known = content.anchors();
        content.retired.extend(view.still_trusted(&known));
    }
    let signing = content.signing.anchor();
    if !signing.is_valid(view.now) {
        let reason = format!(
            "it is valid from {} to {}, and the API server's clock says {:.0}",
            signing.not_before(),
            signing.not_after(),
            view.now
        );
        let follower = content.next.take();
        let follower = follower.filter(|next| next.anchor().is_valid(view.now) && view.bundle.has(next.anchor()));
        let content = match follower {
            Some(next) => view.promoted(content, next),
            None => view.begun(make()?),
        };
        return Ok(Step::Write(content, Why::Unusable(reason)));
    }
    if content.next.as_ref().is_some_and(|next| !next.anchor().is_valid(view.now)) {
        content.next = None;
        why.get_or_insert(Why::Tidied);
    }
    let kept = content.retired.len();
    content.retired.retain(|retired| view.keeps(retired));
    if content.retired.len() < kept {
        why.get_or_insert(Why::Tidied);
    }
    if content.next.is_none() && content.signing.is_due(view.lifetimes, view.now) {
        content.next = Some(Arc::new(make()?));
        why.get_or_insert(Why::Announced);
    }
    if let Some(why) = why {
        return Ok(Step::Write(content, why));
    }
    let (anchors, present) = (content.anchors(), view.bundle.present());
    let is_published = view.is_uniform && contains(&present, &anchors);
    if !is_published && !present.is_empty() && !view.is_shared && !anchors.iter().any(|anchor| present.contains(anchor))
    {
        content.retired.extend(view.still_trusted(&anchors));
        return Ok(Step::Write(content, Why::Joined));
    }
    if !is_published || !(view.is_shared || contains(&anchors, &present)) {
        return Ok(Step::Publish(anchors));
    }
    match content.next.take_if(|next| view.bundle.has_for(next.anchor(), view.lifetimes.settle(), view.at)) {
        Some(next) => Ok(Step::Write(view.promoted(content, next), Why::Promoted)),
        None => Ok(Step::Rest),
    }
}

impl View<'_> {
    /// What a Secret begins with that has nothing to go on from.
    fn begun(&self, signing: Authority) -> Content {
        Content { signing: Arc::new(signing), next: None, retired: self.still_trusted(&[]) }
    }

    /// `next` signs, what signed is retired.
    fn promoted(&self, content: Content, next: Arc<Authority>) -> Content {
        let mut retired = vec![self.retire(content.signing.anchor().clone())];
        retired.extend(content.retired);
        retired.truncate(RETIRED);
        Content { signing: next, next: None, retired }
    }

    fn retire(&self, anchor: Anchor) -> Retired {
        Retired { anchor, until: after(self.now, self.lifetimes.retirement()) }
    }

    /// Whatever the API server trusts now, without the `known`: some replica may show a leaf of it, whose ever it is.
    fn still_trusted(&self, known: &[Anchor]) -> Vec<Retired> {
        let unknown = self.bundle.present().into_iter().filter(|anchor| !known.contains(anchor));
        unknown.take(RETIRED).map(|anchor| self.retire(anchor)).collect()
    }

    /// Whether it is to be trusted still. Its time must be over, and the others must have had the time to follow: a wall clock that
    /// jumped ahead says nothing about that.
    fn keeps(&self, retired: &Retired) -> bool {
        let is_over = retired.until.min(retired.anchor.not_after()) <= self.now;
        !is_over || !self.retired.has_for(&retired.anchor, self.lifetimes.follow(), self.at)
    }
}

/// Whether all of `some` are among `all`.
fn contains(all: &[Anchor], some: &[Anchor]) -> bool {
    some.iter().all(|anchor| all.contains(anchor))
}
