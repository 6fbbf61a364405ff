//! The controller's loop: watches in, ids out, each reconciled by itself.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::pending,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;

use super::{
    Context, Error, Key, Requeue, account, adopted,
    backoff::Backoff,
    bound, collect, cut_off, fail_over, leadership,
    queue::{Due, Queue},
    repair, services, succession, turning_on, watch,
};
use crate::metrics::Reconcile;

/// How many ids are worked on at once: after an upgrade a thousand may need something, and the API server has other work.
const AT_ONCE: usize = 8;
/// How long one part may take. What is left is done next time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is remembered of an id from one time to the next. It is lost with the process, and nothing depends on it but when something
/// is done, and what is told once.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// It is worked on because something of it has changed, not because it is time.
    pub(super) has_changed: bool,
    /// When its adopted Lease was read last.
    pub(super) adopted_read: Option<Instant>,
    /// Since when something of it looks amiss.
    pub(super) amiss: Option<Instant>,
    /// Since when its Lease was missing.
    pub(super) lease_lost: Option<Instant>,
    /// Since when nobody names it.
    pub(super) quiet: Option<collect::Quiet>,
    /// The leadership that was seen last.
    pub(super) leadership: Option<leadership::Seen>,
    /// The re-created account that was told about.
    pub(super) gap: Option<account::Told>,
    /// The end of a leader that was looked at.
    pub(super) fail_over: Option<fail_over::Tried>,
    /// When it is asked next why nobody leads.
    pub(super) leaderless: Option<Instant>,
    /// Its leader-only Services.
    pub(super) services: services::Known,
    /// Who is bound and not needed.
    pub(super) spare: bound::Spare,
    /// How long each part that failed has to wait.
    pauses: [Backoff; Part::ALL.len()],
}

impl Memory {
    /// What is kept of an id of which only Services are there: an election that begins later has nothing to do with an earlier one.
    fn of_services(self) -> Self {
        Self { services: self.services, pauses: self.pauses, ..Self::default() }
    }
}

/// What there is to do for an id. Each part has its turn, also when another one fails: an account that cannot be repaired keeps no Lease
/// from being freed. And each one that fails waits by itself, however often another one comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    FailOver,
    Repair,
    Adopted,
    Account,
    TurningOn,
    Collect,
    Bound,
    CutOff,
    Succession,
    Services,
}

impl Part {
    /// In this order: nobody runs the app while a Lease is waited for.
    const ALL: [Self; 10] = [
        Self::FailOver,
        Self::Repair,
        Self::Adopted,
        Self::Services,
        Self::Account,
        Self::TurningOn,
        Self::Collect,
        Self::Bound,
        Self::CutOff,
        Self::Succession,
    ];

    async fn work(self, context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
        let now = Timestamp::now();
        match self {
            Self::FailOver => fail_over::reconcile(context, key, memory).await,
            Self::Repair => repair::reconcile(context, key, memory).await,
            Self::Adopted => adopted::reconcile(context, key, memory).await,
            Self::Account => Ok(account::reconcile(context, key, memory, now)),
            Self::TurningOn => turning_on::reconcile(context, &key.namespace, &key.id).await,
            Self::Collect => collect::reconcile(context, key, memory).await,
            Self::Bound => bound::reconcile(context, key, memory).await,
            Self::CutOff => cut_off::reconcile(context, key, memory, now).await,
            Self::Succession => succession::reconcile(context, key).await,
            Self::Services => services::reconcile(context, key, memory).await,
        }
    }
}

/// Works until it is dropped.
pub(super) async fn run(context: &Context, mut queue: Queue) -> Infallible {
    let mut changes = watch::changes(&context.client);
    let mut memories: HashMap<Key, Memory> = HashMap::new();
    let mut working = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        // Before everything was read once, what is missing may only not have been seen.
        let may_work = context.view.is_complete();
        while may_work
            && working.len() < AT_ONCE
            && let Some(due) = queue.take(now)
        {
            let memory = memories.remove(&due.key).unwrap_or_default();
            working.push(one(context, due, memory));
        }
        let next = queue.next().filter(|_| may_work && working.len() < AT_ONCE);
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some((key, memory, Outcome { requeue, failed })) = working.next(), if !working.is_empty() => {
                let (is_elected, known) = (context.view.elects(&key), context.view.knows(&key));
                if !is_elected {
                    context.view.forget(&key);
                    context.turning_on.forget(&key);
                }
                if known {
                    memories.insert(key.clone(), if is_elected { memory } else { memory.of_services() });
                }
                queue.done(key, requeue, failed, known, Instant::now());
            }
            Some(change) = changes.next() => {
                let now = Instant::now();
                for key in context.view.apply(change) {
                    queue.change(key, now);
                }
            }
            () = due => {}
        }
    }
}

/// What came of reconciling one id.
struct Outcome {
    requeue: Requeue,
    failed: bool,
}

/// Reconciles one id.
async fn one(context: &Context, Due { key, has_changed }: Due, mut memory: Memory) -> (Key, Memory, Outcome) {
    let started = Instant::now();
    let outcome = Box::pin(all(context, &key, &mut memory, has_changed)).await;
    let result = if outcome.failed { Reconcile::Failed } else { Reconcile::Done };
    context.metrics.count_reconcile(result, started.elapsed());
    (key, memory, outcome)
}

/// Does what there is to do. A part that failed a moment ago waits, unless the id has changed: that may have been the reason.
async fn all(context: &Context, key: &Key, memory: &mut Memory, has_changed: bool) -> Outcome {
    memory.has_changed = has_changed;
    match context.view.lease(key) {
        Some(lease) => {
            memory.lease_lost = None;
            let seen = leadership::observe(context, &lease, memory.leadership.as_ref(), Timestamp::now());
            memory.leadership = Some(seen);
        }
        None => drop(memory.lease_lost.get_or_insert_with(Instant::now)),
    }
    let mut outcome = Outcome { requeue: Requeue::OnChange, failed: false };
    for (index, part) in Part::ALL.into_iter().enumerate() {
        let waits = memory.pauses[index].left(Instant::now()).filter(|_| !has_changed);
        let requeue = if let Some(left) = waits {
            Requeue::After(left)
        } else {
            let work = tokio::time::timeout(PATIENCE, Box::pin(part.work(context, key, memory))).await;
            match work.unwrap_or(Err(Error::Timeout(PATIENCE))) {
                Ok(requeue) => {
                    memory.pauses[index].succeeded();
                    requeue
                }
                Err(error) => {
                    tracing::warn!(%key, ?part, %error, "an id could not be reconciled; it is tried again");
                    outcome.failed = true;
                    Requeue::After(memory.pauses[index].failed(Instant::now()))
                }
            }
        };
        outcome.requeue = outcome.requeue.sooner(requeue);
    }
    outcome
}
