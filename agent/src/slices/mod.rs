//! Traffic to the leader only: puts this pod into the `EndpointSlices` that the Lease names while its app is ready, and takes it out when
//! the app is about to stop.
//!
//! So steering needs no controller: who leads says so itself. Nothing waits for it: a slice that cannot be written delays neither a start
//! nor a stop. Never does it bring an old leader back: each write carries the version of the slice that it changes, one that was too late is
//! not sent again but decided anew, and the next leader replaces whoever is in there. How a slice is changed is [`endpoint`]'s, who this pod is [`place`]'s.

pub mod endpoint;
pub mod place;

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use futures::future::LocalBoxFuture;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::{endpoint::Aim, place::Place};
use crate::lease::client::{LeaseClient, RequestError};

/// The annotation of a slice whose Service has its endpoints before they are ready (`publishNotReadyAddresses`).
pub const PUBLISH_NOT_READY: &str = "leader.io/publish-not-ready";
/// The pause after a first failure: it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a leader looks whether it is still in: somebody may have edited the slice, or made it anew.
const CHECK: Duration = Duration::from_secs(30);
/// The first looks come sooner: a write that a former leader had sent may arrive after this one's.
const FIRST_CHECKS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// So many failures in a row are said: the first ones may come from a right that was given a moment ago.
const SAID: u32 = 4;
/// How often a write begins again because somebody else was faster.
const RACES: u32 = 4;

/// The slices of one candidate.
pub struct Slices {
    client: Rc<LeaseClient>,
    namespace: String,
    place: Option<Rc<Place>>,
    /// The annotation that was read last.
    named: Option<String>,
    /// The Lease has none at present.
    is_unnamed: bool,
    aim: Aim,
    by_name: BTreeMap<String, Slice>,
    job: Option<LocalBoxFuture<'static, Done>>,
    /// What the job is to reach has changed since it began: it writes nothing more.
    is_outdated: Rc<Cell<bool>>,
    /// Numbers the writes that must change something.
    writes: u64,
}

/// One slice.
#[derive(Debug, Default)]
struct Slice {
    /// What was reached last.
    reached: Option<Aim>,
    /// As it was written here last.
    last: Option<Value>,
    /// A write got no answer, and may still be carried out.
    uncertain: bool,
    /// It is not worked on before this.
    not_before: Option<Instant>,
    failures: u32,
    /// So many writes in a row found that somebody else had been faster.
    races: u32,
    /// So often was it looked at since this pod is in.
    checks: usize,
    /// The Lease does not name it any more.
    is_dropped: bool,
}

/// What became of one slice.
struct Done {
    name: String,
    aim: Aim,
    outcome: Result<Value, Failed>,
}

/// Why a slice is not as it should be.
enum Failed {
    /// Something else is wanted by now, and nothing was written.
    Outdated,
    /// It could not be read or written; `uncertain`: a write may still be carried out.
    Request { error: RequestError, uncertain: bool },
}

impl Slices {
    /// For a candidate that has seen no Lease yet. Without a `place`, outside a pod, nothing is ever done. `client` is for it alone.
    pub fn new(client: LeaseClient, namespace: String, place: Option<Place>) -> Self {
        Self {
            client: Rc::new(client),
            namespace,
            place: place.map(Rc::new),
            named: None,
            is_unnamed: false,
            aim: Aim::Out,
            by_name: BTreeMap::new(),
            job: None,
            is_outdated: Rc::default(),
            writes: 0,
        }
    }

    /// What the Lease says: a JSON list of names. `None`, which also a Lease says that was lost and made again, changes nothing as long as
    /// the slices are there.
    pub fn named(&mut self, annotation: Option<&str>) {
        self.is_unnamed = annotation.is_none();
        let Some(text) = annotation.filter(|text| self.place.is_some() && self.named.as_deref() != Some(*text)) else {
            return;
        };
        self.named = Some(text.to_owned());
        let names: Vec<String> = match serde_json::from_str(text) {
            Ok(names) => names,
            Err(error) => {
                warn!(%error, "the Lease's annotation {} is no list of names", crate::names::SLICES);
                return;
            }
        };
        self.is_outdated.set(true);
        for (name, slice) in &mut self.by_name {
            slice.is_dropped = !names.contains(name);
        }
        for name in names {
            self.by_name.entry(name).or_default();
        }
    }

    /// Whether there is any slice: otherwise nobody has to know whether the app is ready.
    pub fn are_there(&self) -> bool {
        !self.by_name.is_empty()
    }

    /// What this pod is to be in them from now on.
    pub fn aim(&mut self, aim: Aim) {
        if self.aim != aim {
            self.aim = aim;
            self.is_outdated.set(true);
            if aim == Aim::Out {
                // Whoever goes does not wait for what failed before.
                self.by_name.values_mut().for_each(|slice| slice.not_before = None);
            }
        }
    }

    /// Works on what is due, until something was done. Nothing is lost when the future is dropped.
    pub async fn turn(&mut self) {
        self.begin();
        let due = self.due();
        if let Some(job) = &mut self.job {
            let done = job.await;
            self.job = None;
            self.done(done);
        } else if let Some(due) = due {
            sleep_until(due).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn aim_of(&self, slice: &Slice) -> Aim {
        if slice.is_dropped { Aim::Out } else { self.aim }
    }

    /// When a slice has to be worked on; `None` where all is as it should be.
    fn due_of(&self, slice: &Slice, now: Instant) -> Option<Instant> {
        let aim = self.aim_of(slice);
        if slice.reached == Some(aim) {
            slice.not_before.filter(|_| aim != Aim::Out)
        } else if slice.failures == 0 {
            Some(now)
        } else {
            Some(slice.not_before.unwrap_or(now))
        }
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        self.by_name.values().filter_map(|slice| self.due_of(slice, now)).min()
    }

    fn begin(&mut self) {
        let Some(place) = self.place.clone().filter(|_| self.job.is_none()) else { return };
        let now = Instant::now();
        let due = self.by_name.iter().filter_map(|(name, slice)| Some((self.due_of(slice, now)?, name)));
        let Some((_, name)) = due.filter(|(due, _)| *due <= now).min() else { return };
        let name = name.clone();
        let slice = &self.by_name[&name];
        let aim = self.aim_of(slice);
        self.writes += 1;
        self.is_outdated = Rc::default();
        let work = Work {
            client: Rc::clone(&self.client),
            path: format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/{name}", self.namespace),
            place,
            aim,
            is_outdated: Rc::clone(&self.is_outdated),
            // An unanswered write must not be the last word: it is made void by another one.
            touch: slice.uncertain.then_some(self.writes),
        };
        // What was written here last is what stands there, unless somebody else was in between; a check wants to know that.
        let known = slice.last.clone().filter(|_| slice.reached != Some(aim) && !slice.uncertain);
        self.job = Some(Box::pin(async move { Done { name, aim, outcome: work.carry_out(known).await } }));
    }

    fn done(&mut self, Done { name, aim, outcome }: Done) {
        let Some(slice) = self.by_name.get_mut(&name) else { return };
        match outcome {
            Ok(object) => {
                if slice.reached != Some(aim) && aim != Aim::Out {
                    info!(slice = name, ready = aim == Aim::Ready, "traffic: in the slice");
                } else if slice.reached.is_some_and(|reached| reached != Aim::Out) && aim == Aim::Out {
                    info!(slice = name, "traffic: out of the slice");
                }
                let checks = if slice.reached == Some(aim) { slice.checks + 1 } else { 0 };
                let check = FIRST_CHECKS.get(checks).copied().unwrap_or(CHECK);
                let not_before = (aim != Aim::Out).then(|| Instant::now() + check);
                let last = Some(object).filter(|_| aim != Aim::Out);
                let (reached, is_dropped) = (Some(aim), slice.is_dropped);
                *slice = Slice { reached, last, not_before, checks, is_dropped, ..Slice::default() };
            }
            Err(Failed::Outdated) => {}
            // What is wanted may have changed as well: it begins again by what is wanted then.
            Err(Failed::Request { error: RequestError::Status { code: 409, .. }, .. }) if slice.races < RACES => {
                slice.races += 1;
                (slice.reached, slice.last) = (None, None);
            }
            Err(Failed::Request { error, uncertain }) => {
                slice.failures += 1;
                slice.races = 0;
                slice.uncertain |= uncertain;
                (slice.reached, slice.last) = (None, None);
                if slice.failures == SAID {
                    warn!(slice = name, %error, "traffic: the slice cannot be written; it is tried again");
                }
                let is_missing = matches!(error, RequestError::Status { code: 404, .. });
                let is_forbidden = matches!(error, RequestError::Status { code: 403, .. });
                if (is_missing || is_forbidden) && (slice.is_dropped || self.is_unnamed) {
                    self.by_name.remove(&name);
                    self.named = None;
                    return;
                }
                if aim == Aim::Out && (is_missing || is_forbidden && !slice.uncertain) {
                    // There is nothing to be taken out of, or this pod was never let in.
                    *slice = Slice { reached: Some(aim), ..Slice::default() };
                    return;
                }
                let pause = PAUSE * 2_u32.saturating_pow(slice.failures - 1);
                slice.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
            }
        }
        self.by_name.retain(|_, slice| !(slice.is_dropped && slice.reached == Some(Aim::Out)));
        if self.due().is_none() {
            // A standby needs no connection until it leads.
            self.client.reset();
        }
    }
}

/// One slice's work.
struct Work {
    client: Rc<LeaseClient>,
    path: String,
    place: Rc<Place>,
    aim: Aim,
    is_outdated: Rc<Cell<bool>>,
    touch: Option<u64>,
}

impl Work {
    /// Gives the slice as it stands afterwards.
    async fn carry_out(self, known: Option<Value>) -> Result<Value, Failed> {
        let object = match known {
            Some(object) => object,
            None => self.read().await.map_err(|error| Failed::Request { error, uncertain: false })?,
        };
        let Some(changed) = endpoint::changed(&object, &self.place, self.aim, self.touch) else { return Ok(object) };
        if self.is_outdated.get() {
            return Err(Failed::Outdated);
        }
        let body = changed.to_string().into_bytes();
        self.client.request(Method::PUT, self.path.clone(), body).await.map_err(|error| {
            let uncertain = !matches!(error, RequestError::Status { code: 400..=499, .. });
            Failed::Request { error, uncertain }
        })
    }

    async fn read(&self) -> Result<Value, RequestError> {
        self.client.request(Method::GET, self.path.clone(), Vec::new()).await
    }
}

#[cfg(test)]
mod tests;
