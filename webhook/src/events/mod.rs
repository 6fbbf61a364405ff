//! Events: what a person finds with `kubectl describe` and `kubectl get events`, where no one reads logs.
//!
//! [`Recorder::publish`] never waits and never fails: what is told goes into a bounded queue, and is lost, which is counted, when
//! that is full. [`book`] decides what becomes of it: the same word about the same object is one Event whose count grows, and an object
//! about which there is too much to say is told about no further. The requests are made here, one at a time. What there is to say is
//! said elsewhere: about reviews in [`crate::notices`], about Leases and access by the controller.

mod book;
mod written;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{core::v1::ObjectReference, events::v1};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::book::{Book, Entry, Moment, Write};
use crate::metrics::{EventResult, Metrics};

/// Whose Events they are: the field that `kubectl get events --field-selector reportingComponent=...` compares.
pub const REPORTER: &str = "leader.io/webhook";
/// How many notices wait. A roll-out storm of 1,000 reviews fits in; one takes about a kilobyte.
const QUEUE: usize = 1024;
/// How often counts that have grown are written.
const TICK: Duration = Duration::from_secs(20);
/// When an object that was being created is looked for: after its review, and after each look that did not find it.
const LOOKS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];
/// Kinds that are injected, and may be read for this (deploy/base/access.yaml). Others are told about without a uid.
const LOOKED_FOR: [&str; 5] = ["Deployment", "StatefulSet", "DaemonSet", "Pod", "Service"];
/// How long one request may take. The queue fills meanwhile.
const REQUEST: Duration = Duration::from_secs(5);

/// Reasons of Events, in the words that `kubectl get events --field-selector reason=...` compares.
pub mod reason {
    /// A workload was stored with an injected template.
    pub const INJECTED: &str = "Injected";
    /// A workload was stored without what an earlier review had injected.
    pub const EJECTED: &str = "Ejected";
    /// A workload was not stored, for a reason that its writer can do something about.
    pub const REFUSED: &str = "InjectionRefused";
    /// A workload was not stored, because something failed.
    pub const FAILED: &str = "InjectionFailed";
    /// Somebody keeps writing a workload that is as it should be.
    pub const REWRITTEN: &str = "RewrittenIdentically";
    /// Objects of an id were missing or changed, and were put right.
    pub const REPAIRED: &str = "AccessRepaired";
    /// Objects of an id cannot be put right.
    pub const NOT_REPAIRED: &str = "AccessNotRepaired";
    /// Nobody begins to lead while pods run the app without the election.
    pub const TURNING_ON: &str = "TurningOn";
    /// No pod runs the app without the election any more.
    pub const TURNED_ON: &str = "TurnedOn";
    /// Nobody begins to lead until a person says that pods which are gone have ended.
    pub const TURNING_ON_STUCK: &str = "TurningOnStuck";
    /// Network policies keep a workload's agents from the API server.
    pub const NETWORK_POLICY: &str = "AgentsCutOff";
    /// A Service sends its traffic to a leader only from now on, or not any more.
    pub const LEADER_ONLY: &str = "LeaderOnly";
    /// A Service that is not leader-only selects an elected workload.
    pub const REACHES_STANDBYS: &str = "ServiceReachesStandbys";
    /// A leader-only Service cannot be steered.
    pub const NOT_STEERED: &str = "LeaderOnlyNotSteered";
}

/// How serious an Event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something happened as it should.
    Normal,
    /// A person should look.
    Warning,
}

impl EventType {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq)]
struct Notice {
    regarding: ObjectReference,
    type_: EventType,
    reason: String,
    note: String,
    /// The object is being created: its uid is not known yet, and somebody else may still refuse it.
    is_being_created: bool,
}

impl Notice {
    /// Whether the object has to be looked for before it can be told about.
    fn is_awaited(&self) -> bool {
        let kind = self.regarding.kind.as_deref().unwrap_or_default();
        self.is_being_created && self.regarding.uid.is_none() && LOOKED_FOR.contains(&kind)
    }
}

/// Takes notices, from anywhere in the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: Option<mpsc::Sender<Notice>>,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// A recorder, and what writes its Events for as long as it is run. `instance` is the name of this replica.
    pub fn new(client: Client, instance: String, metrics: Arc<Metrics>) -> (Self, impl Future<Output = ()>) {
        let (queue, notices) = mpsc::channel(QUEUE);
        let writer = Writer { client, instance, metrics: Arc::clone(&metrics), book: Book::default() };
        (Self { queue: Some(queue), metrics }, writer.run(notices))
    }

    /// A recorder of which nothing is heard, for tests and for what runs without a cluster.
    pub fn silent() -> Self {
        Self { queue: None, metrics: Arc::default() }
    }

    /// Tells about an object that exists. At most 1,024 bytes of `note` are kept.
    ///
    /// Without a uid in `regarding` the Event is found by `kubectl get events`, but not by `kubectl describe`.
    pub fn publish(&self, regarding: &ObjectReference, type_: EventType, reason: &str, note: impl Into<String>) {
        self.send(regarding, type_, reason, note.into(), false);
    }

    /// Tells about an object that a review in progress creates: it is looked for a moment later, and when it is not there, because
    /// somebody else refused it, nothing is told.
    pub fn publish_once_stored(
        &self,
        regarding: &ObjectReference,
        type_: EventType,
        reason: &str,
        note: impl Into<String>,
    ) {
        self.send(regarding, type_, reason, note.into(), true);
    }

    fn send(&self, regarding: &ObjectReference, type_: EventType, reason: &str, note: String, is_being_created: bool) {
        let Some(queue) = &self.queue else { return };
        let (regarding, reason) = (regarding.clone(), reason.to_owned());
        if queue.try_send(Notice { regarding, type_, reason, note, is_being_created }).is_err() {
            self.metrics.count_event(EventResult::Dropped);
        }
    }
}

/// A reference to an object of a type that is known here.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

/// An object that is looked for, so that its uid is known.
struct Awaited {
    at: Instant,
    looked: usize,
    notice: Notice,
}

/// Writes Events.
struct Writer {
    client: Client,
    instance: String,
    metrics: Arc<Metrics>,
    book: Book,
}

impl Writer {
    async fn run(mut self, mut notices: mpsc::Receiver<Notice>) {
        let mut awaited: Vec<Awaited> = Vec::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = awaited.iter().map(|object| object.at).min();
            let look = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                notice = notices.recv() => match notice {
                    None => return,
                    Some(notice) if notice.is_awaited() => {
                        // No more of them than notices in the queue: a storm must not take memory without end.
                        if awaited.len() < QUEUE {
                            awaited.push(Awaited { at: Instant::now() + LOOKS[0], looked: 0, notice });
                        } else {
                            self.metrics.count_event(EventResult::Dropped);
                        }
                    }
                    Some(notice) => self.tell(notice).await,
                },
                () = look => self.look_for(&mut awaited).await,
                _ = tick.tick() => {
                    for write in self.book.due(Moment::now()) {
                        self.write(write).await;
                    }
                }
            }
        }
    }

    /// Looks for what is due, once.
    async fn look_for(&mut self, awaited: &mut Vec<Awaited>) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(awaited).into_iter().partition(|object| object.at <= now);
        *awaited = later;
        for Awaited { looked, mut notice, .. } in due {
            match self.uid_of(&notice.regarding).await {
                Some(uid) => {
                    notice.regarding.uid = Some(uid);
                    self.tell(notice).await;
                }
                None => {
                    if let Some(&pause) = LOOKS.get(looked + 1) {
                        awaited.push(Awaited { at: Instant::now() + pause, looked: looked + 1, notice });
                    }
                }
            }
        }
    }

    /// The uid of an object, `None` when it is not there or cannot be read.
    async fn uid_of(&self, reference: &ObjectReference) -> Option<String> {
        let (version, kind) = (reference.api_version.as_deref()?, reference.kind.as_deref()?);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let namespace = reference.namespace.as_deref()?;
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let name = reference.name.as_deref()?;
        let found = tokio::time::timeout(REQUEST, objects.get_metadata_opt(name)).await;
        match found {
            Ok(Ok(object)) => object?.metadata.uid,
            Ok(Err(error)) => {
                tracing::debug!(kind, namespace, name, %error, "cannot look for an object that an Event is about");
                None
            }
            Err(_) => None,
        }
    }

    async fn tell(&mut self, notice: Notice) {
        let entry = Entry::new(notice.regarding, notice.type_, notice.reason, &notice.note);
        match self.book.enter(entry, Moment::now()) {
            Ok(Some(write)) => self.write(write).await,
            // It is counted, and written later.
            Ok(None) => (),
            Err(book::TooMany) => self.metrics.count_event(EventResult::Dropped),
        }
    }

    async fn write(&mut self, write: Write) {
        let namespace = write.namespace().to_owned();
        let events: Api<v1::Event> = Api::namespaced(self.client.clone(), &namespace);
        let request = async {
            match &write {
                Write::Create(event) => {
                    let mut event = v1::Event::clone(event);
                    event.reporting_controller = Some(REPORTER.to_owned());
                    event.reporting_instance = Some(self.instance.clone());
                    events.create(&PostParams::default(), &event).await.map(drop)
                }
                Write::Count { name, series, .. } => {
                    let patch = serde_json::json!({ "series": series });
                    events.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
                }
            }
        };
        let result = match tokio::time::timeout(REQUEST, request).await {
            Ok(Ok(())) => EventResult::Written,
            Ok(Err(error)) => {
                // Events end after an hour; who has more to say about it begins a new one.
                self.book.forget(&write);
                tracing::warn!(namespace, %error, "an Event could not be written");
                EventResult::Failed
            }
            Err(_) => {
                self.book.forget(&write);
                tracing::warn!(namespace, "an Event could not be written: the API server did not answer");
                EventResult::Failed
            }
        };
        self.metrics.count_event(result);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use leader_certs::notice;

    use super::reason;
    use crate::controller::{account, fail_over, leadership};

    /// The reasons that a source declares, as everything does that publishes one: public constants in camel case.
    fn declared(source: &str) -> impl Iterator<Item = String> {
        let constants = source.lines().filter_map(|line| line.trim().strip_prefix("pub const "));
        let values = constants.filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";"));
        let is_reason = |value: &&str| {
            value.starts_with(|letter: char| letter.is_ascii_uppercase())
                && value.chars().all(|letter| letter.is_ascii_alphabetic())
        };
        values.filter(is_reason).map(str::to_owned)
    }

    fn declared_in(folder: &Path, all: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                declared_in(&path, all);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                all.extend(declared(&fs::read_to_string(&path).unwrap()));
            }
        }
    }

    #[test]
    fn the_documentation_lists_every_reason_and_no_other() {
        let mut reasons = BTreeSet::new();
        for folder in ["src", "../certs/src"] {
            declared_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut reasons);
        }
        for one in [reason::INJECTED, account::LOST, fail_over::ENDED, leadership::ELECTED, notice::ANNOUNCED] {
            assert!(reasons.contains(one), "the sources are read wrongly, {one} is not among {reasons:?}");
        }
        let page = include_str!("../../../docs/observability.md");
        let (_, events) = page.split_once("## Events").unwrap();
        let rows = events.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
        let listed = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
        let listed: BTreeSet<String> = listed.map(str::to_owned).collect();
        assert_eq!(listed, reasons);
    }
}
