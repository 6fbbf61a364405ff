//! A cluster in memory: one Secret, one bundle that API servers learn of late, and replicas that are as careless as they may be.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use leader_certs::{
    anchor::Anchor,
    authority::Authority,
    leaf::Leaf,
    lifetimes::Lifetimes,
    rotation::{self, Content, Step, View, Why},
    secret::{Found, Unusable},
    showing,
    sightings::{Revision, Sightings},
};

const SECOND: Duration = Duration::from_secs(1);
/// The most steps of a round, as the keeper has it.
const STEPS: usize = 8;

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// A replica reads, decides, and shows what it should.
    Look(usize),
    /// It does what it decided, unless somebody was faster.
    Act(usize),
    /// So many seconds pass, in which every replica does the rounds that are due.
    Seconds(u8),
    /// So many times the longest pause between two rounds passes.
    Rounds(u8),
    /// A replica ends, and begins anew with nothing.
    Restart(usize),
    /// The wall clock of the API server is set so many seconds ahead, or back.
    Jump(i32),
    /// A replica hears of the API server no more, which still calls it.
    Cut(usize),
    /// Somebody deletes the Secret.
    Delete,
    /// Somebody writes rubbish into the Secret.
    Break,
    /// Somebody drops what the Secret says of the next and the retired authorities.
    Damage,
    /// Somebody empties the bundle.
    Empty,
}

#[derive(Default)]
struct Replica {
    is_cut: bool,
    looked: Duration,
    content: Option<(Content, Duration)>,
    bundle: Sightings,
    retired: Sightings,
    leaf: Option<Leaf>,
    /// When it first knew that what it shows is trusted.
    ready: Option<Duration>,
    pending: Option<Pending>,
}

enum Pending {
    Write { over: Option<u64>, content: Content },
    Publish { over: u64, anchors: Vec<Anchor> },
}

struct Secret {
    version: u64,
    content: Content,
    is_broken: bool,
    is_damaged: bool,
}

/// The cluster.
pub(crate) struct World {
    lifetimes: Lifetimes,
    wall: Timestamp,
    at: Duration,
    writes: u64,
    secret: Option<Secret>,
    /// Every bundle there was, with its version, and since when.
    bundles: Vec<(u64, Duration, Vec<Anchor>)>,
    emptied: Option<Duration>,
    has_jumped: bool,
    replicas: Vec<Replica>,
    /// How often an authority was promoted.
    pub(crate) promoted: usize,
}

impl World {
    /// One whose authorities live for so many minutes, and whose leaves for one: as much as possible happens in a round.
    pub(crate) fn new(replicas: usize, minutes: u64) -> Self {
        Self {
            lifetimes: Lifetimes::new(Duration::from_mins(minutes), Duration::from_mins(1)).unwrap(),
            wall: "2026-11-21T00:00:00Z".parse().unwrap(),
            at: SECOND,
            writes: 0,
            secret: None,
            bundles: vec![(0, Duration::ZERO, vec![])],
            emptied: None,
            has_jumped: false,
            replicas: (0..replicas).map(|_| Replica::default()).collect(),
            promoted: 0,
        }
    }

    pub(crate) fn perform(&mut self, operation: &Operation) {
        let replica = |index: &usize, world: &Self| index % world.replicas.len();
        match operation {
            Operation::Look(index) => self.look(replica(index, self)),
            Operation::Act(index) => self.act(replica(index, self)),
            Operation::Seconds(seconds) => self.pass(SECOND * u32::from(*seconds)),
            Operation::Rounds(rounds) => self.pass(self.lifetimes.settle() * u32::from(*rounds)),
            Operation::Restart(index) => {
                let index = replica(index, self);
                self.replicas[index] = Replica { looked: self.at, ..Replica::default() };
                self.round(index);
            }
            Operation::Jump(seconds) => {
                let distance = SECOND * seconds.unsigned_abs();
                if *seconds < 0 {
                    self.wall -= distance;
                } else {
                    self.wall += distance;
                }
                self.has_jumped = true;
            }
            Operation::Cut(index) => {
                let index = replica(index, self);
                self.replicas[index].is_cut = true;
                self.replicas[index].pending = None;
            }
            Operation::Delete => self.secret = None,
            Operation::Break => self.spoil(|secret| secret.is_broken = true),
            Operation::Damage => self.spoil(|secret| secret.is_damaged = true),
            Operation::Empty => {
                self.emptied = Some(self.at);
                self.put_bundle(vec![]);
            }
        }
        self.check();
    }

    /// Passes time in small steps, in each of which whoever has not looked for the longest pause does so.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.at + time;
        while self.at < end {
            let step = SECOND.min(end.saturating_sub(self.at));
            self.at += step;
            self.wall += step;
            for index in 0..self.replicas.len() {
                if self.replicas[index].looked + self.lifetimes.settle() <= self.at {
                    self.round(index);
                }
            }
            self.check();
        }
    }

    /// Writes what signs into the bundle, and nothing beside it.
    pub(crate) fn narrow(&mut self) {
        let Some(secret) = &self.secret else { return };
        let only = vec![secret.content.signing.anchor().clone()];
        if self.bundles.last().is_some_and(|(_, _, bundle)| *bundle != only) {
            self.put_bundle(only);
        }
    }

    /// Whether another authority is to follow the one that signs.
    pub(crate) fn is_announced(&self) -> bool {
        self.secret.as_ref().is_some_and(|secret| secret.content.next.is_some())
    }

    fn spoil(&mut self, spoil: impl FnOnce(&mut Secret)) {
        self.writes += 1;
        if let Some(secret) = &mut self.secret {
            spoil(secret);
            secret.version = self.writes;
        }
    }

    fn round(&mut self, index: usize) {
        for _ in 0..STEPS {
            self.look(index);
            if self.replicas[index].pending.is_none() {
                return;
            }
            self.act(index);
        }
        panic!("replica {index} has not come to rest after {STEPS} steps");
    }

    fn look(&mut self, index: usize) {
        let (at, now, life) = (self.at, self.wall, self.lifetimes.authority());
        let Some((version, _, bundle)) = self.bundles.last() else { unreachable!("there is always one") };
        let replica = &mut self.replicas[index];
        replica.looked = at;
        replica.pending = None;
        if !replica.is_cut {
            let generation = i64::try_from(self.bundles.len()).unwrap();
            replica.bundle.see_revision(bundle, Some(Revision { uid: "uid".to_owned(), generation }), at);
            let found = match &self.secret {
                None => Found::Nothing,
                Some(secret) if secret.is_broken => Found::Unusable(Unusable::Missing("tls.crt")),
                Some(Secret { content, is_damaged: false, .. }) => {
                    Found::Content { content: content.clone(), damage: None }
                }
                Some(Secret { content, .. }) => {
                    let content = Content { signing: Arc::clone(&content.signing), next: None, retired: vec![] };
                    Found::Content { content, damage: Some(Unusable::Retired) }
                }
            };
            if let Found::Content { content, .. } = &found {
                replica.retired.see(content.retired.iter().map(|retired| &retired.anchor), at);
                replica.content = Some((content.clone(), at));
            }
            let view = view(replica, &self.lifetimes, now, at);
            let step = rotation::next(found, &view, || Authority::generate_for(life, now)).unwrap();
            replica.pending = match step {
                Step::Rest => None,
                Step::Publish(anchors) => Some(Pending::Publish { over: *version, anchors }),
                Step::Write(content, why) => {
                    self.promoted += usize::from(why == Why::Promoted);
                    Some(Pending::Write { over: self.secret.as_ref().map(|secret| secret.version), content })
                }
            };
        }
        let view = view(replica, &self.lifetimes, now, at);
        if let Some((content, read_at)) = &replica.content
            && let Some(authority) = showing::choose(replica.leaf.as_ref(), content, *read_at, &view)
        {
            // Where what was shown is over there is nothing to lose: it begins anew.
            if replica.leaf.as_ref().is_some_and(|leaf| !leaf.is_valid(now)) {
                replica.ready = None;
            }
            let life = self.lifetimes.certificate();
            replica.leaf = Some(Leaf::issue_for(life, authority, &["a.b".to_owned()], now).unwrap());
        }
        let is_trusted = replica.leaf.as_ref().is_some_and(|leaf| replica.bundle.has(&leaf.authority));
        replica.ready = replica.ready.or(is_trusted.then_some(at));
    }

    fn act(&mut self, index: usize) {
        match self.replicas[index].pending.take() {
            Some(Pending::Write { over, content }) if over == self.secret.as_ref().map(|secret| secret.version) => {
                self.writes += 1;
                self.secret = Some(Secret { version: self.writes, content, is_broken: false, is_damaged: false });
            }
            Some(Pending::Publish { over, anchors }) if self.bundles.last().is_some_and(|last| last.0 == over) => {
                self.put_bundle(anchors);
            }
            _ => {}
        }
    }

    fn put_bundle(&mut self, anchors: Vec<Anchor>) {
        self.writes += 1;
        self.bundles.push((self.writes, self.at, anchors));
    }

    /// Whatever a replica shows that was ready once, every API server trusts, however late it learns of bundles.
    fn check(&self) {
        let settle = self.lifetimes.settle();
        // A bundle that somebody emptied is put right with the next look, of which every API server then learns, and replicas that
        // lost what they showed follow with the next but one.
        if self.emptied.is_some_and(|emptied| self.at < emptied + 5 * settle) {
            return;
        }
        let late = self.at.saturating_sub(settle);
        let first = self.bundles.iter().rposition(|(_, since, _)| *since <= late).unwrap_or(0);
        for (index, replica) in self.replicas.iter().enumerate() {
            // One that has just become ready is reached only later.
            let (Some(leaf), Some(ready)) = (&replica.leaf, replica.ready) else { continue };
            let is_over = !leaf.is_valid(self.wall);
            assert!(!is_over || replica.is_cut || self.has_jumped, "at {:?} replica {index} shows {leaf:?}", self.at);
            if is_over || ready > late {
                continue;
            }
            for (version, since, bundle) in &self.bundles[first..] {
                assert!(
                    bundle.contains(&leaf.authority),
                    "at {:?} replica {index} shows what bundle {version}, there since {since:?}, does not cover: {leaf:?}",
                    self.at
                );
            }
        }
    }

    /// What must have come about after a long quiet time.
    pub(crate) fn check_rest(&self) {
        let secret = self.secret.as_ref().expect("there is no Secret");
        let Some((_, _, bundle)) = self.bundles.last() else { unreachable!("there is always one") };
        let wanted = secret.content.anchors();
        assert!(bundle.len() == wanted.len() && wanted.iter().all(|anchor| bundle.contains(anchor)), "{bundle:?}");
        assert!(secret.content.signing.anchor().is_valid(self.wall));
        for replica in self.replicas.iter().filter(|replica| !replica.is_cut) {
            let leaf = replica.leaf.as_ref().expect("nothing is shown");
            assert!(leaf.is_valid(self.wall) && bundle.contains(&leaf.authority), "{leaf:?}");
        }
    }
}

fn view<'a>(replica: &'a Replica, lifetimes: &'a Lifetimes, now: Timestamp, at: Duration) -> View<'a> {
    View { now, at, bundle: &replica.bundle, is_uniform: true, is_shared: false, retired: &replica.retired, lifetimes }
}
