//! One term as the program sees it: its token, its end, and what runs in it.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::clock;

/// Where a term stands, as far as its future is concerned. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    Stopping,
    Dropped,
}

/// This program leads, or led: one term. Copies of it keep nothing alive.
#[derive(Clone, Debug)]
pub struct Leadership {
    token: u64,
    identity: Arc<str>,
    phase: watch::Receiver<Phase>,
    /// The deadline in nanoseconds on the boot clock; 0 when the term is over.
    believe_until: Arc<AtomicU64>,
    alive: mpsc::WeakSender<Infallible>,
}

impl Leadership {
    /// The fencing token: higher than that of every earlier leader of this Lease. Who receives what a leader sends can refuse what comes
    /// with a lower token than one already seen; nothing else stops a request that is still on its way when leadership ends.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Under which identity this program leads.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Until when no other candidate can lead, unless this program gives the Lease back before, on `CLOCK_BOOTTIME`
    /// ([`crate::clock::boot`]); `None` when the term is over. Renewals move it.
    pub fn believe_until(&self) -> Option<Duration> {
        match self.believe_until.load(Ordering::Acquire) {
            0 => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        }
    }

    /// Whether this program led at the moment of the question, and was not asked to stop.
    pub fn is_leading(&self) -> bool {
        *self.phase.borrow() == Phase::Running && self.believe_until().is_some_and(|until| clock::boot() < until)
    }

    /// Waits until the future shall wind down: see [`super::Election::wind_down`].
    pub async fn stopping(&self) {
        self.reaches(Phase::Stopping).await;
    }

    /// Spawns a task on the caller's runtime that belongs to this term: it is dropped when the future is, and the Lease is not released
    /// while it is there. Its handle gives `None` when it was dropped before its end, or the term was over already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (alive, term) = (self.alive.upgrade(), self.clone());
        tokio::spawn(async move {
            // Dropped last.
            let _alive = alive?;
            term.unless_dropped(future).await
        })
    }

    /// Drives `future` until it ends, or the term drops it.
    async fn unless_dropped<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        tokio::select! {
            biased;
            () = self.reaches(Phase::Dropped) => None,
            output = &mut future => Some(output),
        }
    }

    async fn reaches(&self, phase: Phase) {
        // Without a sender there is no election any more, which comes to the same.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }
}

/// Called with the leadership that begins.
pub(super) type OnStarted = Box<dyn FnMut(&Leadership) + Send>;
/// Called when a term's future is gone.
pub(super) type OnStopped = Box<dyn FnMut() + Send>;

/// The caller's half of a term: what runs in it.
pub(super) struct Held {
    leadership: Leadership,
    /// While a copy of this is there, the term's work is.
    alive: mpsc::Sender<Infallible>,
}

impl Held {
    /// Runs the term's future to its end; its output where it ended by itself before it was asked to.
    pub(super) async fn lead<L, F>(
        self,
        lead: &mut L,
        on_started: Option<&mut OnStarted>,
        on_stopped: Option<&mut OnStopped>,
    ) -> Option<F::Output>
    where
        L: FnMut(Leadership) -> F,
        F: Future,
    {
        // Dropped last, also when something below panics.
        let Self { leadership, alive: _alive } = self;
        // Over before the caller came to it: nothing begins.
        if *leadership.phase.borrow() != Phase::Running {
            return None;
        }
        if let Some(callback) = on_started {
            callback(&leadership);
        }
        let output = leadership.unless_dropped(lead(leadership.clone())).await;
        let by_itself = *leadership.phase.borrow() == Phase::Running;
        if let Some(callback) = on_stopped {
            callback();
        }
        output.filter(|_| by_itself)
    }
}

/// The election's half of a term.
pub(super) struct Term {
    phase: watch::Sender<Phase>,
    believe_until: Arc<AtomicU64>,
    work: mpsc::Receiver<Infallible>,
}

impl Term {
    /// Both halves of a term that has just begun.
    pub(super) fn new(token: u64, identity: &str, deadline: Duration) -> (Self, Held) {
        let (alive, work) = mpsc::channel(1);
        let (sender, phase) = watch::channel(Phase::Running);
        let believe_until = Arc::new(AtomicU64::new(nanoseconds(deadline)));
        let leadership = Leadership {
            token,
            identity: identity.into(),
            phase,
            believe_until: Arc::clone(&believe_until),
            alive: alive.downgrade(),
        };
        (Self { phase: sender, believe_until, work }, Held { leadership, alive })
    }

    /// The deadline has moved.
    pub(super) fn believe_until(&self, deadline: Duration) {
        self.believe_until.store(nanoseconds(deadline), Ordering::Release);
    }

    /// The work shall wind down.
    pub(super) fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// The work shall be dropped.
    pub(super) fn drop_work(&self) {
        self.advance(Phase::Dropped);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }

    /// Waits until nothing of the work is left. Nothing is lost when the future is dropped.
    pub(super) async fn gone(&mut self) {
        // There are no messages: this is the end of the last sender.
        let _ = self.work.recv().await;
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.believe_until.store(0, Ordering::Release);
    }
}

/// Some 584 years fit.
fn nanoseconds(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term() -> (Term, Held) {
        Term::new(7, "me", clock::boot() + Duration::from_hours(1))
    }

    #[tokio::test]
    async fn a_future_that_ends_by_itself_gives_its_output_and_is_gone() {
        let (mut term, held) = term();
        let lead = |leadership: Leadership| async move { (leadership.token(), leadership.is_leading()) };
        assert_eq!(held.lead(&mut { lead }, None, None).await, Some((7, true)));
        term.gone().await;
    }

    #[tokio::test]
    async fn a_dropped_future_takes_its_tasks_along() {
        let (mut term, held) = term();
        let mut task = None;
        let led = {
            let mut work = |leadership: Leadership| {
                task = Some(leadership.spawn(std::future::pending::<()>()));
                term.stop();
                let leading = leadership.is_leading();
                async move {
                    leadership.stopping().await;
                    assert!(!leading && !leadership.is_leading());
                    std::future::pending::<()>().await;
                }
            };
            let leading = held.lead(&mut work, None, None);
            tokio::select! {
                biased;
                output = leading => output,
                () = std::future::ready(()) => None,
            }
        };
        assert_eq!(led, None);
        // The task of the term is still there.
        assert!(futures::FutureExt::now_or_never(term.gone()).is_none());
        term.drop_work();
        term.gone().await;
        assert_eq!(task.unwrap().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_term_that_is_over_before_it_is_led_begins_nothing() {
        let (mut term, held) = term();
        term.stop();
        let mut lead = |_: Leadership| async { panic!("it began") };
        assert_eq!(held.lead(&mut lead, None, None).await, None::<()>);
        term.gone().await;
    }

    #[tokio::test]
    async fn what_comes_after_the_end_of_a_term_does_not_begin() {
        let (term, held) = term();
        let leadership = held.leadership.clone();
        drop(held);
        assert_eq!(leadership.spawn(async {}).await.unwrap(), None);
        drop(term);
        assert_eq!(leadership.believe_until(), None);
        assert!(!leadership.is_leading());
        leadership.stopping().await;
    }
}
